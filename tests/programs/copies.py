"""tar and rsync of a tree with everything a tree can have: native to the filesystem under test, and back to native.

Imports its neighbours and ``tests.support.mounting``. Compared are names, contents, modes, owners, times to the
nanosecond, links, device numbers, xattrs and (where the filesystem keeps them) ACLs; rsync must find nothing to do,
both ways; sparse files stay sparse.
"""

from __future__ import annotations

import os
import random
import stat
from pathlib import Path

import pytest

from tests.programs.program import Place, Program, ProgramFailed, expect, need
from tests.support.mounting import assert_same, manifest, run

RSYNC = ("rsync", "-aHAX", "--numeric-ids", "--sparse")
RSYNC_WITHOUT_ACLS = ("rsync", "-aHX", "--numeric-ids", "--sparse")
TAR = ("tar", "--xattrs", "--xattrs-include=user.*", "--sparse", "--numeric-owner", "--format=pax")
HOLE_BYTES = 40 << 20
LONG_AGO_S = 946_684_800


def make_tree(top: Path, *, acl: bool) -> None:
    """A tree with links, holes, special files, xattrs, ACLs, odd names, owners, modes and times."""
    rng = random.Random(7)
    for directory in range(12):
        (top / f"d{directory}" / "inner").mkdir(parents=True)
        for file in range(12):
            (top / f"d{directory}" / "inner" / f"f{file}").write_bytes(rng.randbytes(rng.randrange(20_000)))
    odd = top / "odd"
    odd.mkdir()
    for number, name in enumerate(
        (b"new\nline", b" leading", b"-dash", b"\\back", b"*?[", b"\xff\xfe", b"n" * 255, "é漢".encode())
    ):
        Path(os.fsdecode(os.fsencode(odd) + b"/" + name)).write_bytes(rng.randbytes(number))
    with (odd / "sparse").open("wb") as stream:
        for at in (0, 5 << 20, HOLE_BYTES - 4096):
            stream.seek(at)
            stream.write(rng.randbytes(4096))
    for number in range(3):
        os.link(odd / "sparse", top / f"d{number}" / "linked")
    os.mkfifo(odd / "fifo")
    os.mknod(odd / "character", stat.S_IFCHR | 0o640, os.makedev(1, 3))
    os.mknod(odd / "block", stat.S_IFBLK | 0o660, os.makedev(7, 200))
    os.mknod(odd / "socket", stat.S_IFSOCK | 0o600)
    os.link(odd / "fifo", odd / "fifo linked")
    (odd / "symlink").symlink_to("x" * 3000)
    (odd / "dangling").symlink_to("../no/such")
    for mode in (0o0, 0o1777, 0o2755, 0o4711, 0o6755):
        (odd / f"mode {mode:o}").write_text("mode")
        os.chown(odd / f"mode {mode:o}", 1000 + mode, 2000 + mode)
        (odd / f"mode {mode:o}").chmod(mode)
    for path in (odd, odd / "sparse", odd / "mode 1777"):
        os.setxattr(path, "user.text", b"value \0 with zero")
        os.setxattr(path, "user.long", rng.randbytes(2000))
    if acl:
        run("setfacl", "-m", "u:1234:rwx,g:4321:r--", odd / "mode 1777")
        run("setfacl", "-d", "-m", "u:1234:r-x", odd)
    for number, path in enumerate(sorted([top, *top.rglob("*")])):
        os.utime(path, ns=(number, LONG_AGO_S * 10**9 + number * 1_234_567_891), follow_symlinks=False)


def devices(top: Path) -> dict[str, tuple[int, int]]:
    """What ``manifest`` does not tell: device numbers; and the blocks of the sparse file, roughly."""
    found = {}
    for path in sorted(top.rglob("*")):
        status = path.lstat()
        is_sparse = path.name == "sparse" and status.st_blocks * 512 < HOLE_BYTES // 4
        found[os.fspath(path.relative_to(top))] = (status.st_rdev, int(is_sparse))
    return found


def acls(top: Path) -> list[str]:
    """Of every file, in an order of ours: filesystems list directories each in their own."""
    return sorted(run("getfacl", "-RPn", ".", cwd=top).stdout.split("\n\n"))


def expect_same(found: Path, expected: Path, *, acl: bool) -> None:
    try:
        assert_same(manifest(found, own=False), manifest(expected, own=False))
    except pytest.fail.Exception as failure:
        raise ProgramFailed(str(failure)) from None
    expect(devices(found) == devices(expected), "device numbers or holes differ")
    expect(devices(expected)["odd/sparse"] == (0, 1), "the sparse file is not sparse where it comes from")
    if acl:
        expect(acls(found) == acls(expected), "ACLs differ")


def rsync(place: Place) -> str:
    need("rsync", *(("setfacl",) if place.acl else ()))
    words = RSYNC if place.acl else RSYNC_WITHOUT_ACLS
    tree, there, back = place.scratch / "tree", place.directory / "there", place.scratch / "back"
    tree.mkdir()
    make_tree(tree, acl=place.acl)
    run(*words, f"{tree}/", f"{there}/")
    place.remount()
    run(*words, f"{there}/", f"{back}/")
    for copy in (there, back):
        changes = run(*words, "--checksum", "--dry-run", "--delete", "--itemize-changes", f"{tree}/", f"{copy}/").stdout
        expect(changes == "", f"rsync would change {changes[:300]}")
        expect_same(copy, tree, acl=place.acl)
    changed = there / "d3" / "inner" / "f3"
    changed.write_bytes(b"changed")
    changes = run(*words, "--delete", "--itemize-changes", f"{tree}/", f"{there}/").stdout
    expect("d3/inner/f3" in changes, "rsync did not see a change")
    expect_same(there, tree, acl=place.acl)
    return f"{' '.join(words[1:])}: native to here, remount, back to native; exactly the same"


def tar(place: Place) -> str:
    need("tar", *(("setfacl",) if place.acl else ()))
    words = (*TAR, "--acls") if place.acl else TAR
    tree, there, back = place.scratch / "tree", place.directory / "there", place.scratch / "back"
    for directory in (tree, there, back):
        directory.mkdir()
    make_tree(tree, acl=place.acl)
    for name in ("socket", "fifo linked"):  # tar leaves sockets out, and makes two of a FIFO with two names
        (tree / "odd" / name).unlink()
    os.utime(tree / "odd", ns=(1, LONG_AGO_S * 10**9 + 1))
    run(*words, "-cf", place.directory / "in.tar", "-C", tree, ".")
    run(*words, "-xpf", place.directory / "in.tar", "-C", there)
    place.remount()
    run(*words, "-cf", place.directory / "out.tar", "-C", there, ".")
    run(*words, "-xpf", place.directory / "out.tar", "-C", back)
    run("tar", "-df", place.directory / "out.tar", "-C", there)
    for copy in (there, back):
        expect_same(copy, tree, acl=place.acl)
    return "native to here, remount, back to native; exactly the same"


PROGRAMS = (
    Program("rsync", "-aHX[A] --sparse there and back, --dry-run finds nothing", rsync),
    Program("tar", "--xattrs [--acls] --sparse there and back", tar),
)
