"""The health request for apps that are no callables of ASGI: over a pair of sockets, into the server's own protocol.

One end is handed to the server like an accepted connection; what comes out of the other is told to `health` in terms of
ASGI. So it is the server itself that makes the app's request, and no version of it has to be imitated.
"""

from __future__ import annotations

import asyncio
import http.client
import io
import socket
from typing import Any

from trapeze_backends.health import LIMIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["Asked", "over_a_stream"]


class Asked:
    """What a server knows of the health request that it serves.

    Attributes:
        error: what the app has raised, whatever the server has made of it.
        task: that the app's code runs in.
    """

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.task: asyncio.Task[Any] | None = None


def over_a_stream(serve: Callable[[socket.socket], Awaitable[Asked]]) -> Any:
    """Return what `Worker.check_health` asks.

    Args:
        serve: hands a connected socket to the server.
    """

    async def app(scope: Any, receive: Any, send: Any) -> None:
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setblocking(False)
        asked = await serve(theirs)
        try:
            answer = await _talk(ours, scope)
        except asyncio.CancelledError as error:
            where = await _interrupted(asked) or error
            raise asyncio.CancelledError().with_traceback(where.__traceback__) from None
        finally:
            ours.close()
        if asked.error is not None:
            raise asked.error
        if answer is None:
            return  # ended without an answer
        await send({"type": "http.response.start", "status": answer.status, "headers": []})
        await send({"type": "http.response.body", "body": answer.read(LIMIT)})

    return app


async def _talk(sock: socket.socket, scope: Any) -> http.client.HTTPResponse | None:
    """Send the request, read the answer."""
    loop = asyncio.get_running_loop()
    target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
    lines = [b"GET " + target + b" HTTP/1.1", *(name + b": " + value for name, value in scope["headers"])]
    await loop.sock_sendall(sock, b"\r\n".join([*lines, b"Connection: close", b"", b""]))
    data = b""
    while len(data) < 2 * LIMIT:
        piece = await loop.sock_recv(sock, LIMIT)
        if not piece:
            break
        data += piece
    if not data:
        return None
    answer = http.client.HTTPResponse(_Read(data))  # type: ignore[arg-type]
    answer.begin()
    return answer


class _Read:
    """What `http.client` wants of a socket."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, mode: str) -> io.BytesIO:
        """All that has been read."""
        return io.BytesIO(self._data)


async def _interrupted(asked: Asked) -> BaseException | None:
    """Cancel the app's task; returns the error, which knows where it was."""
    if asked.task is None or asked.task.done():
        return asked.error
    asked.task.cancel()
    await asyncio.wait({asked.task}, timeout=0.3)
    return asked.error
