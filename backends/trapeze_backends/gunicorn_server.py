"""A worker of gunicorn's, from its class to its end: it reports to us instead of to an arbiter.

Apart from `gunicorn`, which is all that a check needs: a start waits for its check.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from trapeze_backends.gunicorn_accept import accept_in_turn, accept_when_free
from trapeze_backends.gunicorn_drain import adapt_gevent, adapt_sync, adapt_threads, ending_app
from trapeze_backends.unixnames import name_of, naming_app

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from types import FrameType
    from typing import Any

    from trapeze_backends.contract import Listener
    from trapeze_backends.worker import Worker

__all__ = ["run"]


def run(worker_class: type[Any], config: Any, app: Any, sockets: list[socket.socket], worker: Worker) -> None:
    """Serve until the worker class returns.

    Args:
        worker_class: one of gunicorn's, or of somebody else's for gunicorn.
        config: gunicorn's own Config.
        app: what the worker class serves.
        sockets: the listening sockets; the worker class gets their descriptors.
        worker: who reports to the supervisor.
    """
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
