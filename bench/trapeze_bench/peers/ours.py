"""trapeze with one of its backends, from a trapeze.toml."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from trapeze_bench import procfs, wire
from trapeze_bench.natives import NATIVES
from trapeze_bench.peers.base import Actor, Launch, Peer, Said, ordered
from trapeze_bench.served import Served
from trapeze_bench.sites import Web
from trapeze_bench.targets import Failed, program, started

__all__ = ["OURS", "Ours", "ours"]

WAIT = 40
"""Seconds for `trapeze reload --wait`."""


class Ours(Actor):
    """A supervisor with one service, `web`."""

    def workers(self) -> list[int]:
        """Those that are ready, by its own status; none when nobody answers the control socket any more."""
        try:
            answer = wire.get(self.server.control, "/status")
        except OSError:
            return []
        if answer.status != 200:
            raise Failed(f"/status: {answer.status} {answer.body[:200]!r}")
        processes = json.loads(answer.body)["services"][0]["processes"]
        ready = [each["pid"] for each in processes if each["state"] == "READY"]
        return sorted(ready, key=lambda pid: (procfs.born(pid) or 0, pid))

    def reload(self) -> Said:
        """By the command, which waits until it is so."""
        argv = [*program("trapeze"), "reload", "web", "--quiet", "--wait", str(WAIT)]
        return ordered(self.server, argv, "trapeze reload")


def _launch(name: str, web: Web) -> Launch:
    @contextmanager
    def launch(served: Served, port: int, directory: str) -> Iterator[Actor]:
        found = replace(web, app=served.app, workers=served.workers)
        path = os.path.join(directory, "trapeze.toml")
        with open(path, "w") as file:
            file.write(found.toml(port, str(served.app_dir)))
        with started(name, [*program("trapeze"), "up", "-c", path], directory, directory) as server:
            server.port = port
            yield Ours(server, served)

    return launch


def ours(
    name: str,
    backend: str,
    interface: str,
    *,
    module: str,
    options: Mapping[str, str] | None = None,
    more: Mapping[str, str | bool] | None = None,
) -> Peer:
    """trapeze with a backend, its options, and more lines for the section of the service."""
    pip = f"trapeze-server[{backend}]" if backend in EXTRAS else "trapeze-server"
    return Peer(
        name,
        interface,
        _launch(name, Web(backend=backend, options=options, more=more)),
        f"pip install '{pip}'",
        lambda: importlib.util.find_spec(module) is not None,
        preloads=(more or {}).get("preload") is not False,
    )


EXTRAS = ("granian",)
OURS = tuple(
    ours(f"trapeze+{name}", native.backend, interface, module=native.module)
    for name, native, interface in (
        ("gunicorn", NATIVES["gunicorn-gthread"], "wsgi"),
        ("uvicorn", NATIVES["uvicorn"], "asgi"),
        ("granian", NATIVES["granian"], "wsgi"),
    )
)
