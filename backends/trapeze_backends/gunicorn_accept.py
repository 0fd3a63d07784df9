"""gthread accepts when a thread of its pool is free, so that the others get what it cannot serve at once.

gunicorn's own accepts up to `worker_connections` (1,000) connections, which then wait for its few threads while a
sibling may have nothing to do: whoever wakes first takes a whole burst. With kept connections that lasts: 32 of them on
one of four workers were served at a third of the rate of 32 on four.

Connections that are kept compete for the threads with new ones, which must not wait for ever: where requests are
answered, one new connection is accepted every `PATIENCE` seconds even if no thread is free.

Of kept connections that ask for little no thread is ever busy for long: there whoever has more than its part lets the
others go first (`fairshare`).
"""

from __future__ import annotations

import time

from trapeze_backends.fairshare import Turn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from trapeze_backends.worker import Worker

__all__ = ["accept_in_turn", "accept_when_free"]

PATIENCE = 0.05
"""Seconds. Long beside the time in which a sibling wakes up, short beside what a client notices."""


def accept_in_turn(base: type[Any], worker: Worker) -> type[Any]:
    """Return a subclass of gunicorn's ThreadWorker (24 and newer) that lets siblings go first. On the main thread."""
    turn = Turn(worker.share)

    class InTurn(base):
        """Knows how many connections its siblings have."""

        def accept(self, listener: Any) -> None:
            before = self.nr_conns
            super().accept(listener)
            if self.nr_conns > before:
                turn.accepted(self.nr_conns)

        def wait_for_and_dispatch_events(self, timeout: float) -> None:
            others_first = turn.left(self.nr_conns)
            if not self.alive:
                worker.share.leave()
            elif others_first:
                self.set_accept_enabled(False)
                timeout = min(timeout, others_first)
            super().wait_for_and_dispatch_events(timeout)

    return InTurn


def accept_when_free(base: type[Any]) -> type[Any]:
    """Return a subclass of gunicorn's ThreadWorker (24 and newer). All of it runs on the main thread."""

    class Modest(base):
        """Knows how many requests are in the pool."""

        _in_pool = 0
        _finished = 0
        _full_since: float | None = None
        _finished_then = 0

        def enqueue_req(self, conn: Any) -> None:
            self._in_pool += 1
            super().enqueue_req(conn)

        def finish_request(self, conn: Any, fs: Any) -> None:
            self._in_pool -= 1
            self._finished += 1
            super().finish_request(conn, fs)

        def accept(self, listener: Any) -> None:
            self._full_since = None
            super().accept(listener)

        def set_accept_enabled(self, enabled: bool) -> None:
            super().set_accept_enabled(enabled and self._has_room())

        def wait_for_and_dispatch_events(self, timeout: float) -> None:
            if self._accepting and not self._has_room():
                super().set_accept_enabled(False)
            super().wait_for_and_dispatch_events(timeout)

        def _has_room(self) -> bool:
            if self._in_pool < self.cfg.threads:
                self._full_since = None
                return True
            now = time.monotonic()
            if self._full_since is None:
                self._full_since, self._finished_then = now, self._finished
            # Where nothing gets finished, a new connection would only be taken away from those who may have time.
            return now >= self._full_since + PATIENCE and self._finished > self._finished_then

    return Modest
