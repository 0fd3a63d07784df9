"""Backoff and giving up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trapeze.restart import FRESH, History, failed, forgiven, may_spawn
from trapeze.spec import RestartSpec

POLICY = RestartSpec(intensity=5, period=60.0, healthy=5.0, backoff=1.0, cap=8.0)


def fail(times: list[float], policy: RestartSpec = POLICY, jitter: float = 0.999999) -> History:
    history = FRESH
    for at in times:
        history = failed(history, at, policy, jitter)
    return history


def test_nothing_failed() -> None:
    """A fresh service may start as many as it wants, at once."""
    assert may_spawn(FRESH, 0.0) is None


def test_first_failure_is_free() -> None:
    """A worker killed out of the blue is replaced at once."""
    history = fail([100.0])

    assert history.not_before == 100.0
    assert may_spawn(history, 100.0) is None


def test_delays_double() -> None:
    """0, then up to 1, 2, 4 seconds: the bounds of the draws."""
    delays = [round(fail([0.0] * n).not_before, 3) for n in range(1, 5)]

    assert delays == [0.0, 1.0, 2.0, 4.0]


def test_jitter_is_full() -> None:
    """The draw goes down to nothing: services that fell together do not rise together."""
    assert fail([0.0] * 4, jitter=0.0).not_before == 0.0
    assert fail([0.0] * 4, jitter=0.5).not_before == 2.0


def test_waits() -> None:
    """Until the delay is over nothing may be spawned."""
    history = fail([0.0, 0.0])

    assert may_spawn(history, 0.9) == 0
    assert may_spawn(history, 1.0) is None


def test_gives_up() -> None:
    """After `intensity` failures within the period: one try per cap."""
    history = fail([0.0, 1.0, 2.0, 3.0, 4.0])

    assert history.exhausted
    assert history.not_before == 4.0 + POLICY.cap
    assert may_spawn(history, 11.9) == 0
    assert may_spawn(history, 12.0) == 1


def test_one_less_goes_on() -> None:
    """`intensity` means that many, not one less."""
    assert not fail([0.0, 1.0, 2.0, 3.0]).exhausted


def test_old_failures_do_not_count() -> None:
    """Five failures spread over more than the period are no loop."""
    assert not fail([0.0, 20.0, 40.0, 59.0, 60.0]).exhausted
    assert fail([0.0, 20.0, 40.0, 59.0, 59.9]).exhausted


def test_given_up_stays_given_up() -> None:
    """A failure a minute after giving up must not look like a fresh start; only health forgives."""
    history = failed(fail([0.0] * 5), 500.0, POLICY, 0.5)

    assert history.exhausted
    assert history.not_before == 500.0 + POLICY.cap


def test_forgiven_at_exactly_healthy() -> None:
    """`healthy` seconds of being ready are enough."""
    assert forgiven(5.0, POLICY)
    assert not forgiven(4.999, POLICY)


@given(
    st.lists(st.floats(0, 100), min_size=1, max_size=200),
    st.floats(0, 1, exclude_max=True),
    st.integers(1, 10),
    st.floats(0, 100),
    st.floats(0, 10),
)
def test_always_bounded(gaps: list[float], jitter: float, intensity: int, cap: float, backoff: float) -> None:
    """Whatever fails whenever: the delay is never negative, never over the cap, and what is kept is bounded."""
    policy = RestartSpec(intensity=intensity, cap=cap, backoff=backoff)
    history, now = FRESH, 0.0
    for gap in gaps:
        now += gap
        history = failed(history, now, policy, jitter)

        assert now <= history.not_before <= now + cap
        assert len(history.failures) <= intensity
        assert history.failures[-1] == now
        assert may_spawn(history, now + cap) in ({1} if history.exhausted else {None})


def test_a_night_of_failures_does_not_overflow() -> None:
    """Failures further apart than the period never exhaust; two to the power of their number must not be computed."""
    history = fail([n * 100.0 for n in range(1100)])

    assert not history.exhausted
    assert history.not_before <= 1099 * 100.0 + POLICY.cap


def test_what_is_final_is_not_tried_again_soon() -> None:
    """One failure is enough where trying again is pointless; then once per cap."""
    history = failed(FRESH, 7.0, POLICY, 0.0, final=True)

    assert history.exhausted
    assert history.not_before == 7.0 + POLICY.cap


# ---- several processes: judged like one


def test_what_falls_together_is_one_failure() -> None:
    """Eight workers killed at once: all were spawned before, so nothing says yet that trying again does not help."""
    history = FRESH
    for number in range(8):
        history = failed(history, 100.0 + number / 100, POLICY, 0.999, born=90.0)

    assert (history.streak, history.failures) == (1, (100.0,))
    assert may_spawn(history, 100.0) is None


def test_rounds_count() -> None:
    """An app that cannot start, four workers: FAILED after as many rounds as one worker has tries."""
    history, now, rounds = FRESH, 0.0, 0
    while not history.exhausted:
        rounds += 1
        for number in range(4):
            history = failed(history, now + 0.1 + number / 100, POLICY, 0.999, born=now)
        now = max(history.not_before, now + 0.2)

    assert rounds == POLICY.intensity


def test_born_with_the_failure_counts() -> None:
    """A replacement that is spawned in the same instant and fails is another try."""
    history = failed(FRESH, 7.0, POLICY, 0.5)

    assert failed(history, 8.0, POLICY, 0.5, born=7.0).streak == 2
    assert failed(history, 8.0, POLICY, 0.5, born=6.999).streak == 1


def test_a_proven_sibling_keeps_it_from_giving_up() -> None:
    """However often the others end; the delays grow as ever, up to the cap."""
    history = FRESH
    for number in range(20):
        history = failed(history, float(number), POLICY, 0.999999, proven=True)

        assert not history.exhausted
    assert history.not_before > 19.0 + POLICY.cap * 0.99
    assert may_spawn(history, 19.0 + POLICY.cap) is None


def test_a_proven_sibling_takes_it_back() -> None:
    """It was given up, and then something served: one more failure is no reason to go on with one try per cap."""
    assert not failed(fail([0.0] * 5), 500.0, POLICY, 0.5, proven=True).exhausted


def test_what_is_final_is_final() -> None:
    """A pre_start command that failed: whoever serves, and whenever it began."""
    history = failed(failed(FRESH, 7.0, POLICY, 0.5), 8.0, POLICY, 0.5, born=1.0, proven=True, final=True)

    assert history.exhausted
