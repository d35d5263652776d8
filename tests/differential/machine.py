"""The state machine: each step is one system call of one user, in a tree on ext4 and in a tree on BenchFS.

Imports this package. Both must answer alike: result or errno, and afterwards, for every inode, what the table does not
name. Some examples look at everything after each step, others only at the end, for looking renews what the kernel
caches.

Not compared                 | because
-----------------------------|-----------------------------------------------------------------------------------------
inode and device numbers     | each filesystem has its own; which names share an inode, and d_ino = st_ino, is compared
size, blocks of directories  | ext4 shows the blocks that its entries take; ours take none, and show 0
number of blocks             | allocation differs, and of what a truncate cut off a page may still be counted; it is
                             | compared that there are some where ext4 has some, and that they hardly pass the size
blocks of files held open    | in sync=fsync only: the kernel holds written data, and we have no blocks for it yet
atime of a regular file,     | the kernel answers reads from its page cache without telling a FUSE filesystem, so only
 if a read moved it on ext4  | the first after an open need move it; a move that ext4 does not make is a difference
atime of a regular file,     | in sync=fsync only: the kernel reads a page to write a part of it, and such reads look
 if a write moved it on ours | like any other
setgid without execution for | Linux drops it too when a user outside the group writes, but the kernel does not ask FUSE
 the group, on regular files | filesystems to: it may stay
times after a truncate to    | in sync=fsync only: ext4 moves them, the kernel, which owns them, moves them only if the
 the size that the file has  | size changes
ctime after an xattr was set | in sync=fsync only: ext4 does not move it, the kernel, which owns it, does; so too after
 to the value it has         | an ACL was removed that is not there
reading and writing fifos,   | the kernel does it, and moves their times on ext4, not on FUSE filesystems; so too
 sendfile from directories   | the atime of a directory in a sendfile(2) that fails
nanoseconds                  | stamps come from clocks of different fineness; the step that made a stamp is compared
positions in directories     | telldir(3) cookies mean something to their own filesystem only
RENAME_WHITEOUT              | refused with EINVAL, as filesystems do that cannot be an overlay's upper layer
where holes are              | small files have none, and ext4 takes zeros that it has cached for data; it is compared
                             | that all data lies where SEEK_DATA and SEEK_HOLE say
that there are blocks, where | ext4 copies holes as zeros
 something was copied to     |
flags of inodes              | while they protect something only root acts, and by path; in sync=fsync no flags of
                             | regular files change, of which the kernel keeps ctime: see ``protection``
O_DIRECT                     | ext4 asks for alignment to the disk's blocks, we do not
times to 1901 and from 2446  | ext4's first and last second have no fractions, and nothing lies beyond; ours are 64 bits
xattrs over some 800 bytes   | ext4 keeps them in the inode and one block, and answers ENOSPC beyond that
XATTR_CREATE together with   | pyfuse3 looks at XATTR_CREATE first and hands no flags on; nothing uses the two together
 XATTR_REPLACE               |
system.* xattrs              | without -o acl only: ACLs are refused there
"""

from __future__ import annotations

import os
import stat

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.differential import calls
from tests.differential import strategies as draw
from tests.differential.client import Worker
from tests.differential.protection import ProtectionRules
from tests.differential.protocol import User
from tests.differential.steps import Steps
from tests.differential.strategies import Place

MAX_OPEN = 5
SLOT = st.integers(0, MAX_OPEN - 1)
FOLLOW = st.booleans()


class NameRules(Steps):
    """Making, moving and removing names."""

    @rule(user=draw.USERS, place=draw.NEW, mode=draw.MODES)
    def mkdir(self, user: User, place: Place, mode: int) -> None:
        self.step(user, "mkdir", self.at(place), mode)

    @rule(user=draw.USERS, place=draw.ANY)
    def rmdir(self, user: User, place: Place) -> None:
        self.step(user, "rmdir", self.at(place, stat.S_IFDIR))

    @rule(user=draw.USERS, place=draw.ANY)
    def unlink(self, user: User, place: Place) -> None:
        self.step(user, "unlink", self.at(place))

    @rule(user=draw.USERS, old=draw.EXISTING, new=draw.ANY, flags=st.sampled_from([0, calls.AT_SYMLINK_FOLLOW]))
    def link(self, user: User, old: Place, new: Place, flags: int) -> None:
        self.step(user, "link", self.at(old), self.at(new), flags)

    @rule(user=draw.USERS, content=draw.TARGETS, place=draw.ANY)
    def symlink(self, user: User, content: bytes, place: Place) -> None:
        self.step(user, "symlink", content, self.at(place))

    @rule(user=draw.USERS, place=draw.ANY)
    def readlink(self, user: User, place: Place) -> None:
        self.step(user, "readlink", self.at(place, stat.S_IFLNK))

    @rule(user=draw.USERS, old=draw.EXISTING, new=draw.ANY)
    def rename(self, user: User, old: Place, new: Place) -> None:
        self.step(user, "rename", self.at(old), self.at(new))

    @rule(
        user=draw.USERS,
        old=draw.EXISTING,
        new=draw.ANY,
        flags=st.sampled_from([calls.RENAME_EXCHANGE, calls.RENAME_NOREPLACE, 3, 8]),
    )
    def renameat2(self, user: User, old: Place, new: Place, flags: int) -> None:
        self.step(user, "renameat2", self.at(old), self.at(new), flags)

    @rule(user=draw.USERS, place=draw.ANY, kind=draw.TYPES, mode=draw.MODES, device=draw.DEVICES)
    def mknod(self, user: User, place: Place, kind: int, mode: int, device: int) -> None:
        self.step(user, "mknod", self.at(place), kind | mode, device)

    @rule(user=draw.USERS, place=draw.ANY)
    def listing(self, user: User, place: Place) -> None:
        self.step(user, "listing", self.at(place, stat.S_IFDIR))

    @rule(user=draw.USERS, place=draw.ANY, repeat=st.sampled_from([2045, 2046, 2047, 2048]))
    def long_path(self, user: User, place: Place, repeat: int) -> None:
        path = self.at(place)
        self.step(user, "lstat", b"./" * (repeat - len(path) // 2) + path)


class AttributeRules(Steps):
    """Modes, owners, times, sizes and extended attributes, by path."""

    @rule(umask=draw.UMASKS)
    def set_umask(self, umask: int) -> None:
        self.umask = umask

    @rule(user=draw.USERS, place=draw.ANY, call=st.sampled_from(["stat", "lstat", "statfs", "access_all_ways"]))
    def ask(self, user: User, place: Place, call: str) -> None:
        self.step(user, call, self.at(place))

    @rule(
        user=draw.USERS,
        place=draw.ANY,
        mode=st.integers(0, 7),
        flags=st.sampled_from([0, calls.AT_EACCESS, calls.AT_SYMLINK_NOFOLLOW]),
    )
    def access(self, user: User, place: Place, mode: int, flags: int) -> None:
        self.step(user, "access", self.at(place), mode, flags)

    @rule(user=draw.USERS, place=draw.ANY, mode=draw.MODES)
    def chmod(self, user: User, place: Place, mode: int) -> None:
        self.step(user, "chmod", self.at(place), mode)

    @rule(user=draw.USERS, place=draw.ANY, call=st.sampled_from(["chown", "lchown"]), uid=draw.IDS, gid=draw.IDS)
    def chown(self, user: User, place: Place, call: str, uid: int, gid: int) -> None:
        self.step(user, call, self.at(place), uid, gid)

    @rule(user=draw.USERS, place=draw.ANY, times=draw.TIMES, flags=st.sampled_from([0, calls.AT_SYMLINK_NOFOLLOW]))
    def utimensat(self, user: User, place: Place, times: tuple[calls.Moment, calls.Moment] | None, flags: int) -> None:
        self.step(user, "utimensat", self.at(place), times, flags)

    @rule(user=draw.USERS, place=draw.ANY, size=draw.SIZES)
    def truncate(self, user: User, place: Place, size: int) -> None:
        path = self.at(place, stat.S_IFREG)
        if self.changes_size("stat", path, size):
            self.step(user, "truncate", path, size)

    @rule(
        user=draw.USERS,
        place=draw.EXISTING,
        name=draw.XATTR_NAMES,
        value=draw.XATTR_VALUES,
        flags=draw.XATTR_FLAGS,
        follow=FOLLOW,
    )
    def setxattr(self, user: User, place: Place, name: bytes, value: bytes, flags: int, follow: bool) -> None:
        self.step(user, "setxattr", self.at(place), name, self.fresh(value), flags, follow)

    @precondition(lambda self: self.acl)
    @rule(user=draw.USERS, place=draw.EXISTING, name=draw.ACL_NAMES, value=draw.ACLS)
    def set_acl(self, user: User, place: Place, name: bytes, value: bytes) -> None:
        path = self.at(place)
        if self.changes_acl(path, name, value):
            self.step(user, "setxattr", path, name, value, 0, True)

    @precondition(lambda self: self.acl)
    @rule(user=draw.USERS, place=draw.EXISTING, name=draw.ACL_NAMES)
    def get_acl(self, user: User, place: Place, name: bytes) -> None:
        self.step(user, "getxattr", self.at(place), name, 1000, True)

    @precondition(lambda self: self.acl)
    @rule(user=draw.USERS, place=draw.EXISTING, name=draw.ACL_NAMES)
    def remove_acl(self, user: User, place: Place, name: bytes) -> None:
        path = self.at(place)
        if self.changes_acl(path, name):
            self.step(user, "removexattr", path, name, True)

    @rule(user=draw.USERS, place=draw.EXISTING, name=draw.XATTR_NAMES, size=draw.XATTR_SIZES, follow=FOLLOW)
    def getxattr(self, user: User, place: Place, name: bytes, size: int, follow: bool) -> None:
        self.step(user, "getxattr", self.at(place), name, size, follow)

    @rule(user=draw.USERS, place=draw.EXISTING, size=draw.XATTR_SIZES, follow=FOLLOW)
    def listxattr(self, user: User, place: Place, size: int, follow: bool) -> None:
        self.step(user, "listxattr", self.at(place), size, follow)

    @rule(user=draw.USERS, place=draw.EXISTING, name=draw.XATTR_NAMES, follow=FOLLOW)
    def removexattr(self, user: User, place: Place, name: bytes, follow: bool) -> None:
        self.step(user, "removexattr", self.at(place), name, follow)


class HandleRules(Steps):
    """Descriptors that stay open, used by any user, whoever opened them."""

    def slot(self, pick: int) -> int:
        return self.open[pick % len(self.open)]

    @precondition(lambda self: len(self.open) < MAX_OPEN)
    @rule(user=draw.USERS, place=draw.ANY, flags=draw.OPEN_FLAGS, mode=draw.MODES)
    def open_file(self, user: User, place: Place, flags: int, mode: int) -> None:
        self._opened(user, "open", self.at(place), flags, mode)

    @precondition(lambda self: len(self.open) < MAX_OPEN)
    @rule(user=draw.USERS, pick=st.integers(0, 255), flags=draw.FILE_FLAGS)
    def open_regular(self, user: User, pick: int, flags: int) -> None:
        """Most opens of the rule above meet a directory, or no permission."""
        files = [path for path, kind in self.known if stat.S_ISREG(kind)] or [b"d/a"]
        self._opened(user, "open", files[pick % len(files)], flags, 0o666)

    @precondition(lambda self: 0 < len(self.open) < MAX_OPEN)
    @rule(pick=SLOT)
    def dup(self, pick: int) -> None:
        slot, self.slots = self.slots, self.slots + 1
        self.step(draw.ROOT, "dup", self.slot(pick), slot)
        self.open.append(slot)

    @precondition(lambda self: self.open)
    @rule(pick=SLOT)
    def close(self, pick: int) -> None:
        slot = self.slot(pick)
        self.step(draw.ROOT, "close", slot)
        self.open.remove(slot)

    @precondition(lambda self: self.open)
    @rule(user=draw.USERS, pick=SLOT, call=st.sampled_from(["fstat", "fsync", "fdatasync", "flistxattr", "fgetdents"]))
    def use(self, user: User, pick: int, call: str) -> None:
        self.step(user, call, self.slot(pick))

    @precondition(lambda self: self.open)
    @rule(user=draw.USERS, pick=SLOT, data=draw.DATA, offset=st.one_of(st.none(), draw.OFFSETS))
    def write(self, user: User, pick: int, data: bytes, offset: int | None) -> None:
        if offset is None:
            self.step(user, "write", self.slot(pick), data)
        else:
            self.step(user, "pwrite", self.slot(pick), data, offset)

    @precondition(lambda self: self.open)
    @rule(user=draw.USERS, pick=SLOT, length=draw.LENGTHS, offset=st.one_of(st.none(), draw.OFFSETS))
    def read(self, user: User, pick: int, length: int, offset: int | None) -> None:
        if offset is None:
            self.step(user, "read", self.slot(pick), length)
        else:
            self.step(user, "pread", self.slot(pick), length, offset)

    @precondition(lambda self: self.open)
    @rule(user=draw.USERS, pick=SLOT, offset=st.one_of(draw.OFFSETS, st.just(-5)), whence=st.integers(0, 2))
    def lseek(self, user: User, pick: int, offset: int, whence: int) -> None:
        self.step(user, "lseek", self.slot(pick), offset, whence)

    @precondition(lambda self: self.open)
    @rule(user=draw.USERS, pick=SLOT, size=draw.SIZES)
    def ftruncate(self, user: User, pick: int, size: int) -> None:
        slot = self.slot(pick)
        if self.changes_size("fstat", slot, size):
            self.step(user, "ftruncate", slot, size)

    @precondition(lambda self: self.open)
    @rule(user=draw.USERS, pick=SLOT, mode=draw.MODES)
    def fchmod(self, user: User, pick: int, mode: int) -> None:
        self.step(user, "fchmod", self.slot(pick), mode)

    @precondition(lambda self: self.open)
    @rule(user=draw.USERS, pick=SLOT, uid=draw.IDS, gid=draw.IDS)
    def fchown(self, user: User, pick: int, uid: int, gid: int) -> None:
        self.step(user, "fchown", self.slot(pick), uid, gid)

    @precondition(lambda self: self.open)
    @rule(user=draw.USERS, pick=SLOT, times=draw.TIMES)
    def futimens(self, user: User, pick: int, times: tuple[calls.Moment, calls.Moment] | None) -> None:
        self.step(user, "futimens", self.slot(pick), times)

    @precondition(lambda self: self.open)
    @rule(user=draw.USERS, pick=SLOT, name=draw.XATTR_NAMES, value=draw.XATTR_VALUES, flags=draw.XATTR_FLAGS)
    def fsetxattr(self, user: User, pick: int, name: bytes, value: bytes, flags: int) -> None:
        self.step(user, "fsetxattr", self.slot(pick), name, self.fresh(value), flags)

    @precondition(lambda self: len(self.open) > 1)
    @rule(user=draw.USERS, pick=SLOT, source=SLOT, length=draw.LENGTHS)
    def sendfile(self, user: User, pick: int, source: int, length: int) -> None:
        self.step(user, "sendfile", self.slot(pick), self.slot(source), length)

    @precondition(lambda self: self.open)
    @rule(user=draw.USERS, pick=SLOT, mode=draw.ALLOCATIONS, offset=draw.OFFSETS, length=draw.LONG_LENGTHS)
    def fallocate(self, user: User, pick: int, mode: int, offset: int, length: int) -> None:
        self.step(user, "fallocate", self.slot(pick), mode, offset, length)

    @precondition(lambda self: self.open)
    @rule(
        user=draw.USERS,
        pick=SLOT,
        source=SLOT,
        length=draw.LONG_LENGTHS,
        offset=st.one_of(st.none(), draw.OFFSETS),
        source_offset=st.one_of(st.none(), draw.OFFSETS),
    )
    def copy_file_range(
        self, user: User, pick: int, source: int, length: int, offset: int | None, source_offset: int | None
    ) -> None:
        self.step(user, "copy_file_range", self.slot(pick), self.slot(source), length, offset, source_offset)

    @precondition(lambda self: self.open)
    @rule(user=draw.USERS, pick=SLOT, offset=draw.OFFSETS, whence=st.sampled_from([os.SEEK_DATA, os.SEEK_HOLE]))
    def seek(self, user: User, pick: int, offset: int, whence: int) -> None:
        self.step(user, "seek", self.slot(pick), offset, whence)

    @precondition(lambda self: self.open)
    @rule(user=draw.USERS, pick=SLOT)
    def holes(self, user: User, pick: int) -> None:
        self.step(user, "holes", self.slot(pick))

    @precondition(lambda self: self.open)
    @rule(user=draw.USERS, pick=SLOT, data=draw.DATA, offset=draw.OFFSETS)
    def map_and_write(self, user: User, pick: int, data: bytes, offset: int) -> None:
        self.step(user, "map_and_write", self.slot(pick), data, offset)

    @precondition(lambda self: self.open)
    @rule(user=draw.USERS, pick=SLOT)
    def map_and_read(self, user: User, pick: int) -> None:
        self.step(user, "map_and_read", self.slot(pick))


class DifferentialMachine(NameRules, AttributeRules, HandleRules, ProtectionRules):
    """All rules."""


def machine_for(worker_process: Worker, *, through: bool, with_acl: bool) -> type[DifferentialMachine]:
    """The machine for one worker and its mount."""

    class Machine(DifferentialMachine):
        worker = worker_process
        writes_through = through
        acl = with_acl

    return Machine
