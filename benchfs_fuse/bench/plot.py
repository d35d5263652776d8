"""Draws the ratios of a report as bars: a list of shapes, written as SVG by hand or as PNG by matplotlib.

Imports ``workload`` and ``figures``; matplotlib, which is no dependency, only where a PNG is asked for. ``draw`` and
``svg`` are pure.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchfs_fuse.bench.figures import Line
from benchfs_fuse.bench.workload import BenchError, Figure

SUFFIXES = (".svg", ".png")

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442", "#7f7f7f")
"""Okabe and Ito's, which those can tell apart who do not see all colours."""
_WIDTH, _LABELS, _RIGHT = 980, 330, 70
_BAR, _GAP, _BOTTOM, _LINE = 9, 9, 28, 16
_LOWEST, _HIGHEST = 1 / 64, 16
"""Ratios at the ends of the axis; bars beyond end there, with their number."""
_FONT = 11


@dataclass(frozen=True, slots=True)
class Shape:
    """A rectangle; or, with ``text``, words whose baseline begins at the point, or ends there."""

    x: float
    y: float
    width: float = 0
    height: float = 0
    colour: str = "#000000"
    text: str = ""
    end: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """What is to be seen."""

    width: int
    height: int
    shapes: tuple[Shape, ...]


def draw(lines: Sequence[Line], directories: Sequence[str], figures: Mapping[str, Figure]) -> Picture:
    """A group of bars for each figure, a bar for each directory but the first, which is the line at 1."""
    others = list(directories[1:]) or list(directories)
    by_figure = {
        key: [line for line in lines if line.figure == key and line.directory in others and line.ratio is not None]
        for key in figures
    }
    groups = [(figures[key], found) for key, found in by_figure.items() if found]
    legend, top = _legend(directories[0], others)
    height = top + sum(len(found) * _BAR + _GAP for _, found in groups) + _BOTTOM
    shapes = [*legend, *_axis(top, height)]
    y = float(top)
    for figure, found in groups:
        middle = y + len(found) * _BAR / 2 + _FONT / 3
        shapes.append(Shape(_LABELS - 8, middle, text=figure.title, end=True))
        for line in found:
            shapes += _bar(line, y, _COLOURS[others.index(line.directory) % len(_COLOURS)])
            y += _BAR
        y += _GAP
    return Picture(_WIDTH, height, tuple(shapes))


def svg(picture: Picture) -> str:
    """The picture as an SVG document."""
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{picture.width}" height="{picture.height}" '
        f'viewBox="0 0 {picture.width} {picture.height}" font-family="sans-serif" font-size="{_FONT}">',
        f'<rect width="{picture.width}" height="{picture.height}" fill="#ffffff"/>',
    ]
    for shape in picture.shapes:
        if shape.text:
            anchor = ' text-anchor="end"' if shape.end else ""
            lines.append(f'<text x="{shape.x:g}" y="{shape.y:g}"{anchor}>{html.escape(shape.text)}</text>')
        else:
            lines.append(
                f'<rect x="{shape.x:.1f}" y="{shape.y:.1f}" width="{shape.width:.1f}" height="{shape.height:.1f}" '
                f'fill="{shape.colour}"/>'
            )
    return "\n".join([*lines, "</svg>", ""])


def check(path: Path) -> None:
    """Complain before anything is measured.

    Raises:
        BenchError: the file could not be written in the form that its name asks for.
    """
    if path.suffix not in SUFFIXES:
        raise BenchError(f"{path}: a plot is written as .svg or .png")
    if not path.absolute().parent.is_dir():
        raise BenchError(f"{path.parent}: is no directory")
    if path.suffix == ".png":
        _matplotlib()


def write(picture: Picture, path: Path) -> None:
    """Write the picture in the form that the name of the file asks for."""
    if path.suffix == ".svg":
        path.write_text(svg(picture), encoding="utf-8")
    else:
        _write_png(picture, path)


def _position(ratio: float) -> float:
    """Where on the axis, which is logarithmic."""
    inside = min(max(ratio, _LOWEST), _HIGHEST)
    share = math.log(inside / _LOWEST) / math.log(_HIGHEST / _LOWEST)
    return _LABELS + share * (_WIDTH - _LABELS - _RIGHT)


def _bar(line: Line, y: float, colour: str) -> list[Shape]:
    assert line.ratio is not None
    one, here = _position(1), _position(line.ratio.median)
    low, high = _position(line.ratio.low), _position(line.ratio.high)
    right = max(high, here, one)
    return [
        Shape(min(one, here), y, max(abs(here - one), 1), _BAR - 2, colour),
        Shape(low, y + _BAR / 2 - 1.5, max(high - low, 0.5), 1, "#333333"),
        Shape(right + 4, y + _BAR - 1, text=f"{line.ratio.median:.2f}"),
    ]


def _legend(base: str, others: Sequence[str]) -> tuple[list[Shape], int]:
    """Which colour is whose, in as many lines as it takes; and where the bars begin."""
    shapes, x, y = [Shape(8, 16, text=f"ratio to {base} (right of 1: faster):")], float(_LABELS), 8
    for number, name in enumerate(others):
        width = 28 + 6.5 * len(name)
        if x + width > _WIDTH and x > _LABELS:
            x, y = float(_LABELS), y + _LINE
        shapes.append(Shape(x, y, 10, 10, _COLOURS[number % len(_COLOURS)]))
        shapes.append(Shape(x + 14, y + 9, text=name))
        x += width
    return shapes, y + 2 * _LINE


def _axis(top: int, height: int) -> list[Shape]:
    shapes = []
    for exponent in range(-6, 5):
        ratio = 2.0**exponent
        x = _position(ratio)
        shapes.append(Shape(x, top - 8, 1, height - top - _BOTTOM + 8, "#000000" if ratio == 1 else "#dddddd"))
        shapes.append(Shape(x - 6, height - 10, text=f"{ratio:g}" if exponent >= 0 else f"1/{round(1 / ratio)}"))
    return shapes


def _matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise BenchError("a plot as .png needs matplotlib: pip install matplotlib, or write an .svg") from None


def _write_png(picture: Picture, path: Path) -> None:
    _matplotlib()
    from matplotlib.figure import Figure as Sheet
    from matplotlib.patches import Rectangle

    dots_per_inch = 100
    sheet = Sheet(figsize=(picture.width / dots_per_inch, picture.height / dots_per_inch), dpi=dots_per_inch)
    axes = sheet.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, picture.width)
    axes.set_ylim(picture.height, 0)
    for shape in picture.shapes:
        if shape.text:
            side = "right" if shape.end else "left"
            axes.text(shape.x, shape.y, shape.text, fontsize=_FONT * 72 / dots_per_inch, ha=side)
        else:
            axes.add_patch(Rectangle((shape.x, shape.y), shape.width, shape.height, color=shape.colour, linewidth=0))
    sheet.savefig(path)
