"""The protocol of /dev/fuse: sizes against the kernel's header, decoding of whatever arrives, encoding of replies."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchfs_core.types import Attributes, InodeId
from benchfs_fuse.plane import protocol, replies
from benchfs_fuse.plane.protocol import (
    IN_HEADER,
    MAX_WRITE_BYTES,
    WRITE_HEAD_BYTES,
    Opcode,
    ProtocolError,
    Request,
    decode,
    fixed,
    forgets,
    names,
    xattr_of,
)

HEADER = Path("/usr/include/linux/fuse.h")
NEWER = {"SYNCFS", "STATX", "COPY_FILE_RANGE_64"}
"""Opcodes that the header of an older system has not."""

SIZES = {
    "fuse_in_header": protocol.IN_HEADER.size,
    "fuse_out_header": protocol.OUT_HEADER.size,
    "fuse_getattr_in": protocol.GETATTR_IN.size,
    "fuse_setattr_in": protocol.SETATTR_IN.size,
    "fuse_mknod_in": protocol.MKNOD_IN.size,
    "fuse_mkdir_in": protocol.MKDIR_IN.size,
    "fuse_rename_in": protocol.RENAME_IN.size,
    "fuse_rename2_in": protocol.RENAME2_IN.size,
    "fuse_link_in": protocol.LINK_IN.size,
    "fuse_open_in": protocol.OPEN_IN.size,
    "fuse_create_in": protocol.CREATE_IN.size,
    "fuse_release_in": protocol.RELEASE_IN.size,
    "fuse_read_in": protocol.READ_IN.size,
    "fuse_write_in": protocol.WRITE_IN.size,
    "fuse_fsync_in": protocol.FSYNC_IN.size,
    "fuse_getxattr_in": protocol.GETXATTR_IN.size,
    "fuse_forget_in": protocol.FORGET_IN.size,
    "fuse_batch_forget_in": protocol.BATCH_FORGET_IN.size,
    "fuse_forget_one": protocol.FORGET_ONE.size,
    "fuse_ioctl_in": protocol.IOCTL_IN.size,
    "fuse_interrupt_in": protocol.INTERRUPT_IN.size,
    "fuse_fallocate_in": protocol.FALLOCATE_IN.size,
    "fuse_lseek_in": protocol.LSEEK_IN.size,
    "fuse_copy_file_range_in": protocol.COPY_FILE_RANGE_IN.size,
    "fuse_lseek_out": replies.LSEEK_OUT.size,
    "fuse_attr_out": replies.ATTR_OUT.size,
    "fuse_entry_out": replies.ENTRY_OUT.size,
    "fuse_open_out": replies.OPEN_OUT.size,
    "fuse_write_out": replies.WRITE_OUT.size,
    "fuse_statfs_out": replies.STATFS_OUT.size,
    "fuse_ioctl_out": replies.IOCTL_OUT.size,
    "fuse_notify_inval_inode_out": replies.INVAL_INODE_OUT.size,
    "fuse_getxattr_out": replies.GETXATTR_OUT.size,
}
ATTRIBUTES = Attributes(InodeId(7), 0o100644, 2, 10, 20, 0x1234, 5000, 16, 10**9 + 1, 2 * 10**9 + 2, -1)
BORN = ATTRIBUTES._replace(rdev=os.makedev(0xABC, 0x12345), birth_ns=5 * 10**9 + 3)


def kernel_sizes() -> dict[str, int]:
    """Bytes of each struct in the kernel's header, whose fields are all aligned to their own size."""
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL)
    scalar = {"uint64_t": 8, "int64_t": 8, "uint32_t": 4, "int32_t": 4, "uint16_t": 2, "char": 1}
    sizes: dict[str, int] = {}
    for name, body in re.findall(r"^struct (\w+) \{\n(.*?)^\};", text, flags=re.MULTILINE | re.DOTALL):
        total = 0
        for field in filter(None, (part.strip().removeprefix("struct ") for part in body.split(";"))):
            array = re.search(r"\[(\d*)\]", field)
            kind = field.split()[0]
            total += (scalar.get(kind) or sizes[kind]) * (int(array[1] or 0) if array else 1)
        sizes[name] = total
    return sizes


@pytest.mark.skipif(not HEADER.exists(), reason="the kernel's headers are not installed")
def test_sizes_are_those_of_the_kernel_header() -> None:
    kernel = kernel_sizes()
    assert {name: kernel[name] for name in SIZES} == SIZES


@pytest.mark.skipif(not HEADER.exists(), reason="the kernel's headers are not installed")
def test_opcodes_are_those_of_the_kernel_header() -> None:
    theirs = {name: int(value) for name, value in re.findall(r"\bFUSE_(\w+)\s*= (\d+),", HEADER.read_text())}
    assert all(theirs[opcode.name] == opcode for opcode in Opcode if opcode.name not in NEWER or opcode.name in theirs)


def message(opcode: int, body: bytes, *, told: int | None = None, extensions: int = 0) -> bytes:
    length = IN_HEADER.size + len(body)
    return IN_HEADER.pack(length if told is None else told, opcode, 77, 5, 1000, 100, 4242, extensions, 0) + body


def decoded(raw: bytes) -> Request:
    """Decode as it arrives: in two buffers, with what was there before behind it."""
    head, tail = bytearray(b"\xaa" * WRITE_HEAD_BYTES), bytearray(b"\xbb" * MAX_WRITE_BYTES)
    head[: min(len(raw), WRITE_HEAD_BYTES)] = raw[:WRITE_HEAD_BYTES]
    rest = raw[WRITE_HEAD_BYTES:]
    tail[: len(rest)] = rest
    request = decode(head, tail, len(raw))
    if request.data is not tail:
        tail[:] = bytes(MAX_WRITE_BYTES)
        head[:] = bytes(WRITE_HEAD_BYTES)
    return request


@pytest.mark.parametrize("length", [0, 1, 39, 40, 41, 255, 4096])
def test_a_body_is_whole_wherever_the_buffers_part(length: int) -> None:
    body = bytes(range(256)) * 17
    request = decoded(message(Opcode.SETXATTR, body[:length]))
    assert (request.body, request.data) == (body[:length], b"")
    assert (request.opcode, request.unique, request.inode) == (Opcode.SETXATTR, 77, 5)
    assert (request.uid, request.gid, request.pid) == (1000, 100, 4242)


@pytest.mark.parametrize("length", [0, 1, 4096, MAX_WRITE_BYTES - 1, MAX_WRITE_BYTES])
def test_the_data_of_a_write_is_apart_from_its_fixed_part(length: int) -> None:
    data = (b"0123456789abcdef" * (MAX_WRITE_BYTES // 16))[:length]
    request = decoded(message(Opcode.WRITE, protocol.WRITE_IN.pack(3, 8192, length, 0, 0, 0) + data))
    assert bytes(request.data) == data
    assert fixed(protocol.WRITE_IN, request.body)[:3] == (3, 8192, length)


def test_extensions_are_no_part_of_the_body() -> None:
    request = decoded(message(Opcode.LOOKUP, b"name\0" + bytes(3) + bytes(16), extensions=2))
    assert request.body == b"name\0" + bytes(3)


BAD = {
    "nothing": b"",
    "half a header": message(Opcode.LOOKUP, b"")[:39],
    "longer than it is": message(Opcode.LOOKUP, b"x\0", told=50),
    "shorter than it is": message(Opcode.LOOKUP, b"x\0", told=40),
    "more extensions than bytes": message(Opcode.LOOKUP, b"x\0", extensions=9),
}


@pytest.mark.parametrize("raw", BAD.values(), ids=BAD)
def test_what_is_no_request_is_refused(raw: bytes) -> None:
    with pytest.raises(ProtocolError):
        decoded(raw)


def test_names_end_a_body_and_end_with_nul() -> None:
    assert names(b"....old\0new\0", 4, 2) == [b"old", b"new"]
    for body in (b"", b"x", b"x\0y", b"x\0y\0"):
        with pytest.raises(ProtocolError):
            names(body, 0)


def test_a_batch_of_forgets_is_as_long_as_it_says() -> None:
    pairs = [(5, 1), (2**63, 2**40)]
    body = protocol.BATCH_FORGET_IN.pack(2) + b"".join(protocol.FORGET_ONE.pack(*pair) for pair in pairs)
    assert forgets(body) == pairs
    for bad in (body[:-1], body + bytes(16), protocol.BATCH_FORGET_IN.pack(2**32 - 1), b""):
        with pytest.raises(ProtocolError):
            forgets(bad)


def test_a_value_is_as_long_as_it_says() -> None:
    assert xattr_of(protocol.SETXATTR_IN.pack(3, 1) + b"user.x\0a\0b") == (b"user.x", b"a\0b", 1)
    for bad in (b"user.x\0a", b"user.x"):
        with pytest.raises(ProtocolError):
            xattr_of(protocol.SETXATTR_IN.pack(3, 1) + bad)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(st.sampled_from(list(Opcode)).map(int), st.integers(0, 2**32 - 1)),
    st.binary(max_size=200),
    st.one_of(st.none(), st.integers(0, 2**32 - 1)),
    st.integers(0, 2**16 - 1) | st.just(0),
    st.integers(0, 240),
)
def test_whatever_arrives_is_decoded_or_refused(
    opcode: int, body: bytes, told: int | None, extensions: int, cut: int
) -> None:
    raw = message(opcode, body, told=told, extensions=extensions)[: max(0, 240 - cut)]
    try:
        request = decoded(raw)
    except ProtocolError:
        return
    assert len(request.body) + len(request.data) <= len(raw) - IN_HEADER.size
    for layout in (value for value in vars(protocol).values() if isinstance(value, struct.Struct)):
        try:
            assert len(fixed(layout, request.body)) > 0
        except ProtocolError:
            assert len(request.body) < layout.size
    for decoder in (forgets, xattr_of, lambda body: names(body, 0), lambda body: names(body, 8, 2)):
        try:
            decoder(request.body)
        except ProtocolError:
            continue


def test_an_entry_has_its_fields_where_the_kernel_looks() -> None:
    encoded = replies.entry_out(ATTRIBUTES, valid_s=9)
    assert struct.unpack_from("<QQQQII", encoded) == (7, 0, replies.CACHE_S, 9, 0, 0)
    assert struct.unpack_from("<QQQqqqIIIIIIIIII", encoded, 40) == (
        *(7, 5000, 16, 1, 2, -1, 1, 2, 999_999_999),
        *(0o100644, 2, 10, 20, 0x1234, replies.BLOCK_SIZE, 0),
    )
    assert replies.attr_out(ATTRIBUTES)[16:] == encoded[40:]
    assert struct.unpack_from("<Q", replies.no_entry()) == (0,)


def test_a_listing_ends_before_it_is_too_long() -> None:
    plain, plus = replies.Listing(64, plus=False), replies.Listing(128 + 32, plus=True)
    assert plain.add(b"a", ATTRIBUTES, 3)
    assert plain.add(b"12345678", ATTRIBUTES, 4)
    assert not plain.add(b"c", ATTRIBUTES, 5)
    assert plain.encode() == struct.pack("<QQII8sQQII8s", 7, 3, 1, 8, b"a", 7, 4, 8, 8, b"12345678")
    assert plus.add(b"a", ATTRIBUTES, 3)
    assert not plus.add(b"a", ATTRIBUTES, 4)
    assert plus.encode()[:128] == replies.entry_out(ATTRIBUTES)


def test_replies_say_how_long_they_are() -> None:
    assert replies.head(5, 100) == struct.pack("<IiQ", 116, 0, 5)
    assert replies.failure(5, 2) == struct.pack("<IiQ", 16, -2, 5)


@pytest.mark.parametrize(("attributes", "mask"), [(BORN, 0xFFF), (BORN._replace(birth_ns=0), 0x7FF)])
def test_statx_is_laid_out_as_the_system_call_has_it(attributes: Attributes, mask: int) -> None:
    """Offsets of ``struct statx`` (statx(2), linux/stat.h), of which ``fuse_statx`` is a copy, after 32 bytes."""
    assert (protocol.STATX_IN.size, replies.STATX_OUT.size) == (24, 32 + 256)
    reply = replies.statx_out(attributes)
    assert struct.unpack_from("<QII", reply) == (replies.CACHE_S, 0, 0)
    statx = reply[32:]
    assert struct.unpack_from("<II", statx) == (mask, 4096)
    assert struct.unpack_from("<IIIH", statx, 0x10) == (2, 10, 20, 0o100644)
    assert struct.unpack_from("<QQQ", statx, 0x20) == (7, 5000, 16)
    times = [struct.unpack_from("<qI", statx, offset) for offset in (0x40, 0x50, 0x60, 0x70)]
    assert times == [(1, 1), (5 if mask & 0x800 else 0, 3 if mask & 0x800 else 0), (-1, 999_999_999), (2, 2)]
    assert struct.unpack_from("<II", statx, 0x80) == (0xABC, 0x12345)
