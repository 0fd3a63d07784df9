"""daphne on inherited sockets, with the lifespan that it does not run and a drain that it does not have.

Stock daphne kills what is in flight when it is told to stop, makes a Unix socket writable for everybody and unlinks it,
tells of an error in the app up to a second later, and lets any client say what `root_path` is.
"""

from __future__ import annotations

import os
import sys

from trapeze_backends.contract import Backend, Problem
from trapeze_backends.installed import is_installed, version_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

    from trapeze_backends.contract import Job
    from trapeze_backends.worker import Worker

__all__ = ["DaphneBackend", "backend"]

OWNED = {
    "application": "use the field `app`",
    "endpoints": "the sockets of the service are bound by the supervisor",
    "signal_handlers": "the worker does that",
    "ready_callable": "the worker does that",
    "action_logger": "use the field `access_log`",
    "root_path": "use the field `root_path`",
    "proxy_forwarded_address_header": "use the field `trusted_proxies`",
    "proxy_forwarded_port_header": "use the field `trusted_proxies`",
    "proxy_forwarded_proto_header": "use the field `trusted_proxies`",
}
"""Arguments of daphne's Server that belong to the supervisor, each with the reason."""

OPTIONS = frozenset(
    (
        "application_close_timeout",
        "http_timeout",
        "ping_interval",
        "ping_timeout",
        "request_buffer_size",
        "server_name",
        "verbosity",
        "websocket_connect_timeout",
        "websocket_handshake_timeout",
        "websocket_max_frame_size",
        "websocket_max_message_size",
        "websocket_timeout",
    )
)


class DaphneBackend(Backend):
    """ASGI, on Twisted's reactor for asyncio."""

    name = "daphne"
    interfaces = frozenset({"asgi"})
    speaks = frozenset({"websocket"})
    fields = {"keepalive": "native", "threads": "no: serves by an event loop, not by threads"}

    def __init__(self) -> None:
        self._pid = 0

    def version(self) -> str:
        """Version of daphne."""
        return version_of("daphne")

    def check(self, job: Job) -> list[Problem]:
        """Not installed; options that are the supervisor's or unknown to daphne."""
        if not is_installed("daphne"):
            return [Problem("backend", f"daphne is not installed in {sys.prefix}", "pip install daphne")]
        problems = []
        for name in job.options:
            if name in OWNED:
                problems.append(Problem(f"options.{name}", f"daphne's {name} has no place here: {OWNED[name]}"))
            elif name not in OPTIONS:
                problems.append(_unknown(name))
        return problems

    def prepare(self, job: Job) -> None:
        """Have Twisted take the reactor that daphne needs, before the app has it take another.

        Not in a zygote: the reactor brings an event loop, which must not be shared by the workers that are forked.
        """
        self._pid = os.getpid()
        if job.mode == "serve":
            __import__("daphne.server")

    def preload(self, job: Job, interface: str) -> None:
        """What of daphne and Twisted takes no reactor."""
        for module in ("daphne.http_protocol", "daphne.ws_protocol", "twisted.internet.tcp", "twisted.internet.unix"):
            __import__(module)
        __import__("trapeze_backends.exchanges")
        __import__("trapeze_backends.lifespan")

    def run(self, app: Any, sockets: list[socket.socket], worker: Worker) -> None:
        """Serve until the stop signal, drain, run the app's lifespan shutdown."""
        is_shared = "daphne.server" in sys.modules and os.getpid() != self._pid
        from trapeze_backends.daphne_server import serve

        serve(app, sockets, worker, is_shared=is_shared)


def _unknown(name: str) -> Problem:
    from difflib import get_close_matches

    close = get_close_matches(name, sorted(OPTIONS), n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"it knows {', '.join(sorted(OPTIONS))}"
    return Problem(f"options.{name}", "daphne has no such setting", hint)


backend = DaphneBackend
