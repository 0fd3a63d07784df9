"""The worker as a backend sees it: when to stop, how to say that it is ready, and that its main loop goes round."""

from __future__ import annotations

import os
import signal
import stat
import time

from trapeze_backends.board import Board, Limits
from trapeze_backends.contract import StartError
from trapeze_backends.fairshare import Share
from trapeze_backends.finish import end, leave
from trapeze_backends.installed import faster
from trapeze_backends.measured import Meter
from trapeze_backends.orphan import let_go, socket_inode
from trapeze_backends.stacks import register

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from types import FrameType
    from typing import Any, NoReturn

    from trapeze_backends.contract import Job
    from trapeze_backends.notify import Notifier

__all__ = ["Worker"]


class Worker:
    """One process that serves an app.

    Attributes:
        job: what was asked for.
        interface: "wsgi", "asgi", "aiohttp" or "tornado", as it was found or said.
        stopping: it was asked to leave: accept no more, finish what was accepted, return from `run`.
        grace_ends: when idle connections and endless answers are to be closed, monotonic seconds.
        app: the user's own, without what is put around it: for what a server asks it besides calling it.
    """

    def __init__(self, job: Job, notifier: Notifier, *, interface: str, backend: str, version: str) -> None:
        self.job = job
        self.interface = interface
        self.backend = backend
        self.version = version
        self.stopping = False
        self.grace_ends = float("inf")
        self.app: Any = None
        self.is_ready = False
        self._is_healthy = not job.health
        self._notifier = notifier
        self._sockets: list[socket.socket] = []
        self._doors: frozenset[int] = frozenset()
        self._board = Board(job.board)
        self.waits = self._board.waits
        """Where it is noted how long requests have waited."""
        self.share = Share(None if job.own_sockets else self._board.crew)
        """How many connections it has, by what its siblings have."""
        self._limits = Limits(job, time.monotonic())
        # Once more: a forked worker has another stderr than its zygote. Servers reset signals, but no real-time ones.
        register(job.dump_signal)

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
        if any(_is_its_own(sock) for sock in sockets):
            self.share = Share(None)
        self._doors = frozenset(socket_inode(sock.fileno()) for sock in sockets)  # servers detach them, or close some

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
            if left := self._notifier.told("STOP_TIMEOUT"):  # some of it has passed: its sockets' queue came first
                self.job.stop_timeout = float(left)
            self.grace_ends = time.monotonic() + self.job.drain_grace
            self._notifier.send(STOPPING="1")
        if self.is_orphan:
            _silence()
            doors, self._doors = self._doors, frozenset()
            let_go(doors)

    @property
    def is_orphan(self) -> bool:
        """The supervisor is gone."""
        return bool(self.job.parent) and os.getppid() != self.job.parent

    def leave_now(self, status: int = 0) -> NoReturn:
        """End the process, without waiting for requests or threads."""
        leave(status)

    def leave(self) -> NoReturn:
        """End the process as a program ends that has drained: for servers that do not return from `run`."""
        end(0, wait=False)

    def fail(self, error: StartError) -> NoReturn:
        """Report why it cannot start, and end: for servers that do not return from `run`."""
        self._notifier.error(error.message, traceback=error.traceback, hint=error.hint)
        self.leave_now(3)

    async def check_health(self, app: Any, state: dict[str, Any] | None = None) -> None:
        """Ask an ASGI app the `health` request, if there is one: after its start-up, before anything is accepted.

        WSGI apps are asked before `run` is called.

        Args:
            app: as `run` was given it, or with the server's own middleware around it.
            state: what the lifespan has left in `scope["state"]`.

        Raises:
            StartError: the app is not healthy.
        """
        if self.job.health:
            from trapeze_backends.health import ask_asgi

            await ask_asgi(app, self.job.health, state)
        self._is_healthy = True

    def check_wsgi_health(self, app: Any) -> None:
        """The same for WSGI; called by the child."""
        if self.job.health:
            from trapeze_backends.health import ask_wsgi

            ask_wsgi(app, self.job.health)
        self._is_healthy = True

    def ready(self) -> None:
        """Say that connections are accepted from now on; only the first call says it.

        Raises:
            StartError: there is a health request which the backend has not asked.
        """
        if self.is_ready:
            return
        if not self._is_healthy:
            raise StartError(f"health: {self.backend} cannot ask the app before it accepts", hint="leave health out")
        self.is_ready = True
        self.restore_backlog(self._sockets)
        chosen = self.job.raw.get("backend") == "auto"
        self._notifier.ready(
            interface=self.interface,
            backend=self.backend,
            version=self.version,
            faster=faster(self.interface) if chosen else "",
        )

    def restore_backlog(self, sockets: list[Any]) -> None:
        """Set the backlog again: it is shared, and servers call listen() with numbers of their own."""
        for sock, listener in zip(sockets, self.job.listeners, strict=False):
            if sock.fileno() >= 0:
                sock.listen(listener.backlog)

    def measure(self, app: Any) -> Any:
        """Return `app` with as much counting around it as the job needs: mostly none."""
        if self.job.board and self.job.board.get("full"):
            from trapeze_backends.green import is_patched

            return Meter(self._board).full(app, self.interface, loop=self.interface == "asgi" or is_patched())
        if self.job.max_requests:
            return Meter(self._board).count(app, self.interface)
        return app

    def meter(self) -> tuple[Callable[[], float], Callable[[float, int], None]] | None:
        """The same for servers whose requests are no calls of an app; see `Meter.timed`. None if nothing is counted."""
        if self.job.board and self.job.board.get("full"):
            return Meter(self._board).timed()
        return Meter(self._board).counted() if self.job.max_requests else None

    @property
    def pulse(self) -> float:
        """Seconds within which a main loop that has nothing to do should come round, to call `beat`."""
        timeouts = (self.job.heartbeat_timeout / 4, self.job.request_timeout / 2, 10.0)
        return min(seconds for seconds in timeouts if seconds)

    def beat(self, requests: int = 0, in_flight: int | None = None) -> None:
        """Say that the main loop goes round. To be called by it, as often as it likes and at least once in `pulse`.

        A worker that has begun to beat and then does not for `heartbeat_timeout` is killed, its stacks on stderr. In
        servers that run the app on their main thread, that also bounds the time of one request.

        Args:
            requests: that the server has begun so far, if it counts them.
            in_flight: that it is at work on now, if it knows.
        """
        now = time.monotonic()
        self._board.beat(now, requests, in_flight)
        why = self._limits.reached(now, self._board.requests)
        if why:
            self._notifier.send(X_TRAPEZE_RECYCLE=why)

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


def _is_its_own(sock: socket.socket) -> bool:
    """Has each worker a socket of its own on that address? Then nobody else can take what waits on this one."""
    import socket as sockets

    if sock.family not in (sockets.AF_INET, sockets.AF_INET6):
        return False
    return bool(sock.getsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEPORT))
