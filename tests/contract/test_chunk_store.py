"""What every ``ChunkStore`` promises; nothing here knows which one it is."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random

import pytest
import trio
import trio.testing

from benchfs_core.chunks.store import ChunkStore
from benchfs_core.layout import spans
from benchfs_core.types import Buffer, ChunkIndex, ChunkRange, InodeId
from tests.contract.conftest import CHUNK_SIZE, MAX_HANDLES, Opener

INODE = InodeId(7)
OTHER = InodeId(8)
FIRST = ChunkIndex(0)


def indices(*numbers: int) -> list[ChunkIndex]:
    return [ChunkIndex(number) for number in numbers]


async def test_what_was_written_is_read(store: ChunkStore) -> None:
    assert await store.write_chunk(INODE, FIRST, 10, b"hello") == 5
    assert bytes(await store.read_chunk(INODE, FIRST, 10, 5)) == b"hello"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_every_kind_of_buffer(store: ChunkStore, kind: type) -> None:
    data: Buffer = kind(b"some bytes")
    assert await store.write_chunk(INODE, FIRST, 0, data) == 10
    assert bytes(await store.read_chunk(INODE, FIRST, 0, 10)) == b"some bytes"


async def test_a_slice_of_a_buffer(store: ChunkStore) -> None:
    await store.write_chunk(INODE, FIRST, 0, memoryview(b"0123456789")[3:7])
    assert bytes(await store.read_chunk(INODE, FIRST, 0, 6)) == b"3456\0\0"


async def test_holes_read_as_zeros(store: ChunkStore) -> None:
    assert bytes(await store.read_chunk(INODE, ChunkIndex(99), 5, 10)) == bytes(10)
    await store.write_chunk(INODE, FIRST, 100, b"x")
    assert bytes(await store.read_chunk(INODE, FIRST, 98, 5)) == b"\0\0x\0\0"
    assert bytes(await store.read_chunk(INODE, FIRST, 1000, 4)) == bytes(4)
    assert bytes(await store.read_chunk(INODE, FIRST, 0, CHUNK_SIZE)) == bytes(100) + b"x" + bytes(CHUNK_SIZE - 101)
    assert [info.length for info in await store.list_chunks(INODE)] == [101]


async def test_reading_makes_nothing(store: ChunkStore) -> None:
    await store.read_chunk(INODE, FIRST, 0, 10)
    assert await store.list_chunks(INODE) == []


async def test_an_empty_write_makes_nothing(store: ChunkStore) -> None:
    assert await store.write_chunk(INODE, FIRST, 5, b"") == 0
    assert await store.list_chunks(INODE) == []
    assert bytes(await store.read_chunk(INODE, FIRST, 0, 0)) == b""


async def test_a_chunk_read_then_written_through_one_handle(store: ChunkStore) -> None:
    await store.write_chunk(INODE, FIRST, 0, b"before")
    assert bytes(await store.read_chunk(INODE, FIRST, 0, 6)) == b"before"
    await store.write_chunk(INODE, FIRST, 0, b"after!")
    assert bytes(await store.read_chunk(INODE, FIRST, 0, 6)) == b"after!"


async def test_a_whole_chunk(store: ChunkStore) -> None:
    data = Random(1).randbytes(CHUNK_SIZE)
    assert await store.write_chunk(INODE, FIRST, 0, data) == CHUNK_SIZE
    assert bytes(await store.read_chunk(INODE, FIRST, 0, CHUNK_SIZE)) == data


async def test_a_request_larger_than_one_buffer(store: ChunkStore) -> None:
    """A request over several chunks, more than there are handles, cut by ``layout`` as file I/O does it."""
    data = Random(2).randbytes((2 * MAX_HANDLES + 1) * CHUNK_SIZE + 12345)
    offset = CHUNK_SIZE // 2 + 1

    async def write(index: ChunkIndex, inside: int, part: bytes) -> None:
        await store.write_chunk(INODE, index, inside, part)

    async with trio.open_nursery() as nursery:
        for span in spans(offset, len(data), CHUNK_SIZE):
            part = data[span.position : span.position + span.length]
            nursery.start_soon(write, span.chunk_index, span.offset, part)
    back = bytearray()
    for span in spans(offset, len(data), CHUNK_SIZE):
        back += await store.read_chunk(INODE, span.chunk_index, span.offset, span.length)
    assert back == data


async def test_concurrent_partial_writes_to_one_chunk(store: ChunkStore) -> None:
    part = 512
    async with trio.open_nursery() as nursery:
        for number in range(CHUNK_SIZE // part):
            data = bytes([number]) * part
            nursery.start_soon(store.write_chunk, INODE, FIRST, number * part, data)
    expected = b"".join(bytes([number]) * part for number in range(CHUNK_SIZE // part))
    assert bytes(await store.read_chunk(INODE, FIRST, 0, CHUNK_SIZE)) == expected


async def test_concurrent_first_writes_to_many_chunks(store: ChunkStore) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(60):
            nursery.start_soon(store.write_chunk, InodeId(number % 3), ChunkIndex(number), number, bytes([number]) * 9)
    for number in range(60):
        assert bytes(await store.read_chunk(InodeId(number % 3), ChunkIndex(number), number, 9)) == bytes([number]) * 9


async def test_inodes_and_chunks_do_not_mix(store: ChunkStore) -> None:
    await store.write_chunk(INODE, FIRST, 0, b"a")
    await store.write_chunk(OTHER, FIRST, 0, b"b")
    await store.write_chunk(INODE, ChunkIndex(1), 0, b"c")
    assert bytes(await store.read_chunk(INODE, FIRST, 0, 1)) == b"a"
    assert bytes(await store.read_chunk(OTHER, FIRST, 0, 1)) == b"b"
    assert bytes(await store.read_chunk(INODE, ChunkIndex(1), 0, 1)) == b"c"


async def test_flushes_of_what_exists_and_of_what_does_not(store: ChunkStore) -> None:
    await store.fsync_chunk(INODE, FIRST)
    await store.fsync_entries(INODE)
    await store.fsync_deletions()
    await store.write_chunk(INODE, FIRST, 0, b"x")
    for _ in range(2):
        await store.fsync_chunk(INODE, FIRST)
        await store.fsync_chunk(INODE, ChunkIndex(1))
        await store.fsync_entries(INODE)
        await store.fsync_deletions()
    assert bytes(await store.read_chunk(INODE, FIRST, 0, 1)) == b"x"


async def test_truncating(store: ChunkStore) -> None:
    await store.write_chunk(INODE, FIRST, 0, b"0123456789")
    await store.truncate_chunk(INODE, FIRST, 20)
    assert [info.length for info in await store.list_chunks(INODE)] == [10]
    await store.truncate_chunk(INODE, FIRST, 4)
    assert [info.length for info in await store.list_chunks(INODE)] == [4]
    assert bytes(await store.read_chunk(INODE, FIRST, 0, 10)) == b"0123" + bytes(6)
    await store.write_chunk(INODE, FIRST, 8, b"8")
    assert bytes(await store.read_chunk(INODE, FIRST, 0, 10)) == b"0123\0\0\0\x008\0", "the cut bytes do not come back"
    await store.truncate_chunk(INODE, ChunkIndex(5), 4)
    assert [info.chunk_index for info in await store.list_chunks(INODE)] == [0]
    await store.truncate_chunk(INODE, FIRST, 0)
    assert [info.length for info in await store.list_chunks(INODE)] == [0]


async def test_deleting_a_chunk(store: ChunkStore) -> None:
    await store.write_chunk(INODE, FIRST, 0, b"old")
    await store.delete_chunk(INODE, FIRST)
    await store.delete_chunk(INODE, FIRST)
    assert bytes(await store.read_chunk(INODE, FIRST, 0, 3)) == bytes(3)
    await store.write_chunk(INODE, FIRST, 1, b"n")
    assert bytes(await store.read_chunk(INODE, FIRST, 0, 3)) == b"\0n\0"
    await store.fsync_entries(INODE)


async def test_deleting_a_file(store: ChunkStore) -> None:
    for number in range(20):
        await store.write_chunk(INODE, ChunkIndex(number * 1000), 0, b"x")
    await store.write_chunk(OTHER, FIRST, 0, b"stays")
    assert await store.delete_file_chunks(INODE) == 20
    assert await store.delete_file_chunks(INODE) == 0
    await store.fsync_deletions()
    assert await store.list_chunks(INODE) == []
    assert bytes(await store.read_chunk(INODE, FIRST, 0, 1)) == b"\0"
    assert bytes(await store.read_chunk(OTHER, FIRST, 0, 5)) == b"stays"


async def test_deleting_a_large_file_gives_way(store: ChunkStore) -> None:
    for number in range(600):
        await store.write_chunk(InodeId(1000 + number % 2), ChunkIndex(number), 0, b"x")
    counts: list[int] = []

    async def delete(inode: int) -> None:
        counts.append(await store.delete_file_chunks(InodeId(inode)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(delete, 1000)
        nursery.start_soon(delete, 1001)
        nursery.start_soon(store.write_chunk, OTHER, FIRST, 0, b"meanwhile")
    assert counts == [300, 300]


async def test_describing_chunks(store: ChunkStore) -> None:
    for number in (12, 3, 100, 7):
        await store.write_chunk(INODE, ChunkIndex(number), 0, bytes(number) + b"x")
    listed = await store.list_chunks(INODE)
    assert [(info.chunk_index, info.length) for info in listed] == [(3, 4), (7, 8), (12, 13), (100, 101)]
    found = await store.stat_chunks(INODE, indices(7, 55, 100, 3))
    assert [(info.chunk_index, info.length) for info in found] == [(7, 8), (100, 101), (3, 4)]
    assert await store.stat_chunks(INODE, []) == []
    assert await store.stat_chunks(OTHER, indices(1, 2)) == []
    assert len(await store.stat_chunks(INODE, indices(*range(500)))) == 4


async def test_many_files_are_described_at_once_in_the_order_asked_for(store: ChunkStore) -> None:
    assert await store.list_files([]) == []
    inodes = [InodeId(number) for number in range(2000, 2100)]
    for inode in inodes[1::2]:
        await store.write_chunk(inode, ChunkIndex(12), 0, bytes(inode % 7 + 1))
        await store.write_chunk(inode, ChunkIndex(3), 0, b"x")
    asked = inodes[::-1]
    listed = await store.list_files(asked)
    assert listed == [await store.list_chunks(inode) for inode in asked]
    assert sum(bool(chunks) for chunks in listed) == 50


async def test_blocks_are_counted_in_512_bytes(store: ChunkStore) -> None:
    await store.write_chunk(INODE, FIRST, 0, b"x" * 8192)
    await store.fsync_chunk(INODE, FIRST)
    assert [info.blocks for info in await store.list_chunks(INODE)] == [16]
    assert [info.blocks for info in await store.stat_chunks(INODE, [FIRST])] == [16]


async def test_every_operation_but_reads_and_writes_is_a_checkpoint(store: ChunkStore) -> None:
    await store.write_chunk(INODE, FIRST, 0, b"x")
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: store.read_chunk(OTHER, FIRST, 0, 1),
        lambda: store.fsync_chunk(INODE, FIRST),
        lambda: store.fsync_chunk(OTHER, FIRST),
        lambda: store.fsync_entries(INODE),
        lambda: store.fsync_entries(INODE),
        lambda: store.truncate_chunk(INODE, FIRST, 1),
        lambda: store.truncate_chunk(OTHER, FIRST, 1),
        lambda: store.delete_chunk(OTHER, FIRST),
        lambda: store.delete_file_chunks(OTHER),
        lambda: store.fsync_deletions(),
        lambda: store.fsync_deletions(),
        lambda: store.stat_chunks(INODE, [FIRST]),
        lambda: store.list_chunks(INODE),
        lambda: store.list_files([INODE]),
        lambda: store.list_files([]),
        lambda: store.find_inodes(range(0)),
    ]
    for call in calls:
        with trio.testing.assert_checkpoints():
            await call()


async def test_cancelled_writes_leave_a_store_that_works(store: ChunkStore) -> None:
    for number in range(30):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                for index in range(10):
                    nursery.start_soon(store.write_chunk, INODE, ChunkIndex(index), 0, bytes([number]) * 5000)
                for _ in range(number):
                    await trio.lowlevel.checkpoint()
                scope.cancel()
    for index in range(10):
        await store.write_chunk(INODE, ChunkIndex(index), 0, b"done")
        assert bytes(await store.read_chunk(INODE, ChunkIndex(index), 0, 4)) == b"done"


async def test_the_number_of_open_descriptors_is_bounded(store: ChunkStore) -> None:
    before = len(os.listdir("/proc/self/fd"))
    most = 0

    async def use(number: int) -> None:
        nonlocal most
        for _ in range(3):
            await store.write_chunk(InodeId(number % 5), ChunkIndex(number), 0, bytes([number]) * 100)
            most = max(most, len(os.listdir("/proc/self/fd")))
            assert bytes(await store.read_chunk(InodeId(number % 5), ChunkIndex(number), 0, 1)) == bytes([number])

    async with trio.open_nursery() as nursery:
        for number in range(80):
            nursery.start_soon(use, number)
    assert most - before <= MAX_HANDLES + 16, "handles, and directories while they are flushed"


async def test_a_closed_store_refuses(store: ChunkStore) -> None:
    await store.write_chunk(INODE, FIRST, 0, b"x")
    await store.close_all()
    await store.close_all()
    with pytest.raises(trio.ClosedResourceError):
        await store.write_chunk(INODE, FIRST, 0, b"x")
    with pytest.raises(trio.ClosedResourceError):
        await store.read_chunk(INODE, FIRST, 0, 1)
    with pytest.raises(trio.ClosedResourceError):
        await store.list_chunks(INODE)


async def test_closing_waits_for_what_is_under_way(opener: Opener, durable: bool, tmp_path: Path) -> None:
    begun: list[int] = []
    ended: list[int] = []
    with trio.fail_after(60):
        async with opener(tmp_path, durable) as store, trio.open_nursery() as nursery:

            async def write(number: int) -> None:
                begun.append(number)
                ended.append(await store.write_chunk(INODE, ChunkIndex(number), 0, b"x"))

            for number in range(3 * MAX_HANDLES):
                nursery.start_soon(write, number)
            while len(begun) < 3 * MAX_HANDLES:
                await trio.lowlevel.checkpoint()
            await store.close_all()
    assert ended == [1] * (3 * MAX_HANDLES)


async def test_a_random_history_against_a_model(store: ChunkStore) -> None:
    random = Random(2026)
    model: dict[int, bytearray] = {}
    for _ in range(300):
        number = random.randrange(8)
        index = ChunkIndex(number)
        offset = random.randrange(CHUNK_SIZE)
        length = random.randrange(1, CHUNK_SIZE - offset + 1)
        match random.choice("wwwrrrtdf"):
            case "w":
                data = random.randbytes(length)
                await store.write_chunk(INODE, index, offset, data)
                chunk = model.setdefault(number, bytearray())
                chunk.extend(bytes(max(0, offset + length - len(chunk))))
                chunk[offset : offset + length] = data
            case "r":
                expected = bytes(model.get(number, b"")[offset : offset + length]).ljust(length, b"\0")
                assert bytes(await store.read_chunk(INODE, index, offset, length)) == expected
            case "t":
                await store.truncate_chunk(INODE, index, offset)
                if number in model:
                    del model[number][offset:]
            case "d":
                await store.delete_chunk(INODE, index)
                model.pop(number, None)
            case "f":
                await store.fsync_chunk(INODE, index)
    listed = await store.list_chunks(INODE)
    assert [(info.chunk_index, info.length) for info in listed] == sorted((n, len(c)) for n, c in model.items())


def part(index: int, offset: int, length: int, inode: InodeId = INODE) -> ChunkRange:
    return ChunkRange(inode, ChunkIndex(index), offset, length)


async def content(store: ChunkStore, index: int = 0, inode: InodeId = INODE) -> bytes:
    return bytes(await store.read_chunk(inode, ChunkIndex(index), 0, CHUNK_SIZE))


async def lengths(store: ChunkStore, inode: InodeId = INODE) -> dict[int, int]:
    return {info.chunk_index: info.length for info in await store.list_chunks(inode)}


async def test_allocated_space_changes_neither_bytes_nor_length(store: ChunkStore) -> None:
    await store.write_chunk(INODE, FIRST, 0, b"data")
    await store.allocate_chunk(part(0, 0, CHUNK_SIZE))
    await store.allocate_chunk(part(3, 8192, 4096))
    await store.fsync_chunk(INODE, ChunkIndex(3))
    assert await lengths(store) == {0: 4, 3: 0}
    assert await content(store) == b"data" + bytes(CHUNK_SIZE - 4)
    assert await content(store, 3) == bytes(CHUNK_SIZE)
    [first, third] = await store.stat_chunks(INODE, indices(0, 3))
    assert first.blocks >= CHUNK_SIZE // 512
    assert third.blocks >= 4096 // 512
    await store.write_chunk(INODE, ChunkIndex(3), 8192, b"more")
    assert (await content(store, 3))[8192:8197] == b"more\0"


async def test_a_cut_gives_allocated_space_back(store: ChunkStore) -> None:
    await store.write_chunk(INODE, FIRST, 0, b"data")
    await store.allocate_chunk(part(0, 0, CHUNK_SIZE))
    await store.truncate_chunk(INODE, FIRST, 4)
    [info] = await store.stat_chunks(INODE, [FIRST])
    assert (info.length, info.blocks <= 8) == (4, True)
    await store.allocate_chunk(part(1, 0, CHUNK_SIZE))
    await store.truncate_chunk(INODE, ChunkIndex(1), 8192)
    [info] = await store.stat_chunks(INODE, indices(1))
    assert info.length in (0, 8192)
    assert info.blocks <= 8192 // 512
    assert await content(store, 1) == bytes(CHUNK_SIZE)


async def test_a_zeroed_part_reads_as_zeros_and_the_rest_stays(store: ChunkStore) -> None:
    data = Random(3).randbytes(CHUNK_SIZE - 100)
    await store.write_chunk(INODE, FIRST, 0, data)
    for offset, length in ((0, 10), (4000, 20000), (CHUNK_SIZE - 1000, 1000)):
        await store.zero_chunk(part(0, offset, length))
        end = min(offset + length, len(data))
        data = data[:offset] + bytes(end - offset) + data[end:]
    assert await content(store) == data.ljust(CHUNK_SIZE, b"\0")
    assert await lengths(store) == {0: len(data)}
    await store.fsync_chunk(INODE, FIRST)


async def test_zeroing_makes_nothing_and_lengthens_nothing(store: ChunkStore) -> None:
    await store.zero_chunk(part(2, 0, CHUNK_SIZE))
    assert await lengths(store) == {}
    await store.write_chunk(INODE, FIRST, 0, b"short")
    await store.zero_chunk(part(0, 3, 1000))
    assert await lengths(store) == {0: 5}
    assert (await content(store))[:5] == b"sho\0\0"


async def test_space_allocated_and_zeroed_reads_as_zeros(store: ChunkStore) -> None:
    await store.allocate_chunk(part(0, 0, CHUNK_SIZE))
    await store.zero_chunk(part(0, 0, 16384))
    assert (await lengths(store))[0] <= 16384
    assert await content(store) == bytes(CHUNK_SIZE)


@pytest.mark.parametrize("shift", [0, 4096, 1000])
async def test_a_copy_is_what_the_source_was(store: ChunkStore, shift: int) -> None:
    data = Random(4).randbytes(CHUNK_SIZE)
    await store.write_chunk(INODE, FIRST, 0, data)
    await store.write_chunk(OTHER, ChunkIndex(5), 0, b"x" * 8192)
    length = CHUNK_SIZE - shift
    assert 0 <= await store.copy_chunk(part(0, 0, length), part(5, shift, length, OTHER)) <= length
    await store.write_chunk(INODE, FIRST, 0, bytes(CHUNK_SIZE))  # shared space is not
    await store.fsync_chunk(OTHER, ChunkIndex(5))
    assert await content(store, 5, OTHER) == b"x" * shift + data[:length]
    assert await content(store) == bytes(CHUNK_SIZE)


async def test_a_copy_within_a_chunk(store: ChunkStore) -> None:
    await store.write_chunk(INODE, FIRST, 0, b"a" * 4096)
    await store.copy_chunk(part(0, 0, 4096), part(0, 8192, 4096))
    assert (await content(store))[: 3 * 4096] == b"a" * 4096 + bytes(4096) + b"a" * 4096


async def test_what_the_source_lacks_is_a_hole_in_the_copy(store: ChunkStore) -> None:
    await store.write_chunk(OTHER, FIRST, 0, b"x" * 20000)
    assert await store.copy_chunk(part(9, 0, 8192), part(0, 0, 8192, OTHER)) == 0
    assert await content(store, 0, OTHER) == (bytes(8192) + b"x" * (20000 - 8192)).ljust(CHUNK_SIZE, b"\0")
    assert await store.copy_chunk(part(9, 0, 8192), part(7, 0, 8192, OTHER)) == 0
    assert await lengths(store, OTHER) == {0: 20000}
    await store.write_chunk(INODE, FIRST, 40960, b"y" * 10)
    await store.copy_chunk(part(0, 0, CHUNK_SIZE), part(0, 0, CHUNK_SIZE, OTHER))
    assert await content(store, 0, OTHER) == (bytes(40960) + b"y" * 10).ljust(CHUNK_SIZE, b"\0")
    assert await store.copy_chunk(part(0, 0, 4096), part(6, 0, 4096, OTHER)) == 0
    assert 6 not in await lengths(store, OTHER)


async def test_many_copies_at_once_with_few_handles(store: ChunkStore) -> None:
    data = Random(5).randbytes(4096)
    for index in range(3 * MAX_HANDLES):
        await store.write_chunk(INODE, ChunkIndex(index), 0, data)
    async with trio.open_nursery() as nursery:
        for index in range(3 * MAX_HANDLES):
            nursery.start_soon(store.copy_chunk, part(index, 0, 4096), part(index, 0, 4096, OTHER))
    for index in range(3 * MAX_HANDLES):
        assert (await content(store, index, OTHER))[:4096] == data


async def test_data_and_holes_are_found(store: ChunkStore) -> None:
    assert await store.find_data(INODE, indices(0, 1), 0) is None
    assert await store.find_hole(INODE, indices(4, 5), 17) == (4, 17)
    await store.write_chunk(INODE, FIRST, 0, b"d" * 100)
    await store.write_chunk(INODE, ChunkIndex(1), 32768, b"d" * 32768)
    await store.write_chunk(INODE, ChunkIndex(2), 0, b"d" * CHUNK_SIZE)
    await store.fsync_all()
    assert await store.find_data(INODE, indices(0, 1, 2), 7) == (0, 7)
    assert await store.find_data(INODE, indices(0, 1, 2), 20000) == (1, 32768)
    assert await store.find_data(INODE, indices(1, 2), 50000) == (1, 50000)
    assert await store.find_data(INODE, indices(7, 2), 50000) == (2, 0)
    assert await store.find_hole(INODE, indices(0, 1, 2), 5) == (0, 100)
    assert await store.find_hole(INODE, indices(1, 2, 3), 3) == (1, 3)
    assert await store.find_hole(INODE, indices(1, 2, 3), 40000) == (3, 0)
    assert await store.find_hole(INODE, indices(2), 0) is None


async def test_what_is_allocated_and_not_written_is_a_hole(store: ChunkStore) -> None:
    await store.write_chunk(INODE, FIRST, 0, b"d" * 4096)
    await store.allocate_chunk(part(0, 0, CHUNK_SIZE))
    assert await store.find_hole(INODE, indices(0), 0) == (0, 4096)
    assert await store.find_data(INODE, indices(0), 4096) is None


async def test_more_chunks_than_are_looked_at_in_one_go(store: ChunkStore) -> None:
    await store.write_chunk(INODE, ChunkIndex(700), 4096, b"d")
    assert await store.find_data(INODE, [ChunkIndex(index) for index in range(701)], 9000) == (700, 4096)
