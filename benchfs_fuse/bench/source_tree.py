"""Makes source trees from a seed: names, directories and sizes as in real ones, and a C project that compiles.

Imports the standard library. Sizes: half of the files of a source tree are smaller than about 4 KiB, few are larger
than 64 KiB, and the few hold much of the bytes (a log-normal distribution). The same seed gives the same bytes.
"""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path

MEDIAN_BYTES = 4000
SIGMA = 1.3
LARGEST_BYTES = 512 * 1024
FILES_PER_DIRECTORY = 12
_WORDS = ("static", "const", "return", "struct", "buffer", "offset", "length", "if", "else", "for", "while", "next")
_DATE = 1_700_000_000


def tree(files: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Names and contents of ``files`` files, directories implied by the names."""
    source = random.Random(seed)
    directories = [f"module{number}" for number in range(max(1, files // FILES_PER_DIRECTORY))]
    for number in range(1, len(directories)):  # about two in three lie below another one
        if source.random() < 0.67:
            directories[number] = f"{directories[source.randrange(number)]}/{directories[number]}"
    for number in range(files):
        size = min(int(source.lognormvariate(0, SIGMA) * MEDIAN_BYTES), LARGEST_BYTES)
        yield f"{source.choice(directories)}/file{number}.{source.choice('chty')}", _text(source, size)


def write_archive(path: Path, *, files: int, seed: int) -> None:
    """Write the tree as a tarball."""
    _write(path, tree(files, seed))


def project(objects: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Names and contents of a C project of ``objects`` object files, with headers that all of them include."""
    source = random.Random(seed)
    headers = [f"include/part{number}.h" for number in range(max(1, objects // 2))]
    for number, header in enumerate(headers):
        lines = [f"int part{number}_{entry}(int value);" for entry in range(20)]
        yield header, "\n".join(["#pragma once", *lines, ""]).encode()
    includes = "\n".join(f'#include "{Path(header).name}"' for header in headers)
    for number in range(objects):
        functions = "\n".join(_function(number, entry, source) for entry in range(20))
        yield f"source/file{number}.c", f"#include <stdio.h>\n#include <stdlib.h>\n{includes}\n{functions}\n".encode()
    calls = " + ".join(f"file{number}_0(argc)" for number in range(objects))
    declared = "\n".join(f"int file{number}_0(int value);" for number in range(objects))
    yield "source/main.c", f"{declared}\nint main(int argc, char **argv)\n{{ return ({calls}) & 0; }}\n".encode()
    yield (
        "Makefile",
        b"objects := $(patsubst %.c,%.o,$(wildcard source/*.c))\n"
        b"program: $(objects)\n\t$(CC) -o $@ $(objects)\n"
        b"%.o: %.c\n\t$(CC) -O1 -Iinclude -MMD -c -o $@ $<\n"
        b"-include $(wildcard source/*.d)\n",
    )


def write_project(path: Path, *, objects: int, seed: int) -> None:
    """Write the C project as a tarball."""
    _write(path, project(objects, seed))


def _function(file: int, entry: int, source: random.Random) -> str:
    factor, limit = source.randrange(3, 99), source.randrange(5, 50)
    return (
        f"int file{file}_{entry}(int value)\n{{\n    int sum = {factor};\n"
        f"    for (int i = 0; i < value % {limit}; i++)\n        sum = sum * {factor} + (i ^ value) % 7;\n"
        f'    if (sum == {limit})\n        printf("%d\\n", sum);\n    return sum;\n}}\n'
    )


def _text(source: random.Random, size: int) -> bytes:
    words, length = [], 0
    while length < size:
        word = f"{source.choice(_WORDS)}{source.randrange(1000)}"
        words.append(word)
        length += len(word) + 1
    return (" ".join(words) + "\n").encode()[:size]


def _write(path: Path, files: Iterator[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.mode = len(content), _DATE, 0o644
            archive.addfile(member, io.BytesIO(content))
