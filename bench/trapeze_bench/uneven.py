"""Does a short request wait behind a slow one while a worker is free? Behind nginx, in several ways to listen and to
connect.

Four workers on a Unix socket, nginx in front. Two clients ask for something that blocks a worker for 200 ms, again
and again; meanwhile short requests are due at a fixed rate, each timed from when it was due. Two workers are always
free, so that none of the short ones need wait.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

from trapeze_bench import nginx, wire
from trapeze_bench.loads import loaded, quantile
from trapeze_bench.openloop import Plan
from trapeze_bench.table import Figure
from trapeze_bench.targets import WORKERS, Failed, Running, program, started, until

__all__ = ["CASES", "WAYS", "Effort", "Found", "Way", "figures", "markdown", "measure"]

BLOCKERS = 2
RATE = 100.0
"""Short requests per second."""
WARM = 1.0


def _one_socket(path: str) -> list[str]:
    return [f"unix:{path}"]


@dataclass(frozen=True)
class Way:
    """How the service listens, and how nginx connects to it."""

    name: str
    """Heading of its column."""
    kept: int
    """Idle connections that each nginx worker keeps; 0: none."""
    flags: Sequence[str] = ()
    """More words for `trapeze serve`."""
    servers: Callable[[str], list[str]] = _one_socket
    """From the path of the socket to the servers of nginx's upstream."""


WAYS = {
    each.name: each
    for each in (
        Way("keepalive 64", 64),
        Way("none kept", 0),
    )
}
"""By name, in the order of the columns."""


@dataclass(frozen=True)
class Case:
    """A backend."""

    backend: str
    interface: str
    options: Sequence[str] = ()

    def argv(self, path: str, way: Way) -> list[str]:
        """The command line, on a Unix socket."""
        words = ["serve", f"trapeze_bench.uneven_app:{self.interface}", "--workers", str(WORKERS)]
        words += ["--backend", self.backend, *(word for option in self.options for word in ("--option", option))]
        return [*program("trapeze"), *words, "--bind", f"unix:{path}", *way.flags]


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
    say: Callable[[str], None] = lambda text: None
    """Progress, for whoever waits."""


@dataclass(frozen=True)
class Found:
    """What the short ones took, milliseconds; and how many slow ones were served."""

    p50: float
    p99: float
    longest: float
    slow: float
    """Per second."""


Samples = dict[tuple[str, str], list[Found]]
"""By backend and way: one of each round."""


def measure(names: Sequence[str], ways: Sequence[str], effort: Effort) -> Samples:
    """Each backend in each way, in turn; the reference first.

    Raises:
        Failed: a request was lost, or there is no nginx.
    """
    order = [REFERENCE, *(name for name in names if name != REFERENCE)]
    samples: Samples = {}
    for number in range(effort.rounds):
        for name in order:
            for way in ways:
                found = _once(CASES[name], WAYS[way], effort.seconds)
                samples.setdefault((name, way), []).append(found)
                effort.say(f"round {number + 1}, {name}, {way}: p50 {found.p50:.1f}, p99 {found.p99:.1f} ms")
    return samples


def _middle(found: Sequence[Found]) -> Found:
    """The median of the rounds, of each number by itself."""
    columns = ([getattr(each, name) for each in found] for name in ("p50", "p99", "longest", "slow"))
    return Found(*(sorted(column)[len(column) // 2] for column in columns))


def figures(samples: Samples) -> list[Figure]:
    """A row for each backend and way."""
    made = []
    for (name, way), rounds in samples.items():
        found, reference = _middle(rounds), _middle(samples[REFERENCE, way])
        note = (
            f"p50 {found.p50:.1f} ms, longest {found.longest:.0f} ms, {found.slow:.1f} slow ones/s; "
            f"{REFERENCE} {reference.p99:.1f} ms; in the rounds {', '.join(f'{each.p99:.1f}' for each in rounds)}"
        )
        made.append(Figure(f"short ones' p99, {name}, {way}", found.p99, "ms", note=note))
    return made


def markdown(samples: Samples) -> str:
    """The table of the guide: p50 / p99 in ms, a row for each backend and a column for each way."""
    ways = list(dict.fromkeys(way for _, way in samples))
    lines = [f"| backend | {' | '.join(ways)} |", f"|---|{'---|' * len(ways)}"]
    for name in dict.fromkeys(name for name, _ in samples):
        cells = (_middle(samples[name, way]) for way in ways)
        lines.append(f"| {name} | {' | '.join(f'{each.p50:.1f} / {each.p99:.1f}' for each in cells)} |")
    return "\n".join(lines)


def _once(case: Case, way: Way, seconds: float) -> Found:
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="trapeze-uneven-"))
        path = os.path.join(directory, "web.sock")
        server = stack.enter_context(started(case.backend, case.argv(path, way)))
        servers = way.servers(path)
        for each in servers:
            until(partial(_answers, server, each.removeprefix("unix:")), f"{case.backend}: an answer")
        front = stack.enter_context(nginx.running(_program(), servers, way.kept))
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
    return Found(quantile(took, 0.5), quantile(took, 0.99), took[-1], done / passed)


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
