"""gunicorn's worker classes, run directly: the supervisor takes the place of gunicorn's master process (arbiter).

Works with gunicorn 20 and newer. A worker class is given listening sockets and an app, and its `init_process` serves
until SIGTERM; its first `notify()` is what it does once it accepts.
"""

from __future__ import annotations

import sys

from trapeze_backends.contract import Backend, Problem, StartError
from trapeze_backends.gunicorn_settings import (
    GREEN,
    check_options,
    interface_of,
    last_line,
    make_config,
    what_it_lacks,
)
from trapeze_backends.installed import is_installed, version_of
from trapeze_backends.quick import quick_import

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

    from trapeze_backends.contract import Job
    from trapeze_backends.worker import Worker

__all__ = ["GunicornBackend", "backend"]


class GunicornBackend(Backend):
    """WSGI by gthread unless another class is asked for; ASGI by gunicorn's own asgi class."""

    name = "gunicorn"
    interfaces = frozenset({"wsgi", "asgi"})
    speaks = frozenset({"websocket"})
    fields = {"threads": "native", "keepalive": "native"}

    def __init__(self) -> None:
        self.config: Any = None

    def version(self) -> str:
        """Version of gunicorn."""
        loaded = sys.modules.get("gunicorn")
        return str(loaded.__version__) if loaded else version_of("gunicorn")

    def check(self, job: Job) -> list[Problem]:
        """Not installed; options that are the supervisor's, or that this gunicorn does not know."""
        if not is_installed("gunicorn"):
            return [Problem("backend", f"gunicorn is not installed in {sys.prefix}", "pip install gunicorn")]
        return check_options(job)

    def prepare(self, job: Job) -> None:
        """Read the configuration; patch if the worker class is one of green threads."""
        with quick_import("importlib.metadata", "argparse"):
            self.config = make_config(job)
        green = GREEN.get(self.config.settings["worker_class"].get())
        if green == "gevent":
            from gevent import monkey

            monkey.patch_all()
        elif green == "eventlet":
            from trapeze_backends.green import patch_eventlet

            patch_eventlet()

    def trusted(self, job: Job) -> list[str] | None:
        """What `forwarded_allow_ips` says, if anybody has set it."""
        return self.config.trapeze_trusts  # type: ignore[no-any-return]

    def preload(self, job: Job, interface: str) -> None:
        """The worker class and what it imports when it starts."""
        from types import SimpleNamespace

        wanted: Any = SimpleNamespace(job=job, interface=interface)
        with quick_import("importlib.metadata", "argparse"):
            worker_class = self._worker_class(wanted)
            modules = [
                "trapeze_backends.gunicorn_server",
                "gunicorn.sock",
                "gunicorn.arbiter",
                "gunicorn.http.wsgi",
                self.config.logger_class.__module__,
            ]
            if worker_class.__name__ == "ThreadWorker":
                modules.append("concurrent.futures.thread")
            elif worker_class.__name__ == "ASGIWorker":
                modules += ["gunicorn.asgi.lifespan", "gunicorn.instrument.statsd", "trapeze_backends.gunicorn_asgi"]
                if self.config.asgi_loop in ("auto", "uvloop") and is_installed("uvloop"):
                    modules.append("uvloop")
            for module in modules:
                __import__(module)
        import tempfile

        tempfile.gettempdir()  # it tries by writing a file, and remembers: each worker makes a temporary file

    def run(self, app: Any, sockets: list[socket.socket], worker: Worker) -> None:
        """Serve until the worker class returns."""
        from trapeze_backends.gunicorn_server import run

        if worker.interface == "asgi" and worker.job.threads is not None:
            raise StartError("threads: gunicorn's asgi workers have no threads", hint="leave it out")
        with quick_import("importlib.metadata", "argparse"):
            worker_class = self._worker_class(worker)
        run(worker_class, self.config, app, sockets, worker)

    def _worker_class(self, worker: Worker) -> type[Any]:
        config = self.config
        name = config.settings["worker_class"].get()
        if worker.interface == "asgi" and name == "gthread" and "worker_class" not in worker.job.options:
            name = "asgi"
            config.set("worker_class", name)
        speaks = interface_of(name)
        if speaks is not None and speaks != worker.interface:
            better = 'backend = "uvicorn"' if worker.interface == "asgi" else 'worker_class = "gthread"'
            is_one = f"{worker.job.app} is {worker.interface.upper()}"
            raise StartError(f"gunicorn's {name} workers serve {speaks.upper()} apps, {is_one}", hint=f"use {better}")
        try:
            return config.worker_class  # type: ignore[no-any-return]
        except Exception as error:  # RuntimeError of its own, ImportError, whatever a plugin raises
            hint = (what_it_lacks(name) or ("", ""))[1] if isinstance(name, str) else ""
            if name == "asgi":
                hint = f'gunicorn {self.version()} has no asgi workers: backend = "uvicorn", or a newer gunicorn'
            reason = f"gunicorn cannot load the worker class {name!r}: {last_line(error)}"
            raise StartError(reason, hint=hint) from None


backend = GunicornBackend
