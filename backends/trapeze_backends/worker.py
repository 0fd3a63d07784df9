"""The worker as a backend sees it: when to stop, and how to say that it is ready."""

from __future__ import annotations

import os
import signal
import stat
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

    from trapeze_backends.contract import Job
    from trapeze_backends.notify import Notifier

__all__ = ["Worker"]

GRACEFUL = "graceful"
FAST = "fast"


class Worker:
    """One process that serves an app.

    Attributes:
        job: what was asked for.
        interface: "wsgi" or "asgi", as it was found or said.
        stopping: it was asked to leave: accept no more, finish what was accepted, return from `run`.
    """

    def __init__(self, job: Job, notifier: Notifier, *, interface: str, backend: str, version: str) -> None:
        self.job = job
        self.interface = interface
        self.backend = backend
        self.version = version
        self.stopping = False
        self.is_ready = False
        self._notifier = notifier
        self._sockets: list[socket.socket] = []

    @property
    def graceful_signals(self) -> frozenset[int]:
        """Signals that ask for a drain: SIGTERM, and the service's stop signal if it is another."""
        return frozenset({signal.SIGTERM, self.job.stop_signal})

    @property
    def fast_signals(self) -> frozenset[int]:
        """Signals that ask to leave at once."""
        return frozenset({signal.SIGINT, signal.SIGQUIT}) - self.graceful_signals

    def holds(self, sockets: list[socket.socket]) -> None:
        """Called by the child: the sockets whose backlog `ready` sets again."""
        self._sockets = sockets

    def catch_signals(self, wake: Callable[[], object] | None = None) -> None:
        """Install the handlers: a graceful signal sets `stopping` and calls `wake`, a fast one ends the process.

        `wake` runs inside a signal handler on the main thread: let it set an event or write to a pipe, no more.
        """

        def graceful(signum: int, frame: FrameType | None) -> None:
            self.stop()
            if wake is not None:
                wake()

        for number in self.graceful_signals:
            signal.signal(number, graceful)
        for number in self.fast_signals:
            signal.signal(number, lambda signum, frame: self.leave_now())

    def wake_fd(self) -> int:
        """Install the handlers, and return a descriptor that becomes readable when a signal has come.

        For loops that sleep in poll(): the kernel may deliver a signal to any thread, and then only this wakes the main
        one, on which Python runs the handlers.
        """
        read, write = os.pipe()
        os.set_blocking(read, False)
        os.set_blocking(write, False)
        self.catch_signals()
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        return read

    def stop(self) -> None:
        """Note that this worker was asked to leave; backends with signal handling of their own call it from there."""
        if not self.stopping:
            self.stopping = True
            self._notifier.send(STOPPING="1")
        if self.is_orphan:
            _silence()

    @property
    def is_orphan(self) -> bool:
        """The supervisor is gone."""
        return bool(self.job.parent) and os.getppid() != self.job.parent

    def leave_now(self) -> None:
        """End the process with 0, without waiting for requests or threads."""
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):
                continue
        os._exit(0)

    def ready(self) -> None:
        """Say that connections are accepted from now on; only the first call says it."""
        if self.is_ready:
            return
        self.is_ready = True
        self.restore_backlog(self._sockets)
        self._notifier.ready(interface=self.interface, backend=self.backend, version=self.version)

    def restore_backlog(self, sockets: list[Any]) -> None:
        """Set the backlog again: it is shared, and servers call listen() with numbers of their own."""
        for sock, listener in zip(sockets, self.job.listeners, strict=False):
            if sock.fileno() >= 0:
                sock.listen(listener.backlog)

    def beat(self) -> None:
        """Say that the main loop goes round. Nothing is sent: no one listens for beats yet."""

    def status(self, text: str) -> None:
        """Say in words what this worker does; `trapeze status` shows it."""
        self._notifier.send(STATUS=" ".join(text.split()))


def _silence() -> None:
    """Point stdout and stderr at /dev/null where the supervisor read them: writing would raise now."""
    null = os.open(os.devnull, os.O_WRONLY)
    for fd in (1, 2):
        try:
            mode = os.fstat(fd).st_mode
        except OSError:
            continue
        if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
            os.dup2(null, fd)
    os.close(null)
