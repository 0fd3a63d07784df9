"""What happened: a bounded log of transitions with a revision that readers can wait for."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

from msgspec import Struct
from msgspec.structs import replace

from trapeze.status import Transition

__all__ = ["Clock", "EventLog"]

_KEPT = 2000


class Clock(Struct, frozen=True):
    """Monotonic time for decisions; the wall clock only for what people read.

    The offset is taken once, so that a wall clock that steps cannot reorder what is shown.
    """

    monotonic: Callable[[], float]
    offset: float
    """Seconds to add to monotonic time to get seconds since the epoch."""

    def now(self) -> float:
        """Monotonic seconds."""
        return self.monotonic()

    def wall(self, monotonic: float) -> float:
        """Seconds since the epoch for a monotonic time."""
        return monotonic + self.offset


class EventLog:
    """Numbers each transition, keeps the last ones, wakes who waits for the next."""

    def __init__(self, tell: Callable[[Transition], None]) -> None:
        self.revision = 0
        self._kept: deque[Transition] = deque(maxlen=_KEPT)
        self._waiting: list[asyncio.Future[None]] = []
        self._tell = tell

    def add(self, transition: Transition) -> None:
        """Give it the next revision, keep it, tell everybody."""
        self.revision += 1
        numbered = replace(transition, revision=self.revision)
        self._kept.append(numbered)
        self._tell(numbered)
        self.wake()

    def restore(self, revision: int, kept: Iterable[Transition]) -> None:
        """Go on where another log was: nobody is told again."""
        self.revision = revision
        self._kept.extend(kept)

    def since(self, revision: int) -> list[Transition]:
        """What is still known of what came after `revision`."""
        return [transition for transition in self._kept if transition.revision > revision]

    async def changed(self, revision: int) -> None:
        """Return once something after `revision` has happened."""
        while self.revision <= revision:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            try:
                await waiter
            finally:
                if waiter in self._waiting:
                    self._waiting.remove(waiter)

    def wake(self) -> None:
        """Let everybody look again."""
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)
