"""Mount options: every one parsed, honoured, knowingly ignored or refused in one line."""

from __future__ import annotations

import pytest

from benchfs_core.config import FormatOptions, VolumeOptions
from benchfs_core.errors import OptionError
from benchfs_core.types import AtimeMode, StoreKind, SyncMode
from benchfs_fuse.options import IGNORED, KERNEL_FLAGS, OPTIONS, MountOptions, parse, parse_size


def test_nothing_given_is_every_default() -> None:
    assert parse("") == parse(",,") == MountOptions()
    assert MountOptions().volume == VolumeOptions()


def test_every_option_together() -> None:
    options = parse(
        "sync=fsync,store=file,chunk_size=64K,ro,allow_other,noatime,fsname=x,commit=2.5,queue_depth=7,max_handles=99,log=syslog"
    )
    assert options == MountOptions(
        volume=VolumeOptions(SyncMode.FSYNC, StoreKind.FILE, True, AtimeMode.NOATIME, 2.5, 7, 99),
        format=FormatOptions(65536),
        allow_other=True,
        fsname="x",
        log="syslog",
    )


@pytest.mark.parametrize("name", [name for option in OPTIONS for name in option.name.replace("/", "|").split("|")])
def test_every_option_of_the_help_is_parsed(name: str) -> None:
    """Unknown is said of no documented option."""
    for text in (name, f"{name}=1"):
        message = ""
        try:
            parse(text)
        except OptionError as error:
            message = str(error)
        assert "unknown" not in message


@pytest.mark.parametrize("text", [*IGNORED, "x-systemd.automount", "x-a=b", "comment=anything", "helper=fuse"])
def test_what_mount_passes_along_is_ignored(text: str) -> None:
    assert parse(text) == MountOptions()


@pytest.mark.parametrize("flag", KERNEL_FLAGS)
def test_flags_of_the_kernel_are_handed_on(flag: str) -> None:
    assert flag in parse(f"rw,{flag},defaults").kernel_flags


def test_the_later_of_two_holds() -> None:
    assert parse("sync=fsync,sync=write").volume.sync is SyncMode.WRITE
    assert parse("noatime,strictatime").volume.atime is AtimeMode.STRICTATIME
    assert parse("allow_other,no_allow_other").allow_other is False


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("snyc=write", "unknown option 'snyc': did you mean sync?"),
        ("max_background=9", "unknown option 'max_background'"),
        ("relatim", "did you mean relatime?"),
        ("sync=always", "sync=always: must be one of write, fsync"),
        ("store", "option store needs a value: store=…"),
        ("fsname=", "option fsname needs a value: fsname=…"),
        ("ro=1", "option ro takes no value"),
        ("chunk_size=65537", "must be a power of two from 64K to 64M"),
        ("chunk_size=32K", "must be a power of two from 64K to 64M"),
        ("chunk_size=4MB", "write a number of bytes"),
        ("chunk_size=-4M", "write a number of bytes"),
        ("commit=0", "commit=0: must be from 0.05 to 300"),
        ("commit=nan", "commit=nan: must be"),
        ("commit=soon", "commit=soon: must be a number"),
        ("queue_depth=0", "queue_depth=0: must be from 1 to 4096"),
        ("queue_depth=1.5", "must be a whole number"),
        ("max_handles=7", "max_handles=7: must be from 8 to"),
    ],
)
def test_what_is_refused_says_why_in_one_line(text: str, message: str) -> None:
    with pytest.raises(OptionError) as raised:
        parse(text)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "size"), [("65536", 65536), ("64k", 65536), ("64K", 65536), ("4M", 4 << 20), ("1m", 1 << 20)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "K", "4G", "4KK", "4 M", "0x10", "1.5M", "²"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(OptionError):
        FormatOptions(parse_size(text))
