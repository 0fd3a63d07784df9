"""How an aiohttp worker leaves.

What was accepted is served, with `Connection: close`. At `drain_grace` the app's `on_shutdown` is called, which is
where aiohttp has apps close what goes on and on; then WebSockets are closed with 1012 (service restart), answers
without an end (`endless`) are ended, and so are connections on which nothing has come.
"""

from __future__ import annotations

import asyncio
import traceback
from typing import Any

from aiohttp import web

from trapeze_backends.endless import is_endless
from trapeze_backends.loops import TICK, unread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from trapeze_backends.aiohttp_server import Handler, Runner
    from trapeze_backends.worker import Worker

__all__ = ["drain"]

RESTART = 1012
DEAF = 1.0
"""Seconds after which an app that was told to end its answer, and has not, is cancelled."""


async def drain(runner: Runner, worker: Worker) -> None:
    """Return when no connection is left, or when the time is over."""
    loop, job = asyncio.get_running_loop(), worker.job
    start = loop.time()
    ending = _Ending(loop)
    while runner.server is not None and (connections := runner.server.connections):
        waited = loop.time() - start
        if waited >= job.patience:
            return
        if waited >= job.drain_grace:
            ending.have_shut_down(runner)
            for connection in connections:
                ending.look(connection)
            ending.cancel_deaf()
        await asyncio.sleep(TICK)


class _Ending:
    """What has been told to end."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._told: dict[Any, tuple[float, asyncio.Task[Any] | None]] = {}
        self._tasks: list[asyncio.Task[Any]] = []

    def have_shut_down(self, runner: Runner) -> None:
        """Call the app's `on_shutdown`, beside everything else: it may take its time."""
        if not self._tasks:
            self._tasks.append(self._loop.create_task(_shut_down(runner)))

    def look(self, connection: Handler) -> None:
        """End what has no end, close what is idle."""
        if connection in self._told:
            return
        if connection.is_idle:
            if connection.transport is not None and not unread(connection.transport):
                connection.force_close()
            return
        answer = connection.answer
        if isinstance(answer, web.WebSocketResponse):
            if answer.prepared and not answer.closed:
                self._tell(connection)
                self._tasks.append(self._loop.create_task(answer.close(code=RESTART, message=b"service restart")))
        elif answer is not None and connection._request_in_progress and is_endless(answer.headers.items()):
            self._tell(connection)
            _end(connection, answer)

    def _tell(self, connection: Handler) -> None:
        self._told[connection] = self._loop.time(), connection._task_handler

    def cancel_deaf(self) -> None:
        """An app that does not write is not told that nobody reads."""
        for since, task in self._told.values():
            if task is not None and self._loop.time() >= since + DEAF:
                task.cancel()


async def _shut_down(runner: Runner) -> None:
    try:
        await runner.shutdown()
    except Exception as error:
        traceback.print_exception(type(error), error, error.__traceback__)


def _end(connection: Handler, answer: Any) -> None:
    """An orderly end for the client: the last chunk, then the end of the connection. The app's next write finds it."""
    transport, writer = connection.transport, answer._payload_writer
    if transport is None:
        return
    if hasattr(writer, "send_headers"):  # since 3.12 it keeps them until there is a first piece
        writer.send_headers()
    if writer.chunked:
        transport.write(b"0\r\n\r\n")
    transport.close()
