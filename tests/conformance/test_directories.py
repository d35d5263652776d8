"""readdir(3): what is listed, positions in a directory, and listing one that changes meanwhile."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable
from errno import ENOENT, ENOTEMPTY
from functools import partial

import pytest

from tests.conformance.calls import EXCHANGE, DirectoryStream, renameat2
from tests.conformance.world import KINDS, Rule, Rules, World, fails, inode, make, opened

pytestmark = pytest.mark.fuse
rules = Rules()

MANY = 10_000


def test_rule(rule: Rule, world: World) -> None:
    rule.verify(world)


def entry(number: int) -> str:
    """The name of one of the entries that ``fill`` makes."""
    return f"{number:06d}".ljust(200, "-")


def fill(name: str, count: int) -> list[bytes]:
    """Make a directory of ``count`` entries, whose names are long, so that no buffer takes many; their names."""
    os.mkdir(name)
    directory = os.open(name, os.O_RDONLY)
    names = [os.fsencode(entry(number)) for number in range(count)]
    for made in names:
        os.symlink(b"target", made, dir_fd=directory)
    os.close(directory)
    return names


@rules("readdir(3)")
def entries_have_their_type_and_inode_and_dots_are_among_them(world: World) -> None:
    os.mkdir("d")
    for kind in KINDS:
        make(f"d/{kind}", kind)
    listed = {}
    with DirectoryStream("d") as stream:
        while (found := stream.read()) is not None:
            listed[found[0].decode()] = found[1:]
    assert listed == {
        name: (inode(f"d/{name}"), stat.S_IFMT(os.lstat(f"d/{name}").st_mode) >> 12) for name in (".", "..", *KINDS)
    }
    assert listed[".."][0] == inode(".")


@rules("readdir(3)")
def an_empty_directory_lists_its_dots_only(world: World) -> None:
    os.mkdir("d")
    with DirectoryStream("d") as stream:
        assert sorted(stream.rest()) == [b".", b".."]


@rules("telldir(3), seekdir(3), rewinddir(3)")
def positions_in_a_directory_can_be_returned_to(world: World) -> None:
    names = fill("d", 400)
    with DirectoryStream("d") as stream:
        order, places = [], []
        while True:
            places.append(stream.tell())
            if (found := stream.read()) is None:
                break
            order.append(found[0])
        assert sorted(order) == sorted([b".", b"..", *names])
        assert len(set(places)) == len(places)
        for number in (0, 1, 2, 3, 200, 399, 401, 402):
            stream.seek(places[number])
            assert stream.tell() == places[number]
            assert stream.rest() == order[number:]
        stream.rewind()
        assert stream.rest() == order


@rules("telldir(3), seekdir(3)")
def a_position_holds_while_other_entries_come_and_go(world: World) -> None:
    fill("d", 400)
    with DirectoryStream("d") as stream:
        for _ in range(200):
            stream.read()
        place = stream.tell()
        after = stream.rest()
        for name in after[10:20]:
            os.unlink(b"d/" + name)
        opened("d/new", os.O_CREAT | os.O_WRONLY)
        stream.seek(place)
        again = [name for name in stream.rest() if name != b"new"]
    assert again == [name for name in after if name not in after[10:20]]


@rules("rewinddir(3), POSIX 2024 §XSH rewinddir")
def rewinding_shows_the_directory_as_it_is_then(world: World) -> None:
    os.mkdir("d")
    opened("d/one", os.O_CREAT | os.O_WRONLY)
    with DirectoryStream("d") as stream:
        assert sorted(stream.rest()) == [b".", b"..", b"one"]
        opened("d/two", os.O_CREAT | os.O_WRONLY)
        os.unlink("d/one")
        stream.rewind()
        assert sorted(stream.rest()) == [b".", b"..", b"two"]
    assert sorted(os.listdir("d")) == ["two"]


@rules("readdir(3)")
def ten_thousand_entries_are_listed_once_each_and_found(world: World) -> None:
    names = fill("d", MANY)
    listed = os.listdir(b"d")
    assert sorted(listed) == names
    fails(ENOENT, os.lstat, "d/missing")
    for name in names[::500]:
        assert os.readlink(b"d/" + name) == b"target"
    directory = os.open("d", os.O_RDONLY)
    for name in listed[::20]:
        os.unlink(name, dir_fd=directory)
    assert sorted(os.listdir(directory)) == sorted(set(map(os.fsdecode, listed)) - set(map(os.fsdecode, listed[::20])))
    os.close(directory)
    fails(ENOTEMPTY, os.rmdir, "d")


CHANGES: dict[str, Callable[[int], object]] = {
    "create": lambda number: opened(f"d/new {number}", os.O_CREAT | os.O_WRONLY),
    "unlink": lambda number: os.unlink(f"d/{entry(number * 7)}"),
    "rename in place": lambda number: os.rename(f"d/{entry(number * 7)}", f"d/renamed {number}"),
    "rename in": lambda number: os.rename(f"outside/{entry(number)}", f"d/moved {number}"),
    "rename out": lambda number: os.rename(f"d/{entry(number * 7)}", f"outside/moved {number}"),
    "rename over": lambda number: os.rename(f"outside/{entry(number)}", f"d/{entry(number * 7)}"),
    "exchange": lambda number: renameat2(f"d/{entry(number * 7)}", f"outside/{entry(number)}", EXCHANGE),
    "link": lambda number: os.link(f"outside/{entry(number)}", f"d/linked {number}", follow_symlinks=False),
}


def _while_it_changes(change: Callable[[int], object], world: World) -> None:
    names = set(fill("d", 400))
    fill("outside", 50)
    touched = {os.fsencode(entry(number * 7)) for number in range(50)}
    with DirectoryStream("d") as stream:
        listed: Counter[bytes] = Counter()
        for number in range(50):
            for _ in range(6):
                if (found := stream.read()) is not None:
                    listed[found[0]] += 1
            change(number)
        listed.update(stream.rest())
    assert listed.most_common(1)[0][1] == 1, "an entry was listed twice"
    assert names - touched <= set(listed), "an entry that was there throughout was not listed"


for _name, _change in CHANGES.items():
    rules.add(f"listing during {_name}", "readdir(3), POSIX 2024 §XSH readdir", partial(_while_it_changes, _change))


@rules("readdir(3)")
def listings_by_several_streams_do_not_disturb_each_other(world: World) -> None:
    names = sorted([*fill("d", 300), b".", b".."])
    with DirectoryStream("d") as one, DirectoryStream("d") as other:
        first = [one.read() for _ in range(100)]
        assert sorted(other.rest()) == names
        assert sorted([found[0] for found in first if found is not None] + one.rest()) == names


@rules("getdents(2)")
def a_directory_that_is_gone_lists_nothing(world: World) -> None:
    os.mkdir("d")
    with DirectoryStream("d") as stream:
        os.rmdir("d")
        assert stream.rest() == []
