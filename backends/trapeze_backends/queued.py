"""How long requests had waited when the app was called, by what the proxy in front says of when it had them.

`X-Request-Start: t=1764457602.123`, with or without `t=`: seconds (nginx: `t=${msec}`), or milliseconds or
microseconds (other routers), which its size tells. There is no standard. Only that of trusted proxies is looked at
(`proxied`). The proxy's clock is compared with ours: on one machine that is one clock.
"""

from __future__ import annotations

from math import frexp
from time import time

from trapeze_backends.board import bucket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from trapeze_backends.board import Waits

__all__ = ["noted", "waited"]

TIMES = 3
"""Where the buckets begin in the slot."""
AT_MOST = 3600.0
"""Seconds. Whoever says that a request has waited for longer has another clock, or another unit."""


def waited(said: str, now: float) -> float | None:
    """Return for how many seconds a request has waited; None if what was said of it makes no sense.

    Args:
        said: the header. Of several values the last, which is what the nearest proxy said.
        now: seconds since the epoch.
    """
    text = said.rpartition(",")[2].strip().removeprefix("t=")
    try:
        then = float(text)
    except ValueError:
        return None
    if then > 1e14:
        then /= 1e6
    elif then > 1e11:
        then /= 1e3
    seconds = now - then
    if not -1.0 < seconds < AT_MOST:
        return None
    return max(seconds, 0.0)  # nginx rounds, and clocks are set


def noted(said: str, waits: Waits, now: float | None = None) -> None:
    """Put a request's wait into the slot. Threads may do so at once: see `measured` for why no lock is needed."""
    seconds = waited(said, time() if now is None else now)
    if seconds is None:
        return
    place = TIMES + (bucket(frexp(seconds)[1]) if seconds else 0)
    numbers, times = waits.numbers, waits.times
    numbers[0] += 1
    times[1] += seconds
    if seconds > times[2]:
        times[2] = seconds
    numbers[place] += 1
