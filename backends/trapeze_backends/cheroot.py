"""cheroot on inherited sockets: WSGI by a pool of threads (CherryPy's server)."""

from __future__ import annotations

import sys

from trapeze_backends.contract import Backend, Problem
from trapeze_backends.installed import is_installed, version_of
from trapeze_backends.optioncheck import BOUND, check_kinds, check_names, check_twice

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

    from trapeze_backends.contract import Job
    from trapeze_backends.worker import Worker

__all__ = ["CherootBackend", "backend"]

KINDS = {
    "numthreads": int,
    "server_name": str,
    "timeout": float,
    "max_request_header_size": int,
    "max_request_body_size": int,
    "keep_alive_conn_limit": int,
    "peercreds_enabled": bool,
    "peercreds_resolve_enabled": bool,
}
"""Settings of its server, and of what kind they are."""

_NO_QUEUE = "what no thread can serve at once is left in the queue of the socket"

OWNED = {
    "bind_addr": BOUND,
    "wsgi_app": "use the field `app`",
    "reuse_port": BOUND,
    "nodelay": BOUND,
    "request_queue_size": "it belongs to the socket",
    "shutdown_timeout": "use the field `stop_timeout`",
    "max": "cheroot itself never starts more threads than numthreads",
    "accepted_queue_size": _NO_QUEUE,
    "accepted_queue_timeout": _NO_QUEUE,
    "expiration_interval": "idle connections are closed in time",
    "ssl_adapter": "a proxy in front speaks TLS",
}
"""Settings that belong to the supervisor, each with the reason."""

FIELDS = {"numthreads": "threads"}
"""Settings that are fields with one meaning for every backend; either may be used, not both."""


class CherootBackend(Backend):
    """WSGI, by 10 threads unless another number is asked for."""

    name = "cheroot"
    interfaces = frozenset({"wsgi"})
    fields = {"threads": "native", "keepalive": "native"}

    def version(self) -> str:
        """Version of cheroot."""
        return version_of("cheroot")

    def check(self, job: Job) -> list[Problem]:
        """Not installed; options that are the supervisor's, or that cheroot does not know."""
        if not is_installed("cheroot"):
            return [Problem("backend", f"cheroot is not installed in {sys.prefix}", "pip install cheroot")]
        options = job.options
        problems = check_names("cheroot", options, KINDS, OWNED)
        problems += check_kinds(options, KINDS) + check_twice(options, job, FIELDS)
        if options.get("numthreads") == 0:
            problems.append(Problem("options.numthreads", "0 threads serve nobody", "leave it out for 10"))
        return problems

    def preload(self, job: Job, interface: str) -> None:
        """cheroot."""
        __import__("trapeze_backends.cheroot_server")

    def run(self, app: Any, sockets: list[socket.socket], worker: Worker) -> None:
        """Serve until the worker is asked to stop, then drain."""
        from trapeze_backends.cheroot_server import run

        run(app, sockets, worker)


backend = CherootBackend
