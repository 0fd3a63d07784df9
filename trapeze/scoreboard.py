"""The scoreboard of one web service: a table in shared memory, one slot for each worker, which alone writes to it.

Workers note there when their main loop last went round and what they have counted (the layout stands in
`trapeze_backends.board`). Here slots are given out and taken back, and read: when somebody wants to know, never in
between. It lives as long as its service, over all generations.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import struct
from collections.abc import Iterable

from msgspec import Struct

from trapeze.buckets import bucket_end

__all__ = ["SLOT", "Reading", "Scoreboard", "Waits", "together"]

SLOT = 256
"""Bytes of one slot. Each worker has two: the second ones stand behind all of the first."""
SLOTS = 16_384
"""More than there can be workers, those included that are on their way out. Memory is only used up to the highest."""

# id, beat, requests, in flight, flags, oldest, gap, responses by class, responses by time: in the machine's byte order,
# as the worker writes it.
_LAYOUT = struct.Struct("=QdQIIdd4Q22Q")
assert _LAYOUT.size <= SLOT
# Requests whose wait is known, seconds together, the longest, requests by the time they waited.
_WAITS = struct.Struct("=Qdd22Q")
WAITS = SLOTS * SLOT
"""Where the second slots begin, bytes."""
_GONE = 2 * WAITS
"""Where the waits of all workers stand that have left: a slot of ours, behind the second ones."""
_FULL, _KNOWS_IN_FLIGHT, _LOOP = 1, 2, 4


class Reading(Struct, frozen=True, kw_only=True):
    """What a worker had written into its slot at one moment. Times are monotonic seconds."""

    beat: float
    """When its main loop last went round; 0 if it never said."""
    requests: int
    """Begun so far."""
    in_flight: int | None
    """None: the server does not say."""
    full: bool
    """Each request is counted and timed; without it all that follows but `gap` is empty."""
    oldest: float
    """When the oldest request in flight began; 0: there is none."""
    gap: float
    """The longest time between two beats, seconds."""
    classes: tuple[int, ...]
    """Responses 1xx and 2xx, 3xx, 4xx, 5xx."""
    times: tuple[int, ...]
    """Responses by time: the k-th number is of those that took less than 2 ** (k - 15) s, the last of all others."""
    loop: bool = False
    """All requests share the loop that beats: none can hang while it does."""


class Waits(Struct, frozen=True):
    """How long requests had waited before a worker took them, where a proxy says when it had them."""

    requests: int = 0
    seconds: float = 0.0
    """All together."""
    longest: float = 0.0
    times: tuple[int, ...] = (0,) * 22
    """Requests by time, as in `Reading`."""

    def quantile(self, part: float) -> float:
        """Seconds that so large a part of them did not exceed: to the next power of two, and never above `longest`."""
        left = self.requests * part
        for place, number in enumerate(self.times[:-1]):  # the last bucket has no end
            left -= number
            if left <= 0 and number:
                return min(bucket_end(place), self.longest)
        return self.longest


def together(every: Iterable[Waits]) -> Waits:
    """Return those of several workers as one."""
    found = list(every)
    return Waits(
        sum(each.requests for each in found),
        sum(each.seconds for each in found),
        max((each.longest for each in found), default=0.0),
        tuple(map(sum, zip(*(each.times for each in found), strict=True))) if found else (0,) * 22,
    )


class Scoreboard:
    """The table.

    Args:
        fd: of a table that there is already (the supervisor was replaced in place); it is ours from now on.
        taken: slots that are in use in it.

    Raises:
        OSError: no memory or no descriptor for it.
    """

    def __init__(self, fd: int | None = None, taken: set[int] | None = None) -> None:
        self.fd = _make() if fd is None else fd
        self._taken = set(taken or ())
        self._top = max(self._taken, default=-1) + 1
        self._free = [slot for slot in range(self._top) if slot not in self._taken]
        # A table that an earlier version has made has no second slots.
        self.waits = WAITS if os.fstat(self.fd).st_size >= 2 * WAITS else None
        """Where they begin, bytes; None: there are none."""
        self._sums = os.fstat(self.fd).st_size >= _GONE + SLOT

    @property
    def taken(self) -> set[int]:
        """The slots that are in use."""
        return set(self._taken)

    def allocate(self, id: int) -> int | None:
        """Return a slot for process `id`, empty; None when all are taken (its worker does without)."""
        if not self._free and self._top == SLOTS:
            return None
        if self._free:
            slot = heapq.heappop(self._free)
        else:
            slot, self._top = self._top, self._top + 1
        self._taken.add(slot)
        os.pwrite(self.fd, struct.pack("=Q", id) + bytes(SLOT - 8), slot * SLOT)
        if self.waits is not None:
            os.pwrite(self.fd, bytes(SLOT), self.waits + slot * SLOT)
        return slot

    def free(self, slot: int) -> None:
        """Its worker has been reaped."""
        if slot in self._taken:
            self._taken.remove(slot)
            if self._sums and (left := self.waited(slot)).requests:
                every = together([self.departed(), left])
                data = _WAITS.pack(every.requests, every.seconds, every.longest, *every.times)
                os.pwrite(self.fd, data, _GONE)
            os.pwrite(self.fd, bytes(8), slot * SLOT)
            heapq.heappush(self._free, slot)

    def read(self, slot: int) -> Reading:
        """Return what stands in a slot.

        By pread and not through a mapping: whatever a worker does to the descriptor, it cannot crash us.
        """
        data = os.pread(self.fd, _LAYOUT.size, slot * SLOT)
        _id, beat, requests, in_flight, flags, oldest, gap, *rest = _LAYOUT.unpack(data)
        return Reading(
            beat=beat,
            requests=requests,
            in_flight=in_flight if flags & _KNOWS_IN_FLIGHT else None,
            full=bool(flags & _FULL),
            oldest=oldest,
            gap=gap,
            classes=tuple(rest[:4]),
            times=tuple(rest[4:]),
            loop=bool(flags & _LOOP),
        )

    def waited(self, slot: int) -> Waits:
        """Return how long the requests of a worker have waited."""
        if self.waits is None:
            return Waits()
        return self._waits_at(self.waits + slot * SLOT)

    def departed(self) -> Waits:
        """Return how long the requests of all workers have waited that have left."""
        return self._waits_at(_GONE) if self._sums else Waits()

    def _waits_at(self, place: int) -> Waits:
        requests, seconds, longest, *times = _WAITS.unpack(os.pread(self.fd, _WAITS.size, place))
        return Waits(requests, seconds, longest, tuple(times))

    def close(self) -> None:
        """Close our descriptor; workers keep theirs. Safe to call twice."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def _make() -> int:
    fd = os.memfd_create("trapeze-board", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, _GONE + SLOT)
        # A worker that shortened it would crash its siblings (SIGBUS).
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except BaseException:
        os.close(fd)
        raise
    return fd
