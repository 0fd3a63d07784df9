"""Does a short request wait behind a slow one while a worker is free? Behind nginx, with its upstream connections kept
and not kept.

Four workers on one Unix socket, nginx in front. Two clients ask for something that blocks a worker for 200 ms, again
and again; meanwhile short requests are due at a fixed rate, each timed from when it was due. Two workers are always
free, so that none of the short ones need wait.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from trapeze_bench import nginx, wire
from trapeze_bench.loads import loaded, quantile
from trapeze_bench.openloop import Plan
from trapeze_bench.table import Figure
from trapeze_bench.targets import WORKERS, Failed, Running, program, started, until

__all__ = ["CASES", "Effort", "uneven"]

BLOCKERS = 2
RATE = 100.0
"""Short requests per second."""
KEPT = 64
"""Idle connections that nginx keeps, where it keeps some."""
WARM = 1.0


@dataclass(frozen=True)
class Case:
    """A backend."""

    backend: str
    interface: str
    options: Sequence[str] = ()

    def argv(self, path: str) -> list[str]:
        """The command line, on a Unix socket."""
        words = ["serve", f"trapeze_bench.uneven_app:{self.interface}", "--workers", str(WORKERS)]
        words += ["--backend", self.backend, *(word for option in self.options for word in ("--option", option))]
        return [*program("trapeze"), *words, "--bind", f"unix:{path}"]


CASES = {
    "gunicorn-sync": Case("gunicorn", "wsgi", ["worker_class=sync"]),
    "gunicorn-gthread": Case("gunicorn", "wsgi"),
    "gunicorn-gevent": Case("gunicorn", "wsgi", ["worker_class=gevent"]),
    "gunicorn-asgi": Case("gunicorn", "asgi"),
    "uvicorn": Case("uvicorn", "asgi"),
    "granian-wsgi": Case("granian", "wsgi"),
    "granian-asgi": Case("granian", "asgi"),
    "waitress": Case("waitress", "wsgi"),
    "hypercorn-asgi": Case("hypercorn", "asgi"),
    "hypercorn-wsgi": Case("hypercorn", "wsgi"),
}
REFERENCE = "gunicorn-sync"
"""Its workers take a request when they are free: nothing waits for nothing."""


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    seconds: float = 10.0
    rounds: int = 3


def uneven(names: Sequence[str], effort: Effort) -> list[Figure]:
    """Each backend, with nginx's upstream connections kept and not kept, in turn."""
    figures = []
    reference: dict[int, float] = {}
    order = [REFERENCE, *(name for name in names if name != REFERENCE)]
    samples: dict[tuple[str, int], list[tuple[float, float, float, float]]] = {}
    for _ in range(effort.rounds):
        for name in order:
            for kept in (0, KEPT):
                samples.setdefault((name, kept), []).append(_once(CASES[name], kept, effort.seconds))
    for (name, kept), found in samples.items():
        p50, p99, longest, slow = (sorted(column)[len(column) // 2] for column in zip(*found, strict=True))
        reference.setdefault(kept, p99)
        note = (
            f"p50 {p50:.1f} ms, longest {longest:.0f} ms, {slow:.1f} slow ones/s; {REFERENCE} {reference[0]:.1f} ms; "
            f"in the rounds {', '.join(f'{each[1]:.1f}' for each in found)}"
        )
        how = f"keepalive {kept}" if kept else "none kept"
        figures.append(Figure(f"short ones' p99, {name}, {how}", p99, "ms", note=note))
    return figures


def _once(case: Case, kept: int, seconds: float) -> tuple[float, float, float, float]:
    """p50, p99 and longest of the short ones in ms, and slow ones per second."""
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="trapeze-uneven-"))
        path = os.path.join(directory, "web.sock")
        server = stack.enter_context(started(case.backend, case.argv(path)))
        until(lambda: _answers(server, path), f"{case.backend}: an answer")
        front = stack.enter_context(nginx.running(_program(), f"unix:{path}", kept))
        slow = stack.enter_context(_blocked(front.port))
        time.sleep(WARM)  # all workers are there, and the connections that are kept
        before, began = slow[0], time.monotonic()
        with loaded(Plan(front.port, RATE)) as load:
            time.sleep(seconds)
            result = load.stop()
        done, passed = slow[0] - before, time.monotonic() - began
    if result.lost:
        raise Failed(f"{case.backend}: {len(result.lost)} requests were lost: {result.lost[0][1]}")
    took = sorted(1000 * each for each in result.took)
    return quantile(took, 0.5), quantile(took, 0.99), took[-1], done / passed


def _program() -> str:
    found = nginx.find()
    if found is None:
        raise Failed("nginx is not installed")
    return found


def _answers(server: Running, path: str) -> bool:
    server.check()
    try:
        return wire.get(path).status == 200
    except (ConnectionError, TimeoutError):
        return False


@contextmanager
def _blocked(port: int) -> Iterator[list[int]]:
    """Ask for slow ones, `BLOCKERS` at a time; yields how many were answered."""
    done, over = [0], threading.Event()

    def ask() -> None:
        while not over.is_set():
            if wire.get(("127.0.0.1", port), "/slow").status != 200:
                raise Failed("a slow request was not answered")
            done[0] += 1

    threads = [threading.Thread(target=ask) for _ in range(BLOCKERS)]
    for thread in threads:
        thread.start()
    try:
        yield done
    finally:
        over.set()
        for thread in threads:
            thread.join()
