"""The control door: HTTP/1.1 and JSON on the control socket, for the command line and for curl.

    curl --unix-socket /run/trapeze/trapeze.sock http://x/status

What can be asked is in `routes.py`, how it is spoken in `door.py`; here is who may ask, and how many at a time.
Import this only after the workers were spawned: it brings h11 with it, which they need not wait for.
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING

from trapeze.calls import Refusal, Supervisor, error_reply
from trapeze.door import Connection, Peer, Reply, Request
from trapeze.errors import TrapezeError
from trapeze.routes import dispatch
from trapeze.runtime import BACKLOG, control_mode

if TYPE_CHECKING:
    from trapeze.spec import ControlSpec

__all__ = ["CLIENTS", "Door", "Supervisor", "serve"]

FULL = "busy", "too many clients at the control socket"
CLIENTS = 64
"""Connections at one time."""
_PATIENCE = 1.0
"""Seconds that a client has, when the door closes, to take what is left for it."""
_ACCEPTING = 4
"""Turns of the loop between asyncio's accept() and our hearing of it: a task, then two callbacks; and one to spare."""


class Door:
    """The open control door."""

    def __init__(self, supervisor: Supervisor, policy: ControlSpec) -> None:
        self._supervisor = supervisor
        self._open = bool(control_mode(policy) & 0o077)
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._fd = -1
        self._closed: tuple[str, str] | None = None
        """What is said to those who come too late."""

    async def listen(self, sock: socket.socket) -> None:
        """Accept on the socket that `runtime.claim` has opened. It stays the caller's: `close` leaves it open."""
        loop = asyncio.get_running_loop()
        # asyncio closes what it serves; the path must stay ours until the claim is released.
        own = sock.dup()
        self._fd = own.fileno()
        self._server = await loop.create_unix_server(lambda: Connection(self, self._handle), sock=own, backlog=BACKLOG)

    @property
    def writing(self) -> int:
        """How many clients wait for an order they have given."""
        return sum(connection.writing for connection in self._connections)

    async def stop_accepting(self) -> None:
        """Who connects from now on waits in the queue of the socket; who is here may go on asking."""
        if self._server is not None:
            # Not closed at once: asyncio 3.11 loses, unclosed, what it has accepted but not yet made a transport of.
            asyncio.get_running_loop().remove_reader(self._fd)
            for _ in range(_ACCEPTING):
                await asyncio.sleep(0)
            self._server.close()
            self._server = None

    async def close(self, code: str = "stopping", why: str = "the supervisor is stopping") -> None:
        """Accept no more, end open streams, and answer 503 to those who wait. Returns within two seconds."""
        self._closed = code, why
        await self.stop_accepting()
        connections = tuple(self._connections)
        await asyncio.gather(*(connection.close(_PATIENCE, code, why) for connection in connections))

    def opened(self, connection: Connection) -> tuple[str, str] | None:
        self._connections.add(connection)
        return self._closed or (FULL if len(self._connections) > CLIENTS else None)

    def closed(self, connection: Connection) -> None:
        self._connections.discard(connection)

    async def _handle(self, request: Request) -> Reply:
        try:
            self._admit(request.peer)
            return await dispatch(self._supervisor, request)
        except TrapezeError as error:
            return error_reply(error)

    def admits(self, uid: int) -> bool:
        """May this user ask anything here?"""
        return uid in (0, os.geteuid()) or self._open

    def _admit(self, peer: Peer) -> None:
        if self.admits(peer.uid):
            return
        hint = "[control] mode and group say who may open it"
        raise Refusal(403, "forbidden", f"uid {peer.uid} may not use this control socket", hint=hint)


async def serve(supervisor: Supervisor, sock: socket.socket, policy: ControlSpec) -> Door:
    """Open the control door on a listening Unix socket.

    Args:
        supervisor: whose verbs are called.
        sock: from `runtime.claim`; stays the caller's.
        policy: the [control] section: if its mode lets a group in, whom the kernel lets connect may give orders;
            otherwise only root and our own user.
    """
    door = Door(supervisor, policy)
    await door.listen(sock)
    return door
