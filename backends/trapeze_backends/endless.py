"""Which answers have no end of their own.

A worker that leaves lets every request go on as long as it may: one that is not answered yet, a download, an export
that is written row by row. Only what is made never to end is ended at `drain_grace`: WebSockets, and answers whose
type says so, `text/event-stream` (server-sent events) and `multipart/x-mixed-replace` (pictures of a camera). Their
clients connect again by themselves. That an answer is sent in chunks, without its length, does not make it endless:
cut off, an export would be lost. Where such a one is endless all the same, it is cut a little before `stop_timeout`.
"""

from __future__ import annotations

import fcntl
import struct
import termios
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from trapeze_backends.worker import Worker

__all__ = ["is_endless", "is_endless_raw", "may_end", "unread_bytes"]

TYPES = ("text/event-stream", "multipart/x-mixed-replace")
RAW_TYPES = (b"text/event-stream", b"multipart/x-mixed-replace")


def is_endless(headers: Iterable[tuple[str, str]]) -> bool:
    """Has an answer with these headers (of WSGI) no end?"""
    return any(value.lower().startswith(TYPES) for name, value in headers if name.lower() == "content-type")


def is_endless_raw(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Has an answer with these headers (of ASGI) no end?"""
    return any(bytes(value).lower().startswith(RAW_TYPES) for name, value in headers if name.lower() == b"content-type")


def may_end(result: Any, headers: Callable[[], Iterable[tuple[str, str]]], worker: Worker) -> Any:
    """Return what a WSGI app has returned, so that it ends once the worker leaves and the grace is over.

    That shows when the next piece comes; an app that waits for ever for its next piece is not reached.

    Args:
        result: what the app returned.
        headers: returns those of the answer; called when the first pieces are there.
        worker: whose stop ends it.
    """
    if type(result) is list or type(result) is tuple or hasattr(result, "__len__"):
        return result
    return _Pieces(result, headers, worker)


class _Pieces:
    """The pieces of an answer."""

    def __init__(self, result: Any, headers: Callable[[], Iterable[tuple[str, str]]], worker: Worker) -> None:
        self._result = result
        self._headers = headers
        self._worker = worker

    def __iter__(self) -> Iterator[bytes]:
        worker = self._worker
        for piece in self._result:
            yield piece
            if worker.stopping and monotonic() >= worker.grace_ends and is_endless(self._headers()):
                return

    def close(self) -> None:
        """The app's own."""
        if hasattr(self._result, "close"):
            self._result.close()


def unread_bytes(fd: int) -> int:
    """Bytes that have arrived on a socket and were not read."""
    return int(struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0\0\0\0"))[0])
