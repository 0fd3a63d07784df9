"""Workers that share a socket take new connections by how many each has: whoever has more than its part lets the others
go first, for a few milliseconds.

All workers that wait on a listening socket wake up for a connection, and the first to run gets it. Of a burst that can
be half for one of them, and connections that are kept stay where they are. So each worker notes in the scoreboard how
many it has, and accepts none for `PAUSE` seconds while it has clearly more than the mean.

Nobody waits for somebody who does not come: after the pause a worker accepts whatever is there. A sibling that had
fewer and left it lying meanwhile (it is busy, or frozen) does not count for `ASLEEP` seconds.
"""

from __future__ import annotations

import time

from trapeze_backends.board import ACCEPTED, CONNECTIONS, CREW, SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ASLEEP", "PAUSE", "Share", "Turn"]

PAUSE = 0.01
"""Seconds. Long enough for a sibling to be woken up on a busy machine, short beside what a client notices."""

ASLEEP = 1.0
"""Seconds for which a sibling is not waited for that did not take what was left to it."""

LOOK = 0.1
"""Seconds between two looks at who the siblings are."""

MORE = 2
"""Connections more than the mean that are nobody's loss: what comes and goes at once is never held up."""
RATIO = 1.05
"""Of the mean, on top of that."""

WORDS = SIZE // 4


class Share:
    """How many connections this worker has, by what its siblings have.

    Args:
        crew: the first slots of all workers, their second ones, and the number of ours; None: there is nobody else.
        clock: monotonic seconds.
    """

    def __init__(
        self, crew: tuple[memoryview[int], memoryview[int], int] | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.is_alone = crew is None
        """There is no scoreboard, or no room in it: nobody can be waited for."""
        ids, notes, slot = crew if crew is not None else (memoryview(bytes(8)), memoryview(bytearray(SIZE)), 0)
        self._ids: memoryview[int] = ids.cast("Q")
        self._notes: memoryview[int] = notes.cast("I")
        self._clock = clock
        self._own = slot * WORDS + CONNECTIONS
        self._others: list[int] = []
        """Places of the siblings' numbers among the notes."""
        self._look_at = 0.0
        self._asleep: dict[int, tuple[int, float]] = {}
        self._left_to: dict[int, int] = {}
        self._waited = False

    def note(self, connections: int) -> None:
        """There are so many now."""
        self._notes[self._own] = connections + 1

    def leave(self) -> None:
        """No more are accepted: nobody is to wait for this worker."""
        self._notes[self._own] = 0

    def accepted(self, connections: int) -> bool:
        """Note that one was accepted, which makes so many; return whether that is too many, so that a pause is due."""
        if self.is_alone:
            return False
        notes, own = self._notes, self._own
        notes[own] = connections + 1
        notes[own + ACCEPTED - CONNECTIONS] = (notes[own + ACCEPTED - CONNECTIONS] + 1) & 0xFFFFFFFF
        if self._waited:
            self._waited = False
            self._forget_sleepers()
        return connections > MORE and self.has_too_many(connections)

    def has_too_many(self, connections: int) -> bool:
        """Is that clearly more than the mean of those who accept?"""
        now = self._clock()
        if now >= self._look_at:
            self._look_at = now + LOOK
            self._others = self._siblings()
        notes, total, number = self._notes, connections, 1
        for place in self._others:
            has = notes[place]
            if has and not (self._asleep and self._sleeps(place, now)):
                total += has - 1
                number += 1
        return connections > MORE + RATIO * total / number

    def pause(self, connections: int) -> None:
        """None is accepted from now on: note to whom it is left."""
        notes = self._notes
        self._left_to = {
            place: notes[place + ACCEPTED - CONNECTIONS] for place in self._others if 0 < notes[place] <= connections
        }

    def resume(self) -> None:
        """The whole pause is over. If there is a connection now, those to whom it was left have not come."""
        self._waited = True

    def _siblings(self) -> list[int]:
        ids, notes = self._ids, self._notes
        places = (slot * WORDS + CONNECTIONS for slot in range(CREW) if ids[slot * SIZE // 8])
        return [place for place in places if place != self._own and notes[place]]

    def _forget_sleepers(self) -> None:
        until = self._clock() + ASLEEP
        for place, number in self._left_to.items():
            if self._notes[place + ACCEPTED - CONNECTIONS] == number:
                self._asleep[place] = number, until

    def _sleeps(self, place: int, now: float) -> bool:
        if place not in self._asleep:
            return False
        number, until = self._asleep[place]
        if now < until and self._notes[place + ACCEPTED - CONNECTIONS] == number:
            return True
        del self._asleep[place]
        return False


class Turn:
    """Whose turn it is: for loops that ask each time before they look at the listeners.

    Args:
        share: of this worker.
        clock: monotonic seconds.
    """

    def __init__(self, share: Share, clock: Callable[[], float] = time.monotonic) -> None:
        self._share = share
        self._clock = clock
        self._until = 0.0

    def accepted(self, connections: int) -> None:
        """One was accepted, which makes so many."""
        if self._share.accepted(connections) and not self._until:
            self._share.pause(connections)
            self._until = self._clock() + PAUSE

    def left(self, connections: int) -> float:
        """There are so many: note it, and return for how many seconds the others go first; 0: it is our turn."""
        self._share.note(connections)
        if not self._until:
            return 0.0
        left = self._until - self._clock()
        if left > 0 and self._share.has_too_many(connections):
            return left
        self._until = 0.0
        if left <= 0:
            self._share.resume()
        return 0.0
