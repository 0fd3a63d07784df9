"""Which processes of a server are its workers, and what they use: processor time, memory."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from trapeze_bench import procfs, wire
from trapeze_bench.targets import Failed, Running, until

__all__ = ["Family", "Spent", "await_family", "balance", "look", "processor_times", "rested", "spent"]

CPUCLOCK_SCHED = 2
"""The kernel's name for the clock of all threads of a process, in the lowest bits of its number."""
LOOK = 0.1
"""Seconds between two looks at who is at work."""
AT_REST = 0.01
"""Seconds of processor time from one look to the next, up to which a process rests: an event loop looks around."""
HELPERS = (b"multiprocessing.resource_tracker", b"multiprocessing.forkserver")
"""Processes of Python's own beside workers."""


class Family(NamedTuple):
    """All processes of a server."""

    workers: Sequence[int]
    others: Sequence[int]
    """Supervisor, master, zygote, keeper, and what else there is."""

    def pss(self) -> tuple[float, float]:
        """MiB of all workers together, and of all others."""
        return sum(_pss(pid) for pid in self.workers), sum(_pss(pid) for pid in self.others)


class Spent(NamedTuple):
    """Seconds of processor time in a while."""

    workers: dict[int, float]
    others: float


def look(server: Running, number: int, *, ours: bool) -> Family | None:
    """Find the workers; None as long as not all of them are up.

    Args:
        server: that answers already.
        number: of workers that there are to be.
        ours: it is a trapeze, which can be asked.
    """
    below = [pid for pid in procfs.descendants(server.pid) if not _is_helper(pid)]
    if ours:
        workers = _ready(server, number)
    elif number == 1 and not below:
        workers = [server.pid]  # it needs no master for one
    else:
        workers = below if len(below) >= number else []
    if len(workers) < number:
        return None
    return Family(workers, [pid for pid in _everybody(server) if pid not in workers])


def _everybody(server: Running) -> list[int]:
    return [server.pid, *procfs.descendants(server.pid)]


def processor_times(server: Running) -> dict[int, float]:
    """Seconds of processor time of all its processes, each since it was started. The server is asked nothing."""
    found = {pid: processor_time(pid) for pid in _everybody(server)}
    return {pid: seconds for pid, seconds in found.items() if seconds is not None}


def _ready(server: Running, number: int) -> list[int]:
    """Those that trapeze itself calls ready; none as long as it answers nothing."""
    try:
        answer = wire.get(server.control, "/status")
    except ConnectionError:
        return []
    if answer.status != 200:
        return []
    service = json.loads(answer.body)["services"][0]
    found = [each["pid"] for each in service["processes"] if each["state"] == "READY"]
    # A server that is a program, and has processes of its own, is known by its first one.
    return found if len(found) >= number else []


def rested(server: Running, patience: float = 10.0) -> bool:
    """Wait until they have nothing more to do: then all have imported the app, whoever gave the first answer.

    Returns:
        False if they still work after `patience` seconds, as an app may that has threads of its own.

    Raises:
        Failed: the server ended.
    """
    before: dict[int, float] = {}
    quiet = 0

    def still() -> bool:
        nonlocal before, quiet
        server.check()
        now = processor_times(server)
        resting = now.keys() == before.keys() and all(now[pid] - before[pid] < AT_REST for pid in now)
        quiet = quiet + 1 if resting else 0
        before = now
        return quiet >= 2

    return until(still, "workers at rest", patience=patience, must=False, pause=LOOK)


def spent(workers: Collection[int], before: Mapping[int, float], now: Mapping[int, float]) -> Spent:
    """What was used in between.

    Args:
        workers: which of the processes are.
        before: `processor_times` of then.
        now: of now. Who is new was started meanwhile.
    """
    passed = {pid: max(seconds - before.get(pid, 0.0), 0.0) for pid, seconds in now.items()}
    working = {pid: passed[pid] for pid in workers if pid in passed}
    return Spent(working, sum(seconds for pid, seconds in passed.items() if pid not in working))


def balance(seconds: Sequence[float]) -> float:
    """The busiest of the mean: 1 is even, as many as there are is one that does all. 1 if nobody did anything."""
    total = sum(seconds)
    return max(seconds) * len(seconds) / total if total > 0 else 1.0


def processor_time(pid: int) -> float | None:
    """Seconds, since it was started, of threads that have ended, too; None if it is not there.

    By the clock of the process, as clock_getcpuclockid(3) names it: stat(5) knows hundredths, and a supervisor needs
    less than one of them in a whole load.
    """
    try:
        return time.clock_gettime((~pid << 3) | CPUCLOCK_SCHED)
    except OSError:
        return None


def _pss(pid: int) -> float:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        return procfs.memory(pid).pss
    return 0.0


def _is_helper(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{pid}/cmdline", "rb") as file:
        line = file.read()
        return any(name in line for name in HELPERS)
    return True  # it has ended


def await_family(server: Running, number: int, *, ours: bool, patience: float = 60.0) -> Family:
    """Wait until all workers are up, and have come to rest.

    Raises:
        Failed: they are not, or the server ended.
    """
    found: list[Family] = []

    def all_up() -> bool:
        server.check()
        family = look(server, number, ours=ours)
        found[:] = [family] if family is not None else []
        return family is not None

    if not until(all_up, "", patience=patience, must=False, pause=0.02):
        raise Failed(f"not all of its {number} workers were up in {patience:g} s\n{server.output()}")
    rested(server)
    again = look(server, number, ours=ours)  # those that were forked meanwhile: an heir, a tracker
    return again or found[0]
