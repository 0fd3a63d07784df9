"""aiohttp's own server for aiohttp's own apps, on inherited sockets.

aiohttp closes idle connections the moment it is told to stop, and says on no answer that the connection will close.
"""

from __future__ import annotations

import sys

from trapeze_backends.contract import Backend, Problem
from trapeze_backends.installed import is_installed, version_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

    from trapeze_backends.contract import Job
    from trapeze_backends.worker import Worker

__all__ = ["AiohttpBackend", "backend"]

BOUND = "the sockets of the service are bound by the supervisor"
OWNED = {
    "host": BOUND,
    "port": BOUND,
    "path": BOUND,
    "sock": BOUND,
    "reuse_address": BOUND,
    "reuse_port": BOUND,
    "backlog": "it belongs to the socket",
    "ssl_context": "it is no value of a file; have the proxy end TLS",
    "handle_signals": "the worker does that",
    "shutdown_timeout": "use the field `stop_timeout`",
    "access_log": "use the field `access_log`",
    "access_log_class": "use the field `access_log`",
    "access_log_format": "use the field `access_log`: there is one format",
    "debug": "set PYTHONASYNCIODEBUG in the field `env`",
}
"""Arguments of `web.run_app` that belong to the supervisor, each with the reason."""

OPTIONS = frozenset(
    (
        "auto_decompress",
        "handler_cancellation",
        "keepalive_timeout",
        "lingering_time",
        "loop",
        "max_field_size",
        "max_headers",
        "max_line_size",
        "read_bufsize",
        "tcp_keepalive",
        "timeout_ceil_threshold",
    )
)
LOOPS = ("auto", "asyncio", "uvloop")


class AiohttpBackend(Backend):
    """`aiohttp.web.Application`, on uvloop where it is installed."""

    name = "aiohttp"
    interfaces = frozenset({"aiohttp"})
    speaks = frozenset({"websocket"})
    fields = {"keepalive": "native", "threads": "no: serves by an event loop, not by threads", "root_path": "native"}

    def version(self) -> str:
        """Version of aiohttp."""
        loaded = sys.modules.get("aiohttp")
        return str(loaded.__version__) if loaded else version_of("aiohttp")

    def check(self, job: Job) -> list[Problem]:
        """Not installed; options that are the supervisor's or unknown to aiohttp."""
        if not is_installed("aiohttp"):
            return [Problem("backend", f"aiohttp is not installed in {sys.prefix}", "pip install aiohttp")]
        problems = []
        if "keepalive_timeout" in job.options and job.keepalive is not None:
            problems.append(Problem("options.keepalive_timeout", "set twice: it is the same as the field `keepalive`"))
        for name, value in job.options.items():
            if name in OWNED:
                problems.append(Problem(f"options.{name}", f"aiohttp's {name} has no place here: {OWNED[name]}"))
            elif name not in OPTIONS:
                problems.append(_unknown(name))
            elif name == "loop" and value not in LOOPS:
                problems.append(Problem("options.loop", f"expected one of {', '.join(LOOPS)}, got {value!r}"))
            elif name == "loop" and value == "uvloop" and not is_installed("uvloop"):
                problems.append(Problem("options.loop", "uvloop is not installed", "pip install uvloop"))
        return problems

    def preload(self, job: Job, interface: str) -> None:
        """The server, and the loop."""
        __import__("trapeze_backends.aiohttp_server")
        if uses_uvloop(job):
            __import__("uvloop")

    def run(self, app: Any, sockets: list[socket.socket], worker: Worker) -> None:
        """Serve until the stop signal, drain, have the app clean up."""
        from trapeze_backends.aiohttp_server import serve
        from trapeze_backends.proxied import Trust, trusted_by

        serve(app, sockets, worker, Trust(trusted_by(worker.job, self)), uvloop=uses_uvloop(worker.job))


def uses_uvloop(job: Job) -> bool:
    """Is the loop to be uvloop's?"""
    said = job.options.get("loop", "auto")
    return said == "uvloop" or (said == "auto" and is_installed("uvloop"))


def _unknown(name: str) -> Problem:
    from difflib import get_close_matches

    close = get_close_matches(name, sorted(OPTIONS), n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"it knows {', '.join(sorted(OPTIONS))}"
    return Problem(f"options.{name}", "aiohttp has no such setting", hint)


backend = AiohttpBackend
