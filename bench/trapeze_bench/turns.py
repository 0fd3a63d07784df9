"""One contestant's turn in a round: started afresh, warmed up, loaded, weighed, and stopped with nothing left."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from trapeze_bench import family as families
from trapeze_bench import fixedload, wire
from trapeze_bench.entrants import Entrant
from trapeze_bench.fixedload import FixedFound
from trapeze_bench.generator import Generator, Wanted
from trapeze_bench.interrupts import held, released
from trapeze_bench.loadresult import Found
from trapeze_bench.requestlist import Asked
from trapeze_bench.served import Served
from trapeze_bench.targets import BENCH, POLL, Failed, Running, free_port, started

__all__ = ["Course", "Probe", "Turn", "probe", "turn"]

PATIENCE = 60.0
"""Seconds until the first answer, an app with much to import included."""
KEPT = 64
"""Connections of the open loop, or as many as the closed one has at most."""
STOP = 10.0
"""Seconds to stop. Nothing is under way then; granian hangs in it once in a while, and is killed."""
LINES = 3
"""Of what a server said last."""
Rate = Callable[[Sequence[Found]], float]
"""From what a contestant has driven just now to the fixed rate."""


@dataclass(frozen=True)
class Course:
    """What every turn does."""

    served: Served
    directory: Path
    """Where the servers run."""
    generator: Generator
    asked: Sequence[Asked]
    connections: Sequence[int]
    seconds: float
    """Of each load."""
    warm: float
    """Seconds of load before anything is measured."""
    port: int | None = None
    """On which all have to listen; None: each on a free one."""
    through: int | None = None
    """The port that the load goes to, if not that of the server."""


@dataclass
class Turn:
    """What it found."""

    start: float
    """Seconds from exec to the first answer."""
    closed: list[Found] = field(default_factory=list)
    """One for each number of connections."""
    fixed: FixedFound | None = None
    cpu_workers: float = 0.0
    """Seconds per 1,000 requests."""
    cpu_others: float = 0.0
    pss_workers: float = 0.0
    """MiB."""
    pss_others: float = 0.0
    balance: float = 1.0


class Probe(NamedTuple):
    """What an app says before it is measured."""

    asked: Asked | None = None
    """The request that it did not like."""
    status: int = 0
    line: str = ""
    """The first line of what it said to that."""

    def __str__(self) -> str:
        if self.asked is None:
            return "ok"
        return f"{self.asked.words} is answered with {self.status}" + (f": {self.line}" if self.line else "")


def probe(entrant: Entrant, course: Course) -> Probe:
    """Start it once, ask for each thing once, and stop it: what is wrong is known before the long run.

    Raises:
        Failed: it does not start, or does not answer.
    """
    with held(), _standing(entrant, course) as server, released():
        answer, _ = _first(server, course)
        # Not all of them can be stopped in the middle of their start.
        families.await_family(server, course.served.workers, ours=entrant.role == "trapeze")
        for number, asked in enumerate(dict.fromkeys(course.asked)):
            answer = _ask(server, asked) if number else answer
            if not 200 <= answer.status < 300:
                return Probe(asked, answer.status, _first_line(answer.body))
    return Probe()


def turn(entrant: Entrant, course: Course, rate: Rate, say: Callable[[str], None]) -> Turn:
    """Measure it once.

    Args:
        entrant: who.
        course: what is done.
        rate: the fixed one.
        say: is told what is done now, in a few words.

    Raises:
        Failed: it does not start, dies, or answers nothing.
    """
    say("starting")
    with held(), _standing(entrant, course) as server, released():
        found = Turn(_first(server, course)[1])
        _measure(server, entrant, course, found, rate, say)
        return found


def _measure(
    server: Running,
    entrant: Entrant,
    course: Course,
    found: Turn,
    rate: Rate,
    say: Callable[[str], None],
) -> None:
    ours, number = entrant.role == "trapeze", course.served.workers
    families.await_family(server, number, ours=ours)
    say("warming up")
    _load(server, course, sorted(course.connections)[len(course.connections) // 2], course.warm)
    most = max(course.connections)
    for connections in course.connections:
        say(f"{connections} connection{'s' if connections > 1 else ''}")
        if connections == most:
            families.await_family(server, number, ours=ours)
        before = families.processor_times(server)
        closed = _load(server, course, connections, course.seconds)
        after = families.processor_times(server)
        if closed.requests == 0:
            raise Failed(_said(server, f"answered nothing at {connections} connections"))
        if connections == most:
            _weigh(_complete(server, number, ours=ours).workers, before, after, closed.requests, found)
        found.closed.append(closed)
    fixed = rate(found.closed)
    say(f"fixed rate, {fixed:,.0f}/s")
    port = course.through or server.port
    found.fixed = fixedload.run(port, fixed, max(most, KEPT), course.seconds, course.asked)
    _check(server)
    found.pss_workers, found.pss_others = _complete(server, number, ours=ours).pss()


def _complete(server: Running, number: int, *, ours: bool) -> families.Family:
    """All of its processes. If a worker has just died, its successor is waited for: there is no number without it."""
    return families.look(server, number, ours=ours) or families.await_family(server, number, ours=ours)


def _weigh(
    workers: Sequence[int], before: dict[int, float], after: dict[int, float], requests: int, found: Turn
) -> None:
    """Processor time, at the greatest number of connections: with few of them, some workers are asked for nothing."""
    spent = families.spent(workers, before, after)
    found.cpu_workers = 1000 * sum(spent.workers.values()) / requests
    found.cpu_others = 1000 * spent.others / requests
    found.balance = families.balance(list(spent.workers.values()))


def _load(server: Running, course: Course, connections: int, seconds: float) -> Found:
    port = course.through or server.port
    found = course.generator.run(Wanted(port, connections, seconds, course.asked))
    _check(server)
    return found


@contextmanager
def _standing(entrant: Entrant, course: Course) -> Iterator[Running]:
    """Start it; it need not answer yet."""
    port = course.port or free_port()
    with started(entrant.name, entrant.argv(course.served, port), str(course.directory)) as server:
        server.port = port
        server.patience = STOP
        yield server


def _first(server: Running, course: Course) -> tuple[wire.Answer, float]:
    """Wait for the first answer, whatever it says; and the seconds from exec until it was complete."""
    data = course.asked[0].raw(keep=False)
    deadline = server.began + PATIENCE
    while (now := time.monotonic()) < deadline:
        _check(server)
        try:
            answer = wire.ask(("127.0.0.1", server.port), data, deadline - now)
        except ConnectionError:  # nobody listens yet, or not in earnest
            time.sleep(POLL)
            continue
        except TimeoutError:
            break
        return answer, time.monotonic() - server.began
    raise Failed(_said(server, f"no answer in {PATIENCE:g} s"))


def _ask(server: Running, asked: Asked) -> wire.Answer:
    try:
        return wire.ask(("127.0.0.1", server.port), asked.raw(keep=False), PATIENCE)
    except (ConnectionError, TimeoutError) as error:
        raise Failed(_said(server, f"{asked.words} was not answered ({error})")) from None


def _check(server: Running) -> None:
    status = server.popen.poll()
    if status is not None:
        how = f"with status {status}" if status >= 0 else f"by signal {-status}"
        raise Failed(_said(server, f"it ended {how}"))


def _said(server: Running, what: str) -> str:
    """With the last lines of the server, without paths: this is passed on."""
    lines = [line.rstrip() for line in server.output().splitlines() if line.strip()]
    text = " | ".join([what, *lines[-LINES:]])
    for path, name in ((server.directory, "RUNTIME"), (sys.prefix, "VENV"), (os.getcwd(), "."), (str(BENCH), "BENCH")):
        text = text.replace(path, name) if len(path) > 1 else text
    return text


def _first_line(body: bytes) -> str:
    text = body.decode(errors="replace").strip()
    return text.splitlines()[0][:200] if text else ""
