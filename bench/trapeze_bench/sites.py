"""A trapeze.toml in a directory of its own, the supervisor that runs it, and what is asked of it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from trapeze_bench import wire
from trapeze_bench.targets import BENCH, WORKERS, Failed, Running, free_port, program, started, until

__all__ = ["BACKENDS", "DEFAULT", "Extent", "NotAvailable", "Site", "Web", "serving"]

PATIENCE = 120.0
"""Seconds for an order to be carried out."""


class NotAvailable(Failed):
    """What is to be measured does not exist in this version, or not on this machine."""


@dataclass(frozen=True)
class Web:
    """A web service: the lines of its section, and of its options."""

    app: str = "trapeze_bench.hello:wsgi"
    backend: str = "gunicorn"
    options: Mapping[str, str] | None = None
    more: Mapping[str, str | bool] | None = None
    workers: int = WORKERS

    def toml(self, port: int, directory: str) -> str:
        """The whole file."""
        lines = ["[sockets.web]", f'bind = "127.0.0.1:{port}"', "", "[services.web]", f'app = "{self.app}"']
        lines += [f'backend = "{self.backend}"', f"workers = {self.workers}", f"app_dir = {json.dumps(directory)}"]
        lines += [f"{key} = {json.dumps(value)}" for key, value in (self.more or {}).items()]
        lines += ["", "[services.web.options]"] if self.options else []
        lines += [f"{key} = {json.dumps(value)}" for key, value in (self.options or {}).items()]
        return "\n".join(lines) + "\n"


def _gunicorn(worker: str) -> Web:
    return Web(options={"worker_class": worker})


def _chaussette(server: str) -> Web:
    return Web(backend="chaussette", options={"backend": server})


ASGI = "trapeze_bench.hello:asgi"
BACKENDS = {
    "gunicorn-gthread": Web(),
    "gunicorn-sync": _gunicorn("sync"),
    "gunicorn-gevent": _gunicorn("gevent"),
    "gunicorn-eventlet": _gunicorn("eventlet"),
    "gunicorn-asgi": Web(app=ASGI),
    "uvicorn": Web(app=ASGI, backend="uvicorn"),
    "granian-wsgi": Web(backend="granian"),
    "granian-asgi": Web(app=ASGI, backend="granian"),
    "hypercorn-asgi": Web(app=ASGI, backend="hypercorn"),
    "hypercorn-wsgi": Web(backend="hypercorn"),
    "daphne": Web(app=ASGI, backend="daphne"),
    "aiohttp": Web(app="trapeze_bench.hello_aiohttp:app", backend="aiohttp"),
    **{
        name: Web(backend=name)
        for name in ("waitress", "gevent", "cheroot", "bjoern", "fastpysgi", "uwsgi", "tornado", "werkzeug")
    },
    **{
        f"chaussette-{name}": _chaussette(name)
        for name in ("waitress", "wsgiref", "gevent", "geventwebsocket", "eventlet", "bjoern")
    },
}
"""The hello app in every server."""
DEFAULT = ["gunicorn-gthread", "gunicorn-sync", "gunicorn-gevent", "gunicorn-asgi", "uvicorn", "chaussette-waitress"]


@dataclass(frozen=True)
class Extent:
    """How much is measured."""

    backends: Sequence[str] = tuple(DEFAULT)
    kinds: Sequence[str] = ("fresh", "kept")
    """Of connections."""
    rate: float = 1000.0
    """Requests per second."""
    reloads: int = 20
    kills: int = 12
    requests: int = 10_000
    """Before memory is looked at."""
    undone: int = 5
    """Rollbacks, and upgrades."""
    say: Callable[[str], None] = lambda text: None
    """Progress, for whoever waits."""


class Site:
    """A supervisor with one web service of four workers, named `web`."""

    def __init__(self, server: Running) -> None:
        self.server = server

    def status(self) -> dict[str, Any]:
        """The service, as the control socket tells it."""
        found: dict[str, Any] = self._answer("/status", wire.get(self.server.control, "/status"))["services"][0]
        return found

    def workers(self) -> dict[int, int]:
        """pid -> generation of those that are ready."""
        processes = self.status()["processes"]
        return {each["pid"]: each["generation"] for each in processes if each["state"] == "READY"}

    def order(self, verb: str) -> None:
        """Give an order and wait until it is done.

        Raises:
            NotAvailable: there is no such verb.
            Failed: it failed.
        """
        path = f"/services/web/{verb}?wait={PATIENCE:g}"
        self._answer(path, wire.post(self.server.control, path, PATIENCE + 10))

    def _answer(self, path: str, answer: wire.Answer) -> Any:
        if answer.status == 404:
            raise NotAvailable(f"this trapeze knows no {path.partition('?')[0]}")
        if answer.status != 200:
            raise Failed(f"{path}: {answer.status} {answer.body.decode(errors='replace')}\n{self.server.output()}")
        return json.loads(answer.body)

    def settled(self) -> bool:
        """All workers of one generation, ready, and nobody on the way out."""
        found = self.status()
        fine = [each for each in found["processes"] if each["state"] == "READY"]
        return len(fine) == len(found["processes"]) == WORKERS and {each["generation"] for each in fine} == {
            found["generation"]
        }

    def drained(self) -> None:
        """Wait until it is settled."""
        until(self.settled, f"{self.server.name}: {WORKERS} workers and no others", patience=60.0, pause=0.05)


@contextmanager
def serving(name: str, web: Web, directory: str | None = None) -> Iterator[Site]:
    """Run it until all workers are ready; stop it at the end.

    Args:
        name: for messages.
        web: the service.
        directory: where its app lies, default: beside this package.

    Raises:
        NotAvailable: it cannot be run here; the words are trapeze's own.
    """
    port, directory = free_port(), directory or str(BENCH)
    with tempfile.TemporaryDirectory(prefix="trapeze-deploys-") as home:
        path = os.path.join(home, "trapeze.toml")
        with open(path, "w") as file:
            file.write(web.toml(port, directory))
        with started(name, [*program("trapeze"), "up", "-c", path], home) as server:
            server.port = port
            site = Site(server)
            until(lambda: _up(site), f"{name}: {WORKERS} workers ready", pause=0.02)
            yield site


def _up(site: Site) -> bool:
    status = site.server.popen.poll()
    if status is not None:
        error = NotAvailable if status == 2 else Failed
        raise error(f"{site.server.name}: ended with status {status}: {_reason(site.server.output())}")
    try:
        return site.settled()
    except (ConnectionError, Failed):  # not open yet, or on the way out: then it ends, and that is looked at above
        return False


def _reason(output: str) -> str:
    """The first line that speaks of an error."""
    lines = output.splitlines()
    return next((line for line in lines if "rror" in line), lines[-1] if lines else "no output")
