"""The open loop of a comparison: a fixed rate, each request timed from when it was due; was it kept up with?

The decisions are pure; `run` drives the client.
"""

from __future__ import annotations

import bisect
import time
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from trapeze_bench.interrupts import held, released
from trapeze_bench.loadresult import latencies
from trapeze_bench.loads import loaded
from trapeze_bench.openloop import Plan, Result
from trapeze_bench.requestlist import Asked

__all__ = ["MOST", "FixedFound", "judge", "rate_of", "run", "saturated"]

MOST = 1000.0
"""Requests per second, unless another rate is asked for: what the client can send without being late itself."""
GROWTH = 0.1
"""Of what came in the second half: when more than that is left over, the queue grows."""
SLOWER = 1.5
"""Times: a queue that grows makes each request wait longer than the one before."""


class FixedFound(NamedTuple):
    """One run at a fixed rate."""

    latencies: dict[str, float]
    """Milliseconds by level, and "max"."""
    lost: dict[str, int]
    requests: int
    """That were due."""
    saturated: bool


def rate_of(rates: Sequence[float]) -> float:
    """The rate for all, by what the reference drives: half of its best, and not more than the client can.

    Args:
        rates: requests per second of the reference in its first round, one for each number of connections.
    """
    return max(min(max(rates) / 2, MOST), 1.0)


def judge(result: Result, began: float, ended: float) -> FixedFound:
    """What became of the requests.

    Args:
        result: of the client.
        began: monotonic seconds.
        ended: when the last one was due.
    """
    lost = Counter(why for _, why in result.lost)
    return FixedFound(
        latencies(result.took), dict(lost), len(result.due) + len(result.lost), saturated(result, began, ended)
    )


def saturated(result: Result, began: float, ended: float) -> bool:
    """Did a queue grow in the second half? Then its times say how long it was measured, and nothing else.

    More than a tenth of what came then has to be left over at the end, on top of what was waiting at half time; and,
    since an app that takes a second for each request has many under way without any queue, the last ones have to have
    taken longer than the first ones.
    """
    half = (began + ended) / 2
    due = sorted([*result.due, *(at for at, _ in result.lost)])
    done = sorted(at + took for at, took in zip(result.due, result.took, strict=True))
    waiting = [bisect.bisect(due, at) - bisect.bisect(done, at) for at in (half, ended)]
    came = len(due) - bisect.bisect(due, half)
    if waiting[1] - waiting[0] <= max(GROWTH * came, 2):
        return False
    first, last = _middle(result, began, half), _middle(result, half, ended)
    return last > SLOWER * first


def _middle(result: Result, began: float, ended: float) -> float:
    """Median of what was due then; without end if it was never answered."""
    took = sorted(took for at, took in zip(result.due, result.took, strict=True) if began <= at < ended)
    missing = sum(1 for at, _ in result.lost if began <= at < ended)
    place = (len(took) + missing) // 2
    return took[place] if place < len(took) else float("inf") if missing else 0.0


def run(port: int, rate: float, kept: int, seconds: float, asked: Sequence[Asked]) -> FixedFound:
    """Drive it.

    Raises:
        Failed: the client did not begin or end, or ran out of something of its own.
    """
    plan = Plan(port, rate, kept, asked=[(each.method, each.path, each.body.decode("latin-1")) for each in asked])
    with held(), loaded(plan) as load, released():
        began = time.monotonic()
        time.sleep(seconds)
        ended = time.monotonic()
        return judge(load.stop(), began, ended)
