"""hypercorn's protocols on inherited sockets, with a drain that loses nothing.

Stock hypercorn closes idle connections the moment it is told to stop, promises on answers that the connection is kept
and closes it then, and resets new HTTP/2 streams. Its wrapper for WSGI apps makes a 500 of an answer without a body.
"""

from __future__ import annotations

import sys

from trapeze_backends.contract import Backend, Problem, StartError
from trapeze_backends.installed import is_installed, version_of
from trapeze_backends.quick import quick_import

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

    from trapeze_backends.contract import Job
    from trapeze_backends.worker import Worker

__all__ = ["HypercornBackend", "backend"]

BOUND = "the sockets of the service are bound by the supervisor"
OWNED = {
    "bind": BOUND,
    "insecure_bind": BOUND,
    "quic_bind": f"{BOUND}, and carry no QUIC",
    "backlog": "it belongs to the socket",
    "application_path": "use the field `app`",
    "workers": "use the field `workers`",
    "use_reloader": "use the field `reload`",
    "daemon": "workers are never daemons",
    "pid_path": "the supervisor knows its workers",
    "user": "use the field `user`",
    "group": "use the field `group`",
    "umask": "it belongs to the socket",
    "accesslog": "use the field `access_log`",
    "access_log_format": "use the field `access_log`: there is one format",
    "root_path": "use the field `root_path`",
    "graceful_timeout": "use the field `stop_timeout`",
    "shutdown_timeout": "use the field `stop_timeout`",
    "startup_timeout": "use the field `start_timeout`",
    "max_requests": "use the field `max_requests`",
    "max_requests_jitter": "use the field `max_requests_jitter`",
    "debug": "set PYTHONASYNCIODEBUG in the field `env`",
}
"""Settings that belong to the supervisor, each with the reason."""

CLASSES = ("asyncio", "uvloop")
"""What `options.worker_class` may be."""

MODULES = (
    "hypercorn.asyncio.tcp_server",
    "hypercorn.protocol",
    "asyncio.taskgroups" if sys.version_info >= (3, 11) else "taskgroup",
    "trapeze_backends.hypercorn_server",
)


class HypercornBackend(Backend):
    """ASGI and WSGI, by HTTP/1.1 and HTTP/2 (without TLS: by prior knowledge, or an upgrade to h2c)."""

    name = "hypercorn"
    interfaces = frozenset({"asgi", "wsgi"})
    speaks = frozenset({"http2", "websocket"})
    fields = {"keepalive": "native", "threads": "trapeze"}
    lacks = {"length_and_chunked": "h11 keeps the connection after a request that has both: put a proxy in front"}

    def version(self) -> str:
        """Version of hypercorn."""
        return version_of("hypercorn")

    def check(self, job: Job) -> list[Problem]:
        """Not installed; options that are the supervisor's or unknown to hypercorn; threads for an ASGI app."""
        if not is_installed("hypercorn"):
            return [Problem("backend", f"hypercorn is not installed in {sys.prefix}", "pip install hypercorn")]
        problems = []
        if job.threads is not None and job.interface == "asgi":
            problems.append(Problem("threads", ASGI_THREADS, "leave it out"))
        if "keep_alive_timeout" in job.options and job.keepalive is not None:
            problems.append(Problem("options.keep_alive_timeout", "set twice: it is the same as the field `keepalive`"))
        return problems + _check_options(job.options)

    def preload(self, job: Job, interface: str) -> None:
        """The protocols, and the loop."""
        with quick_import():
            for module in MODULES:
                __import__(module)
            if interface == "wsgi":
                __import__("trapeze_backends.hypercorn_wsgi")
            if loop_of(job) == "uvloop":
                __import__("uvloop")

    def run(self, app: Any, sockets: list[socket.socket], worker: Worker) -> None:
        """Serve until the stop signal, drain, run the app's lifespan shutdown."""
        if worker.job.threads is not None and worker.interface == "asgi":
            raise StartError(f"threads: {ASGI_THREADS}", hint="leave it out")
        with quick_import():
            from trapeze_backends.hypercorn_server import make_config, serve

        try:
            config = make_config(worker.job)
        except Exception as error:
            raise StartError(f"options: hypercorn does not take them: {type(error).__name__}: {error}") from None
        serve(app, sockets, worker, config, uvloop=loop_of(worker.job) == "uvloop")


ASGI_THREADS = "hypercorn serves ASGI apps by an event loop, not by threads"


def loop_of(job: Job) -> str:
    """Return which loop it is: "asyncio" or "uvloop"."""
    said = job.options.get("worker_class")
    return str(said) if said else "uvloop" if is_installed("uvloop") else "asyncio"


def _check_options(options: dict[str, Any]) -> list[Problem]:
    if not options:
        return []
    from hypercorn.config import Config

    known = {name for name in dir(Config) if not name.startswith("_") and not callable(getattr(Config, name))}
    known = (known | {"cert_reqs", "logger_class"}) - {"log", "ssl_enabled"}
    problems = []
    for name, value in options.items():
        if name in OWNED:
            problems.append(Problem(f"options.{name}", f"hypercorn's {name} has no place here: {OWNED[name]}"))
        elif name not in known:
            from difflib import get_close_matches

            close = get_close_matches(name, sorted(known - OWNED.keys()), n=1)
            hint = f"did you mean {close[0]!r}?" if close else ""
            problems.append(Problem(f"options.{name}", "hypercorn has no such setting", hint))
        elif name == "worker_class" and value not in CLASSES:
            reason = f"expected one of {', '.join(CLASSES)}, got {value!r}"
            problems.append(Problem("options.worker_class", reason))
        elif name == "worker_class" and not is_installed(value):
            problems.append(Problem("options.worker_class", f"{value} is not installed", f"pip install {value}"))
    return problems


backend = HypercornBackend
