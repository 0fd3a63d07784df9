"""When one contestant is called faster than another, and when the difference is chance."""

from __future__ import annotations

import itertools
import math

import pytest
from trapeze_bench.compare import chance, compare, spread


def test_separated_and_far_enough_apart() -> None:
    found = compare([110, 120, 130], [100, 90, 105])

    assert found.verdict == "faster"
    assert found.ratio == pytest.approx(130 / 105)
    assert [found.low, found.high] == pytest.approx([1.1, 120 / 90])
    assert compare([100, 90, 105], [110, 120, 130]).verdict == "slower"


def test_overlap_is_no_difference_however_far_the_medians_are_apart() -> None:
    assert compare([99, 200, 210], [100, 101, 102]).verdict == "same"
    assert compare([100, 200, 210], [100, 99, 98]).verdict == "same", "touching is not separated"


def test_less_than_three_per_cent_is_no_difference_however_clean() -> None:
    assert compare([102.9, 102.8, 102.9], [100, 100, 100]).verdict == "same"
    assert compare([103.1, 103.1, 103.2], [100, 100, 100]).verdict == "faster"
    assert compare([97.1, 97.2, 97.1], [100, 100, 100]).verdict == "same"
    assert compare([96.9, 96.8, 96.9], [100, 100, 100]).verdict == "slower"


def test_fewer_than_three_rounds_say_nothing() -> None:
    assert compare([200, 210], [100, 101]).verdict == "same"
    assert compare([200, 210, 220], [100, 101]).verdict == "same"
    assert compare([200.0], [100.0]).ratio == 2


def test_times_are_better_when_they_are_less() -> None:
    assert compare([1, 1.1, 1.2], [2, 2.1, 2.2], lower_is_better=True).verdict == "faster"
    assert compare([2, 2.1, 2.2], [1, 1.1, 1.2], lower_is_better=True).verdict == "slower"


def test_ratios_are_of_the_rounds_that_both_had() -> None:
    """One that died in the third round was not slow in it."""
    found = compare([10, 20], [10, 10, 1])

    assert (found.ratio, found.low, found.high) == (1.5, 1, 2)


def test_one_that_did_nothing() -> None:
    assert compare([1, 2, 3], [0, 0, 0]).ratio == math.inf
    assert compare([0, 0, 0], [0, 0, 0]).ratio == 1
    assert compare([0, 0, 0], [1, 2, 3]).verdict == "slower"


def test_no_samples() -> None:
    with pytest.raises(ValueError):
        compare([], [1, 2, 3])
    with pytest.raises(ValueError):
        compare([1, 2, 3], [])


@pytest.mark.parametrize("rounds", [1, 2, 3, 4])
def test_the_chance_is_counted(rounds: int) -> None:
    """Of all ways to deal ranks to two contestants, those in which one has all the upper ones."""
    ranks = range(2 * rounds)
    hands = list(itertools.combinations(ranks, rounds))
    separated = [hand for hand in hands if hand in (tuple(ranks[:rounds]), tuple(ranks[rounds:]))]

    assert chance(rounds, rounds) == pytest.approx(len(separated) / len(hands))


def test_spread() -> None:
    assert spread([3, 1, 2]) == (2, 1, 3)
