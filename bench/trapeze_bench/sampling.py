"""Fewer points of many, so that those which matter stay: the slowest, and of the others some by chance. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence

__all__ = ["sampled"]

SLOWEST = 5
"""One in so many of those that stay is kept because it is slow."""


def sampled(points: Sequence[tuple[float, float]], most: int, seed: int = 1) -> list[tuple[float, float]]:
    """No more than `most` of them, sorted.

    Args:
        points: when a request was due, and how long it took.
        most: how many stay.
        seed: of the choice.
    """
    if len(points) <= most:
        return sorted(points)
    found = sorted(points, key=lambda each: -each[1])
    slow, rest = found[: most // SLOWEST], found[most // SLOWEST :]
    return sorted([*slow, *random.Random(seed).sample(rest, most - len(slow))])
