"""Request bodies that come in chunks (RFC 9112, section 7.1), for servers that cannot read them, or are not strict.

A size that two servers read differently ("0x10", "+5", "1_0") hides a request from one of them.
"""

from __future__ import annotations

import io

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["BadChunks", "dechunked"]

DIGITS = frozenset(b"0123456789abcdefABCDEF")
LINE = 4096
"""Bytes of a line at most: a size with its extensions, a trailer."""
TRAILERS = 100


class BadChunks(OSError):
    """The body is none, or not the whole of one."""


class Dechunked(io.RawIOBase):
    """The body without its chunks; what follows it is left in the file.

    Args:
        file: buffered, at the first chunk.
        limit: bytes of the body at most, 0 for any number.
    """

    def __init__(self, file: Any, limit: int = 0) -> None:
        self._file = file
        self._left = 0
        self._limit = limit
        self._read = 0
        self.is_over = False

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what there is of one chunk.

        Raises:
            BadChunks: it is not well formed, too long, or ends too early.
        """
        if self._left == 0 and not self.is_over:
            self._begin_chunk()
        if self.is_over or not len(buffer):
            return 0
        data = self._file.read(min(len(buffer), self._left))
        if not data:
            raise BadChunks("the body ends in a chunk")
        self._left -= len(data)
        if self._left == 0 and self._file.readline(3) != b"\r\n":
            raise BadChunks("a chunk without an end")
        buffer[: len(data)] = data
        return len(data)

    def _begin_chunk(self) -> None:
        digits = self._line().partition(b";")[0].strip(b" \t")
        if not digits or not DIGITS.issuperset(digits):
            raise BadChunks("a chunk whose size is no number")
        self._left = int(digits, 16)
        self._read += self._left
        if self._limit and self._read > self._limit:
            raise BadChunks("the body is too long")
        if self._left == 0:
            self.is_over = True
            for _ in range(TRAILERS):
                if not self._line():
                    return
            raise BadChunks("too many trailers")

    def _line(self) -> bytes:
        line = bytes(self._file.readline(LINE))
        if not line.endswith(b"\r\n"):
            raise BadChunks("a line without an end")
        return line[:-2]


def dechunked(file: Any) -> io.BufferedReader:
    """Return the body behind `file`, as `wsgi.input` has to be."""
    return io.BufferedReader(Dechunked(file))
