"""How a uvicorn worker leaves: what was accepted is served, what is idle or endless is closed after `drain_grace`.

uvicorn's own shutdown closes connections whose request has not been read yet, and lets an endless answer or a silent
WebSocket hold the process. Here each connection is looked at once in a while until none is left:

- nothing of a request has come, or it is answered: closed, unless bytes wait to be read;
- the head of a request has begun to come, or its answer is under way: it goes on;
- a WebSocket: closed with 1012 (service restart), which the app hears as a disconnect;
- an answer that has no end (`endless`): the app hears `http.disconnect`, the client gets an orderly end. An app that
  does not listen for that is cancelled a moment later.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import Any

from trapeze_backends.endless import is_endless_raw, unread_bytes
from trapeze_backends.worker import Worker

__all__ = ["drain", "note_heads", "unread"]

TICK = 0.02
"""Seconds between two looks at the connections of a draining worker."""

DEAF = 1.0
"""Seconds after which an app that was told to end its answer, and has not, is cancelled."""


def note_heads(protocol: Any) -> None:
    """Have the requests of uvicorn's protocol class remember what their answer began with."""
    module = sys.modules[getattr(protocol, "__module__", "")]
    base: Any = getattr(module, "RequestResponseCycle", None)
    if base is None or hasattr(base, "head"):
        return
    plain = base.send

    class Cycle(base):
        """Not a coroutine that awaits another: this is called twice for each request."""

        head: Any = None

        def send(self, message: Any) -> Any:
            if message["type"] == "http.response.start":
                self.head = message
            return plain(self, message)

    Cycle.__name__ = base.__name__
    module.RequestResponseCycle = Cycle  # type: ignore[attr-defined]


async def drain(state: Any, worker: Worker, is_forced: Any) -> bool:
    """Return when nothing is left of uvicorn's ServerState `state`, or when the time is over; True if all is done."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    told: dict[Any, float] = {}
    while state.connections or state.tasks:
        waited = loop.time() - start
        if waited >= worker.job.patience or is_forced():
            return False
        if waited >= worker.job.drain_grace:
            for connection in list(state.connections):
                _close_if_it_may(connection, told, loop.time())
            _cancel_deaf(state.tasks, told, loop.time())
        await asyncio.sleep(TICK)
    return True


def _close_if_it_may(connection: Any, told: dict[Any, float], now: float) -> None:
    cycle: Any = getattr(connection, "cycle", False)
    if cycle is False:
        _close_websocket(connection, told, now)
    elif cycle is not None and not cycle.response_complete:
        head = getattr(cycle, "head", None)
        if cycle not in told and head is not None and is_endless_raw(head.get("headers", ())):
            told[cycle] = now
            _end(connection, cycle)
    elif not _has_begun(connection, cycle) and not unread(connection.transport):
        connection.transport.close()


def _close_websocket(connection: Any, told: dict[Any, float], now: float) -> None:
    """1012, service restart; a handshake that is under way is a request like others."""
    done = getattr(connection, "handshake_completed_event", None)
    if connection not in told and (
        done.is_set() if done is not None else getattr(connection, "handshake_complete", True)
    ):
        told[connection] = now
        connection.shutdown()


def _has_begun(connection: Any, cycle: Any) -> bool:
    """Has a part of the next request's head come?"""
    parser = getattr(connection, "conn", None)
    if parser is not None:  # h11
        return bool(parser.trailing_data[0])
    return connection.scope is not None and (cycle is None or cycle.scope is not connection.scope)


def _end(connection: Any, cycle: Any) -> None:
    """An orderly end: the last chunk, then the end of the connection. What the app still sends goes nowhere."""
    cycle.disconnected = True
    cycle.message_event.set()
    last = b""
    if getattr(cycle, "chunked_encoding", None):
        last = b"0\r\n\r\n"
    elif getattr(cycle, "conn", None) is not None:
        h11 = sys.modules["h11"]
        with contextlib.suppress(h11.LocalProtocolError):  # it has a length
            last = cycle.conn.send(h11.EndOfMessage()) or b""
    if last:
        connection.transport.write(last)
    connection.transport.close()


def _cancel_deaf(tasks: Any, told: dict[Any, float], now: float) -> None:
    deaf = {cycle for cycle, since in told.items() if now >= since + DEAF}
    for task in [task for task in tasks if deaf]:
        frame = getattr(task.get_coro(), "cr_frame", None)
        if frame is not None and frame.f_locals.get("self") in deaf:
            task.cancel()


def unread(transport: Any) -> int:
    """Bytes that have arrived and were not read."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return 0
    return unread_bytes(sock.fileno())
