"""tornado's own server, for tornado's own apps and for WSGI apps in threads, on inherited sockets.

Stock tornado has no stop but cutting everything. Its WSGIContainer collects each answer to its end before the first
byte of it is sent, and a WSGI app that fails leaves its client without an answer.
"""

from __future__ import annotations

import os
import sys

from trapeze_backends.contract import Backend, Problem, StartError
from trapeze_backends.installed import is_installed, version_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

    from trapeze_backends.contract import Job
    from trapeze_backends.worker import Worker

__all__ = ["TornadoBackend", "backend"]

OWNED = {
    "request_callback": "use the field `app`",
    "xheaders": "use the field `trusted_proxies`",
    "trusted_downstream": "use the field `trusted_proxies`",
    "protocol": "it is what the proxy says of its client, see the field `trusted_proxies`",
    "ssl_options": "have the proxy end TLS",
}
"""Arguments of `HTTPServer` that belong to the supervisor, each with the reason."""

OPTIONS = frozenset(
    (
        "body_timeout",
        "chunk_size",
        "decompress_request",
        "idle_connection_timeout",
        "max_body_size",
        "max_buffer_size",
        "max_header_size",
        "no_keep_alive",
    )
)

THREADS = "tornado serves its own apps by an event loop, not by threads"


class TornadoBackend(Backend):
    """`tornado.web.Application` and other routers of tornado; WSGI by a pool of threads."""

    name = "tornado"
    interfaces = frozenset({"tornado", "wsgi"})
    speaks = frozenset({"websocket"})
    fields = {"threads": "native", "keepalive": "native"}
    lacks = {"chunk_extensions": "tornado closes the connection"}

    def __init__(self) -> None:
        self._pid = 0

    def version(self) -> str:
        """Version of tornado."""
        loaded = sys.modules.get("tornado")
        return str(loaded.version) if loaded else version_of("tornado")

    def check(self, job: Job) -> list[Problem]:
        """Not installed; options that are the supervisor's or unknown to tornado; threads for an app of tornado."""
        if not is_installed("tornado"):
            return [Problem("backend", f"tornado is not installed in {sys.prefix}", "pip install tornado")]
        problems = []
        if job.threads is not None and job.interface == "tornado":
            problems.append(Problem("threads", THREADS, "leave it out"))
        for setting in ("idle_connection_timeout", "no_keep_alive"):
            if setting in job.options and job.keepalive is not None:
                problems.append(Problem(f"options.{setting}", "set twice: the field `keepalive` says the same"))
        for name in job.options:
            if name in OWNED:
                problems.append(Problem(f"options.{name}", f"tornado's {name} has no place here: {OWNED[name]}"))
            elif name not in OPTIONS:
                problems.append(_unknown(name))
        return problems

    def prepare(self, job: Job) -> None:
        """Remember which process this is: a loop that the app makes now is of no use after a fork."""
        self._pid = os.getpid()

    def preload(self, job: Job, interface: str) -> None:
        """The server."""
        __import__("trapeze_backends.tornado_server")
        __import__("trapeze_backends.tornado_wsgi" if interface == "wsgi" else "trapeze_backends.tornado_native")

    def run(self, app: Any, sockets: list[socket.socket], worker: Worker) -> None:
        """Serve until the stop signal, then drain."""
        if worker.job.threads is not None and worker.interface == "tornado":
            raise StartError(f"threads: {THREADS}", hint="leave it out")
        from trapeze_backends.proxied import Trust, trusted_by
        from trapeze_backends.tornado_server import serve

        trust = Trust(trusted_by(worker.job, self))
        serve(app, sockets, worker, trust, is_forked=os.getpid() != self._pid)


def _unknown(name: str) -> Problem:
    from difflib import get_close_matches

    close = get_close_matches(name, sorted(OPTIONS), n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"it knows {', '.join(sorted(OPTIONS))}"
    return Problem(f"options.{name}", "tornado has no such setting", hint)


backend = TornadoBackend
