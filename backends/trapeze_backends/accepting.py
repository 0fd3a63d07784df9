"""How many requests a worker takes on: as many as it has threads. What it cannot serve stays in the queue of the
socket, where a sibling may have time for it.

Servers with a pool of threads accept what they can get, and let it wait in a queue of their own. Whoever wakes first
takes a whole burst, and with kept connections that lasts.
"""

from __future__ import annotations

import time
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from trapeze_backends.worker import Worker

__all__ = ["PATIENCE", "Beats", "Room"]

PATIENCE = 0.05
"""Seconds. Long beside the time in which a sibling wakes up, short beside what a client notices."""

SOON = 0.005
"""Seconds from one thread's getting free to the next one's."""

BEAT = 0.25
"""Seconds between two beats of a loop that goes round several times for each request."""


class Room:
    """Counts requests; one is in from the moment on at which a thread is to serve it.

    As long as threads get free again all the time, within `SOON` on average, there is room for as many more as there
    are threads: several are then taken at a time, which costs less, and none waits longer than in the socket's queue.

    Connections that are kept compete for the threads with new ones, which must not wait for ever: where requests are
    answered, one new connection is let in every `PATIENCE` seconds even if there is no room.

    Args:
        places: how many requests can be served at a time.
        wake: makes the loop that accepts go round; called on any thread, when there is room again.
    """

    def __init__(self, places: int, wake: Callable[[], object]) -> None:
        self.places = places
        self._wake = wake
        self._inside: deque[None] = deque()  # a number that threads may count up and down without a lock
        self._last = 0.0
        self._gap = 1.0
        self._is_shut = False
        self._full_since: float | None = None
        self._last_then = 0.0

    @property
    def busy(self) -> int:
        """How many are in."""
        return len(self._inside)

    def enter(self) -> None:
        """A request is there. On any thread."""
        self._inside.append(None)

    def leave(self) -> None:
        """A thread is free again. To be called by that thread itself, as the last thing that it does."""
        self._inside.pop()
        now = time.monotonic()
        self._gap += (now - self._last - self._gap) / 8  # a mean of the last few
        self._last = now
        if self._is_shut and len(self._inside) < self._limit(now):
            self._is_shut = False
            self._wake()  # the loop may sleep without an eye on the sockets

    def _limit(self, now: float) -> int:
        return 2 * self.places if self._gap < SOON and now < self._last + SOON else self.places

    def has_place(self) -> bool:
        """May a connection be accepted now? Asked by the loop that accepts, only."""
        if len(self._inside) < self.places:
            self._full_since = None
            return True
        now = time.monotonic()
        if len(self._inside) < self._limit(now):
            self._full_since = None
            return True
        self._is_shut = True
        if self._full_since is None:
            self._full_since, self._last_then = now, self._last
        if len(self._inside) < self.places:
            return True  # a thread got free before it could know that it is waited for
        # Where nothing gets finished, a new connection would only be taken away from those who may have time.
        return now >= self._full_since + PATIENCE and self._last > self._last_then

    def accepted(self) -> None:
        """A connection was accepted: patience begins anew."""
        self._full_since = None


class Beats:
    """The beats of a loop: not each time that it goes round, and none is forgotten."""

    def __init__(self, worker: Worker, room: Room) -> None:
        self._worker = worker
        self._room = room
        self._next = 0.0

    def beat(self) -> float:
        """Beat if it is time for it; return in how many seconds the loop has to come round again."""
        now = time.monotonic()
        if now < self._next:
            return self._next - now
        self._next = now + BEAT
        self._worker.beat(in_flight=self._room.busy)
        return self._worker.pulse
