"""How evenly do the workers of a service share a steady load on connections that are kept?

A connection belongs to the worker that has accepted it. Who that is, is decided when it is opened; so all are opened
anew, at once, in each round. Each server natively, under trapeze on the same shared TCP socket, and under trapeze
behind the nginx that `trapeze nginx` would set up.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from trapeze_bench import wire
from trapeze_bench.contestants import CONTESTANTS, Contestant
from trapeze_bench.keptload import Tally, busiest, load
from trapeze_bench.served import HELLO
from trapeze_bench.table import Figure
from trapeze_bench.targets import WORKERS, Failed, Running, free_port, program, running, started, until

__all__ = ["CASES", "WAYS", "Effort", "balance"]

CONNECTIONS = 64
BOUND = 1.3
"""What the busiest worker may have, by the mean."""
NAMES = (
    "gunicorn-sync",
    "gunicorn-gthread",
    "gunicorn-gevent",
    "gunicorn-asgi",
    "uvicorn",
    "granian-wsgi",
    "granian-asgi",
    "waitress",
    "hypercorn-asgi",
    "hypercorn-wsgi",
)
CASES = {each.name: each for each in CONTESTANTS if each.name in NAMES}


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    rounds: int = 5
    seconds: float = 4.0
    rate: float = 500.0
    """Requests per second."""
    say: Callable[[str], None] = lambda text: None
    """Progress, for whoever waits."""


Way = Callable[[Contestant], AbstractContextManager[Running]]


def _native(case: Contestant) -> AbstractContextManager[Running]:
    return running(case.other)


def _shared(case: Contestant) -> AbstractContextManager[Running]:
    return running(case.ours)


@contextmanager
def _fronted(case: Contestant) -> Iterator[Running]:
    """A Unix socket, and nginx as a service of the same file: the configuration is what trapeze generates."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="trapeze-balance-") as directory:
        file = Path(directory, "trapeze.toml")
        file.write_text(_file(case, port))
        file.chmod(0o600)
        with started(f"{case.name} behind nginx", [*program("trapeze"), "up", "-c", str(file)]) as server:
            server.port = port
            yield server


def _file(case: Contestant, port: int) -> str:
    options = ", ".join(f'{key} = "{value}"' for key, _, value in (word.partition("=") for word in case.native.options))
    flags = dict(zip(case.flags[::2], case.flags[1::2], strict=True))
    more = f"threads = {flags['--threads']}\n" if "--threads" in flags else ""
    user = 'user = "root"\n' if os.getuid() == 0 else ""  # or it might not enter the directory of the socket
    return (
        f'[nginx]\nlisten = "127.0.0.1:{port}"\n{user}[sockets.web]\nbind = "unix:web.sock"\n'
        f'[services.web]\napp = "{HELLO[case.interface].app}"\napp_dir = "{os.getcwd()}"\n'
        f'backend = "{case.native.backend}"\nworkers = {WORKERS}\noptions = {{ {options} }}\n{more}'
        f"[services.nginx]\ncommand = \"nginx -e stderr -g 'daemon off;' -c {{generated:nginx}}\"\n"
    )


WAYS: dict[str, Way] = {"native": _native, "shared TCP socket": _shared, "behind nginx": _fronted}
"""By name. What is native is what the others are compared with: it has no bound."""


def balance(names: Sequence[str], ways: Sequence[str], effort: Effort) -> list[Figure]:
    """The busiest worker's part of the requests, by the mean; of the rounds, the median."""
    return [_figure(CASES[name], way, effort) for name in names for way in ways]


def _figure(case: Contestant, way: str, effort: Effort) -> Figure:
    bound = None if way == "native" else BOUND
    name = f"busiest / mean, {case.name}, {way}"
    if not case.native.is_installed:
        return Figure(name, None, "ratio", at_most=bound, note=case.native.install)
    try:
        tallies = _rounds(case, way, effort)
    except Failed as error:
        effort.say(f"{name}: {error}")
        return Figure(name, None, "ratio", at_most=bound, note=str(error).splitlines()[0])
    shares = [busiest(list(each.requests.values()), WORKERS) for each in tallies]
    value = statistics.median(shares)
    note = f"in the rounds {', '.join(f'{each:.2f}' for each in shares)}; {_shown(tallies[shares.index(max(shares))])}"
    found = Figure(name, value, "ratio", at_most=bound, note=note, samples={"requests": shares})
    effort.say(f"{name}: {found.measured}, {note}")
    return found


def _shown(tally: Tally) -> str:
    """Of the worst round."""
    connections, requests = (
        sorted([*counts.values(), *[0] * (WORKERS - len(counts))]) for counts in (tally.connections, tally.requests)
    )
    late = f", {tally.skipped} turns skipped" if tally.skipped else ""
    return f"worst: connections {connections}, requests {requests}{late}"


def _rounds(case: Contestant, way: str, effort: Effort) -> list[Tally]:
    with WAYS[way](case) as server:
        until(lambda: _answers(server), f"{case.name}: an answer")
        server.all_up()
        return [load(server.port, CONNECTIONS, effort.rate, effort.seconds) for _ in range(effort.rounds)]


def _answers(server: Running) -> bool:
    server.check()
    try:
        return wire.get(("127.0.0.1", server.port)).status == 200
    except (ConnectionError, TimeoutError):
        return False
