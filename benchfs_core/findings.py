"""Findings of fsck: what one says, which codes there are, and what ``--repair`` does about each.

Pure: imports ``types``. Invariant: a code, once released, keeps its meaning; ``docs/fsck.md`` has a row for each, which
a test compares with this table.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchfs_core.types import InodeId


@dataclass(frozen=True, slots=True)
class Finding:
    """One breach of an invariant. ``code`` is stable, for scripts: a key of ``CODES``."""

    code: str
    inode: InodeId | None
    path: str | None
    text: str

    def __str__(self) -> str:
        where = "" if self.inode is None else f" inode {self.inode}"
        named = f" ({self.path})" if self.path else ""
        return f"{self.code}:{where}{named}{':' if where else ''} {self.text}"


@dataclass(frozen=True, slots=True)
class Code:
    """What a code means."""

    meaning: str
    repair: str | None
    """What ``--repair`` does; None: nothing, and it stays a finding."""


_NAMED = "is named in lost+found"

CODES: dict[str, Code] = {
    "superblock": Code(
        "the superblock is missing or damaged",
        "rebuilt from what can be read of it, the database and the chunk files; the old file goes to SOURCE/lost+found",
    ),
    "database": Code(
        "SQLite finds its file malformed",
        "what can be read goes into a new database; the old one goes to SOURCE/lost+found",
    ),
    "database-unreadable": Code("the database is missing, or cannot be opened at all", None),
    "chunks-missing": Code("the directory of all chunk files is missing", None),
    "root-missing": Code("there is no root directory as it must be", "made, or made as it must be"),
    "dentry-parent": Code(
        "an entry in something that is no directory, or is a removed one",
        "a lost directory is made again and named in lost+found; else the entry is removed, and what it led to "
        + _NAMED,
    ),
    "dentry-dangling": Code(
        "an entry leads to an inode that does not exist",
        "the inode is made again if anything else is known of it; else the entry is removed",
    ),
    "dentry-name": Code("an entry has an impossible name", "removed; what it led to " + _NAMED),
    "link-count": Code("a link count is not the number of names", "counted anew; what has no name " + _NAMED),
    "unnamed": Code("an inode has no name and is no orphan", "named in lost+found"),
    "directory-parent": Code(
        "a directory has not exactly one entry, in its parent",
        "one entry is kept, if possible the one in its parent; the parent follows it; without any it " + _NAMED,
    ),
    "unreachable": Code("a directory to which no path from the root leads", "its tree, or the cycle opened, " + _NAMED),
    "orphan-named": Code("an orphan has a link count", "no orphan any more; without a name it " + _NAMED),
    "symlink": Code(
        "a symbolic link without a target of its size, or a target without link",
        "the size follows the target; a link without target is removed; a target without link becomes one again, "
        "or is removed",
    ),
    "xattr-owner": Code("extended attributes of an inode that does not exist", "removed"),
    "xattr": Code("an extended attribute with an impossible name or value", "removed"),
    "acl": Code(
        "an ACL is malformed, contradicts the mode, or is where none can be",
        "follows the mode if it is valid; else removed",
    ),
    "attributes": Code(
        "a type, owner, device number or flag that cannot be",
        "the type that other rows speak for; the owner of the root directory; device 0; without the flag",
    ),
    "dirty-owner": Code("the dirty mark of something that is no regular file", "removed"),
    "dirty-cut": Code("a cut at an impossible offset", "removed; the file stays dirty"),
    "chunk-owner": Code(
        "chunk rows of something that is no regular file",
        "a lost file is made again; else they are removed",
    ),
    "inline-owner": Code(
        "inline content of something that is no regular file",
        "a lost file is made again; else it is removed",
    ),
    "inline": Code(
        "impossible inline content, or content both inline and in chunks",
        "cut to what is possible; where chunks have content too, what was inline becomes a file in lost+found",
    ),
    "chunk-range": Code("an impossible chunk row", "made anew from the chunk file"),
    "size": Code(
        "an impossible size, or one that the chunks pass", "0 of what has no chunks; else up to the last chunk"
    ),
    "blocks": Code("blocks that are not the sum of the chunks'", "counted anew"),
    "number": Code(
        "the source of numbers is not above every number, or a number is impossible",
        "raised above every number; what has an impossible one gets another",
    ),
    "foreign": Code("something that does not belong among the chunk files", "moved to SOURCE/lost+found"),
    "chunk-unowned": Code(
        "chunk files that belong to no inode",
        "the inode is made again, under its old name if there is one, else named in lost+found; empty directories "
        "are removed; chunk files of what can have none are moved to SOURCE/lost+found",
    ),
    "chunk-length": Code(
        "a chunk file is not as long as its row says, or longer than a chunk",
        "its row follows it, the size grows as needed; what is beyond a chunk is moved to SOURCE/lost+found",
    ),
    "chunk-unknown": Code("a chunk file has no row", "it gets one, the size grows as needed"),
    "chunk-missing": Code(
        "a chunk row has no chunk file", "the row is removed: the chunk is a hole and reads as zeros"
    ),
    "chunk-unreadable": Code("a chunk file cannot be read", None),
}
"""Every code, with its meaning and its repair."""
