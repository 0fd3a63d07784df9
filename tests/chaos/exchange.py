"""One request and its answer on a raw socket: what went wrong has a name and a phase. Nothing is ever tried again."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import zlib
from typing import NamedTuple

from tests.chaos.records import (
    DOUBLED,
    REFUSED,
    RESET,
    TIMED_OUT,
    UNFINISHED,
    WRONG_BODY,
    WRONG_STATUS,
    Flow,
)

__all__ = ["Answer", "Line", "Lost", "connect", "exchange", "pause", "rest"]

HEAD_END = b"\r\n\r\n"


class Lost(Exception):
    """A request that did not get its answer."""

    def __init__(self, outcome: str, phase: str, detail: str = "") -> None:
        super().__init__(f"{outcome} ({phase}): {detail}")
        self.outcome = outcome
        self.phase = phase
        self.detail = detail


class Answer(NamedTuple):
    """What a good answer said."""

    pid: int
    generation: str
    code: str
    reusable: bool
    """The server lets the connection be used again."""


class Line:
    """An open connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.served = 0
        """Requests that were answered on it."""
        self.phase = "send"
        self._fate = ""

    def idle(self) -> str:
        """What has become of it while it was idle: "" (it can be used), or why not.

        "closed" is the server's good right; anything else is an outcome.
        """
        # Asked once: a socket tells of its reset to one call, and says end of file to the next.
        self._fate = self._fate or self._look()
        return self._fate

    def _look(self) -> str:
        try:
            return DOUBLED if self.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) else "closed"
        except BlockingIOError:
            return ""
        except OSError:
            return RESET

    def close(self) -> None:
        """Close it, in order."""
        self.sock.close()


async def pause(seconds: float) -> None:
    """Let time pass between two pieces of a request."""
    loop = asyncio.get_running_loop()
    over = loop.create_future()
    timer = loop.call_later(seconds, over.set_result, None)
    try:
        await over
    finally:
        timer.cancel()


async def connect(addresses: tuple[str, ...], timeout: float) -> Line:
    """Connect to the first address that takes it.

    Raises:
        Lost: none of them did.
    """
    why = ""
    for address in addresses:
        sock = socket.socket(socket.AF_UNIX if address.startswith("unix:") else socket.AF_INET)
        sock.setblocking(False)
        try:
            async with asyncio.timeout(timeout):
                await _connect(sock, address)
        except TimeoutError:
            sock.close()
            raise Lost(TIMED_OUT, "connect", address) from None
        except OSError as error:
            sock.close()
            why += f"{errno.errorcode.get(error.errno or 0, '?')} {address} "
        else:
            return Line(sock)
    raise Lost(REFUSED, "connect", why.strip())


async def _connect(sock: socket.socket, address: str) -> None:
    if address.startswith("unix:"):
        sock.connect(address.removeprefix("unix:"))  # at once, or EAGAIN: the queue is full
        return
    host, _, port = address.rpartition(":")
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))


async def exchange(line: Line, flow: Flow, ident: str, timeout: float) -> Answer:
    """Send one request and read its answer to the end.

    Raises:
        Lost: there is no good answer.
    """
    line.phase = "send"
    try:
        async with asyncio.timeout(timeout):
            await _send(line, flow, ident)
            line.phase = "wait"
            head, body = await _receive(line)
            line.phase = "after"
    except TimeoutError:
        raise Lost(TIMED_OUT, line.phase) from None
    except OSError as error:
        raise Lost(RESET, line.phase, errno.errorcode.get(error.errno or 0, str(error))) from None
    line.served += 1
    return _judge(head, body, flow, ident)


def payload(flow: Flow, ident: str) -> bytes:
    """The body of a request."""
    return (ident.encode() * (flow.size // len(ident) + 1))[: flow.size] if flow.method == "POST" else b""


async def _send(line: Line, flow: Flow, ident: str) -> None:
    body = payload(flow, ident)
    connection = "keep-alive" if flow.keep else "close"
    head = f"{flow.method} /?id={ident}&t={flow.busy}&n={flow.size} HTTP/1.1\r\nHost: chaos\r\n"
    head += f"Connection: {connection}\r\n"
    if flow.method == "POST":
        head += f"Content-Length: {len(body)}\r\n"
    data = head.encode() + b"\r\n" + body
    step = -(-len(data) // flow.pieces)
    loop = asyncio.get_running_loop()
    for at in range(0, len(data), step):
        if at:
            await pause(flow.pause)
        try:
            await loop.sock_sendall(line.sock, data[at : at + step])
        except (BrokenPipeError, ConnectionResetError):
            # A server may have answered before it had read all; if it has not, reading will say so.
            if line.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                return
            raise


async def _receive(line: Line) -> tuple[bytes, bytes]:
    """Head and body of the answer."""
    loop = asyncio.get_running_loop()
    data = b""
    while HEAD_END not in data:
        chunk = await loop.sock_recv(line.sock, 65536)
        if not chunk:
            raise Lost(UNFINISHED, line.phase, f"after {len(data)} bytes")
        line.phase = "answer"
        data += chunk
    head, _, body = data.partition(HEAD_END)
    length = _length(head)
    while len(body) < length:
        chunk = await loop.sock_recv(line.sock, 65536)
        if not chunk:
            raise Lost(UNFINISHED, "answer", f"{len(body)} of {length} bytes of the body")
        body += chunk
    if len(body) > length:
        raise Lost(DOUBLED, "answer", f"{len(body) - length} bytes more than announced: {body[length : length + 40]!r}")
    return head, body


def _length(head: bytes) -> int:
    for field in head.split(b"\r\n")[1:]:
        name, _, value = field.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    raise Lost(WRONG_BODY, "answer", f"no Content-Length in {head[:80]!r}")


def _judge(head: bytes, body: bytes, flow: Flow, ident: str) -> Answer:
    """Is this the answer to what was asked?"""
    status = head.split(b"\r\n", 1)[0]
    if status.split(b" ")[1:2] != [b"200"]:
        raise Lost(WRONG_STATUS, "answer", status.decode(errors="replace"))
    first, _, padding = body.partition(b"\n")
    words = first.decode(errors="replace").split()
    if len(words) != 5 or words[0] != ident:
        raise Lost(WRONG_BODY, "answer", f"wanted {ident}, got {body[:60]!r}")
    if padding != (ident.encode() * (flow.size // len(ident) + 1))[: flow.size]:
        raise Lost(WRONG_BODY, "answer", f"padding differs, {len(padding)} of {flow.size} bytes")
    if int(words[4]) != zlib.crc32(payload(flow, ident)):
        raise Lost(WRONG_BODY, "answer", "the app had not received what was sent")
    lower = head.lower()
    reusable = status.startswith(b"HTTP/1.1") and b"connection: close" not in lower
    return Answer(int(words[1]), words[2], words[3], reusable)


async def rest(line: Line, timeout: float) -> bytes:
    """What still comes on a connection that is to be closed; b"" is right, a second answer is not.

    A server that leaves it open, or resets it after all was said, loses nothing.
    """
    loop = asyncio.get_running_loop()
    with contextlib.suppress(TimeoutError, OSError):
        async with asyncio.timeout(timeout):
            return await loop.sock_recv(line.sock, 65536)
    return b""
