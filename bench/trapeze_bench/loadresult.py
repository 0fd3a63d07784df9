"""What a load has found, whoever made it: a rate, latencies, errors. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["LEVELS", "Found", "latencies"]

LEVELS = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9}
"""Name to per cent; "max" comes on top."""


class Found(NamedTuple):
    """One run of a load."""

    rate: float
    """Requests answered per second."""
    latencies: dict[str, float]
    """Milliseconds by level, and "max"."""
    errors: dict[str, int]
    """By kind, those that occurred."""
    requests: int


def latencies(seconds: Sequence[float], interval: float = 0.0) -> dict[str, float]:
    """The levels of these times; empty if there are none.

    Args:
        seconds: in any order.
        interval: seconds from one request to the next on a connection that is never kept waiting. If it is given, a
            time of several intervals also counts for the requests that it has kept from being sent: as wrk does it,
            so that both generators mean the same.
    """
    if not seconds:
        return {}
    values = sorted([*seconds, *_kept_back(seconds, interval)])
    last = len(values) - 1
    found = {name: values[min(int(len(values) * level / 100), last)] for name, level in LEVELS.items()}
    return {name: round(1000 * value, 3) for name, value in {**found, "max": values[-1]}.items()}


def _kept_back(seconds: Sequence[float], interval: float) -> list[float]:
    found: list[float] = []
    if interval > 0:
        for value in seconds:
            if value >= 2 * interval:
                found += [value - number * interval for number in range(1, int(value / interval))]
    return found
