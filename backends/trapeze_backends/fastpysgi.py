"""fastpysgi, a WSGI server in C, on inherited sockets: it binds for itself, and is given ours in the place of its own.

One request at a time in each worker. It speaks ASGI too, but not well enough (0.6): `raw_path` and the client are
missing, an answer in many pieces ends after the first ones, and it runs at a tenth of the speed.
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

__all__ = ["FastpysgiBackend", "backend"]

BOUND = "the sockets of the service are bound by the supervisor"
ASGI = "it is for ASGI apps, which uvicorn and granian serve"
OWNED = {
    "app": "use the field `app`",
    "bindlist": BOUND,
    "host": BOUND,
    "port": BOUND,
    "backlog": "it belongs to the socket",
    "tcp_nodelay": "it belongs to the socket",
    "workers": "use the field `workers`",
    "num_workers": "use the field `workers`",
    "worker_list": "use the field `workers`",
    "root_path": "use the field `root_path`",
    "hook_sigint": "signals are the worker's",
    "nowait": "it is how it is run here",
    "loglevel": "what it logs is for those who work on fastpysgi",
    "next_req_timeout": "use the field `keepalive`",
    "svc_timer_interval": "it follows from the field `keepalive`",
    "allow_keepalive": "use the field `keepalive`: 0 keeps none",
    "tls_list": "put a proxy in front",
    **dict.fromkeys(["loop", "loop_timeout", "lifespan", "lifespan_fose", "req_hdr_lower", "resp_hdr_lower"], ASGI),
}
"""Settings that belong to the supervisor, or have no meaning here, each with the reason."""

NUMBERS = frozenset(
    [
        *("max_headers_num", "max_content_length", "max_chunk_size", "read_buffer_size", "tcp_keepalive"),
        *("tcp_send_buf_size", "tcp_recv_buf_size", "read_req_timeout", "curr_req_timeout"),
    ]
)
KNOWN = sorted({*NUMBERS, "add_header_date", "add_header_server"})


class FastpysgiBackend(Backend):
    """WSGI, one request at a time."""

    name = "fastpysgi"
    interfaces = frozenset({"wsgi"})
    fields = {"keepalive": "native", "threads": "no: serves one request at a time"}
    lacks = {
        "head_length": "fastpysgi says 0",
        "hostless": "fastpysgi refuses what names no host",
        "expect_continue": "fastpysgi says 100 and then reads no more: have the proxy answer it, as nginx does",
        "latin_headers": "fastpysgi drops what is no UTF-8",
        "repeated_headers": "fastpysgi keeps the last one",
        "encoded_slash": "fastpysgi leaves %2F in PATH_INFO as it is",
        "prompt_pieces": "fastpysgi collects 48 pieces, or the whole answer, before it sends the first",
    }

    def version(self) -> str:
        """Version of fastpysgi."""
        return version_of("fastpysgi")

    def check(self, job: Job) -> list[Problem]:
        """Not installed; options that are the supervisor's or that it does not have."""
        if not is_installed("fastpysgi"):
            return [Problem("backend", f"fastpysgi is not installed in {sys.prefix}", "pip install fastpysgi")]
        return [problem for name, value in job.options.items() for problem in _check_option(name, value)]

    def preload(self, job: Job, interface: str) -> None:
        """The C part, which makes its loop when it serves."""
        __import__("trapeze_backends.fastpysgi_server")

    def run(self, app: Any, sockets: list[socket.socket], worker: Worker) -> None:
        """Serve until the worker is asked to stop, then drain."""
        from trapeze_backends.fastpysgi_server import run

        run(app, sockets, worker)


def _check_option(name: str, value: Any) -> list[Problem]:
    field = f"options.{name}"
    if name in OWNED:
        return [Problem(field, f"fastpysgi's {name} has no place here: {OWNED[name]}")]
    if name in NUMBERS:
        return [] if type(value) is int else [Problem(field, f"expected a number, got {value!r}")]
    if name == "add_header_date":
        return [] if type(value) is bool else [Problem(field, f"expected true or false, got {value!r}")]
    if name == "add_header_server":
        return [] if isinstance(value, str) else [Problem(field, f"expected a text, got {value!r}")]
    from difflib import get_close_matches

    close = get_close_matches(name, KNOWN, n=1)
    return [Problem(field, "fastpysgi has no such setting", f"did you mean {close[0]!r}?" if close else "")]


backend = FastpysgiBackend
