"""POSIX ACLs on a mount with ``-o acl``: the same steps there and on ext4 (acl(5), POSIX.1e draft 17 §23).

Each step is done by a user in a child process, in both trees, and must end in the same way; then modes, ACLs and which
ctimes moved must be the same.
"""

from __future__ import annotations

import errno
import os
import random
import stat
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchfs_core.acl import ACCESS, DEFAULT, Acl, Entry, Tag
from tests.support.mounting import Volumes, run

pytestmark = pytest.mark.fuse

ROOT, OWNER, FRIEND, STRANGER = (0, 0, ()), (1000, 1000, (2000,)), (1001, 1001, (2000,)), (65534, 65534, ())
User = tuple[int, int, tuple[int, ...]]
PROBE = "one more"


def acl_of(text: str) -> bytes:
    """The xattr of a list such as ``u::rwx u:1000:r-x g::r-- m::r-x o::---``."""
    entries = []
    for word in text.split():
        kind, name, permissions = word.split(":")
        tags = {"u": (Tag.OWNER, Tag.USER), "g": (Tag.GROUP, Tag.NAMED_GROUP), "m": (Tag.MASK,), "o": (Tag.OTHERS,)}
        tag = tags[kind][1 if name else 0]
        bits = sum(bit for bit, letter in zip((4, 2, 1), permissions, strict=True) if letter != "-")
        entries.append(Entry(tag, bits, int(name)) if name else Entry(tag, bits))
    return Acl(tuple(entries)).to_xattr()


def outcome(top: Path, user: User, umask: int, action: Callable[[], object]) -> str:
    """What becomes of ``action`` when ``user`` does it in ``top``: its result, or the name of its errno."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.chdir(top)  # what is above it is not for users to pass
            uid, gid, groups = user
            os.setgroups(groups)
            os.setgid(gid)
            os.setuid(uid)
            os.umask(umask)
            said = repr(action())
        except OSError as error:
            said = errno.errorcode[error.errno or 0]
        except BaseException as error:
            said = f"broken test: {error!r}"
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as stream:
        said = stream.read()
    os.waitpid(child, 0)
    assert "broken" not in said, said
    return said


@dataclass(frozen=True, slots=True)
class Step:
    """Something that ``user`` does to the file or directory of this name."""

    user: User
    verb: str
    name: str
    value: str | int = ""
    umask: int = 0o022

    def do(self, top: Path) -> str:
        path = Path(self.name)
        actions: dict[str, Callable[[], object]] = {
            "access": lambda: os.setxattr(path, ACCESS, acl_of(str(self.value))),
            "default": lambda: os.setxattr(path, DEFAULT, acl_of(str(self.value))),
            "bytes": lambda: os.setxattr(path, ACCESS, bytes.fromhex(str(self.value))),
            "drop access": lambda: os.removexattr(path, ACCESS),
            "drop default": lambda: os.removexattr(path, DEFAULT),
            "chmod": lambda: path.chmod(int(self.value)),
            "chown": lambda: os.chown(path, int(self.value), -1),
            "create": lambda: os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, int(self.value))),
            "mkdir": lambda: path.mkdir(int(self.value)),
            "mkfifo": lambda: os.mkfifo(path, int(self.value)),
            "symlink": lambda: path.symlink_to("target"),
            "read": lambda: os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK)),  # a fifo must not wait
            "append": lambda: os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK)),
            "list": lambda: sorted(os.listdir(path)),
            "put": lambda: (path / PROBE).touch(exist_ok=False),
            "take": lambda: (path / PROBE).unlink(),
            "access(2)": lambda: [os.access(path, kind) for kind in (os.R_OK, os.W_OK, os.X_OK)],
        }
        return outcome(top, self.user, self.umask, actions[self.verb])


@dataclass(frozen=True, slots=True)
class Facts:
    """What ACLs and modes are about."""

    mode: int
    uid: int
    gid: int
    acls: dict[str, bytes]


def facts(top: Path) -> dict[str, Facts]:
    """Modes and ACLs of everything below ``top``."""
    found: dict[str, Facts] = {}
    for path in sorted([top, *top.rglob("*")]):
        status = path.lstat()
        names = sorted(name for name in os.listxattr(path, follow_symlinks=False) if name.startswith("system."))
        lists = {name: os.getxattr(path, name) for name in names}
        found[os.fspath(path.relative_to(top))] = Facts(status.st_mode, status.st_uid, status.st_gid, lists)
    return found


@pytest.fixture(scope="module")
def ext4(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An ext4 filesystem with ACLs, in a file."""
    place = tmp_path_factory.mktemp("ext4")
    image, directory = place / "image", place / "mount"
    directory.mkdir()
    with image.open("wb") as stream:
        stream.truncate(64 << 20)
    run("mkfs.ext4", "-q", image)
    subprocess.run(["mount", "-o", "loop,acl", image, directory], check=True)
    try:
        yield directory
    finally:
        run("umount", directory)


def compare(volumes: Volumes, ext4: Path, sync: str, steps: list[Step], name: str) -> list[str]:
    """Do the steps in both trees; return what each step came to."""
    tops = []
    for base in (volumes.make(f"sync={sync},acl").directory, ext4):
        base.chmod(0o755)
        top = base / name
        top.mkdir()
        top.chmod(0o777)
        tops.append(top)
    results = []
    for number, step in enumerate(steps):
        said = [step.do(top) for top in tops]
        assert said[0] == said[1], f"step {number}: {step}: BenchFS {said[0]}, ext4 {said[1]}"
        found = [facts(top) for top in tops]
        assert found[0] == found[1], f"after step {number}: {step}"
        results.append(said[0])
    return results


NAMED = f"u::rwx u:{FRIEND[0]}:rw- g::r-x g:2000:r-- m::rwx o::---"

SCRIPT = [
    (Step(OWNER, "create", "f", 0o666), "None"),
    (Step(FRIEND, "append", "f"), "EACCES"),
    (Step(STRANGER, "access", "f", NAMED), "EPERM"),  # acl(5): the owner's, or CAP_FOWNER
    (Step(OWNER, "access", "f", NAMED), "None"),
    (Step(FRIEND, "append", "f"), "None"),
    (Step(STRANGER, "read", "f"), "EACCES"),
    (Step(OWNER, "chmod", "f", 0o740), "None"),  # the mask
    (Step(FRIEND, "append", "f"), "EACCES"),
    (Step(FRIEND, "read", "f"), "None"),
    (Step(FRIEND, "access(2)", "f"), "[True, False, False]"),
    (Step(OWNER, "default", "f", NAMED), "EACCES"),  # setfacl(1): directories only
    (Step(OWNER, "mkdir", "d", 0o777), "None"),
    (Step(OWNER, "default", "d", NAMED), "None"),
    (Step(FRIEND, "put", "d"), "EACCES"),
    (Step(OWNER, "access", "d", NAMED.replace("rw-", "rwx")), "None"),
    (Step(FRIEND, "put", "d"), "None"),
    (Step(FRIEND, "take", "d"), "None"),
    (Step(STRANGER, "list", "d"), "EACCES"),
    (Step(OWNER, "create", "d/f", 0o666, 0o077), "None"),  # the umask takes no part
    (Step(OWNER, "create", "d/g", 0o600, 0o000), "None"),
    (Step(OWNER, "mkdir", "d/e", 0o777, 0o077), "None"),
    (Step(OWNER, "mkdir", "d/e/e", 0o700), "None"),
    (Step(OWNER, "mkfifo", "d/p", 0o666, 0o077), "None"),
    (Step(OWNER, "symlink", "d/l"), "None"),
    (Step(FRIEND, "append", "d/f"), "None"),
    (Step(OWNER, "chmod", "d/f", 0o6755), "None"),
    (Step(ROOT, "chown", "d/f", FRIEND[0]), "None"),
    (Step(OWNER, "drop access", "d/f"), "EPERM"),
    (Step(FRIEND, "drop access", "d/f"), "None"),
    (Step(FRIEND, "drop access", "d/f"), "None"),
    (Step(OWNER, "drop default", "d"), "None"),
    (Step(OWNER, "drop default", "d"), "None"),
    (Step(OWNER, "create", "d/h", 0o666, 0o027), "None"),
    (Step(OWNER, "access", "d/h", "u::rw- g::r-- o::---"), "None"),  # the mode says all of it
    (Step(OWNER, "access", "d/h", "u::rw- g::r-- m::--- o::---"), "None"),
    (Step(OWNER, "bytes", "d/h", "02000000"), "None"),  # a list without entries is none
    (Step(OWNER, "bytes", "d/h", "01000000"), "ENOTSUP"),
    (Step(OWNER, "bytes", "d/h", "0200000001000700"), "EINVAL"),
    (Step(OWNER, "access", "d/h", "u::rw- u:1:rwx g::r-- o::---"), "EINVAL"),
    (Step(ROOT, "chmod", "d", 0o2770), "None"),
    (Step(OWNER, "create", "d/i", 0o666), "None"),
    (Step(ROOT, "create", "s", 0o666), "None"),
    (Step(ROOT, "chown", "s", OWNER[0]), "None"),
    (Step(ROOT, "chmod", "s", 0o2755), "None"),
    (Step(OWNER, "access", "s", NAMED), "None"),  # not in the file's group: setgid goes, as with chmod(2)
]


@pytest.mark.parametrize("sync", ["write", "fsync"])
def test_every_rule_of_the_manual_as_on_ext4(volumes: Volumes, ext4: Path, sync: str) -> None:
    results = compare(volumes, ext4, sync, [step for step, _ in SCRIPT], f"script-{sync}")
    assert results == [expected for _, expected in SCRIPT]
    assert stat.S_IMODE((ext4 / f"script-{sync}" / "s").stat().st_mode) == 0o770


VERBS = (
    *("access", "access", "default", "default", "drop access", "drop default", "chmod", "create", "mkdir"),
    *("chmod", "create", "mkdir", "create", "mkdir", "chown", "mkfifo", "read", "append", "list", "put", "take"),
    "access(2)",
)


def random_step(rng: random.Random) -> Step:
    users = (ROOT, OWNER, FRIEND, STRANGER)
    user, umask = rng.choice((ROOT, OWNER, *users)), rng.choice((0, 0o022, 0o077, 0o777))
    name = "/".join((rng.choice("ab"), *(rng.choice("cdef") for _ in range(rng.randint(0, 2)))))
    verb = rng.choice(VERBS)
    value: str | int = ""
    if verb in ("access", "default"):
        words = [f"u::{_bits(rng)}"]
        words += [f"u:{who[0]}:{_bits(rng)}" for who in users[1:] if rng.random() < 0.3]
        words += [f"g::{_bits(rng)}"]
        words += [f"g:{number}:{_bits(rng)}" for number in (1001, 2000) if rng.random() < 0.3]
        words += [f"m::{_bits(rng)}"] if rng.random() < 0.8 else []
        value = " ".join([*words, f"o::{_bits(rng)}"])
    elif verb in ("chmod", "create", "mkdir", "mkfifo"):
        value = rng.choice((0o777, 0o666, 0o750, 0o2770, 0o6755, 0o1777, rng.randrange(0o1000)))
    elif verb == "chown":
        value = rng.choice(users)[0]
    return Step(user, verb, name, value, umask)


def _bits(rng: random.Random) -> str:
    return "".join(letter if rng.random() < 0.6 else "-" for letter in "rwx")


@pytest.mark.parametrize("seed", [1, 2])
def test_random_steps_end_as_on_ext4(volumes: Volumes, ext4: Path, seed: int) -> None:
    rng = random.Random(seed)
    sync = rng.choice(("write", "fsync"))
    steps = [Step(OWNER, "mkdir", name, 0o777, 0) for name in ("a", "b", "a/c", "b/c")]
    steps += [random_step(rng) for _ in range(300)]
    results = compare(volumes, ext4, sync, steps, f"random-{seed}")
    assert results.count("None") > 60, results  # much of it did something


def test_lists_outlive_remounts_and_copies(volumes: Volumes) -> None:
    volume = volumes.make("acl")
    top = volume.directory / "top"
    top.mkdir()
    os.setxattr(top, DEFAULT, acl_of(NAMED))
    (top / "file").write_bytes(b"content")
    before = facts(top)
    volume.remount()
    assert facts(top) == before
    run("cp", "-a", top, volume.directory / "copy")
    assert facts(volume.directory / "copy") == before
    volume.remount("noacl")
    after = facts(top)
    assert {name: found.mode for name, found in after.items()} == {name: found.mode for name, found in before.items()}
    assert not any(found.acls for found in after.values())
    with pytest.raises(OSError) as caught:
        os.setxattr(top, DEFAULT, acl_of(NAMED))
    assert caught.value.errno == errno.EOPNOTSUPP
