"""Letting others go first: an app that is imported while its service serves takes only what the workers leave.

An import computes for seconds without a pause; a request needs a processor for a moment, at once. On a machine with few
of them the requests of a reload would wait for the import. So it runs nicer, until it is done or has taken long: a
machine whose processors are never free would not get to its end otherwise.

Only where that can be undone. It takes a privilege (CAP_SYS_NICE), and what was forked of a process is as nice.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from functools import cache

__all__ = ["LONGEST", "can_be_undone", "give_way", "hurry", "level"]

MORE = 10
"""So much nicer: a tenth of the processor's time where somebody else wants it all, sched(7)."""

LONGEST = 5.0
"""Seconds of an import that gives way."""


@cache
def can_be_undone() -> bool:
    """May we make a process less nice again? Tried with a thread of our own, which ends."""
    found: list[bool] = []

    def try_it() -> None:
        with contextlib.suppress(OSError):
            here = threading.get_native_id()
            now = os.getpriority(os.PRIO_PROCESS, here)
            os.setpriority(os.PRIO_PROCESS, here, now + 1)
            os.setpriority(os.PRIO_PROCESS, here, now)
            found.append(True)

    thread = threading.Thread(target=try_it, name="trapeze-niceness")
    thread.start()
    thread.join()
    return bool(found)


def give_way(pid: int) -> bool:
    """Make a process nicer that has just been spawned; return whether that was done."""
    if not can_be_undone():
        return False
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, pid) + MORE)
        return True
    return False


def hurry(pid: int) -> None:
    """Undo that, for all threads that it has by now: each was as nice as who made it."""
    for thread in _threads(pid):
        with contextlib.suppress(OSError):  # it has ended
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) - MORE)


def level(pid: int, like: int) -> None:
    """Make a process no nicer than `like`: it may have been forked a moment too early."""
    with contextlib.suppress(OSError):
        wanted = os.getpriority(os.PRIO_PROCESS, like)
        if os.getpriority(os.PRIO_PROCESS, pid) > wanted:
            os.setpriority(os.PRIO_PROCESS, pid, wanted)


def _threads(pid: int) -> Iterator[int]:
    with contextlib.suppress(OSError):
        yield from map(int, os.listdir(f"/proc/{pid}/task"))
