"""gunicorn's worker classes, run directly: the supervisor takes the place of gunicorn's master process (arbiter).

Works with gunicorn 20 and newer. A worker class is given listening sockets and an app, and its `init_process` serves
until SIGTERM; its first `notify()` is what it does once it accepts.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from trapeze_backends.contract import Backend, Problem, StartError
from trapeze_backends.gunicorn_accept import accept_in_turn, accept_when_free
from trapeze_backends.gunicorn_drain import adapt_gevent, adapt_sync, adapt_threads, ending_app
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
from trapeze_backends.unixnames import name_of, naming_app

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from types import FrameType
    from typing import Any

    from trapeze_backends.contract import Job, Listener
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
            modules = ["gunicorn.sock", "gunicorn.arbiter", "gunicorn.http.wsgi", self.config.logger_class.__module__]
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
        config = self.config
        if worker.interface == "asgi" and worker.job.threads is not None:
            raise StartError("threads: gunicorn's asgi workers have no threads", hint="leave it out")
        with quick_import("importlib.metadata", "argparse"):
            worker_class = self._worker_class(worker)
        log = config.logger_class(config)
        adapted = _adapt(worker_class, worker)
        # Held until the end: older gevent workers take the number of the descriptor and not the object that owns it.
        listeners = [_wrap(*pair, config, log) for pair in zip(sockets, worker.job.listeners, strict=False)]
        process = adapted(
            age=worker.job.index + 1,
            ppid=worker.job.parent or os.getppid(),
            sockets=list(listeners),
            app=_App(naming_app(ending_app(app, worker)) if worker.interface == "wsgi" else app, config, log),
            timeout=1.0,  # seconds between looks at the parent, for the classes that have no loop of their own
            cfg=config,
            log=log,
        )
        process.pid = os.getpid()
        arbiter = _Arbiter(config, log, process.ppid, process.app)
        try:
            config.post_fork(arbiter, process)
            process.init_process()
        finally:
            process.tmp.close()
            config.worker_exit(arbiter, process)
            listeners.clear()

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


class _App:
    """What a worker class wants of gunicorn's application object."""

    def __init__(self, app: Any, config: Any, log: Any) -> None:
        self.callable = app
        self.cfg = config
        self.logger = log

    def wsgi(self) -> Any:
        """The app; ASGI ones too."""
        return self.callable


class _Arbiter:
    """Stands in for the master process in the hooks of a conf.py that get one."""

    def __init__(self, config: Any, log: Any, pid: int, app: Any) -> None:
        self.cfg = config
        self.log = log
        self.pid = pid
        self.app = app
        self.num_workers = config.workers


def _wrap(sock: socket.socket, listener: Listener, config: Any, log: Any) -> Any:
    """The kind of object that gunicorn's workers expect; it duplicates the descriptor and closes what it is given."""
    import gunicorn.sock

    name = sock.getsockname()
    if isinstance(name, str | bytes):
        name = name_of(listener)  # what its log calls it
    wrapped = gunicorn.sock._sock_type(name)(name, config, log, fd=sock.detach())
    os.set_inheritable(wrapped.fileno(), False)
    return wrapped


def _adapt(base: type[Any], worker: Worker) -> type[Any]:
    """Return a worker class that reports to us instead of to an arbiter."""
    adapted = type("Adapted", (_Reporting, base), {"worker": worker})
    if base.__name__ == "ThreadWorker":
        module = sys.modules[base.__module__]
        if hasattr(module, "STOP_KEEPALIVE_LINGER"):
            module.STOP_KEEPALIVE_LINGER = worker.job.drain_grace  # type: ignore[attr-defined]
        if not hasattr(base, "set_accept_enabled"):
            return _drain_old_threads(adapted, worker)
        modest = accept_when_free(accept_in_turn(_free_the_address(adapted, worker), worker))
        return adapt_threads(modest, worker)
    if base.__name__ == "SyncWorker":
        return adapt_sync(adapted, worker)
    if base.__name__ == "GeventWorker":
        return adapt_gevent(adapted, worker)
    if base.__name__ == "ASGIWorker":
        from trapeze_backends.gunicorn_asgi import adapt_asgi

        return adapt_asgi(adapted, worker)
    return adapted


LOOK_AGAIN = 0.25
"""Seconds between two beats, and two looks at whether the supervisor still lives; its death is also a signal."""


class _Reporting:
    """Goes before a worker class of gunicorn; the attributes that are used here and not made here are that class's."""

    worker: Worker
    cfg: Any
    sockets: list[Any]
    ppid: int
    alive: bool
    nr: int
    _look_again = 0.0

    def init_signals(self) -> None:
        """Theirs, then ours: they reset all signals they know of."""
        super().init_signals()  # type: ignore[misc]
        loop = getattr(self, "loop", None)  # the asgi class
        for number in self.worker.graceful_signals:
            if loop is not None:
                loop.add_signal_handler(number, self._graceful_in_loop)
            else:
                signal.signal(number, self.handle_exit)
        for number in self.worker.fast_signals:
            if loop is not None:
                loop.remove_signal_handler(number)
            signal.signal(number, self.handle_quit)

    def _graceful_in_loop(self) -> None:
        """The stop signal, in the asgi class; `gunicorn_asgi` has more to say about it."""
        self.worker.stop()
        self.handle_exit_signal()  # type: ignore[attr-defined]

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The stop signal."""
        self.worker.stop()
        self.cfg.set("graceful_timeout", max(int(self.worker.job.patience), 1))  # some may have passed already
        super().handle_exit(sig, frame)  # type: ignore[misc]

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """A fast stop. gunicorn's own raises SystemExit, and the interpreter then waits for the threads of the pool."""
        self.alive = False
        self.cfg.worker_int(self)
        self.worker.leave_now()

    def notify(self) -> None:
        """Called by every class about once a second, for the first time when it accepts."""
        if not self.worker.is_ready:
            self.worker.restore_backlog(self.sockets)
            self.worker.ready()
        # gthread calls this at each event. Theirs touches a file for the arbiter, that is once a request for nobody.
        now = time.monotonic()
        if now < self._look_again:
            return
        self._look_again = now + LOOK_AGAIN
        self.worker.beat(self.nr)
        if self.worker.is_orphan:
            # Their own answer to this differs by class, down to an exit in the middle of requests: drain instead.
            self.worker.stop()
            self.alive = False
            self.ppid = os.getppid()


def _free_the_address(base: type[Any], worker: Worker) -> type[Any]:
    """gthread keeps its listeners open until the last request is answered.

    When the supervisor was killed, the next one must be able to bind: then close them as soon as it no longer accepts.
    """

    class Freeing(base):
        """Closes early."""

        def set_accept_enabled(self, enabled: bool) -> None:
            super().set_accept_enabled(enabled)
            if not enabled and worker.stopping and worker.is_orphan:
                for sock in self.sockets:
                    sock.close()
                self.sockets: list[Any] = []

    return Freeing


def _drain_old_threads(base: type[Any], worker: Worker) -> type[Any]:
    """gthread before gunicorn 24 drops, at SIGTERM, connections it has accepted and not read yet: read them first.

    `alive` has two readers: what keeps connections, which must go on for a while, and the requests in the threads of
    the pool, whose answers must say `Connection: close` from the first moment on.
    """
    import threading

    main = threading.get_ident()
    thread = threading.local()

    class Draining(base):
        """Goes on reading what it has accepted, for `drain_grace` seconds at most."""

        _loop_alive = True
        _leave_at: float | None = None

        @property
        def alive(self) -> bool:
            keeping = threading.get_ident() == main or getattr(thread, "finishes", False)
            return self._loop_alive and (keeping or not worker.stopping)

        @alive.setter
        def alive(self, value: bool) -> None:
            self._loop_alive = value

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            worker.stop()

        def finish_request(self, *args: Any) -> None:
            """In a thread of the pool: an answer that promised to keep the connection is kept to."""
            thread.finishes = True
            try:
                super().finish_request(*args)
            finally:
                thread.finishes = False

        def notify(self) -> None:
            super().notify()
            if not worker.stopping:
                return
            if self._leave_at is None:
                self._leave_at = time.monotonic() + worker.job.drain_grace
                for sock in self.sockets:
                    self.poller.unregister(sock)
            if self.nr_conns <= 0 or time.monotonic() >= self._leave_at:
                self.alive = False

    return Draining


backend = GunicornBackend
