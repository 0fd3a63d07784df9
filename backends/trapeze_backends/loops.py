"""What servers on an asyncio loop share: the loop itself, signals, the beat, and accepting on the inherited sockets."""

from __future__ import annotations

import asyncio
import errno
import signal
import sys
from typing import Any

from trapeze_backends.endless import unread_bytes
from trapeze_backends.fairshare import PAUSE

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine, Sequence

    from trapeze_backends.fairshare import Share
    from trapeze_backends.worker import Worker

__all__ = ["TICK", "Acceptor", "beat_until_stopped", "catch_signals", "run_loop", "stop_accepting", "unread"]

TICK = 0.02
"""Seconds between two looks at the connections of a draining worker."""

PATIENCE = 0.05
"""Seconds after which a new connection is accepted although no thread is free, if requests get finished meanwhile."""

FULL = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Accepting fails with these for a while: trying again at once would only turn the loop."""


def run_loop(main: Callable[[], Coroutine[Any, Any, None]], *, uvloop: bool = False) -> None:
    """Run `main` on a loop of its own, and end what it leaves behind.

    `asyncio.run` would also wait for the threads of the default executor, which the app may have filled for ever.
    """
    if uvloop:
        import uvloop as module

        loop = module.new_event_loop()
    else:
        loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(main())
    finally:
        end_loop(loop)


def end_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel what still runs on a loop that has stopped, and close it."""
    tasks = [task for task in asyncio.all_tasks(loop) if not task.done()]
    for task in tasks:
        task.cancel()
    try:
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks, timeout=1.0))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def catch_signals(worker: Worker, wake: Callable[[], object]) -> None:
    """Install the handlers, on the running loop: a graceful signal stops the worker and calls `wake`."""
    loop = asyncio.get_running_loop()

    def graceful() -> None:
        worker.stop()
        wake()

    for number in worker.graceful_signals:
        loop.add_signal_handler(number, graceful)
    for number in worker.fast_signals:
        signal.signal(number, lambda signum, frame: worker.leave_now())


async def beat_until_stopped(worker: Worker, asked: asyncio.Event, counts: Callable[[], tuple[int, int]]) -> None:
    """Beat until `asked` is set, or the supervisor is gone.

    By timers alone: a coroutine that waits with a time-out takes several turns of the loop for each beat, and on a busy
    machine a turn may take long.

    Args:
        worker: the worker.
        asked: is set when a stop signal has come.
        counts: returns requests begun so far, and those in flight.
    """
    loop = asyncio.get_running_loop()
    every = min(worker.pulse, 1.0)  # for `max_requests`, and the numbers that `status` shows
    timer: asyncio.TimerHandle | None = None

    def beat() -> None:
        nonlocal timer
        worker.beat(*counts())
        if worker.is_orphan:
            worker.stop()
            asked.set()
        else:
            timer = loop.call_later(every, beat)

    beat()
    await asked.wait()
    if timer is not None:
        timer.cancel()


def unread(transport: Any) -> int:
    """Bytes that have arrived for a transport and were not read."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return 0
    return unread_bytes(sock.fileno())


async def stop_accepting(servers: Sequence[Any], sockets: Sequence[socket.socket]) -> None:
    """Close servers that `loop.create_server` has made, but serve what they have accepted."""
    loop = asyncio.get_running_loop()
    for server in servers:
        if isinstance(server, asyncio.base_events.Server):
            for transport in server.sockets:
                loop.remove_reader(transport.fileno())
    # asyncio: connections accepted in this very turn get their transport first, or it asserts.
    for _ in range(4):
        await asyncio.sleep(0)
    for server in servers:
        server.close()
    for sock in sockets:
        sock.close()


class Acceptor:
    """Accepts on the inherited sockets, one connection in each turn of the loop: of a burst siblings get their part.

    For servers whose own way of accepting does more to a listener than accept, and for those with threads: what no
    thread can serve at once is left in the queue, where a sibling may have time for it (see `gunicorn_accept`).

    Args:
        sockets: the listeners, non-blocking.
        take: called with the place of the listener, the new connection (non-blocking) and its address.
        room: is there a thread for one more? None: there always is.
        finished: how many requests have been finished so far; asked only where `room` says no.
        share: of this worker: where it has too many connections, its siblings go first (`fairshare`).
        connections: how many it has.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        take: Callable[[int, socket.socket, Any], None],
        room: Callable[[], bool] | None = None,
        finished: Callable[[], int] = lambda: 0,
        *,
        share: Share | None = None,
        connections: Callable[[], int] = lambda: 0,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sockets = list(sockets)
        self._take = take
        self._room = room
        self._finished = finished
        self._share = share
        self._connections = connections
        self._timer: asyncio.TimerHandle | None = None
        self._open = False

    def start(self) -> None:
        """Accept from now on."""
        if not self._open:
            self._open = True
            if self._share is not None:
                self._share.note(self._connections())
            for place, sock in enumerate(self._sockets):
                self._loop.add_reader(sock.fileno(), self._accept, place)

    def look(self) -> None:
        """To be called when a request is finished: there may be room again."""
        if self._timer is not None and self._room is not None and self._room():
            self._timer.cancel()
            self._timer = None
            self.start()

    def stop(self) -> None:
        """Accept no more, and close the listeners."""
        self._pause()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._share is not None:
            self._share.leave()
        for sock in self._sockets:
            sock.close()

    def left(self) -> None:
        """To be called when a connection has ended."""
        if self._share is not None and self._open:
            self._share.note(self._connections())

    def _pause(self) -> None:
        if self._open:
            self._open = False
            for sock in self._sockets:
                self._loop.remove_reader(sock.fileno())

    def _accept(self, place: int) -> None:
        if self._room is not None and not self._room():
            self._wait(PATIENCE, self._finished())
        else:
            self._one(place)

    def _one(self, place: int) -> None:
        try:
            connection, address = self._sockets[place].accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # a sibling was quicker, or the client has gone
        except OSError as error:
            if error.errno not in FULL:
                raise
            print(f"cannot accept: {error.strerror}", file=sys.stderr, flush=True)
            self._wait(1.0, -1)
            return
        connection.setblocking(False)
        self._take(place, connection, address)
        self._let_others_go_first()

    def _let_others_go_first(self) -> None:
        share, connections = self._share, self._connections()
        if share is not None and share.accepted(connections) and self._timer is None:
            share.pause(connections)
            self._pause()
            self._timer = self._loop.call_later(PAUSE, self._after_others)

    def _after_others(self) -> None:
        self._timer = None
        if self._share is not None:
            self._share.resume()
        self.start()

    def _wait(self, seconds: float, finished: int) -> None:
        self._pause()
        self._timer = self._loop.call_later(seconds, self._again, finished)

    def _again(self, finished: int) -> None:
        """Nobody has called `look` since: the threads were busy all the time, or descriptors had run out."""
        self._timer = None
        if self._room is None or self._room():
            self.start()
            return
        if self._finished() > finished:
            for place in range(len(self._sockets)):
                self._one(place)
        if self._timer is None:
            self._timer = self._loop.call_later(PATIENCE, self._again, self._finished())
