"""The statistics of a bench: from samples to medians, spreads, and ratios by round. Pure.

A ratio is taken within a round, between figures that were measured one after the other, and the median is taken of the
ratios: what the machine does over minutes moves both sides of a ratio, and falls out.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Sample:
    """What one step did in one round in one directory."""

    round: int
    directory: str
    figure: str
    operations: int
    seconds: float
    costs: Mapping[str, float] = field(default_factory=dict)
    """What the step cost, in all, by kind (``costs``)."""

    @property
    def rate(self) -> float:
        """Operations per second."""
        return self.operations / max(self.seconds, 1e-9)


@dataclass(frozen=True, slots=True)
class Summary:
    """A median and how far the samples lie apart."""

    median: float
    low: float
    high: float

    @property
    def spread(self) -> float:
        """Half the distance from the lowest to the highest, as a share of the median."""
        return (self.high - self.low) / 2 / self.median if self.median else 0.0


@dataclass(frozen=True, slots=True)
class Line:
    """One figure of one directory."""

    figure: str
    directory: str
    rate: Summary
    ratio: Summary | None
    """Against the first directory, by round; None where they have no round in common."""
    costs: Mapping[str, float]
    """Per operation, the median of the rounds, by kind."""


def summarise(values: Sequence[float]) -> Summary:
    """Of at least one value."""
    return Summary(statistics.median(values), min(values), max(values))


def lines(samples: Sequence[Sample], directories: Sequence[str], order: Sequence[str]) -> list[Line]:
    """What the samples come to, figure by figure in ``order``, for each directory that has any; the first is the base.

    Samples of an uncounted round do not exist here: who counts system calls does so in a round of its own.
    """
    found = []
    for figure in order:
        mine = [sample for sample in samples if sample.figure == figure]
        base = {sample.round: sample.rate for sample in mine if sample.directory == directories[0]}
        for directory in directories:
            here = [sample for sample in mine if sample.directory == directory]
            if not here:
                continue
            ratios = [sample.rate / base[sample.round] for sample in here if base.get(sample.round)]
            found.append(
                Line(
                    figure,
                    directory,
                    summarise([sample.rate for sample in here]),
                    summarise(ratios) if ratios else None,
                    costs_per_operation(here),
                )
            )
    return found


def costs_per_operation(samples: Sequence[Sample]) -> dict[str, float]:
    """The median over the samples of each cost divided by the operations."""
    kinds = {kind: None for sample in samples for kind in sample.costs}  # as a set that keeps the order
    return {
        kind: statistics.median(sample.costs.get(kind, 0.0) / max(sample.operations, 1) for sample in samples)
        for kind in kinds
    }
