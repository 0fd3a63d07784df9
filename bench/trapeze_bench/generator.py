"""Who makes the load of a closed loop: wrk where it is installed, our own client otherwise."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from trapeze_bench import ownload, wrk
from trapeze_bench.interrupts import held, output, released
from trapeze_bench.loadresult import Found, latencies
from trapeze_bench.requestlist import Asked
from trapeze_bench.targets import Failed, environment_of_ours

__all__ = ["Generator", "Own", "Wanted", "Wrk", "generator"]

GRACE = 30.0
"""Seconds on top of those that a load is to take, after which it is given up."""


class Wanted(NamedTuple):
    """A load."""

    port: int
    """Of 127.0.0.1."""
    connections: int
    seconds: float
    asked: Sequence[Asked]


class Generator(Protocol):
    """Makes a load, and says what became of it."""

    name: str
    version: str

    def run(self, wanted: Wanted) -> Found:
        """Make it.

        Raises:
            Failed: it could not be made.
        """


def _threads() -> int:
    """Half of the processors are the server's."""
    return max((os.cpu_count() or 1) // 2, 1)


class Wrk:
    """wrk."""

    name = "wrk"

    def __init__(self, program: str, threads: int | None = None) -> None:
        """`threads`: of wrk; None: half of those processors that are not the server's."""
        self.program = program
        self.version = wrk.version(program)
        self.threads = threads or max(_threads() // 2, 1)

    def run(self, wanted: Wanted) -> Found:
        """As of `Generator`."""
        with tempfile.TemporaryDirectory(prefix="trapeze-wrk-") as directory:
            path = Path(directory, "load.lua")
            path.write_text(wrk.script(wanted.asked))
            argv = wrk.command(self.program, str(path), wanted.port, wanted.connections, wanted.seconds, self.threads)
            try:
                done = output(argv, wanted.seconds + GRACE)
                return wrk.read(done.stdout if done.returncode == 0 else done.stderr + done.stdout)
            except ValueError as error:
                raise Failed(str(error)) from None
            except subprocess.TimeoutExpired:
                raise Failed("wrk did not end") from None


class Own:
    """Processes of `ownload`, half as many as there are processors."""

    name = "own"

    def __init__(self) -> None:
        self.version = ", ".join(filter(None, (_version("uvloop"), _version("httptools")))) or "asyncio"

    def run(self, wanted: Wanted) -> Found:
        """As of `Generator`."""
        processes = min(_threads(), wanted.connections)
        share, more = divmod(wanted.connections, processes)
        raw = [each.raw().decode("latin-1") for each in wanted.asked]
        with tempfile.TemporaryDirectory(prefix="trapeze-load-") as directory, held():
            started: list[subprocess.Popen[str]] = []
            try:
                for number in range(processes):
                    connections = share + (number < more)
                    first = number * max(len(raw) // processes, 1)
                    plan = ownload.Plan(wanted.port, connections, wanted.seconds, raw, first)
                    started.append(_start(plan, directory, number))
                with released():
                    results = _results(started, directory, wanted.seconds)
            finally:
                for popen in started:
                    _end(popen)
        return _sum(results, wanted.connections)


def _start(plan: ownload.Plan, directory: str, number: int) -> subprocess.Popen[str]:
    path = os.path.join(directory, f"plan{number}")
    with open(path, "w") as file:
        json.dump(plan, file)
    argv = [sys.executable, "-m", "trapeze_bench.ownload", path, os.path.join(directory, f"result{number}")]
    env = environment_of_ours(directory)
    return subprocess.Popen(argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0)


def _results(started: Sequence[subprocess.Popen[str]], directory: str, seconds: float) -> list[ownload.Result]:
    for popen in started:
        assert popen.stdout is not None
        if popen.stdout.readline() != "go\n":
            raise Failed("the load client did not begin")
    for popen in started:
        assert popen.stdin is not None
        popen.stdin.write("now\n")
        popen.stdin.flush()
    for popen in started:
        try:
            status = popen.wait(seconds + GRACE)
        except subprocess.TimeoutExpired:
            raise Failed("the load client did not end") from None
        if status:
            raise Failed(f"the load client ended with status {status}")
    found = []
    for number in range(len(started)):
        with open(os.path.join(directory, f"result{number}")) as file:
            found.append(ownload.Result.of(json.load(file)))
    return found


def _end(popen: subprocess.Popen[str]) -> None:
    if popen.poll() is None:
        popen.kill()
    popen.wait()
    for pipe in (popen.stdin, popen.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def _sum(results: Sequence[ownload.Result], connections: int) -> Found:
    """All processes together: they ran at the same time."""
    took = [each for result in results for each in result.took]
    errors: dict[str, int] = {}
    for result in results:
        for kind, number in result.errors.items():
            errors[kind] = errors.get(kind, 0) + number
    rate = sum(len(result.took) / result.seconds for result in results)
    return Found(rate, latencies(took, connections / rate if rate else 0.0), errors, len(took))


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return ""


def generator() -> Generator:
    """The best there is."""
    program = wrk.find()
    return Wrk(program) if program else Own()
