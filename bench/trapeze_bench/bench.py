"""One run of `trapeze bench`: the study of an app, scenarios, and the report of both, also when it is broken off."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from trapeze_bench import documents, machine, nginx, page, tables
from trapeze_bench.entrants import Backend, Entrant, Unusable, choose
from trapeze_bench.findings import in_vain
from trapeze_bench.generator import Generator, Wanted, generator
from trapeze_bench.interrupts import interruptible
from trapeze_bench.plan import Plan, Remaining, duration
from trapeze_bench.progress import watching
from trapeze_bench.requestlist import ROOT, Asked
from trapeze_bench.results import Generator as GeneratorRow
from trapeze_bench.results import Report, Study
from trapeze_bench.scenarios import SCENARIOS, Interrupted, Setting, UnknownContestant
from trapeze_bench.served import Served
from trapeze_bench.study import Watcher, conduct, examine
from trapeze_bench.turns import Course

__all__ = ["BROKEN_OFF", "Order", "run"]

LOOPS = ("uvloop", "httptools")
"""What several servers are faster with."""
SERVERS = (*LOOPS, "gunicorn", "uvicorn", "granian", "hypercorn", "pyuwsgi", "circus", "chaussette", "supervisor")
"""Of the contestants of scenarios."""
BROKEN_OFF = 130
"""Exit code after Ctrl-C or SIGTERM."""
WARM = 1.0
"""Seconds of warm-up; wrk knows no fractions."""
WIDTH = 100
"""Of the report where stdout is no terminal."""


@dataclass(frozen=True)
class Order:
    """What was asked for."""

    served: Served | None
    """None: scenarios alone."""
    backends: Sequence[Backend] = ()
    only: Sequence[str] | None = None
    native: bool = False
    asked: Sequence[Asked] = (ROOT,)
    connections: Sequence[int] = (1, 16, 64)
    seconds: float = 3.0
    rounds: int = 3
    rate: float | None = None
    through: str = ""
    scenarios: Sequence[str] = ()
    scenario_seconds: float | None = None
    """Of each period that a scenario watches; None: its own."""
    workers: int = 2
    quick: bool = False
    json: str | None = None
    """A file, or "-" for stdout, in place of the text."""
    html: str | None = None


def run(order: Order) -> int:
    """Do it, and print the report. Returns the exit code: 0, 1 if nobody could be measured, 130 if it was broken off.

    Raises:
        Unusable: it cannot be done: an unknown name, an app that answers with errors, a file that cannot be written.
    """
    _writable(order)
    _known(order)
    began = datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ")
    with interruptible():
        made = generator()
        entrants = _entrants(order)
        report = Report(machine.look(_versions(order, entrants, made)), began)
        try:
            if order.served is not None:
                _study(order, order.served, entrants, made, report)
            _scenarios(order, report)
            broken_off = False
        except KeyboardInterrupt:
            broken_off = True
    _publish(order, report, broken_off)
    if broken_off:
        return BROKEN_OFF
    return int(in_vain(report))


def _entrants(order: Order) -> list[Entrant]:
    if order.served is None:
        return []
    return choose(order.served, order.backends, order.only, native=order.native)


def _study(order: Order, served: Served, entrants: Sequence[Entrant], made: Generator, report: Report) -> None:
    report.study = study = Study(
        served.app,
        served.interface,
        served.workers,
        order.rounds,
        order.seconds,
        list(order.connections),
        [asked.words for asked in order.asked],
        through=order.through,
        native=order.native,
        results=[entrant.result(served) for entrant in entrants],
    )
    plan = Plan(len(entrants), order.rounds, len(order.connections), order.seconds, WARM)
    with watching(study) as watcher, contextlib.ExitStack() as stack:
        watcher.says(
            f"{served.app} ({served.interface}), {served.workers} workers: {len(entrants)} contestants, "
            f"{order.rounds} round{'s' if order.rounds > 1 else ''}, about {duration(plan.whole)}"
        )
        proxy = stack.enter_context(nginx.running(_nginx())) if order.through else None
        report.generator = _calibrate(order, made, watcher)
        course = Course(
            served,
            served.app_dir or Path.cwd(),
            made,
            order.asked,
            order.connections,
            order.seconds,
            WARM,
            port=proxy.upstream if proxy else None,
            through=proxy.port if proxy else None,
        )
        watcher.says("starting each of them once, to see whether it serves the app")
        examine(entrants, course, study.results, watcher)
        left = Remaining(plan)
        left.drop(sum(1 for result in study.results if result.failed) * order.rounds)
        conduct(study, entrants, course, order.rate, left, watcher)


def _nginx() -> str:
    program = nginx.find()
    if program is None:
        raise Unusable("nginx is not installed", "apt-get install nginx")
    return program


def _calibrate(order: Order, made: Generator, watcher: Watcher) -> GeneratorRow:
    """What this generator drives at most here, against a server that does next to nothing."""
    program = nginx.find()
    if program is None:
        watcher.says("nginx is not installed: nobody knows what the load generator can drive at most here")
        return GeneratorRow(made.name, made.version)
    with nginx.running(program) as empty:
        found = made.run(Wanted(empty.empty, max(order.connections), order.seconds, [ROOT]))
    against = f"nginx {nginx.version(program)}, return 200"
    watcher.says(f"{made.name} drives {found.rate:,.0f} requests/s at most here ({against})")
    return GeneratorRow(made.name, made.version, round(found.rate, 1), against)


def _versions(order: Order, entrants: Sequence[Entrant], made: Generator) -> dict[str, str]:
    found = {entrant.backend: entrant.version for entrant in entrants if entrant.version}
    if order.served is not None:
        found[made.name if made.name != "own" else "load client"] = made.version
        program = nginx.find()
        found |= {"nginx": nginx.version(program)} if program else {}
    return {**machine.packages(SERVERS if order.scenarios else LOOPS), **found}


def _known(order: Order) -> None:
    for name in order.scenarios:
        if name not in SCENARIOS:
            raise Unusable(f"there is no scenario {name!r}", f"one of {', '.join(SCENARIOS)}")


def _scenarios(order: Order, report: Report) -> None:
    setting = Setting(order.workers, _say, order.only if order.served is None else None, quick=order.quick)
    if order.scenario_seconds is not None:
        setting = replace(setting, seconds=order.scenario_seconds)
    if order.rate is not None:
        setting = replace(setting, rate=order.rate)
    for number, name in enumerate(order.scenarios, 1):
        _say(f"scenario {name}" + (f", {number} of {len(order.scenarios)}" if len(order.scenarios) > 1 else ""))
        try:
            report.scenarios.append(SCENARIOS[name](setting))
        except Interrupted as error:
            report.scenarios.append(error.scenario)
            raise
        except UnknownContestant as error:
            raise Unusable(f"{name}: {error}") from None


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _writable(order: Order) -> None:
    """Known before, and not after half an hour."""
    if order.html == "-":
        raise Unusable("--html -: a page goes to a file; it is --json that stdout is for")
    for path in (order.json, order.html):
        if path is None or path == "-":
            continue
        directory = os.path.dirname(os.path.abspath(path))
        if not os.path.isdir(directory):
            raise Unusable(f"{path}: there is no directory {directory}", f"mkdir -p {directory}")
        if os.path.isdir(path) or not os.access(path if os.path.exists(path) else directory, os.W_OK):
            raise Unusable(f"{path}: cannot be written")


def _publish(order: Order, report: Report, broken_off: bool) -> None:
    """The files first: whatever becomes of the terminal, they are there."""
    if order.json is not None and order.json != "-":
        Path(order.json).write_bytes(documents.dumps(report))
    if order.html is not None:
        Path(order.html).write_text(page.page(report))
    if order.json == "-":
        sys.stdout.write(documents.dumps(report).decode())
    elif report.study is not None or report.scenarios:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDTH
        sys.stdout.write(tables.render(report, width))
    sys.stdout.flush()
    for path in (order.json, order.html):
        if path is not None and path != "-":
            print(f"written: {path}", file=sys.stderr)
    if order.quick:
        print("--quick: numbers of no worth", file=sys.stderr)
    if broken_off:
        print("interrupted: nothing is left running, this is what was measured until then", file=sys.stderr)
