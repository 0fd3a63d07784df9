"""A worker's slot in the scoreboard of its service: shared memory that the supervisor reads when it wants to know.

One writer, the worker; no locks; aligned numbers, so that nobody sees half of one. Two levels. *light* is what `beat`
writes from counters that the server keeps anyway: nothing per request. *full* is what `measured` adds around the app.

The slot is SIZE bytes, in the byte order of the machine:

     0  u64     id: the supervisor's number of this process, 0 when the slot is free (written by the supervisor)
     8  f64     the last beat of the main loop, seconds of CLOCK_MONOTONIC, which is one clock for all processes
    16  u64     requests begun
    24  u32     requests in flight
    28  u32     flags: FULL, KNOWS_IN_FLIGHT, LOOP
    32  f64     full: when the oldest request in flight began; 0 when there is none
    40  f64     the longest time between two beats, seconds
    48  4 u64   full: responses 1xx and 2xx, 3xx, 4xx, 5xx
    80  22 u64  full: responses by the time they took; the k-th took less than 2 ** (k - 15) seconds, the last any time

Behind all slots there is one of the same size for each worker, for how long requests had waited before it took them
(`queued`): it does not fit into the first, whose layout programs of earlier versions know.

     0  u64     requests of which that is known
     8  f64     seconds that they have waited, all together
    16  f64     the longest of these
    24  22 u64  requests by the time they have waited, as above
   200  u32     connections and 1, where the worker notes them; 0: it does not, or accepts no more (`fairshare`)
   204  u32     connections that it has accepted, modulo 2 ** 32
"""

from __future__ import annotations

import os

from trapeze_backends.contract import StartError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from trapeze_backends.contract import Job

__all__ = [
    "ACCEPTED",
    "BUCKETS",
    "CONNECTIONS",
    "CREW",
    "FLAGS",
    "FULL",
    "IN_FLIGHT",
    "KNOWS_IN_FLIGHT",
    "LOOP",
    "OLDEST",
    "SIZE",
    "Board",
    "Limits",
    "Waits",
    "bucket",
]

SIZE = 256
FULL = 1
KNOWS_IN_FLIGHT = 2
LOOP = 4
"""All requests share one event loop: while it beats, none of them hangs in a way that the end of a drain cannot end."""

# Places in the three views of the slot: u64, f64 and u32.
_BEAT, _REQUESTS, OLDEST, _GAP, _CLASSES, _TIMES = 1, 2, 4, 5, 6, 10
IN_FLIGHT, FLAGS = 6, 7

CREW = 64
"""Workers that know how many connections the others have: those in the first slots."""
CONNECTIONS, ACCEPTED = 50, 51
"""Places in the second slot as u32."""

BUCKETS = 22
FIRST = -15
"""The first bucket is for less than 2 ** FIRST seconds."""

LOOK_AT_MEMORY = 5.0
"""Seconds between two looks at the memory, at least."""


def bucket(exponent: int) -> int:
    """Return the place of a time among the buckets, by the binary exponent of its seconds (`math.frexp`)."""
    return min(max(exponent - FIRST, 0), BUCKETS - 1)


class Board:
    """The slot of this worker.

    Args:
        place: where it is, `{"fd": 7, "slot": 3, "waits": 4194304}`, the last of them where the second slots begin, in
            bytes (there may be none); the descriptor is closed. None for a worker that nobody watches (one that was
            started by hand): it keeps its figures to itself.

    Raises:
        StartError: the memory cannot be mapped.
    """

    def __init__(self, place: dict[str, Any] | None) -> None:
        view, waits, self.crew = _views(place)
        self.numbers: memoryview[int] = view.cast("Q")
        self.times: memoryview[float] = view.cast("d")
        self.small: memoryview[int] = view.cast("I")
        self.waits = Waits(waits)
        self.meter: Any = None
        """What counts the requests instead of the server: a `measured.Meter`."""
        self._last = 0.0
        self._gap = 0.0

    @property
    def requests(self) -> int:
        """Requests begun, as of the last beat."""
        return self.numbers[_REQUESTS]

    def beat(self, now: float, requests: int = 0, in_flight: int | None = None) -> None:
        """Note that the main loop goes round, and what the server has counted."""
        if self.meter is not None:
            self.meter.show()
        else:
            self.numbers[_REQUESTS] = requests
            if in_flight is not None:
                self.small[IN_FLIGHT] = in_flight
                self.small[FLAGS] |= KNOWS_IN_FLIGHT
        if self._last and now - self._last > self._gap:
            self._gap = self.times[_GAP] = now - self._last
        self._last = self.times[_BEAT] = now

    def show(self, requests: int, in_flight: int, classes: list[int], times: list[int]) -> None:
        """Write what a meter has counted."""
        self.numbers[_REQUESTS] = requests
        self.small[IN_FLIGHT] = in_flight
        for place, number in enumerate(classes, _CLASSES):
            self.numbers[place] = number
        for place, number in enumerate(times, _TIMES):
            self.numbers[place] = number


class Waits:
    """The worker's second slot."""

    __slots__ = ("numbers", "times")

    def __init__(self, view: memoryview[int]) -> None:
        self.numbers: memoryview[int] = view.cast("Q")
        self.times: memoryview[float] = view.cast("d")


Crew = tuple["memoryview[int]", "memoryview[int]", int]


def _views(place: dict[str, Any] | None) -> tuple[memoryview[int], memoryview[int], Crew | None]:
    if place is None:
        return memoryview(bytearray(SIZE)), memoryview(bytearray(SIZE)), None
    fd, slot = place["fd"], place["slot"]
    second, crew = memoryview(bytearray(SIZE)), None
    try:
        first = _mapped(fd, slot * SIZE)
        if "waits" in place:
            second = _mapped(fd, place["waits"] + slot * SIZE)
            if slot < CREW:
                crew = _mapped(fd, 0, CREW), _mapped(fd, place["waits"], CREW), slot
    except (OSError, ValueError) as error:
        raise StartError(f"cannot map the scoreboard: {error}") from None
    finally:
        os.close(fd)
    return first, second, crew


def _mapped(fd: int, start: int, slots: int = 1) -> memoryview[int]:
    import mmap

    base = start - start % mmap.ALLOCATIONGRANULARITY
    pages = mmap.mmap(fd, start - base + slots * SIZE, offset=base)
    return memoryview(pages)[start - base :]


class Limits:
    """How much a worker may do and use before it has itself replaced. Says so once; the worker serves on."""

    def __init__(self, job: Job, now: float) -> None:
        self._requests = job.max_requests
        self._memory = job.max_rss
        # Not at once: where the app alone is too big already, workers would come and go without a pause.
        self._look_again = now + LOOK_AT_MEMORY

    def reached(self, now: float, requests: int) -> str:
        """Return which limit has been reached, in words; "" as long as none has been, or when it was said before.

        Args:
            now: seconds of the monotonic clock.
            requests: served so far.
        """
        why = ""
        if self._requests and requests >= self._requests:
            why = f"has served {requests:,} requests"
        elif self._memory and now >= self._look_again:
            self._look_again = now + LOOK_AT_MEMORY
            used = _memory(self._memory)
            if used > self._memory:
                why = f"uses {used / 2**20:.0f} MiB of memory, may use {self._memory / 2**20:.0f}"
        if why:
            self._requests = self._memory = 0
        return why


def _memory(limit: int) -> int:
    """Bytes that this process uses: shared pages in part (PSS) where the kernel tells, else all that is resident.

    Adding up shared pages takes milliseconds in a big process, so that is done only if all of them come to more than
    `limit`.
    """
    try:
        with open("/proc/self/statm", "rb") as file:
            resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        if resident <= limit:
            return resident
        with open("/proc/self/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except FileNotFoundError:
        return 0  # no /proc at all
    except OSError:
        pass
    return resident
