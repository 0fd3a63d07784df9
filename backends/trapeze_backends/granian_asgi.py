"""ASGI on granian: it reads and writes on threads of its own, the app runs on an event loop of the main thread.

Around each request stands as little as the drain needs: which answers have no end, and a way to end them. `receive`
waits for two things at once only where the app has read the whole request and waits for the client to go.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
import traceback

from trapeze_backends.contract import StartError
from trapeze_backends.endless import is_endless_raw
from trapeze_backends.granian_server import DRAIN_TICK, Calls, Door, Scheduler, compiled, leave, limited, settings
from trapeze_backends.installed import is_installed
from trapeze_backends.lifespan import Lifespan
from trapeze_backends.unixnames import unix_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from typing import Any

    from trapeze_backends.contract import Job
    from trapeze_backends.worker import Worker

__all__ = ["loop_name", "run"]

PERMITS = 1
"""Connections that a worker takes before it looks whether others wait. granian accepts on a thread of its own: with 8,
seven short requests followed a slow one into a loop that it blocked (p99 of 394 ms instead of 6, bench/uneven.py)."""

DEAF = 1.0
"""Seconds after which an app that was told to end its answer, and has not, is cancelled."""

RESTART = 1012
"""The code with which WebSockets are closed: service restart."""

CLOSE = (b"connection", b"close")
DISCONNECT = {"type": "http.disconnect"}
LAST = {"type": "http.response.body", "body": b"", "more_body": False}


def loop_name(job: Job) -> str:
    """The event loop: what the options say, else uvloop where it is installed."""
    said = job.options.get("loop", "auto")
    return str(said) if said != "auto" else "uvloop" if is_installed("uvloop") else "asyncio"


def run(app: Any, sockets: list[socket.socket], worker: Worker) -> None:
    """Serve until the worker is asked to stop, drain, run the app's lifespan shutdown."""
    if worker.job.threads is not None:
        raise StartError("threads: granian serves ASGI apps by an event loop, not by threads", hint="leave it out")
    before = len(os.listdir("/proc/self/task"))
    loop = _new_loop(loop_name(worker.job))
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(_Server(app, sockets, worker, loop).serve())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        asyncio.set_event_loop(None)
        loop.close()
    leave(worker, before)


def _new_loop(name: str) -> asyncio.AbstractEventLoop:
    try:
        module: Any = __import__(name)
    except ImportError as error:
        raise StartError(f"options.loop: {error}", hint=f"pip install {name}") from None
    made: asyncio.AbstractEventLoop = module.new_event_loop()
    return made


class _Server:
    """The event loop's side."""

    def __init__(self, app: Any, sockets: list[socket.socket], worker: Worker, loop: asyncio.AbstractEventLoop) -> None:
        self.app = app
        self.worker = worker
        self.loop = loop
        self._sockets = sockets
        self._asked = asyncio.Event()
        self._every: list[_Calls] = []

    @property
    def exchanges(self) -> list[Any]:
        """Requests and WebSockets that are in the app."""
        return [exchange for calls in self._every for exchange in calls.live]

    async def serve(self) -> None:
        """Start-up, health, doors, ready; then look after them until it is time to leave."""
        worker, job = self.worker, self.worker.job
        lifespan = Lifespan(self.app)
        await lifespan.start()
        await worker.check_health(self.app, lifespan.state)
        self._catch_signals()
        doors = self._open(lifespan.state)
        worker.ready()
        while not worker.stopping:
            worker.beat(sum(calls.begun for calls in self._every), sum(len(calls.live) for calls in self._every))
            await self._pause(min(door.widen(True) for door in doors))
        end = time.monotonic() + job.patience
        await self._drain(doors, end)
        await lifespan.stop(max(end - time.monotonic(), 0.5))
        if time.monotonic() >= end:
            worker.leave_now()

    def _catch_signals(self) -> None:
        def graceful() -> None:
            self.worker.stop()
            self._asked.set()

        for number in self.worker.graceful_signals:
            self.loop.add_signal_handler(number, graceful)
        for number in self.worker.fast_signals:
            signal.signal(number, lambda signum, frame: self.worker.leave_now())

    async def _pause(self, seconds: float) -> None:
        with_end = self.loop.create_task(self._asked.wait())
        await asyncio.wait([with_end], timeout=seconds)
        with_end.cancel()

    def _open(self, state: dict[str, Any]) -> list[Door]:
        options = self.worker.job.options
        names = unix_names(self._sockets, self.worker.job.listeners)
        doors = []
        try:
            made = settings(self.worker, 1)
            for sock, listener in zip(self._sockets, self.worker.job.listeners, strict=True):
                calls = _Calls()
                self._every.append(calls)
                serve = _server(self._runner(sock, names, calls, state), self.loop, options)
                doors.append(Door(sock, listener.backlog, made, limited(self.worker, PERMITS), serve, calls))
        except (TypeError, AttributeError) as error:
            raise StartError(f"granian {compiled.__version__} is not as trapeze knows it: {error}") from None
        return doors

    async def _drain(self, doors: list[Door], end: float) -> None:
        for door in doors:
            door.shut()
        told: dict[Any, float] = {}
        while True:
            await asyncio.sleep(DRAIN_TICK)  # also before the first look: somebody may be on the threshold
            now = time.monotonic()
            if now >= self.worker.grace_ends:
                self._end_endless(told, now)
            doors = [door for door in doors if not door.clear(now, self.worker.grace_ends)]
            if not doors and not self.exchanges:
                return
            if now >= end:
                for exchange in self.exchanges:
                    exchange.task.cancel()
                return

    def _end_endless(self, told: dict[Any, float], now: float) -> None:
        for exchange in self.exchanges:
            if exchange not in told:
                if exchange.is_endless:
                    told[exchange] = now
                    exchange.end()
            elif now >= told[exchange] + DEAF:
                exchange.task.cancel()

    def _runner(
        self, sock: socket.socket, names: dict[Any, str], calls: _Calls, state: dict[str, Any]
    ) -> Callable[[Any], Coroutine[Any, Any, None]]:
        """Return what is called for each request: a coroutine function, given granian's "watcher"."""
        name = sock.getsockname()
        is_unix = sock.family == socket.AF_UNIX
        server = (names.get(name, name), None) if is_unix else name[:2]
        app, following, enter, leave = self.app, calls.next, calls.live.add, calls.live.discard

        async def run(watcher: Any) -> None:
            scope = watcher.scope
            number = calls.begun = following()
            exchange: Any = (_Channel if scope["type"] == "websocket" else _Exchange)(self, watcher, number)
            enter(exchange)
            scope["server"] = server
            host, port = scope["client"]
            scope["client"] = None if is_unix else (host, int(port))
            scope["root_path"] = ""
            scope["state"] = state.copy()
            if scope["http_version"] == "1":
                scope["http_version"] = "1.0"
            try:
                await app(scope, exchange.receive, exchange.send)
            except asyncio.CancelledError:
                pass  # it was deaf, or there is no more time
            except BaseException:
                if not exchange.over:
                    traceback.print_exc()
            finally:
                leave(exchange)
                watcher.done()  # a 500 if there is no answer, and one that is not whole is cut off

        return run


def _server(
    runner: Callable[[Any], Coroutine[Any, Any, None]], loop: asyncio.AbstractEventLoop, options: dict[str, Any]
) -> Callable[[dict[str, Any], Any, bool], object]:
    def begin(coroutine: Coroutine[Any, Any, None], watcher: Any) -> None:
        watcher.taskref(loop.create_task(coroutine))

    def serve(given: dict[str, Any], signal: Any, is_unix: bool) -> object:
        scheduler = Scheduler(loop, runner, None, None, None)
        context = scheduler._ctx

        def schedule(watcher: Any) -> None:
            loop.call_soon_threadsafe(begin, runner(watcher), watcher, context=context)

        scheduler._schedule_fn = schedule
        granian = compiled.ASGIWorker(**given)
        name = ("serve_str" if options.get("runtime_mode") == "st" else "serve_mtr") + ("_uds" if is_unix else "")
        getattr(granian, name)(scheduler, loop, signal)
        return granian

    return serve


async def _nothing() -> None:
    """What is sent goes nowhere."""


class _Calls(Calls):
    """The requests of one socket, all on the thread of the loop: in the app are these very exchanges."""

    __slots__ = ()

    def unanswered(self) -> list[int]:
        return [exchange.number for exchange in self.live if not exchange.answered]


class _Exchange:
    """One request: `receive` and `send` as the app gets them."""

    # Most requests change few of these: what is not set for each of them costs none of them anything.
    _head: Any = None
    _is_read = False
    _waiting: asyncio.Future[None] | None = None
    answered = False
    """The app has begun to."""
    over = False

    def __init__(self, server: _Server, watcher: Any, number: int) -> None:
        self._server = server
        self._proto = watcher.proto
        self._watcher = watcher
        self.number = number
        self.task: Any = asyncio.current_task()

    @property
    def is_endless(self) -> bool:
        """Has its answer no end?"""
        return self._head is not None and is_endless_raw(self._head.get("headers", ()))

    async def receive(self) -> Any:
        """The next piece of the request, or that the client has gone."""
        if self.over:
            return DISCONNECT
        if not self._is_read:
            message = await self._proto.receive()
            self._is_read = not message.get("more_body")
            return message
        if self._waiting is None:
            self._waiting = self._server.loop.create_future()
        gone = self._server.loop.create_task(_awaited(self._proto.receive()))
        await asyncio.wait([gone, self._waiting], return_when=asyncio.FIRST_COMPLETED)
        if gone.done():
            return gone.result()
        gone.cancel()
        return DISCONNECT

    def send(self, message: Any) -> Awaitable[None]:
        """The next piece of the answer."""
        if self.over:
            return _nothing()
        if message["type"] == "http.response.start":
            status = message["status"]
            if not 200 <= status <= 999:  # granian would end the process over it
                raise ValueError(f"{status!r} is no status")
            self._head = message
            # HTTP/2 has no such header, and a word of its own.
            if self._server.worker.stopping and self._watcher.scope["http_version"] != "2":
                message = {**message, "headers": [*message.get("headers", ()), CLOSE]}
        else:
            self.answered = True
        sent: Awaitable[None] = self._proto.send(message)
        return sent

    def end(self) -> None:
        """An orderly end of an answer that has none: the client gets the last piece, the app hears that he is gone."""
        self._proto.send(LAST)
        self.over = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class _Channel:
    """One WebSocket."""

    __slots__ = ("_proto", "_server", "answered", "is_endless", "number", "over", "task")

    def __init__(self, server: _Server, watcher: Any, number: int) -> None:
        self._server = server
        self._proto = watcher.proto
        self.number = number
        self.answered = False
        self.is_endless = False
        """Its handshake is done; one that is under way is a request like others."""
        self.over = False
        self.task: Any = asyncio.current_task()

    async def receive(self) -> Any:
        """The next message."""
        message = await self._proto.receive()
        if self.over and message["type"] == "websocket.disconnect":
            return {**message, "code": RESTART}
        return message

    async def send(self, message: Any) -> None:
        """A message."""
        if self.over:
            return
        await self._proto.send(message)
        self.answered = True
        self.is_endless = message["type"] == "websocket.accept" or self.is_endless

    def end(self) -> None:
        """Close it; the app hears that it is closed."""
        self.over = True
        closing = {"type": "websocket.close", "code": RESTART, "reason": "service restart"}
        self._server.loop.create_task(_awaited(self._proto.send(closing)))


async def _awaited(thing: Awaitable[Any]) -> Any:
    return await thing
