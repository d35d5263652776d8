"""Exceptions to errno: the table is complete, and the translation total."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest
import trio

from benchfs_core import errors
from benchfs_core.types import AttributeChange, Attributes, InodeId
from benchfs_fuse.translate import ERRNO, to_entry, to_errno


def subclasses(kind: type[Exception]) -> Iterator[type[Exception]]:
    """Those that ``errors`` defines."""
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from subclasses(child)


def test_every_failure_of_a_request_has_an_errno() -> None:
    tree = set(subclasses(errors.FileSystemError))
    assert tree
    assert tree == set(ERRNO)
    assert all(number in errno.errorcode for number in ERRNO.values())


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = {word for line in (errors.__doc__ or "").splitlines() for word in line.split() if word in vars(errors)}
    assert drawn >= {kind.__name__ for kind in subclasses(errors.BenchFSError)} | {"BenchFSError"}


@pytest.mark.parametrize("kind", ERRNO, ids=lambda kind: kind.__name__)
def test_known_failures(kind: type[errors.FileSystemError]) -> None:
    assert to_errno(kind("text"), "test") == ERRNO[kind]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "full"), errno.ENOSPC),
        (OSError(errno.EDQUOT, "quota"), errno.EDQUOT),
        (FileNotFoundError(errno.ENOENT, "a chunk"), errno.EIO),
        (OSError(errno.EMFILE, "descriptors"), errno.EIO),
        (OSError("without a number"), errno.EIO),
        (OSError(-1, "strange"), errno.EIO),
        (ValueError("bug"), errno.EIO),
        (AssertionError(), errno.EIO),
        (KeyError(1), errno.EIO),
        (RecursionError(), errno.EIO),
        (MemoryError(), errno.EIO),
        (UnicodeDecodeError("utf-8", b"", 0, 1, ""), errno.EIO),
        (ExceptionGroup("group", [OSError(errno.ENOSPC, "full")]), errno.EIO),
        (errors.VolumeBusy("not a request's"), errno.EIO),
        (errors.FileSystemError("the base itself"), errno.EIO),
        (type("Later", (errors.NoSuchEntry,), {})("a subclass"), errno.EIO),
        (trio.TooSlowError(), errno.EIO),
        (KeyboardInterrupt(), errno.EIO),
    ],
    ids=repr,
)
def test_every_exception_has_an_answer(error: BaseException, expected: int) -> None:
    assert to_errno(error, "test") == expected


def test_attributes_arrive_whole() -> None:
    attributes = Attributes(InodeId(7), 0o100644, 3, 4, 5, 6, 1 << 59, 8, -9, (1 << 63) - 1, 11)
    entry = to_entry(attributes)
    names = ("ino", "mode", "nlink", "uid", "gid", "rdev", "size", "blocks")
    assert [getattr(entry, f"st_{name}") for name in names] == [7, 0o100644, 3, 4, 5, 6, 1 << 59, 8]
    assert AttributeChange().ctime_ns is None
