"""A full run: each part by `trapeze bench`, one after the other, and none into the results before all are there.

A run that is broken off changes no result. The parts that it had finished are kept, and the next run of the same commit
and extent goes on after them.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import msgspec

from trapeze_bench import documents, machine
from trapeze_bench.bench import BROKEN_OFF
from trapeze_bench.published import PARTS, STUDIES, put, thin
from trapeze_bench.results import Report
from trapeze_bench.targets import BENCH

__all__ = ["SHORT", "UNFINISHED", "BrokenOff", "Extent", "PartFailed", "measure", "settle", "staging", "words"]

SHORT = (*STUDIES, "reload", "broken-deploy", "kill-worker", "kill-supervisor", "queue-at-stop")
"""What is measured unless it is said otherwise: about 25 minutes on two cores. The others take as long again."""
UNFINISHED = ".unfinished"
"""In the directory of the results."""
APPS = {"wsgi": "hello", "asgi": "hello-asgi"}


@dataclass(frozen=True)
class Extent:
    """How much of each part."""

    workers: int = 4
    """Of the studies; scenarios have their own."""
    connections: int = 32
    rounds: int = 3
    seconds: int = 1
    """Of each load: rounds are worth more than long ones."""
    watched: int = 5
    """Seconds of each period that a scenario watches."""
    quick: bool = False
    """To see that it works."""

    @property
    def name(self) -> str:
        """As a directory may be called."""
        numbers = (self.workers, self.connections, self.rounds, self.seconds, self.watched)
        return "-".join(map(str, numbers)) + ("-quick" if self.quick else "")


class BrokenOff(Exception):
    """Ctrl-C or SIGTERM: nothing is left running."""


class PartFailed(Exception):
    """A part could not be measured; it has said why."""


def words(part: str, extent: Extent) -> list[str]:
    """What follows `trapeze bench`; the JSON is printed.

    Args:
        part: one of `PARTS`.
        extent: how much.
    """
    end = [*(["--quick"] if extent.quick else []), "--json", "-"]
    if part not in STUDIES:
        return ["--scenario", part, "--seconds", str(extent.watched), *end]
    found = ["--app", APPS[part], "--native", "--workers", str(extent.workers)]
    found += ["--connections", str(extent.connections), "--seconds", str(extent.seconds)]
    return [*found, *([] if extent.quick else ["--rounds", str(extent.rounds)]), *end]


def staging(directory: Path, extent: Extent, commit: str | None) -> Path:
    """Where finished parts wait for the others: those of the same commit and extent, and of nothing else.

    What was kept of another run is removed. A tree with changes has no name: nobody knows whether it is the same.
    """
    unfinished = directory / UNFINISHED
    kept = unfinished / f"{commit}-{extent.name}"
    if unfinished.exists():
        known = commit is not None and not commit.endswith("+")
        for each in unfinished.iterdir():
            if each != kept or not known:
                shutil.rmtree(each)
    kept.mkdir(parents=True, exist_ok=True)
    return kept


def settle(directory: Path) -> None:
    """The results are written: nothing is unfinished any more."""
    shutil.rmtree(directory / UNFINISHED, ignore_errors=True)


def measure(directory: Path, parts: Sequence[str], extent: Extent, say: Callable[[str], None]) -> dict[str, Report]:
    """Measure these parts, or go on after those that an earlier run has finished.

    Args:
        directory: of the results; nothing in it is changed but what is unfinished.
        parts: of `PARTS`.
        extent: how much of each.
        say: is told which part is measured now.

    Returns:
        The reports by part. The load in all of them is that of the beginning: later it is that of the bench itself.

    Raises:
        BrokenOff: Ctrl-C.
        PartFailed: one of them could not be measured.
    """
    here = machine.look({})
    kept = staging(directory, extent, here.commit)
    chosen = [part for part in PARTS if part in parts]
    found = {}
    with tempfile.TemporaryDirectory(prefix="trapeze-everything-") as empty:
        for number, part in enumerate(chosen, 1):
            path = kept / f"{part}.json"
            if path.exists():
                say(f"{part}: was measured before ({number} of {len(chosen)})")
            else:
                say(f"{part} ({number} of {len(chosen)})")
                put(path, documents.dumps(_measured(part, extent, Path(empty), here.load)).decode())
            found[part] = documents.loads(path.read_bytes())
    return found


def _measured(part: str, extent: Extent, empty: Path, load: float) -> Report:
    path = empty / f"{part}.json"
    code = _run([sys.executable, "-m", "trapeze", "bench", *words(part, extent)], empty, path)
    if code == BROKEN_OFF:
        raise BrokenOff(part)
    if code:
        raise PartFailed(f"{part}: trapeze bench ended with exit code {code}")
    report = documents.loads(path.read_bytes())
    return thin(msgspec.structs.replace(report, machine=msgspec.structs.replace(report.machine, load=load)))


def _run(argv: Sequence[str], cwd: Path, out: Path) -> int:
    """Run it to its end. Ctrl-C is its own to end by; it is waited for, so that nothing is left running."""
    paths = [str(BENCH.parent), str(BENCH.parent / "backends"), str(BENCH), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    with _passed_on() as started, open(out, "wb") as stdout:
        popen = subprocess.Popen(argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=stdout)
        started.append(popen)
        return popen.wait()


@contextmanager
def _passed_on() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Whoever ends us ends what was started: to be told twice is the same to it as once."""
    started: list[subprocess.Popen[bytes]] = []

    def handle(number: int, frame: FrameType | None) -> None:
        for popen in started:
            popen.send_signal(number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield started
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
