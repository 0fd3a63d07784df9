"""bjoern on inherited sockets: WSGI by a loop in C, one request at a time."""

from __future__ import annotations

import sys

from trapeze_backends.contract import Backend, Problem
from trapeze_backends.installed import is_installed, version_of
from trapeze_backends.optioncheck import check_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

    from trapeze_backends.contract import Job
    from trapeze_backends.worker import Worker

__all__ = ["BjoernBackend", "backend"]


_PROXY = "put a proxy in front that refuses it, as nginx does"

LACKS = {
    "half_request": "bjoern refuses a head that comes in two pieces",
    "pipelining": "bjoern mixes up the answers of requests that come at once",
    "client_address": "bjoern knows IPv4 addresses only",
    "repeated_headers": "bjoern joins them without a comma",
    "length_and_chunked": "it keeps the connection after a request that has both: put a proxy in front",
    "two_lengths": f"it takes one of them: {_PROXY}",
    "space_before_colon": f"its parser strips the name: {_PROXY}",
}


class BjoernBackend(Backend):
    """WSGI; each worker serves one request at a time, and has a process for each of its sockets."""

    name = "bjoern"
    interfaces = frozenset({"wsgi"})
    fields = {"threads": "no: has no threads", "keepalive": "no: has no such setting"}
    lacks = LACKS

    def version(self) -> str:
        """Version of bjoern."""
        return version_of("bjoern")

    def check(self, job: Job) -> list[Problem]:
        """Not installed; any option."""
        if not is_installed("bjoern"):
            return [Problem("backend", f"bjoern is not installed in {sys.prefix}", "pip install bjoern")]
        return check_names(self.title or self.name, job.options, (), {})

    def preload(self, job: Job, interface: str) -> None:
        """The server."""
        __import__("trapeze_backends.bjoern_server")

    def run(self, app: Any, sockets: list[socket.socket], worker: Worker) -> None:
        """Serve until the worker is asked to stop, then drain."""
        from trapeze_backends.bjoern_server import run

        run(app, sockets, worker)


backend = BjoernBackend
