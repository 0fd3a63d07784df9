"""Is one faster than the other, or is it chance? Pure.

The rule: "same", unless all samples of one lie above all of the other *and* the medians differ by 3 % or more.

Why so: rounds are few, and nothing is known of how their noise is distributed (it is the kernel's hand-out of
connections, and neighbours), so that only the order of the samples counts. If two contestants were equally fast, each
order would be as likely as any other, and 3 rounds would lie entirely above 3 others in 2 of 20 orders: 10 %. That is a
lot, for which reason the rule does not stop there: less than 3 % is what no user would change a server for. With 5
rounds chance separates 0.8 %, with 8 rounds 0.02 %: who wants to be sure asks for more rounds.
Fewer than 3 rounds say nothing: chance alone would separate one from one always, and two from two in 1 of 3.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Literal, NamedTuple

__all__ = ["LEAST_DIFFERENCE", "LEAST_ROUNDS", "Comparison", "Spread", "Verdict", "chance", "compare", "spread"]

LEAST_DIFFERENCE = 0.03
"""Of the medians, below which a difference is none."""
LEAST_ROUNDS = 3
"""Of either, below which there is no difference to speak of."""

Verdict = Literal["faster", "slower", "same"]


class Spread(NamedTuple):
    """The samples of one contestant, in short."""

    median: float
    low: float
    high: float


class Comparison(NamedTuple):
    """One contestant beside another."""

    ratio: float
    """Of ours to the other's, round by round; the median of these ratios. `inf` where the other did nothing."""
    low: float
    """The least ratio of a round."""
    high: float
    """The greatest ratio of a round."""
    verdict: Verdict
    """Of ours. "same" is: nothing that is known for sure."""
    chance: float = 1.0
    """How likely (0 to 1) chance alone would have separated so many rounds as completely."""


def spread(values: Sequence[float]) -> Spread:
    """Median, least and greatest.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("there is nothing to take the median of")
    return Spread(statistics.median(values), min(values), max(values))


def compare(ours: Sequence[float], other: Sequence[float], *, lower_is_better: bool = False) -> Comparison:
    """Compare the samples of two contestants: one a round, those of one round at the same place.

    Args:
        ours: requests per second, or with `lower_is_better` times, or what else is better when it is less.
        other: the same of the one that it is compared with. If one of them has more rounds, these count for the
            verdict, and not for the ratio.
        lower_is_better: "faster" is the one with the lower numbers.

    Raises:
        ValueError: one of them has no samples.
    """
    one, two = spread(ours), spread(other)
    ratios = [_ratio(mine, its) for mine, its in zip(ours, other, strict=False)]
    middle = spread(ratios)
    likely = chance(len(ours), len(other))
    verdict: Verdict = "same"
    if min(len(ours), len(other)) >= LEAST_ROUNDS and abs(_ratio(one.median, two.median) - 1) >= LEAST_DIFFERENCE:
        if one.low > two.high:
            verdict = "slower" if lower_is_better else "faster"
        elif one.high < two.low:
            verdict = "faster" if lower_is_better else "slower"
    return Comparison(middle.median, middle.low, middle.high, verdict, likely)


def chance(ours: int, other: int) -> float:
    """How likely (0 to 1) chance alone separates so many samples from so many completely, in either direction."""
    return min(1.0, 2 / math.comb(ours + other, ours))


def _ratio(one: float, other: float) -> float:
    if other == 0:
        return math.inf if one > 0 else 1.0
    return one / other
