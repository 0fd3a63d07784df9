"""Figures of a Django app that is slow to import and large: replacement of a killed worker, memory of the workers."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from trapeze_bench import procfs, wire
from trapeze_bench.ending import kill_and_wait
from trapeze_bench.loads import loaded
from trapeze_bench.openloop import Plan
from trapeze_bench.serving import HEALTHY, alternate
from trapeze_bench.sites import Extent, Web, serving
from trapeze_bench.table import Figure, middle, pairwise, spread
from trapeze_bench.targets import APPS, WORKERS, Failed, Running, free_port, gunicorn, started, until

__all__ = ["HEAVY", "kill", "memory"]

HEAVY = "heavy_django:application"
IMPORTS = 5
"""How many times the import is timed."""
SLACK = 100.0
"""Milliseconds that a worker which is not preloaded may take besides the import."""


class Side:
    """trapeze or gunicorn with the Django app, and how its workers are found."""

    def __init__(self, server: Running, workers: Callable[[], list[int]]) -> None:
        self.server = server
        self.workers = workers
        self.oldest: list[int] = []
        """The next to be killed first."""

    @property
    def name(self) -> str:
        """Key of its samples."""
        return self.server.name

    def replaced(self) -> float:
        """Kill the oldest worker.

        The other three are stopped meanwhile (SIGSTOP), so that one connection waits for the one that replaces it: no
        chance is involved in who accepts.

        Returns:
            Milliseconds from the kill to its answer.
        """
        victim, *others = self.oldest or sorted(self.workers())
        for pid in others:
            os.kill(pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            kill_and_wait(victim)
            pid = self._answerer(began)
            took = time.monotonic() - began
        finally:
            for each in others:
                with suppress(ProcessLookupError):
                    os.kill(each, signal.SIGCONT)
        if pid in (victim, *others):
            raise Failed(f"{self.name}: {pid} answered, which was killed or stopped")
        self.oldest = [*others, pid]
        return 1000 * took

    def _answerer(self, began: float) -> int:
        try:
            return int(wire.get(("127.0.0.1", self.server.port), timeout=15.0).body.split()[-1])
        except (ConnectionError, TimeoutError) as error:
            waited = time.monotonic() - began
            raise Failed(f"{self.name}: {error} after {waited:.1f} s\n{self.server.output()}") from None


@contextmanager
def _ours(name: str, more: dict[str, str | bool]) -> Iterator[Side]:
    with serving(name, Web(app=HEAVY, more=more), str(APPS)) as site:
        yield Side(site.server, lambda: list(site.workers()))


@contextmanager
def _native() -> Iterator[Side]:
    port = free_port()
    with started("gunicorn --preload", gunicorn(port, "--preload", app=HEAVY), str(APPS)) as server:
        server.port = port
        server.first_answer()
        side = Side(server, lambda: list(procfs.descendants(server.pid)))
        until(lambda: len(side.workers()) == WORKERS, f"{server.name}: {WORKERS} workers")
        yield side


def kill(extent: Extent) -> list[Figure]:
    """Milliseconds from kill -9 of a worker to the answer of the one that replaces it."""
    with _ours("trapeze", {"preload": True}) as ours, _native() as native:
        time.sleep(HEALTHY + 0.5)
        samples = alternate(ours, native, extent.kills, _spaced)
    one, other = samples.values()
    note = f"{spread(one, 1, 1)} ms, gunicorn --preload {spread(other, 1, 1)} ms; {middle(one, other)}"
    name = "kill -9, preloaded: of gunicorn --preload"
    figures = [Figure(name, pairwise(one, other), "ratio", at_most=1.0, note=note, samples=samples)]
    extent.say(f"{figures[0].name}: {figures[0].measured}, {note}")
    took = _import_times()
    figures.append(_unloaded("kill -9, not preloaded", {"spare": False}, took, extent))
    figures.append(_unloaded("kill -9, not preloaded, a spare stands by", {}, None, extent))
    return figures


def _unloaded(name: str, more: dict[str, str | bool], imports: list[float] | None, extent: Extent) -> Figure:
    """Without preload. With a spare every replacement is one that had been imported: there is time for it."""
    with _ours("trapeze", {"preload": False, **more}) as side:
        time.sleep(HEALTHY + 0.5)
        found = [_spaced(side, 2.0) for _ in range(max(extent.kills // 2, 1))]
    note = f"{spread(found, 1, 1)}; kills: {len(found)}"
    bound = None
    if imports is not None:
        bound = round(statistics.median(imports) + SLACK)
        note += f"; the import alone takes {spread(imports)} ms"
    figure = Figure(name, statistics.median(found), "ms", at_most=bound, note=note, samples={"trapeze": found})
    extent.say(f"{figure.name}: {figure.measured}, {note}")
    return figure


def _spaced(side: Side, pause: float = 0.75) -> float:
    """Each worker is to have served for more than five seconds when its turn comes."""
    found = side.replaced()
    time.sleep(pause)
    return found


def _import_times() -> list[float]:
    """Milliseconds that the import takes in a new process, the start of Python not included."""
    program = "import time; t = time.perf_counter(); import heavy_django; print(time.perf_counter() - t)"
    found = []
    for _ in range(IMPORTS):
        done = subprocess.run([sys.executable, "-c", program], cwd=APPS, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise Failed(f"import heavy_django: {done.stderr}")
        found.append(1000 * float(done.stdout))
    return found


def memory(extent: Extent) -> list[Figure]:
    """Proportional memory of the four workers, after requests and a full collection in each."""
    with _ours("trapeze", {"preload": True}) as side:
        workers = _worked(side, extent)
        others = {pid: _role(pid, side.server.pid) for pid in (side.server.pid, *procfs.descendants(side.server.pid))}
        ours = sum(procfs.memory(pid).pss for pid in workers)
        beside = [f"{role} {procfs.memory(pid).pss:.0f}" for pid, role in others.items() if pid not in workers]
    with _native() as side:
        workers = _worked(side, extent)
        native = sum(procfs.memory(pid).pss for pid in workers)
        master = procfs.memory(side.server.pid).pss
    note = (
        f"{ours:.0f} MiB, gunicorn {native:.0f} MiB; apart: {', '.join(beside)}, gunicorn's master {master:.0f}; "
        f"after {extent.requests} requests"
    )
    name = f"memory of {WORKERS} workers, preloaded: of gunicorn --preload"
    samples = {"trapeze": [ours], "gunicorn --preload": [native]}
    figure = Figure(name, ours / native, "ratio", at_most=1.0, note=note, samples=samples)
    extent.say(f"{figure.name}: {figure.measured}, {note}")
    return [figure]


def _worked(side: Side, extent: Extent) -> list[int]:
    """Send the requests on new connections (all workers get some), collect in each worker; return their pids."""
    with loaded(Plan(side.server.port, extent.rate)) as load:
        time.sleep(extent.requests / extent.rate)
        result = load.stop()
    if result.lost:
        raise Failed(f"{side.name}: {len(result.lost)} requests were lost, the first {result.lost[0][1]}")
    workers = set(side.workers())
    collected: set[int] = set()

    def everyone() -> bool:
        collected.add(int(wire.get(("127.0.0.1", side.server.port), "/collect").body.split()[-1]))
        return collected >= workers

    until(everyone, f"{side.name}: a collection in each worker")
    return sorted(workers)


def _role(pid: int, supervisor: int) -> str:
    if pid == supervisor:
        return "supervisor"
    with suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
        words = file.read().decode(errors="replace")
        return next((role for role in ("zygote", "keeper") if role in words), f"pid {pid}")
    return f"pid {pid}"
