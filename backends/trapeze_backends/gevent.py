"""gevent's WSGI server (gevent.pywsgi) on inherited sockets: green threads, on a standard library that is patched for
them before the app is imported. WebSockets by gevent-websocket, where they are asked for."""

from __future__ import annotations

import sys

from trapeze_backends.contract import Backend, Problem
from trapeze_backends.installed import is_installed, version_of
from trapeze_backends.optioncheck import BOUND, check_kinds, check_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

    from trapeze_backends.contract import Job
    from trapeze_backends.worker import Worker

__all__ = ["GeventBackend", "backend"]

KINDS = {"spawn": int, "environ": dict, "websocket": bool}
"""Settings, and of what kind they are. `websocket` is ours: the handler class of gevent-websocket."""

_PROXY = "a proxy in front speaks TLS"

OWNED = {
    "listener": BOUND,
    "application": "use the field `app`",
    "backlog": "it belongs to the socket",
    "log": "use the field `access_log`",
    "error_log": "errors go to stderr",
    "handler_class": "only `websocket` chooses it",
    "max_accept": "one at a time leaves the rest to the siblings",
    "stop_timeout": "use the field `stop_timeout`",
    "certfile": _PROXY,
    "keyfile": _PROXY,
    "ssl_context": _PROXY,
}
"""Settings that belong to the supervisor, each with the reason."""

LATER = ("gevent.resolver.thread", "encodings.idna")
"""What gevent imports late."""


class GeventBackend(Backend):
    """WSGI, a green thread for each connection."""

    name = "gevent"
    interfaces = frozenset({"wsgi"})
    fields = {"threads": "no: has no threads, it serves by green ones", "keepalive": "trapeze"}

    def version(self) -> str:
        """Version of gevent."""
        return version_of("gevent")

    def check(self, job: Job) -> list[Problem]:
        """Not installed; options that are the supervisor's, or that gevent does not know."""
        if not is_installed("gevent"):
            return [Problem("backend", f"gevent is not installed in {sys.prefix}", "pip install gevent")]
        title = self.title or self.name
        problems = check_names(title, job.options, KINDS, OWNED) + check_kinds(job.options, KINDS)
        if job.options.get("spawn") == 0:
            problems.append(Problem("options.spawn", "0 green threads serve nobody", "leave it out for no limit"))
        if job.options.get("websocket"):
            self.speaks = frozenset({"websocket"})
            if not is_installed("geventwebsocket"):
                reason = f"gevent-websocket is not installed in {sys.prefix}"
                problems.append(Problem("options.websocket", reason, "pip install gevent-websocket"))
        return problems

    def prepare(self, job: Job) -> None:
        """Patch the standard library."""
        from gevent import monkey

        monkey.patch_all()

    def preload(self, job: Job, interface: str) -> None:
        """The server, and what it imports when it runs."""
        websocket = ("trapeze_backends.gevent_websocket",) if job.options.get("websocket") else ()
        for module in ("trapeze_backends.gevent_server", *websocket, *LATER):
            __import__(module)

    def run(self, app: Any, sockets: list[socket.socket], worker: Worker) -> None:
        """Serve until the worker is asked to stop, then drain."""
        from trapeze_backends.gevent_server import run

        run(app, sockets, worker)


backend = GeventBackend
