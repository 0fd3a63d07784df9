"""What /proc knows of a process: memory, wake-ups, processor time, its words, children and descendants."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import NamedTuple

__all__ = [
    "Activity",
    "Memory",
    "activity",
    "alive",
    "born",
    "children",
    "descendants",
    "image",
    "memory",
    "runs",
    "words",
]


class Memory(NamedTuple):
    """In MiB."""

    private: float
    """What would be free if this process alone were gone."""
    pss: float
    """The same, and its share of what it has in common with others."""


class Activity(NamedTuple):
    """Since its start."""

    wakeups: int
    """Voluntary context switches of all threads: each sleep that ended."""
    preemptions: int
    """Involuntary ones."""
    cpu: float
    """Seconds of processor time, with the scheduler's own precision (stat(5) only knows hundredths)."""


def memory(pid: int) -> Memory:
    """Read smaps_rollup."""
    private = pss = 0
    for line in _lines(f"/proc/{pid}/smaps_rollup"):
        if line.startswith("Private_"):
            private += int(line.split()[1])
        elif line.startswith("Pss:"):
            pss = int(line.split()[1])
    return Memory(private / 1024, pss / 1024)


def activity(pid: int) -> Activity:
    """Add up all threads."""
    wakeups = preemptions = nanoseconds = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            for line in _lines(f"/proc/{pid}/task/{thread}/status"):
                if line.startswith("voluntary_ctxt_switches"):
                    wakeups += int(line.split()[1])
                elif line.startswith("nonvoluntary_ctxt_switches"):
                    preemptions += int(line.split()[1])
            nanoseconds += int(next(_lines(f"/proc/{pid}/task/{thread}/schedstat")).split()[0])
    return Activity(wakeups, preemptions, nanoseconds / 1e9)


def descendants(pid: int) -> dict[int, int]:
    """Return all processes below `pid`: pid -> start time in ticks, which tells a reused pid from the old one."""
    found: dict[int, int] = {}
    below: dict[int, list[tuple[int, int]]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (stat := _stat(int(name))) is not None:
            below.setdefault(stat.parent, []).append((int(name), stat.started))
    queue = [pid]
    while queue:
        for child, started in below.get(queue.pop(), ()):
            found[child] = started
            queue.append(child)
    return found


def children(pid: int, *, ended: bool = False) -> dict[int, int]:
    """Return the processes whose parent is `pid`, as `descendants` does: those that run, or those that have ended."""
    found = {}
    for name in os.listdir("/proc"):
        stat = _stat(int(name)) if name.isdigit() else None
        if stat is not None and stat.parent == pid and (stat.state in "ZX") == ended:
            found[int(name)] = stat.started
    return found


def words(pid: int) -> list[str]:
    """Its command line; empty if it is not there any more."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().decode(errors="replace").rstrip("\0").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


def image(pid: int) -> bytes:
    """Where the kernel laid out its program: other bytes after each exec, unless addresses are not randomised here."""
    with open(f"/proc/{pid}/auxv", "rb") as file:
        return file.read()


def born(pid: int) -> int | None:
    """Its start time in ticks; None if it is not there."""
    stat = _stat(pid)
    return None if stat is None else stat.started


def alive(pid: int, started: int) -> bool:
    """Is it still there, and the same one? A zombie is."""
    return born(pid) == started


def runs(pid: int, started: int) -> bool:
    """Is it still there, the same one, and not ended? A zombie is not: somebody only has to fetch its status."""
    stat = _stat(pid)
    return stat is not None and stat.started == started and stat.state not in "ZX"


class _Stat(NamedTuple):
    state: str
    parent: int
    started: int


def _stat(pid: int) -> _Stat | None:
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return _Stat(fields[0], int(fields[1]), int(fields[19]))


def _lines(path: str) -> Iterator[str]:
    with open(path) as file:
        yield from file
