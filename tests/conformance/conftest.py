"""Runs each row of a module's table on ext4 and on a mount of BenchFS in each mode; a mount serves all rows."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.world import Place, Rules, World
from tests.support.mounting import run, volumes_in

THROUGH_PYFUSE3 = ("test_access", "test_directories", "test_ownership", "test_rename", "test_xattrs")

_numbers = itertools.count(1)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each row, in each place; some modules through pyfuse3 as well, by which not all can be done."""
    if "place" in metafunc.fixturenames:
        more = ["pyfuse3"] if metafunc.module.__name__.rpartition(".")[2] in THROUGH_PYFUSE3 else []
        metafunc.parametrize("place", ["ext4", "write", "fsync", *more], indirect=True, scope="session")
    if "rule" in metafunc.fixturenames:
        rules: Rules = metafunc.module.rules
        metafunc.parametrize("rule", rules, ids=[rule.name.replace(" ", "-") for rule in rules])


@contextlib.contextmanager
def native_in(directory: Path, options: str = "") -> Iterator[Place]:
    """An ext4 directory: ``directory`` if it is on ext4, else a filesystem in a file, mounted there.

    With ``options`` it is a mount of its own in either case, with these options.
    """
    directory.mkdir(exist_ok=True)
    mounts = 0
    try:
        if _type_of(directory) != "ext4":
            image = directory.with_suffix(".image")
            with image.open("xb") as stream:
                stream.truncate(4 << 30)
            run("mkfs.ext4", "-q", image)
            run("mount", "-o", "loop", image, directory)
            mounts += 1
        if options:
            run("mount", "--bind", directory, directory)
            mounts += 1
            run("mount", "-o", f"remount,bind,{options}", directory)
        yield Place(directory)
    finally:
        for _ in range(mounts):
            run("umount", directory)
        shutil.rmtree(directory)


def _type_of(directory: Path) -> str:
    return subprocess.run(
        ["findmnt", "-no", "FSTYPE", "-T", directory], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture(scope="session")
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Where rows act."""
    directory = tmp_path_factory.mktemp(f"conformance-{request.param}")
    if request.param == "ext4":
        with native_in(directory) as native:
            yield native
    else:
        with volumes_in(directory) as volumes:
            way = "plane=pyfuse3,sync=write" if request.param == "pyfuse3" else f"sync={request.param}"
            volume = volumes.make(way, options="chunk_size=64K")
            yield Place(volume.directory, volume)


@contextlib.contextmanager
def world_in(place: Place) -> Iterator[World]:
    """A fresh directory, as working directory."""
    top = place.directory / str(next(_numbers))
    top.mkdir()
    top.chmod(0o777)
    umask, opened = os.umask(0o022), _descriptors()
    try:
        with contextlib.chdir(top):
            yield World(place, top)
    finally:
        os.umask(umask)
        _close_since(opened, place.directory)


def _descriptors() -> set[str]:
    """Open descriptors, without that of this listing, whose number is the next to be given."""
    return {descriptor for descriptor in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{descriptor}")}


def _close_since(opened: set[str], directory: Path) -> None:
    """Close what a row left open below ``directory``, which could not be unmounted."""
    for descriptor in _descriptors() - opened:
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{descriptor}").startswith(f"{directory}/"):
                os.close(int(descriptor))


@pytest.fixture
def world(place: Place) -> Iterator[World]:
    """Where one row acts."""
    with world_in(place) as world:
        yield world
