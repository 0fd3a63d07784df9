"""Figures and the table they are shown in."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Figure", "middle", "pairwise", "render", "spread"]

NUMBERS = {"ms": "{:.0f}", "ratio": "{:.3f}", "s": "{:.2f}", "MiB": "{:.1f}", "/s": "{:.3f}", "%": "{:.3f}"}


@dataclass
class Figure:
    """One measured number, and what it is to be."""

    name: str
    value: float | None
    """None where it could not be measured: the note says why."""
    unit: str
    at_most: float | None = None
    at_least: float | None = None
    note: str = ""
    samples: dict[str, list[float]] = field(default_factory=dict)
    """What it was computed from, by server."""

    @property
    def ok(self) -> bool | None:
        """Within the bound; None if there is none, or no figure."""
        if self.value is None or (self.at_most is None and self.at_least is None):
            return None
        return (self.at_most is None or self.value <= self.at_most) and (
            self.at_least is None or self.value >= self.at_least
        )

    @property
    def measured(self) -> str:
        """With its unit."""
        if self.value is None:
            return "not measured"
        number = NUMBERS.get(self.unit, "{:g}").format(self.value)
        number = number.removeprefix("-") if float(number) == 0 else number
        return number + ("" if self.unit == "ratio" else f" {self.unit}")

    @property
    def bound(self) -> str:
        """With its sign."""
        if self.at_most is not None:
            return f"<= {self.at_most:g}"
        return "" if self.at_least is None else f">= {self.at_least:g}"


def pairwise(ours: Sequence[float], native: Sequence[float]) -> float:
    """Median of the ratios, pair by pair: what slows the machine down for a while slows down both of a pair."""
    return statistics.median(one / other for one, other in zip(ours, native, strict=True))


def middle(ours: Sequence[float], native: Sequence[float]) -> str:
    """Where half of the ratios lie, pair by pair: the measure of how much of a difference is chance."""
    ratios = [one / other for one, other in zip(ours, native, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return f"half of {len(ratios)} ratios within {low:.3f}-{high:.3f}"


def spread(values: Sequence[float], scale: float = 1.0, digits: int = 0) -> str:
    """`median (least-greatest)`."""
    numbers = [statistics.median(values), min(values), max(values)]
    middle, low, high = (f"{number * scale:.{digits}f}" for number in numbers)
    return f"{middle} ({low}-{high})"


def render(figures: Sequence[Figure]) -> str:
    """The table, aligned."""
    words = {True: "yes", False: "NO", None: ""}
    rows = [("figure", "measured", "bound", "ok", "how")]
    rows += [(found.name, found.measured, found.bound, words[found.ok], found.note) for found in figures]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), row[1].rjust(widths[1]), row[2].ljust(widths[2]), row[3].ljust(widths[3])]
        lines.append("  ".join([*cells, row[4]]).rstrip())
    return "\n".join(lines)
