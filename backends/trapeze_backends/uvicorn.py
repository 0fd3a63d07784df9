"""uvicorn's Server on inherited sockets, with a drain that loses no accepted connection.

Stock uvicorn closes, at shutdown, connections that it has accepted and not read a request from yet, and idle kept-alive
ones in the very moment a proxy may be sending the next request into them. Here it goes on serving both for a while,
answers with `Connection: close`, and closes what is idle after `drain_grace`.
"""

from __future__ import annotations

import os
import signal
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

__all__ = ["UvicornBackend", "backend"]

OWNED = {
    "app": "use the field `app`",
    "host": "the sockets of the service are bound by the supervisor",
    "port": "the sockets of the service are bound by the supervisor",
    "uds": "the sockets of the service are bound by the supervisor",
    "fd": "the sockets of the service are bound by the supervisor",
    "backlog": "it belongs to the socket",
    "workers": "use the field `workers`",
    "reload": "use the field `reload`",
    "reload_dirs": "use the field `reload`",
    "reload_delay": "use the field `reload`",
    "reload_includes": "use the field `reload`",
    "reload_excludes": "use the field `reload`",
    "factory": "use the field `factory`",
    "interface": "use the field `interface`",
    "root_path": "use the field `root_path`",
    "env_file": "use the field `env_file`",
    "app_dir": "use the field `app_dir`",
    "timeout_graceful_shutdown": "use the field `stop_timeout`",
    "callback_notify": "it is how a gunicorn master process is told that the worker lives",
    "timeout_notify": "it is how a gunicorn master process is told that the worker lives",
    "timeout_worker_healthcheck": "there is no uvicorn parent process",
}
"""Settings that belong to the supervisor, each with the reason."""

FIELDS = {
    "timeout_keep_alive": "keepalive",
    "access_log": "access_log",
    "proxy_headers": "trusted_proxies",
    "forwarded_allow_ips": "trusted_proxies",
}
"""Settings that are fields with one meaning for every backend; either may be used, not both."""


class UvicornBackend(Backend):
    """ASGI, with uvloop and httptools where they are installed."""

    name = "uvicorn"
    interfaces = frozenset({"asgi"})
    speaks = frozenset({"websocket"})
    fields = {"keepalive": "native", "threads": "no: serves by an event loop, not by threads"}

    def version(self) -> str:
        """Version of uvicorn."""
        loaded = sys.modules.get("uvicorn")
        return str(loaded.__version__) if loaded else version_of("uvicorn")

    def check(self, job: Job) -> list[Problem]:
        """Not installed; threads, of which it has none; options that are the supervisor's or unknown to uvicorn."""
        if not is_installed("uvicorn"):
            return [Problem("backend", f"uvicorn is not installed in {sys.prefix}", "pip install 'uvicorn[standard]'")]
        if job.options.get("http") == "h11":
            self.lacks = {"length_and_chunked": "h11 keeps the connection after a request that has both: use httptools"}
        problems = []
        for setting, field in FIELDS.items():
            if setting in job.options and getattr(job, field) not in (None, False):
                problems.append(Problem(f"options.{setting}", f"set twice: it is the same as the field `{field}`"))
        return problems + _check_names(job.options)

    def prepare(self, job: Job) -> None:
        """Import uvicorn without its command line, which costs as much as the rest of it."""
        with quick_import("importlib.metadata"):
            _import_uvicorn()

    def trusted(self, job: Job) -> list[str] | None:
        """What `proxy_headers` and `forwarded_allow_ips` say, if anybody has set them. A Unix peer always counts."""
        if not job.options.get("proxy_headers", True):
            return []
        said = job.options.get("forwarded_allow_ips", os.environ.get("FORWARDED_ALLOW_IPS"))
        if said is None:
            return None
        entries = said.split(",") if isinstance(said, str) else said
        return [*(str(entry).strip() for entry in entries), "unix"]

    def preload(self, job: Job, interface: str) -> None:
        """The protocols and the loop, by having uvicorn load a configuration that is thrown away."""
        with quick_import("importlib.metadata"):
            __import__("trapeze_backends.uvicorn_server")
            from uvicorn.config import Config

            Config(_nothing, **{**job.options, "log_config": None}).load()
            loop = job.options.get("loop", "auto")
            loop = loop if loop != "auto" else "uvloop" if is_installed("uvloop") else "asyncio"
            if loop in ("uvloop", "asyncio"):
                __import__("uvicorn.loops.auto")
                __import__(f"uvicorn.loops.{loop}")

    def run(self, app: Any, sockets: list[socket.socket], worker: Worker) -> None:
        """Serve until SIGTERM, drain, run the app's lifespan shutdown."""
        try:
            with quick_import("importlib.metadata"):  # websockets imports it, for versions that are not releases
                from trapeze_backends.uvicorn_server import make_server

                server = make_server(app, sockets, worker)
        except (Exception, SystemExit) as error:  # its own errors of import by name have many bases
            raise StartError(f"options: uvicorn does not take them: {type(error).__name__}: {error}") from None
        for number in worker.graceful_signals | worker.fast_signals:
            signal.signal(number, signal.SIG_DFL)
        server.run(sockets=sockets)


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    """Stands in for the app."""


def _check_names(options: dict[str, Any]) -> list[Problem]:
    if not options:
        return []
    import inspect

    _import_uvicorn()
    from uvicorn.config import Config

    known = list(inspect.signature(Config).parameters)
    problems = []
    for name in options:
        if name in OWNED:
            problems.append(Problem(f"options.{name}", f"uvicorn's {name} has no place here: {OWNED[name]}"))
        elif name not in known:
            from difflib import get_close_matches

            close = get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else ""
            problems.append(Problem(f"options.{name}", "uvicorn has no such setting", hint))
    return problems


def _import_uvicorn() -> None:
    """`import uvicorn`, but its command line (click, watchfiles, multiprocessing) only if somebody asks for it.

    The package's `__init__` imports three names from `uvicorn.main`. A stand-in gives it the Server, and two functions
    that import the real module when they are called.
    """
    if "uvicorn" in sys.modules:
        return
    from types import ModuleType

    class Lazy(ModuleType):
        """Stands in for uvicorn.main while uvicorn/__init__.py runs."""

        def __getattr__(self, name: str) -> Any:
            if name == "Server":
                from uvicorn.server import Server

                return Server
            if name.startswith("__"):
                raise AttributeError(name)

            def later(*args: Any, **kwargs: Any) -> Any:
                import importlib

                return getattr(importlib.import_module("uvicorn.main"), name)(*args, **kwargs)

            later.__name__ = name
            return later

    sys.modules["uvicorn.main"] = Lazy("uvicorn.main")
    try:
        __import__("uvicorn")
    finally:
        del sys.modules["uvicorn.main"]


backend = UvicornBackend
