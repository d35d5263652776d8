"""ACLs as values, and in ``FileSystem``: the rules of acl(5). That they are those of ext4 is shown in tests/fuse."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchfs_core import acl
from benchfs_core.acl import Acl, Entry, Tag, from_xattr, inherited
from benchfs_core.config import FormatOptions, VolumeOptions
from benchfs_core.errors import InvalidArgument, NoSuchAttribute, NotADirectory, NotSupported
from benchfs_core.types import ROOT_INODE, AttributeChange, Credentials, StoreKind
from benchfs_core.volume import open_volume

PERMISSIONS = st.integers(0, 7)


@st.composite
def acls(draw: st.DrawFn) -> Acl:
    """Any valid list."""
    users = draw(st.lists(st.integers(0, 70000), max_size=3))
    groups = draw(st.lists(st.integers(0, 70000), max_size=3))
    mask = bool(users or groups) or draw(st.booleans())
    return Acl(
        (
            Entry(Tag.OWNER, draw(PERMISSIONS)),
            *(Entry(Tag.USER, draw(PERMISSIONS), number) for number in users),
            Entry(Tag.GROUP, draw(PERMISSIONS)),
            *(Entry(Tag.NAMED_GROUP, draw(PERMISSIONS), number) for number in groups),
            *([Entry(Tag.MASK, draw(PERMISSIONS))] if mask else []),
            Entry(Tag.OTHERS, draw(PERMISSIONS)),
        )
    )


NAMED = Acl(
    (
        Entry(Tag.OWNER, 7),
        Entry(Tag.USER, 7, 1000),
        Entry(Tag.GROUP, 5),
        Entry(Tag.MASK, 6),
        Entry(Tag.OTHERS, 1),
    )
)


@given(acls())
def test_a_list_survives_its_xattr(value: Acl) -> None:
    assert from_xattr(value.to_xattr()) == value


@given(acls(), st.integers(0, 0o777))
def test_a_mode_is_shown_by_the_list_that_follows_it(value: Acl, mode: int) -> None:
    assert value.with_mode(mode).mode == mode
    assert value.with_mode(value.mode) == value


@given(acls(), st.integers(0, 0o7777))
def test_what_is_inherited_gives_no_more_than_was_asked_for(default: Acl, mode: int) -> None:
    permissions, access = inherited(default, mode)
    assert permissions == mode & (default.mode | ~0o777)
    assert access is None if default.is_mode else access is not None and access.mode == permissions & 0o777


@given(st.binary(max_size=60))
def test_bytes_are_a_valid_list_or_refused(value: bytes) -> None:
    try:
        found = from_xattr(value)
    except InvalidArgument:
        return
    assert (b"\2\0\0\0" if found is None else found.to_xattr())[:4] == value[:4]


def test_the_mode_shows_the_mask_where_there_is_one() -> None:
    assert NAMED.mode == 0o761
    assert not NAMED.is_mode
    assert Acl((Entry(Tag.OWNER, 6), Entry(Tag.GROUP, 4), Entry(Tag.OTHERS, 0))).mode == 0o640
    assert from_xattr(b"\2\0\0\0") is None


MALFORMED = {
    "empty": b"",
    "unknown version": b"\1\0\0\0",
    "cut off": NAMED.to_xattr()[:-1],
    "out of order": Acl(NAMED.entries[::-1]).to_xattr(),
    "no mask": Acl(tuple(entry for entry in NAMED.entries if entry.tag is not Tag.MASK)).to_xattr(),
    "no owner": Acl(NAMED.entries[1:]).to_xattr(),
    "two owners": Acl(NAMED.entries[:1] + NAMED.entries).to_xattr(),
    "two masks": Acl((*NAMED.entries[:4], Entry(Tag.MASK, 1), NAMED.entries[4])).to_xattr(),
    "a user without number": Acl((NAMED.entries[0], Entry(Tag.USER, 1), *NAMED.entries[2:])).to_xattr(),
    "permissions": b"\2\0\0\0" + b"\1\0\x0f\0" + b"\xff" * 4,
    "tag": b"\2\0\0\0" + b"\3\0\7\0" + b"\xff" * 4,
}


@pytest.mark.parametrize("value", MALFORMED.values(), ids=MALFORMED)
def test_what_is_malformed_is_refused(value: bytes) -> None:
    with pytest.raises(InvalidArgument):
        from_xattr(value)


OWNER = Credentials(1000, 1000, umask=0o077)
MEMORY = VolumeOptions(store=StoreKind.MEMORY, acl=True)


async def test_a_default_list_is_inherited_in_place_of_the_umask(tmp_path: Path) -> None:
    async with open_volume(tmp_path, MEMORY, FormatOptions()) as volume:
        fs = volume.filesystem
        await fs.xattrs.set(ROOT_INODE, acl.DEFAULT, NAMED.to_xattr())
        directory = await fs.mkdir(ROOT_INODE, b"d", 0o777, OWNER)
        _, file = await fs.create(directory.inode, b"f", 0o666, OWNER)
        link = await fs.symlink(ROOT_INODE, b"l", b"target", OWNER)
        assert [stat.S_IMODE(made.mode) for made in (directory, file, link)] == [0o761, 0o660, 0o777]
        assert await fs.xattrs.get(file.inode, acl.ACCESS) == NAMED.with_mode(0o660).to_xattr()
        assert await fs.xattrs.names(directory.inode) == [acl.ACCESS, acl.DEFAULT]
        assert await fs.xattrs.names(file.inode) == [acl.ACCESS]
        assert await fs.xattrs.names(link.inode) == []
        await fs.xattrs.remove(ROOT_INODE, acl.DEFAULT)
        await fs.xattrs.remove(ROOT_INODE, acl.DEFAULT)  # that there is none is no error
        _, plain = await fs.create(ROOT_INODE, b"p", 0o666, OWNER)
        assert stat.S_IMODE(plain.mode) == 0o600


async def test_mode_and_list_stay_in_step(tmp_path: Path) -> None:
    async with open_volume(tmp_path, MEMORY, FormatOptions()) as volume:
        fs = volume.filesystem
        handle, made = await fs.create(ROOT_INODE, b"f", 0o2644, Credentials(1000, 1000))
        await fs.xattrs.set(made.inode, acl.ACCESS, NAMED.to_xattr())
        assert stat.S_IMODE((await fs.getattr(made.inode)).mode) == 0o2761
        await fs.setattr(made.inode, AttributeChange(mode=0o2640))
        assert await fs.xattrs.get(made.inode, acl.ACCESS) == NAMED.with_mode(0o640).to_xattr()
        await fs.xattrs.set(made.inode, acl.ACCESS, NAMED.to_xattr(), drop_setgid=True)
        assert stat.S_IMODE((await fs.getattr(made.inode)).mode) == 0o761
        plain = Acl((Entry(Tag.OWNER, 6), Entry(Tag.GROUP, 4), Entry(Tag.OTHERS, 4))).to_xattr()
        await fs.xattrs.set(made.inode, acl.ACCESS, plain)
        assert stat.S_IMODE((await fs.getattr(made.inode)).mode) == 0o644
        with pytest.raises(NoSuchAttribute):  # the mode says all of it
            await fs.xattrs.get(made.inode, acl.ACCESS)
        with pytest.raises(NotADirectory):
            await fs.xattrs.set(made.inode, acl.DEFAULT, plain)
        with pytest.raises(InvalidArgument):
            await fs.xattrs.set(made.inode, acl.ACCESS, b"\2\0\0\0rubbish")
        await fs.release(handle)


async def test_without_acls_enabled_none_is_seen_set_or_inherited_and_chmod_still_keeps_step(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    options = {enabled: VolumeOptions(store=StoreKind.FILE, acl=enabled) for enabled in (True, False)}
    async with open_volume(source, options[True]) as volume:
        fs = volume.filesystem
        directory = await fs.mkdir(ROOT_INODE, b"d", 0o777, OWNER)
        for name in (acl.ACCESS, acl.DEFAULT):
            await fs.xattrs.set(directory.inode, name, NAMED.to_xattr())
    async with open_volume(source, options[False]) as volume:
        fs = volume.filesystem
        assert await fs.xattrs.names(directory.inode) == []
        with pytest.raises(NotSupported):
            await fs.xattrs.get(directory.inode, acl.ACCESS)
        with pytest.raises(NotSupported):
            await fs.xattrs.set(directory.inode, acl.ACCESS, NAMED.to_xattr())
        inner = await fs.mkdir(directory.inode, b"inner", 0o777, OWNER)
        assert stat.S_IMODE(inner.mode) == 0o700
        await fs.setattr(directory.inode, AttributeChange(mode=0o700))
    async with open_volume(source, options[True]) as volume:
        fs = volume.filesystem
        assert await fs.xattrs.get(directory.inode, acl.ACCESS) == NAMED.with_mode(0o700).to_xattr()
        assert await fs.xattrs.names(inner.inode) == []
