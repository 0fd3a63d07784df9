"""Numbers of a report as people read them: three digits that say something, thousands apart. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

__all__ = [
    "cell",
    "counts",
    "duration",
    "listed",
    "median",
    "milliseconds",
    "number",
    "rate",
    "ratio",
    "seconds",
    "several",
    "span",
]

NONE = "-"


def median(values: Sequence[float]) -> float | None:
    """The middle; None of nothing."""
    return statistics.median(values) if values else None


def number(value: float | None, digits: int = 3) -> str:
    """With so many digits that count, and none of those before the point left out; "-" for None."""
    if value is None or math.isnan(value):
        return NONE
    if math.isinf(value):
        return "inf"
    if value == 0:
        return "0"
    before = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}")))) + 1
    return f"{value:,.{max(0, min(digits - before, 6))}f}"


def seconds(value: float | None) -> str:
    """Of processor time per 1,000 requests: to the tenth of a microsecond a request, which is less than is certain."""
    return NONE if value is None else number(value) if value >= 0.1 else f"{value:.4f}"


def rate(value: float | None) -> str:
    """Requests per second."""
    return number(value) if value is None or value < 100 else f"{value:,.0f}"


def milliseconds(value: float | None) -> str:
    """To the hundredth: less than that no client can tell."""
    return NONE if value is None else number(value) if value >= 1 else f"{value:.2f}"


def duration(value: float) -> str:
    """Milliseconds as a mark of a scale: "10 ms", "1 s"."""
    return f"{value:g} ms" if value < 1000 else f"{value / 1000:g} s"


def ratio(value: float | None) -> str:
    """Two decimals, one above ten."""
    if value is None:
        return NONE
    return f"{value:.2f}" if value < 9.995 else number(value)


def span(values: Sequence[float], show: str = "rate") -> str:
    """Least and greatest: "20,512-21,530"."""
    if not values:
        return NONE
    word = {"rate": rate, "ratio": ratio, "ms": milliseconds}[show]
    return f"{word(min(values))}-{word(max(values))}"


def counts(found: Mapping[str, int]) -> str:
    """What happened how often, the most frequent first: "12 timeout, 3 status"."""
    return ", ".join(f"{times:,} {kind}" for kind, times in sorted(found.items(), key=lambda each: -each[1]) if times)


def cell(value: float | int | str | None) -> str:
    """A cell of a scenario."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return number(value) if isinstance(value, float) else value or NONE


def listed(names: Iterable[str], most: int = 4) -> str:
    """In a sentence: "a, b and c"; what is too much is counted: "a, b, c, d and 3 more"."""
    found = list(names)
    if len(found) > most + 1:
        found = [*found[:most], f"{len(found) - most} more"]
    return " and ".join(filter(None, [", ".join(found[:-1]), *found[-1:]]))


def several(count: int, one: str, many: str = "") -> str:
    """ "1 request", "2 requests"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
