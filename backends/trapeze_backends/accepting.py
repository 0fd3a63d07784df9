"""How many requests a worker takes on: as many as it has threads. What it cannot serve stays in the queue of the
socket, where a sibling may have time for it.

Servers with a pool of threads accept what they can get, and let it wait in a queue of their own. Whoever wakes first
takes a whole burst, and with kept connections that lasts.
"""

from __future__ import annotations

import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PATIENCE", "Room"]

PATIENCE = 0.05
"""Seconds. Long beside the time in which a sibling wakes up, short beside what a client notices."""


class Room:
    """Counts requests; one is in from the moment on at which a thread is to serve it.

    Connections that are kept compete for the threads with new ones, which must not wait for ever: where requests are
    answered, one new connection is let in every `PATIENCE` seconds even if no thread is free.

    Args:
        places: how many requests can be served at a time.
        wake: makes the loop that accepts go round; called on any thread, when there is room again.
    """

    def __init__(self, places: int, wake: Callable[[], object]) -> None:
        self.places = places
        self.busy = 0
        self._wake = wake
        self._lock = threading.Lock()
        self._finished = 0
        self._finished_then = 0
        self._full_since: float | None = None

    def enter(self) -> None:
        """A request is there. On any thread."""
        with self._lock:
            self.busy += 1

    def leave(self) -> None:
        """A thread is free again. To be called by that thread itself, as the last thing that it does."""
        with self._lock:
            was_full = self.busy >= self.places
            self.busy -= 1
            self._finished += 1
        if was_full:  # the loop may sleep without an eye on the sockets
            self._wake()

    def has_place(self) -> bool:
        """May a connection be accepted now? Asked by the loop that accepts, only."""
        if self.busy < self.places:
            self._full_since = None
            return True
        now = time.monotonic()
        if self._full_since is None:
            self._full_since, self._finished_then = now, self._finished
        # Where nothing gets finished, a new connection would only be taken away from those who may have time.
        return now >= self._full_since + PATIENCE and self._finished > self._finished_then

    def accepted(self) -> None:
        """A connection was accepted: patience begins anew."""
        self._full_since = None
