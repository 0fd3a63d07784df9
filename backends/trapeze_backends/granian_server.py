"""What is used of granian: its worker classes, on sockets that they are given, and a stop that loses nothing.

**Accepting.** A worker object of granian's accepts as long as it has a permit for one more connection (`backpressure`),
and holds it until the connection ends, also while nothing is asked on it. With as many permits as threads, nobody is
accepted who would wait for a thread here while a sibling has one; but kept connections would then keep out all others.
So it begins that way, and where somebody waits at the socket, a thread is free, and none of our connections has ended
meanwhile, one more worker object is put on the same socket (`Door.widen`). It gets far more permits than there are
already: each object has threads of its own, so that several small ones would cost more than they bring.

**Stopping.** granian's own stop, given the word, closes each connection on which nothing is under way, also those that
have just been accepted, and those on which half a request has come. So its word comes last. First another socket takes
the place of the listener, under the same number: one that nobody knows of, on which granian accepts on and finds
nobody. Then answers say `Connection: close`; after the grace idle connections are ended by us, from outside, or by
granian's stop, as soon as that can hurt nobody.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import select
import socket
import sys
import time
from importlib.machinery import PathFinder
from types import ModuleType

from trapeze_backends.accepted import UNSURE, Accepted
from trapeze_backends.contract import StartError
from trapeze_backends.epolls import waiting_for
from trapeze_backends.granian import unknown_version

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from trapeze_backends.worker import Worker

__all__ = ["DRAIN_TICK", "Calls", "Door", "Scheduler", "compiled", "leave", "limited", "settings"]

TICK = 0.1
"""Seconds between two looks of the main loop, as uvicorn's."""
LOOK = 0.02
"""The same while somebody waits at the socket."""
DRAIN_TICK = 0.02
"""The same while it drains."""

UNLIMITED = 1 << 20
MORE = 16
"""Permits that a door gets more, at least, when connections that are kept keep others out."""
ENOUGH = 1024
"""Permits of a door after which it lets everybody in."""

PATIENCE = 0.5
"""Seconds for the threads of granian to end once nothing is left to do."""


def _import() -> Any:
    """granian's compiled part, without the command line, TLS and process handling that `import granian` brings."""
    if "granian" in sys.modules:
        from granian import _granian

        return _granian
    spec = PathFinder.find_spec("granian")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("granian is not a package")
    stand_in = ModuleType("granian")
    stand_in.__path__ = list(spec.submodule_search_locations)
    sys.modules["granian"] = stand_in
    try:
        from granian import _granian

        return _granian
    finally:
        del sys.modules["granian"]


try:
    compiled = _import()
    Holder, Signal, Scheduler = compiled.SocketHolder, compiled.WorkerSignal, compiled.CallbackScheduler
except (ImportError, AttributeError) as error:
    raise StartError(unknown_version("")[0] + f": {error}", hint=unknown_version("")[1]) from None


# It would tell of errors of the app that have been told.
logging.getLogger("_granian.utils").setLevel(logging.CRITICAL)


class Calls:
    """The requests of one socket. Several threads change it, each in one step of the interpreter.

    Attributes:
        begun: how many have come.
        live: in the app now: their numbers, or what bears them.
    """

    __slots__ = ("begun", "live", "next")

    def __init__(self) -> None:
        self.begun = 0
        self.next: Callable[[], int] = itertools.count(1).__next__
        self.live: set[Any] = set()

    def unanswered(self) -> Sequence[int]:
        """The numbers of those that the app has not begun to answer. Asked only while it drains."""
        raise NotImplementedError


class Settings:
    """granian's HTTP1Settings and HTTP2Settings, which it reads by their names."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


HTTP1 = {"header_read_timeout": 30_000, "keep_alive": True, "max_buffer_size": 417_792, "pipeline_flush": False}
HTTP2 = {
    "adaptive_window": False,
    "initial_connection_window_size": 1024 * 1024,
    "initial_stream_window_size": 1024 * 1024,
    "keep_alive_interval": None,
    "keep_alive_timeout": 20,
    "max_concurrent_streams": 200,
    "max_frame_size": 1024 * 16,
    "max_headers_size": 16 * 1024 * 1024,
    "max_send_buffer_size": 1024 * 400,
}


def settings(worker: Worker, threads: int) -> dict[str, Any]:
    """What every worker object is made with, beside its socket and its permits."""
    job = worker.job
    options = job.options
    http1 = {**HTTP1, **(options.get("http1_settings") or {})}
    if job.keepalive is not None:
        # The time for the whole head, the silence before it included. It cannot be 0.
        http1.update(keep_alive=job.keepalive > 0)
        if job.keepalive > 0:
            http1.update(header_read_timeout=max(int(job.keepalive * 1000), 1))
    made = {
        "worker_id": job.index + 1,
        "ipc": None,
        "threads": options.get("runtime_threads", 1),
        "blocking_threads": options.get("runtime_blocking_threads", 512),
        "py_threads": threads,
        "py_threads_idle_timeout": options.get("blocking_threads_idle_timeout", 30),
        "http_mode": options.get("http", "auto"),
        "http1_opts": Settings(**http1),
        "http2_opts": Settings(**{**HTTP2, **(options.get("http2_settings") or {})}),
        **_tls(options),
    }
    if worker.interface == "asgi":
        made["websockets_enabled"] = options.get("websockets", True)
    return made


def _tls(options: dict[str, Any]) -> dict[str, Any]:
    if not options.get("ssl_cert"):
        return {}
    return {
        "ssl_enabled": True,
        "ssl_cert": options["ssl_cert"],
        "ssl_key": options.get("ssl_key"),
        "ssl_key_password": options.get("ssl_key_password"),
        "ssl_protocol_min": options.get("ssl_protocol_min", "tls1.3"),
        "ssl_ca": options.get("ssl_ca"),
        "ssl_crl": options.get("ssl_crl", []),
        "ssl_client_verify": options.get("ssl_client_verify", False),
    }


class Door:
    """One listening socket, and granian's worker objects that accept on it.

    Args:
        sock: the listener; each worker object gets a duplicate of it.
        settings: what worker objects are made with, see `settings`.
        permits: how many connections the first one takes.
        serve: makes and starts one, given its arguments, its signal, and whether it is on a Unix socket.
        calls: the requests that come through this door.
    """

    def __init__(
        self,
        sock: socket.socket,
        backlog: int,
        settings: dict[str, Any],
        permits: int,
        serve: Callable[[dict[str, Any], Any, bool], object],
        calls: Calls,
    ) -> None:
        self._sock = sock
        self._backlog = backlog
        self._settings = settings
        self._serve = serve
        self._is_unix = sock.family == socket.AF_UNIX
        self._calls = calls
        self._accepted = Accepted(sock)
        self._permits = 0
        self._fds: list[int] = []
        self._signals: list[Any] = []
        self._gone = 0
        self._told = False
        self._last = 0
        self._before: tuple[frozenset[int], int] | None = None
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._add(permits)

    def _add(self, permits: int) -> None:
        """One more worker object."""
        fd = os.dup(self._sock.fileno())
        holder = Holder(fd, self._is_unix, self._backlog)
        signal = Signal()
        signal.add_cb(self._has_gone)
        given = {**self._settings, "sock": (None, holder), "backpressure": permits}
        self._serve(given, signal, self._is_unix)
        _wait_for_accepting(fd)
        self._fds.append(fd)
        self._signals.append(signal)
        self._permits += permits

    def _has_gone(self) -> None:
        self._gone += 1

    def widen(self, has_time: bool) -> float:
        """Let more in, if those who are in keep out others whom we could serve. Returns when to look again, seconds.

        Args:
            has_time: one more request could be served at once.
        """
        before, self._before = self._before, None
        if self._permits >= UNLIMITED or not self._poll.poll(0):
            return TICK
        inside = self._accepted.inodes()
        if len(inside) < self._permits:
            return LOOK  # about to be accepted, by us or by a sibling
        if before is None or before[0] != inside:
            self._before = inside, self._calls.begun  # they come and go
        elif has_time or self._calls.begun > before[1]:
            with contextlib.suppress(OSError):  # out of descriptors
                self._add(max(MORE, 3 * self._permits) if self._permits < ENOUGH else UNLIMITED)
        return LOOK

    def shut(self) -> None:
        """Let nobody in any more; those who are in may stay."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as nobody:
            nobody.bind("")
            nobody.listen(1)
            for fd in self._fds:
                os.dup2(nobody.fileno(), fd, inheritable=False)
        self._poll.unregister(self._sock)
        self._sock.close()
        self._last = self._calls.begun
        self._accepted.watch()

    def clear(self, now: float, grace_ends: float) -> bool:
        """To be called every DRAIN_TICK once it is shut: see the connections through; return whether all are gone.

        Args:
            now: seconds of the monotonic clock.
            grace_ends: from then on those on which nothing is asked are ended.
        """
        if self._told:
            return self._gone == len(self._signals)
        look = self._accepted.look()
        if look.total and now < grace_ends:
            return False
        late = now >= grace_ends + UNSURE
        if look.asking <= self._unanswered() and (late or not look.unsure):
            self._tell()
        elif not self._calls.live:
            self._accepted.look(end_idle=True, end_unsure=late)  # half a request is waited for
        return False

    def _unanswered(self) -> int:
        """How many connections look as if they asked because the app has not begun to answer them.

        On Unix sockets only what has come since we watch is seen.
        """
        if not self._is_unix:
            return len(self._calls.unanswered())
        return sum(number > self._last for number in self._calls.unanswered())

    def _tell(self) -> None:
        """granian's own stop: it closes what is idle, says GOAWAY to HTTP/2 clients, and waits for the rest."""
        self._told = True
        self._accepted.close()
        for signal in self._signals:
            signal.set()


def _wait_for_accepting(fd: int) -> None:
    """Return when a thread of granian waits for connections.

    It sets the socket up on that thread, a moment after it was started, and takes the process down if there is another
    one under its number by then (`Door.shut`).
    """
    deadline = time.monotonic() + PATIENCE
    while not any(waiting_for({fd})) and time.monotonic() < deadline:
        time.sleep(0.001)


def limited(worker: Worker, permits: int) -> int:
    """Permits of a door to begin with: what the options say is meant for the whole of it."""
    said = worker.job.options.get("backpressure")
    return int(said) if said else permits


def leave(worker: Worker, threads: int) -> None:
    """Return when the threads of granian are gone, as they are soon after its last connection.

    One that came back from Python's code while the interpreter ends would take the process down with it.
    """
    deadline = time.monotonic() + PATIENCE
    while len(os.listdir("/proc/self/task")) > threads:
        if time.monotonic() > deadline:
            worker.leave_now()
        time.sleep(0.005)
