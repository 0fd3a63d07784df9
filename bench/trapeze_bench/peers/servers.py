"""Servers run by themselves, each with a master of its own. All of them reload on SIGHUP."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from trapeze_bench.natives import NATIVES, Native
from trapeze_bench.peers.base import Actor, Launch, Peer
from trapeze_bench.served import Served
from trapeze_bench.targets import started

__all__ = ["NATIVE", "native"]


PLAIN_HTTP = {"--http11-socket": "--http-socket"}
"""uWSGI keeps connections on the former, each of which takes a whole worker until its client closes it: with more kept
ones than workers nobody else is served, reload or not."""


def _launch(name: str, server: Native, flags: Sequence[str]) -> Launch:
    @contextmanager
    def launch(served: Served, port: int, directory: str) -> Iterator[Actor]:
        words = [PLAIN_HTTP.get(word, word) for word in server.words(served, port)]
        first = 3 if words[1] == "-m" else 1  # `python -m MODULE`, or a script
        argv = [*words[:first], *flags, *words[first:]]
        with started(name, argv, str(served.app_dir), directory) as running:
            running.port = port
            yield Actor(running, served)

    return launch


def native(name: str, server: Native, interface: str, *flags: str, preloads: bool = False) -> Peer:
    """A server with more words on its command line."""
    return Peer(
        name, interface, _launch(name, server, flags), server.install, lambda: server.is_installed, preloads=preloads
    )


# pyuwsgi's reload runs the interpreter that it finds behind all links, which knows nothing of the virtual environment.
UWSGI = ("--binary-path", sys.executable)
NATIVE = (
    native("gunicorn-sync", NATIVES["gunicorn-sync"], "wsgi"),
    native("gunicorn-gthread", NATIVES["gunicorn-gthread"], "wsgi"),
    native("gunicorn-asgi", NATIVES["gunicorn-asgi"], "asgi"),
    native("uvicorn", NATIVES["uvicorn"], "asgi"),
    native("granian", NATIVES["granian"], "wsgi"),
    native("granian-respawn", NATIVES["granian"], "wsgi", "--respawn-failed-workers"),
    native("hypercorn", NATIVES["hypercorn"], "asgi"),
    native("uwsgi", NATIVES["uwsgi"], "wsgi", *UWSGI, preloads=True),
    native("uwsgi-lazy", NATIVES["uwsgi"], "wsgi", *UWSGI, "--lazy-apps"),
)
