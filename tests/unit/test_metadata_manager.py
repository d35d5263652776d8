"""``MetadataManager``: every rule of names, and every error. The rules of the schema hold after each test."""

from __future__ import annotations

import stat
from collections.abc import Iterator

import pytest

from benchfs_core import errors
from benchfs_core.metadata.checks import check_rules
from benchfs_core.metadata.database import IN_MEMORY, Database
from benchfs_core.metadata.manager import MetadataManager
from benchfs_core.metadata.numbers import Numbers
from benchfs_core.metadata.xattrs import MAX_LIST_BYTES, MAX_VALUE_BYTES
from benchfs_core.superblock import create_database
from benchfs_core.types import MAX_LINK_COUNT, ROOT_INODE, AttributeChange, InodeId
from tests.support.volumes import CHUNK_SIZE, OWNER

FILE, DIRECTORY = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755


class Namespace:
    """A manager with short words for what tests do all the time."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.numbers = Numbers(database)
        self.numbers.confirm(self.numbers.reserve())
        self.manager = MetadataManager(database, self.numbers)
        self.now_ns = 100

    def make(self, name: bytes, mode: int = FILE, parent: InodeId = ROOT_INODE) -> InodeId:
        return self.manager.create(parent, name, mode, OWNER, self.now_ns).inode

    def names(self, parent: InodeId = ROOT_INODE) -> dict[bytes, InodeId]:
        return {entry.name: entry.attributes.inode for entry in self.manager.readdir(parent, 0)}

    def links(self, inode: InodeId) -> int:
        return self.manager.get(inode).link_count

    def set_links(self, count: int, *inodes: InodeId) -> None:
        """Have rows say so, behind the manager's back, and a new one take over."""
        self.database.write_kept_back()
        for inode in inodes:
            self.database.execute("UPDATE inode SET link_count = ? WHERE inode = ?", (count, inode))
        self.manager = MetadataManager(self.database, self.numbers)

    def rename(self, parent: InodeId, name: bytes, to: InodeId, new: bytes, *, overwrite: bool = True) -> None:
        self.manager.rename(parent, name, to, new, self.now_ns, overwrite=overwrite)

    def exchange(self, parent: InodeId, name: bytes, to: InodeId, new: bytes) -> None:
        self.manager.exchange(parent, name, to, new, self.now_ns)


@pytest.fixture
def ns() -> Iterator[Namespace]:
    database = create_database(IN_MEMORY, (0, 0), 1)
    yield Namespace(database)
    database.write_kept_back()
    assert list(check_rules(database, CHUNK_SIZE)) == []
    database.close()


@pytest.mark.parametrize("name", [b"", b"a/b", b"a\0b"])
def test_impossible_names(ns: Namespace, name: bytes) -> None:
    with pytest.raises(errors.InvalidArgument):
        ns.make(name)


@pytest.mark.parametrize("name", [b".", b".."])
def test_names_that_every_directory_has(ns: Namespace, name: bytes) -> None:
    inner = ns.make(b"d", DIRECTORY)
    assert ns.manager.lookup(inner, name).inode == (inner if name == b"." else ROOT_INODE)
    for call in (lambda: ns.make(name, parent=inner), lambda: ns.manager.link(ns.make(b"f"), inner, name, 1)):
        with pytest.raises(errors.EntryExists):
            call()


def test_names_of_any_bytes_up_to_the_limit(ns: Namespace) -> None:
    names = [bytes([byte]) * 255 for byte in range(1, 256) if byte != 0x2F]
    made = {name: ns.make(name) for name in names}
    assert ns.names() == made
    for call in (
        lambda: ns.make(b"x" * 256),
        lambda: ns.manager.lookup(ROOT_INODE, b"x" * 256),
        lambda: ns.rename(ROOT_INODE, names[0], ROOT_INODE, b"x" * 256),
    ):
        with pytest.raises(errors.NameTooLong):
            call()


def test_what_is_not_there(ns: Namespace) -> None:
    nowhere = InodeId(999_999)
    for call in (
        lambda: ns.manager.get(nowhere),
        lambda: ns.manager.lookup(ROOT_INODE, b"x"),
        lambda: ns.manager.lookup(nowhere, b"x"),
        lambda: ns.make(b"x", parent=nowhere),
        lambda: ns.manager.unlink(ROOT_INODE, b"x", 1),
        lambda: ns.manager.rmdir(ROOT_INODE, b"x", 1),
        lambda: ns.rename(ROOT_INODE, b"x", ROOT_INODE, b"y"),
        lambda: ns.exchange(ROOT_INODE, b"x", ROOT_INODE, b"y"),
        lambda: ns.manager.link(nowhere, ROOT_INODE, b"x", 1),
        lambda: ns.manager.set_attributes(nowhere, AttributeChange(1, mode=1)),
        lambda: ns.manager.symlink(ROOT_INODE, b"l", b"", OWNER, 1),
    ):
        with pytest.raises(errors.NoSuchEntry):
            call()


def test_what_is_no_directory(ns: Namespace) -> None:
    file = ns.make(b"f")
    for call in (
        lambda: ns.manager.lookup(file, b"x"),
        lambda: ns.make(b"x", parent=file),
        lambda: ns.manager.rmdir(ROOT_INODE, b"f", 1),
        lambda: ns.rename(ROOT_INODE, b"f", file, b"x"),
    ):
        with pytest.raises(errors.NotADirectory):
            call()


def test_what_is_taken(ns: Namespace) -> None:
    file = ns.make(b"f")
    ns.make(b"g")
    for call in (
        lambda: ns.make(b"f"),
        lambda: ns.make(b"f", DIRECTORY),
        lambda: ns.manager.symlink(ROOT_INODE, b"f", b"x", OWNER, 1),
        lambda: ns.manager.link(file, ROOT_INODE, b"g", 1),
        lambda: ns.rename(ROOT_INODE, b"f", ROOT_INODE, b"g", overwrite=False),
        lambda: ns.rename(ROOT_INODE, b"f", ROOT_INODE, b"f", overwrite=False),
    ):
        with pytest.raises(errors.EntryExists):
            call()


def test_symbolic_links(ns: Namespace) -> None:
    made = ns.manager.symlink(ROOT_INODE, b"l", b"x" * 4095, OWNER, 1)
    assert (made.size, ns.manager.readlink(made.inode)) == (4095, b"x" * 4095)
    with pytest.raises(errors.NameTooLong):
        ns.manager.symlink(ROOT_INODE, b"m", b"x" * 4096, OWNER, 1)
    with pytest.raises(errors.InvalidArgument):
        ns.manager.readlink(ROOT_INODE)


def test_link_counts(ns: Namespace) -> None:
    file = ns.make(b"f")
    ns.manager.link(file, ROOT_INODE, b"g", 1)
    directory = ns.make(b"d", DIRECTORY)
    assert (ns.links(file), ns.links(directory), ns.links(ROOT_INODE)) == (2, 2, 3)
    inner = ns.make(b"i", DIRECTORY, directory)
    assert (ns.links(directory), ns.links(ROOT_INODE)) == (3, 3)
    assert ns.manager.unlink(ROOT_INODE, b"f", 1).link_count == 1
    assert ns.manager.marks.orphans(0, 9) == []
    assert ns.manager.unlink(ROOT_INODE, b"g", 1).link_count == 0
    assert ns.manager.rmdir(directory, b"i", 1).link_count == 0
    assert ns.links(directory) == 2
    assert ns.manager.marks.orphans(0, 9) == [file, inner]
    with pytest.raises(errors.NoSuchEntry):
        ns.manager.link(file, ROOT_INODE, b"again", 1)
    with pytest.raises(errors.NoSuchEntry):
        ns.make(b"x", parent=inner)
    ns.manager.marks.forget_orphans([file, inner])


def test_links_that_are_not_allowed(ns: Namespace) -> None:
    ns.make(b"d", DIRECTORY)
    with pytest.raises(errors.NotPermitted):
        ns.manager.link(ns.names()[b"d"], ROOT_INODE, b"e", 1)
    file = ns.make(b"f")
    ns.set_links(MAX_LINK_COUNT, file, ROOT_INODE)
    inner = ns.make(b"x", DIRECTORY, ns.names()[b"d"])
    for call in (
        lambda: ns.manager.link(file, ROOT_INODE, b"g", 1),
        lambda: ns.make(b"e", DIRECTORY),
        lambda: ns.rename(ns.names()[b"d"], b"x", ROOT_INODE, b"x"),
    ):
        with pytest.raises(errors.TooManyLinks):
            call()
    ns.set_links(1, file)
    ns.set_links(3, ROOT_INODE)
    assert inner


def test_removal_by_the_wrong_call(ns: Namespace) -> None:
    directory = ns.make(b"d", DIRECTORY)
    ns.make(b"f", parent=directory)
    with pytest.raises(errors.IsADirectory):
        ns.manager.unlink(ROOT_INODE, b"d", 1)
    with pytest.raises(errors.DirectoryNotEmpty):
        ns.manager.rmdir(ROOT_INODE, b"d", 1)
    with pytest.raises(errors.InvalidArgument):
        ns.manager.rmdir(directory, b".", 1)
    with pytest.raises(errors.DirectoryNotEmpty):
        ns.manager.rmdir(directory, b"..", 1)


RENAMES: list[tuple[bytes, bytes, type[Exception] | None]] = [
    (b"file", b"new", None),
    (b"file", b"file2", None),
    (b"file", b"link", None),
    (b"file", b"empty", errors.IsADirectory),
    (b"file", b"full", errors.IsADirectory),
    (b"empty", b"new", None),
    (b"empty", b"file", errors.NotADirectory),
    (b"empty", b"link", errors.NotADirectory),
    (b"empty", b"empty2", None),
    (b"full", b"empty", None),
    (b"empty", b"full", errors.DirectoryNotEmpty),
    (b"link", b"file", None),
    (b"link", b"empty", errors.IsADirectory),
    (b"full", b"full", None),
    (b"file", b"other name of file", None),
]


@pytest.mark.parametrize(("old", "new", "error"), RENAMES)
@pytest.mark.parametrize("across", [False, True])
def test_renames(ns: Namespace, old: bytes, new: bytes, error: type[Exception] | None, across: bool) -> None:
    to = ns.make(b"to", DIRECTORY) if across else ROOT_INODE
    made = {b"file": ns.make(b"file"), b"empty": ns.make(b"empty", DIRECTORY), b"full": ns.make(b"full", DIRECTORY)}
    ns.make(b"inner", DIRECTORY, made[b"full"])
    made[b"link"] = ns.manager.symlink(ROOT_INODE, b"link", b"t", OWNER, 1).inode
    if across and new in made and new != old:
        ns.rename(ROOT_INODE, new, to, new)
    for name, mode in ((b"file2", FILE), (b"empty2", DIRECTORY)):
        made[name] = ns.make(name, mode, to)
    ns.manager.link(made[b"file"], to, b"other name of file", 1)
    before = ns.names(), ns.names(to)
    if error is not None:
        with pytest.raises(error):
            ns.rename(ROOT_INODE, old, to, new)
        assert (ns.names(), ns.names(to)) == before
        return
    ns.rename(ROOT_INODE, old, to, new)
    assert ns.names(to)[new] == made[old]
    same = new == b"other name of file" or (old == new and not across)
    assert (old in ns.names()) == same
    replaced = made.get(new) if new in before[1] and not same else None
    assert ns.manager.marks.orphans(0, 9) == ([replaced] if replaced and ns.links(replaced) == 0 else [])
    if stat.S_ISDIR(ns.manager.get(made[old]).mode):
        assert ns.manager.parent(made[old]) == to


def test_a_directory_does_not_come_to_lie_in_itself(ns: Namespace) -> None:
    one = ns.make(b"one", DIRECTORY)
    two = ns.make(b"two", DIRECTORY, one)
    three = ns.make(b"three", DIRECTORY, two)
    ns.make(b"f", parent=three)
    for to in (one, three):
        with pytest.raises(errors.InvalidArgument):
            ns.rename(ROOT_INODE, b"one", to, b"x")
    with pytest.raises(errors.InvalidArgument):
        ns.exchange(ROOT_INODE, b"one", one, b"two")
    with pytest.raises(errors.InvalidArgument):
        ns.exchange(three, b"f", ROOT_INODE, b"one")
    with pytest.raises(errors.DirectoryNotEmpty):
        ns.rename(two, b"three", ROOT_INODE, b"one")


def test_exchanging_a_directory_with_a_file(ns: Namespace) -> None:
    one, two = ns.make(b"one", DIRECTORY), ns.make(b"two", DIRECTORY)
    file, inner = ns.make(b"x", parent=one), ns.make(b"y", DIRECTORY, two)
    ns.exchange(one, b"x", two, b"y")
    assert (ns.names(one), ns.names(two)) == ({b"x": inner}, {b"y": file})
    assert (ns.links(one), ns.links(two), ns.manager.parent(inner)) == (3, 2, one)
    ns.exchange(ROOT_INODE, b"one", ROOT_INODE, b"two")
    assert ns.names() == {b"one": two, b"two": one}
    ns.exchange(one, b"x", one, b"x")
    with pytest.raises(errors.NoSuchEntry):
        ns.exchange(ROOT_INODE, b"one", ROOT_INODE, b"nothing")


def test_cookies_are_unique_and_stay_when_a_name_is_taken_over(ns: Namespace) -> None:
    for name in (b"a", b"b", b"c"):
        ns.make(name)
    cookies = {entry.name: entry.cookie for entry in ns.manager.readdir(ROOT_INODE, 0)}
    assert len(set(cookies.values())) == 3
    ns.rename(ROOT_INODE, b"a", ROOT_INODE, b"b")
    ns.rename(ROOT_INODE, b"c", ROOT_INODE, b"d")
    after = {entry.name: entry.cookie for entry in ns.manager.readdir(ROOT_INODE, 0)}
    assert after[b"b"] == cookies[b"b"]
    assert after[b"d"] == cookies[b"c"]  # renamed where it is
    assert [entry.name for entry in ns.manager.readdir(ROOT_INODE, after[b"b"])] == [b"d"]


def test_set_group_id_of_a_directory_is_handed_on(ns: Namespace) -> None:
    directory = ns.make(b"d", DIRECTORY)
    ns.manager.set_attributes(directory, AttributeChange(1, mode=DIRECTORY | stat.S_ISGID, gid=77))
    file, inner = ns.make(b"f", parent=directory), ns.make(b"i", DIRECTORY, directory)
    assert (ns.manager.get(file).gid, ns.manager.get(file).mode & stat.S_ISGID) == (77, 0)
    assert (ns.manager.get(inner).gid, ns.manager.get(inner).mode & stat.S_ISGID) == (77, stat.S_ISGID)


def test_extended_attributes(ns: Namespace) -> None:
    file = ns.make(b"f")
    xattrs = ns.manager.xattrs
    xattrs.set(file, b"user.b", b"1", 1)
    xattrs.set(file, b"user.a", b"x" * MAX_VALUE_BYTES, 1)
    xattrs.set(file, b"user.b", b"2", 777)
    assert (xattrs.names(file), xattrs.get(file, b"user.b")) == ([b"user.a", b"user.b"], b"2")
    assert ns.manager.get(file).ctime_ns == 777
    with pytest.raises(errors.AttributeTooLarge):
        xattrs.set(file, b"user.c", b"x" * (MAX_VALUE_BYTES + 1), 1)
    with pytest.raises(errors.AttributeTooLarge):
        xattrs.set(file, b"user." + b"c" * MAX_LIST_BYTES, b"", 1)
    xattrs.remove(file, b"user.b", 1)
    for call in (lambda: xattrs.remove(file, b"user.b", 1), lambda: xattrs.get(file, b"user.b")):
        with pytest.raises(errors.NoSuchAttribute):
            call()
    ns.manager.unlink(ROOT_INODE, b"f", 1)
    ns.manager.marks.forget_orphans([file])
    assert xattrs.names(file) == []


def test_a_change_that_fails_half_way_changes_nothing(ns: Namespace) -> None:
    ns.make(b"f")
    before = ns.names(), ns.manager.get(ROOT_INODE)
    with pytest.raises(RuntimeError), ns.database.change():  # noqa: PT012 - the whole block is what ends so
        ns.manager.unlink(ROOT_INODE, b"f", 1)
        raise RuntimeError
    assert (ns.names(), ns.manager.get(ROOT_INODE)) == before
