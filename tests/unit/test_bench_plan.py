"""How long a bench takes: the estimate, and how it is corrected."""

from __future__ import annotations

import pytest
from trapeze_bench.plan import Plan, Remaining, duration

PLAN = Plan(entrants=4, rounds=3, loads=2, seconds=3, warm=1)


def test_the_whole_is_its_turns() -> None:
    assert PLAN.turn > PLAN.warm + 3 * PLAN.seconds, "two closed loads and an open one"
    assert PLAN.whole > 12 * PLAN.turn
    assert Plan(4, 6, 2, 3, 1).whole - PLAN.whole == pytest.approx(12 * PLAN.turn)


def test_before_anything_is_known_the_plan_counts() -> None:
    assert Remaining(PLAN).seconds(0) == pytest.approx(12 * PLAN.turn)


def test_turns_correct_it() -> None:
    left = Remaining(PLAN)
    left.begin(100)
    assert left.seconds(104) == pytest.approx(12 * PLAN.turn - 4)
    left.end(120)
    assert left.seconds(120) == 11 * 20
    left.begin(120)
    left.end(130)
    assert left.seconds(130) == 10 * 15


def test_a_turn_that_takes_longer_than_others_does_not_eat_up_the_rest() -> None:
    left = Remaining(PLAN)
    left.begin(0)
    left.end(10)
    left.begin(10)
    assert left.seconds(1000) == 10 * 10


def test_one_that_was_given_up() -> None:
    """Its turns will not come, and the seconds until it failed say nothing of the others."""
    left = Remaining(PLAN)
    left.begin(0)
    left.end(0.1, failed=True, dropped=2)

    assert left.seconds(0.1) == pytest.approx(9 * PLAN.turn)

    left.drop(9)
    assert left.seconds(0.1) == 0


def test_one_that_fails_in_its_last_turn_does_not_count_either() -> None:
    left = Remaining(PLAN)
    left.begin(0)
    left.end(0.1, failed=True)

    assert left.seconds(0.1) == pytest.approx(11 * PLAN.turn)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (150, "2 min"), (3600, "1 h"), (3590, "1 h"), (4000, "1 h 7 min")],
)
def test_in_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text
