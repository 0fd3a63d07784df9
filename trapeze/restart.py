"""When to try again: what failed so far, how long to wait, when to give up. Pure.

Goals, in this order:

1. A worker that is killed out of the blue after it served well is replaced at once, every time.
2. An app that cannot start does not burn the processor, fill the disk with tracebacks, or hide: delays double
   (with full jitter, so that services which fell together do not rise together), and after `intensity` failures
   within `period` the service is FAILED, visibly.
3. What may heal by itself heals by itself: a FAILED service gets one try per `cap` seconds.
4. A service of several processes is judged like one of one. What falls together is one failure: only the end of a
   process that was spawned after the last failure says that trying again did not help. And as long as one of them
   serves and has proved itself the code can run, and the others are replaced, however often they end.

The delay is exponential backoff with full jitter (M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog,
2015): a uniform draw between nothing and the doubled bound. The bound is capped, because without a cap a service that
waited for a database through a night would sleep for an hour after it is back. Intensity and period are OTP's.
"""

from __future__ import annotations

from msgspec import Struct

from trapeze.spec import RestartSpec

__all__ = ["FRESH", "History", "failed", "forgiven", "may_spawn"]


class History(Struct, frozen=True):
    """The failures of one generation that still count. Times are monotonic seconds."""

    failures: tuple[float, ...] = ()
    """When the failures within the last `period` happened, oldest first."""
    streak: int = 0
    """Failures since something was last healthy; decides the delay."""
    not_before: float = 0.0
    """No spawn before this time."""
    exhausted: bool = False
    """Given up: one try per cap."""


FRESH = History()


def failed(
    history: History,
    now: float,
    policy: RestartSpec,
    jitter: float,
    *,
    born: float | None = None,
    proven: bool = False,
    stillborn: bool = False,
    final: bool = False,
) -> History:
    """Return the history after the failure of one process at `now`.

    Args:
        history: what was known before.
        now: monotonic seconds.
        policy: the service's restart policy.
        jitter: a random draw from [0, 1), passed in so that this stays pure.
        born: when the process was spawned; None if that does not matter.
        proven: a sibling of the same generation serves, and has for long enough: this is no reason to give up.
        stillborn: it never became ready. Such failures add up however long each of them takes: an app that hangs
            until its start_timeout may need more than a period for each.
        final: there is no hope in trying again soon.
    """
    if not final and born is not None and history.failures and born < history.failures[-1]:
        return history
    recent = (*(at for at in history.failures if now - at < policy.period), now)
    streak = history.streak + 1
    # Once given up, only health (`forgiven`) brings it back: a failure a minute must not look like a fresh start.
    many = len(recent) >= policy.intensity or (stillborn and streak >= policy.intensity)
    exhausted = final or (not proven and (history.exhausted or many))
    wait = policy.cap if exhausted else _delay(streak, policy, jitter)
    return History(recent[-policy.intensity :], streak, now + wait, exhausted)


def _delay(streak: int, policy: RestartSpec, jitter: float) -> float:
    """Nothing for the first failure, then 0..backoff, 0..2*backoff, 0..4*backoff, never over the cap."""
    if streak <= 1:
        return 0.0
    # The exponent is bounded because 2.0 ** 1024 overflows, and a loop at the cap may well get there.
    return jitter * min(policy.cap, policy.backoff * 2.0 ** min(streak - 2, 60))


def forgiven(uptime: float, policy: RestartSpec) -> bool:
    """Has a process that was ready for `uptime` seconds proved itself, so that the past no longer counts?"""
    return uptime >= policy.healthy


def may_spawn(history: History, now: float) -> int | None:
    """How many may be spawned now: 0 (wait until `not_before`), 1 (a single try), or None for no limit."""
    if now < history.not_before:
        return 0
    return 1 if history.exhausted else None
