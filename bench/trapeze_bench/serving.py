"""Figures of a web service beside the same server run natively: start, replacement of a killed worker, throughput."""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from trapeze_bench import procfs, wire, wrk
from trapeze_bench.generator import Generator, Wanted, Wrk
from trapeze_bench.pairs import PAIRS, not_preloaded
from trapeze_bench.requestlist import ROOT
from trapeze_bench.table import Figure, middle, pairwise, spread
from trapeze_bench.targets import WORKERS, Failed, Running, Target, running
from trapeze_bench.words import counts

__all__ = ["Effort", "alternate", "duel", "kill", "start", "throughput"]

START_BOUNDS = {"gunicorn": 2.0, "uvicorn": 1.0}
HEALTHY = 5.0
"""Seconds a worker has to have served so that its death is forgiven: `restart.healthy` of trapeze, its default."""
SPACING = 1.5
"""Seconds between kills. The oldest of four workers dies, so that it has served for four times this."""
KILL_BOUND = 150.0
CONNECTIONS = 32


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    starts: int = 10
    kills: int = 10
    loads: int = 24
    load_seconds: int = 2
    idle_seconds: float = 30.0
    fleets: int = 3
    say: Callable[[str], None] = lambda text: None
    """Progress, for whoever waits."""


class Named(Protocol):
    """A target or a server that runs."""

    @property
    def name(self) -> str:
        """Its key among the samples."""


Side = TypeVar("Side", bound=Named)


def alternate(first: Side, second: Side, rounds: int, measure: Callable[[Side], float]) -> dict[str, list[float]]:
    """Measure both in each round, in the order A B, B A, A B...: what drifts falls on both alike."""
    samples: dict[str, list[float]] = {first.name: [], second.name: []}
    for number in range(rounds):
        for target in (first, second) if number % 2 == 0 else (second, first):
            samples[target.name].append(measure(target))
    return samples


def start(effort: Effort) -> list[Figure]:
    """Seconds from exec to the first complete 200."""
    figures = []
    for backend, ours, native in PAIRS:
        for target in (ours, native):
            _first_answer(target)  # warms the page cache and writes the .pyc files
        samples = alternate(ours, native, effort.starts, _first_answer)
        one, other = samples[ours.name], samples[native.name]
        ratio = pairwise(one, other)
        note = (
            f"{spread(one, 1000)} ms, native {spread(other, 1000)} ms, of medians "
            f"{statistics.median(one) / statistics.median(other):.2f}, {effort.starts} pairs"
        )
        figures.append(
            Figure(
                f"first 200, {backend}: of native",
                ratio,
                "ratio",
                at_most=START_BOUNDS[backend],
                note=note,
                samples=samples,
            )
        )
        effort.say(f"first 200, {backend}: {note}")
    return figures


def _first_answer(target: Target) -> float:
    with running(target) as server:
        return server.first_answer()


def kill(effort: Effort) -> list[Figure]:
    """Milliseconds from kill -9 of a worker to the first answer of one that was not there before.

    As `serve` starts them, and without preload: the bound is for that.
    """
    figures = []
    for backend, ours, native in PAIRS:
        bare = not_preloaded(ours)
        samples = {target.name: _replacements(target, effort.kills) for target in (ours, bare, native)}
        beside = (
            f"native {spread(samples[native.name])}; {effort.kills} kills, each of a worker that had served over 5 s"
        )
        for target, name, bound in ((ours, backend, None), (bare, f"{backend}, not preloaded", KILL_BOUND)):
            note = f"{spread(samples[target.name])}, {beside}"
            value = statistics.median(samples[target.name])
            chosen = {each.name: samples[each.name] for each in (target, native)}
            figures.append(Figure(f"kill -9, {name}", value, "ms", at_most=bound, note=note, samples=chosen))
            effort.say(f"{figures[-1].name}: {note}")
    return figures


def _replacements(target: Target, kills: int) -> list[float]:
    with running(target) as server:
        server.first_answer()
        server.all_up()
        time.sleep(HEALTHY + 0.5)
        seconds = []
        oldest = sorted(_workers(server))
        for _ in range(kills):
            took, pid = _replacement(server, oldest.pop(0), set(oldest))
            oldest.append(pid)
            seconds.append(took)
            time.sleep(SPACING)
        return [took * 1000 for took in seconds]


def _workers(server: Running) -> set[int]:
    """Pids of all workers, which are those that answer; the order of their pids is that of their birth."""
    found = {_who(server) for _ in range(200)}
    while len(found) < WORKERS:
        found.add(_who(server))
    return found


def _who(server: Running) -> int:
    return int(wire.get(("127.0.0.1", server.port), timeout=5.0).body.split()[-1])


def _replacement(server: Running, victim: int, others: set[int]) -> tuple[float, int]:
    """Kill one; return the seconds until a new one answers, and its pid.

    New is who is none of the other workers: the process itself may have been there before, forked in advance.
    """
    if victim not in procfs.descendants(server.pid):
        raise Failed(f"{server.name}: {victim} is not a worker of it")
    began = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    while time.monotonic() < began + 15:
        try:
            pid = _who(server)
        except (ConnectionError, TimeoutError):
            continue  # it was inside the worker that was killed
        if pid not in (victim, *others):
            return time.monotonic() - began, pid
        time.sleep(0.001)
    raise Failed(f"{server.name}: nobody replaced {victim} in 15 s\n{server.output()}")


def throughput(effort: Effort) -> list[Figure]:
    """Requests per second under wrk, of native; and the processor time that a request takes in the workers.

    Both servers are there all the time. Each run of wrk opens its connections anew, and which worker gets how many of
    them is chance: it takes many runs, not long ones, to even that out.
    """
    figures = []
    for backend, ours, native in PAIRS:
        with running(ours) as one, running(native) as other:
            figures += duel(f"{backend}: of native", one, other, effort, at_least=0.97)
    return figures


def duel(name: str, one: Running, other: Running, effort: Effort, *, at_least: float | None) -> list[Figure]:
    """Both servers under wrk in turns: the ratio of their rates, and of the processor time that a request takes."""
    costs: dict[str, list[float]] = {one.name: [], other.name: []}
    idle: list[float] = []
    made = _generator()
    for server in (one, other):
        server.first_answer()
        server.all_up()
        _rate(made, server, 1)

    def load(server: Running) -> float:
        rate, cost, idled = _load(made, server, other if server is one else one, effort.load_seconds)
        costs[server.name].append(cost)
        idle.append(idled)
        return rate

    samples = alternate(one, other, effort.loads, load)
    ours, native = samples[one.name], samples[other.name]
    note = (
        f"{middle(ours, native)}; {spread(ours)}/s, native {spread(native)}/s; wrk -t1 -c{CONNECTIONS}, "
        f"{effort.loads} pairs of {effort.load_seconds} s; the server whose turn it was not used "
        f"{statistics.median(idle):.2f} % of a processor"
    )
    rates = Figure(
        f"throughput, {name}", pairwise(ours, native), "ratio", at_least=at_least, note=note, samples=samples
    )
    effort.say(f"{rates.name}: {rates.measured}, {note}")
    return [rates, _cost(name, costs, one.name, other.name)]


def _cost(name: str, costs: dict[str, list[float]], ours: str, native: str) -> Figure:
    """Says whether a lower throughput was the workers' own doing or somebody else's load."""
    one, other = costs[ours], costs[native]
    note = f"{middle(one, other)}; {spread(one)} us, native {spread(other)} us, in the workers; no bound of its own"
    return Figure(f"processor time per request, {name}", pairwise(one, other), "ratio", note=note, samples=costs)


def _load(made: Generator, server: Running, idle: Running, seconds: int) -> tuple[float, float, float]:
    """One run of wrk.

    Returns:
        Requests per second; microseconds of processor time per request in all processes of the server; per cent of
        a processor that the idle one used meanwhile.
    """
    families = [[each.pid, *procfs.descendants(each.pid)] for each in (server, idle)]
    before = [sum(procfs.activity(pid).cpu for pid in family) for family in families]
    began = time.monotonic()
    rate = _rate(made, server, seconds)
    passed = time.monotonic() - began
    spent = [sum(procfs.activity(pid).cpu for pid in family) for family in families]
    return rate, 1e6 * (spent[0] - before[0]) / (rate * seconds), 100 * (spent[1] - before[1]) / passed


def _generator() -> Wrk:
    program = wrk.find()
    if program is None:
        raise Failed("wrk is not installed")
    return Wrk(program, threads=1)


def _rate(made: Generator, server: Running, seconds: int) -> float:
    """Requests per second."""
    found = made.run(Wanted(server.port, CONNECTIONS, seconds, [ROOT]))
    if found.errors:
        raise Failed(f"{server.name}: not every request was answered: {counts(found.errors)}")
    return found.rate
