"""Which errnos each kind of the soak's operations may give, as on ext4; every other one is a failure.

Pure. What names allow on any filesystem, for whoever is not alone: a name is gone or taken (ENOENT, EEXIST), a
component is a file (ENOTDIR), links lead in a circle (ELOOP), the file is a directory (EISDIR), and the caller is not
its owner (EACCES, EPERM). Special files add ENXIO (a FIFO without reader, a socket), and a mapping that another
process shortens EFAULT. What is not in the table though a mount in trouble gives it: EIO, ESTALE, EINTR, EAGAIN,
ENOSPC, ENOTCONN, ENOSYS, EOPNOTSUPP, EBUSY, EMLINK. The soak on a native directory must stay within the table too
(``soak --native``, and a test of it), but for ``ALLOWED_BELOW``.
"""

from __future__ import annotations

WALK = frozenset({"ok", "ENOENT", "ENOTDIR", "ELOOP", "EACCES"})
"""What looking a path up can give."""

OPEN = WALK | {"EISDIR", "ENXIO"}
SPECIAL = frozenset({"ESPIPE", "ENODEV"})
"""What fifos and devices answer that are asked for space."""

OWNER = WALK | {"EPERM"}
MAKE = WALK | {"EEXIST"}
RENAME = MAKE | {"EPERM", "EISDIR", "ENOTEMPTY", "EINVAL"}

ALLOWED: dict[str, frozenset[str]] = {
    "access": WALK,
    "allocate": OPEN | SPECIAL,
    "append": OPEN,
    "chmod": OWNER,
    "chown": OWNER,
    "create": MAKE,
    # EINVAL: O_DIRECT of a special file; ext4 refuses it in open(2), after the permissions.
    "write_direct": OPEN | {"EINVAL"},
    "exchange": RENAME,
    "fdatasync": OPEN | {"EINVAL"},  # of a special file
    "find_data": OPEN,  # ENXIO: there is none
    "fsync": OPEN | {"EINVAL"},
    "get_xattr": WALK | {"ENODATA", "EPERM"},
    "hold": OPEN,
    "link": MAKE | {"EPERM"},
    "list_directory": WALK,
    "list_xattrs": WALK,
    "look": WALK,
    "make_special": MAKE | {"EPERM"},
    "mkdir": MAKE,
    "open_and_empty": OPEN,
    "own_file": frozenset({"ok"}),
    "punch": OPEN | SPECIAL,
    "read": OPEN,
    "readlink": WALK | {"EINVAL"},
    "remove_xattr": WALK | {"ENODATA", "EPERM"},
    "rename": RENAME,
    "rename_to_free_name": RENAME,
    "rmdir": WALK | {"ENOTEMPTY", "EPERM"},
    "set_xattr": WALK | {"EEXIST", "ENODATA", "EPERM"},
    "store_mapped": OPEN | {"EFAULT", "ENODEV"},
    "symlink": MAKE,
    "sync_directory": WALK,
    "truncate": WALK | {"EISDIR", "EINVAL", "EPERM"},
    "unlink": WALK | {"EISDIR", "EPERM"},
    "use_held": frozenset({"ok", "EPERM"}),  # fchmod of what another owns
    "utime": OWNER,
    "walk": frozenset({"ok"}),
    "write": OPEN,
    "write_synchronously": OPEN,
}

REPORTS_FLUSHES = ("fdatasync", "fsync", "use_held", "write_synchronously")
"""The kinds that call fsync(2) or what amounts to it on a shared file."""

ALLOWED_BELOW = {kind: allowed | {"EIO"} if kind in REPORTS_FLUSHES else allowed for kind, allowed in ALLOWED.items()}
"""As ``ALLOWED``, on a native directory: ext4 answers EIO where O_DIRECT meets a mapping.

Another process's mapping can dirty a page between a direct write's own write-back and its end. The kernel cannot drop
that page then, and ``dio_warn_stale_pagecache`` (mm/filemap.c) notes EIO for the file's next flush. Five seconds of
one thread that stores through a mapping, one that writes with O_DIRECT and one that flushes gave it for 1,265 of 6,597
flushes on ext4 (Linux 6.18), the kernel's log naming the file; none of 1,174 on a mount, in either mode. Nor may it
there: FUSE has a ``launder_folio``, which writes a page that became dirty in between, locked and unmapped, and so the
page can be dropped.
"""
