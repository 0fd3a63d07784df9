"""Writing without ever blocking: a descriptor that others share, and the buffer before it.

`O_NONBLOCK` is never set on what we were given: it would be set for the shell too. A pipe or a terminal is opened anew
through /proc, which gives a file description of our own; a socket is sent to with MSG_DONTWAIT; a file is written as it
is. What cannot be written at once waits in a buffer, and when that is full, whole lines are dropped and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import select
import socket
import stat
import time
from collections.abc import Callable

__all__ = ["BUFFER_LIMIT", "Door", "Sink", "Source"]

BUFFER_LIMIT = 1024 * 1024
"""Bytes that wait for a reader before lines are dropped; one line more than this may be held."""
WRITE_SIZE = 64 * 1024
"""Bytes handed to one write."""
CAREFUL_SIZE = 512
"""Bytes per write where the descriptor may block: what POSIX lets a pipe that polls as writable take at least."""

CONTINUED = b"... "
"""Before the rest of a line that another one has come into: only lines of over a MiB are taken in pieces."""

Source = tuple[str, int | None, int | None, str]
"""Service, index, pid, stream: whose line it is."""


class Door:
    """A descriptor that can be written to without blocking."""

    def __init__(self, fd: int) -> None:
        """Raises OSError when `fd` is not open."""
        kind = os.fstat(fd).st_mode
        self.fd = fd
        self.size = WRITE_SIZE
        self._socket: socket.socket | None = None
        self._poll_first = False
        self._close = False
        if stat.S_ISSOCK(kind):
            self._socket = socket.socket(fileno=os.dup(fd))
            self.fd = self._socket.fileno()
        elif not stat.S_ISREG(kind):
            # A file never says "try again", and opened anew it would be written from its beginning.
            self._reopen(fd)

    def _reopen(self, fd: int) -> None:
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
        flags |= fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND
        for path in _names(fd):
            with contextlib.suppress(OSError):
                self.fd = os.open(path, flags)
                self._close = True
                return
        # No /proc, another user's pipe, or a pipe whose reader has gone.
        self._poll_first, self.size = True, CAREFUL_SIZE

    def write(self, data: memoryview) -> int:
        """Write some of it; return how much.

        Raises:
            BlockingIOError: nothing can be written now.
            OSError: any other failure.
        """
        if self._socket is not None:
            return self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        if self._poll_first and not self.writable(0.0):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return os.write(self.fd, data)

    def writable(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until a write would do something (or fail)."""
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        return bool(poll.poll(max(0.0, timeout) * 1000))

    def close(self) -> None:
        """Close what was opened here, never the descriptor that was given."""
        if self._socket is not None:
            self._socket.close()
        elif self._close:
            os.close(self.fd)


def _names(fd: int) -> list[str]:
    """Names by which what `fd` stands for may be opened anew."""
    names = [f"/proc/self/fd/{fd}"]
    with contextlib.suppress(OSError):
        # Answered by our controlling terminal only. After su it is another user's file; this name is open to all.
        os.tcgetpgrp(fd)
        names.append("/dev/tty")
    return names


class Sink:
    """One place where lines go: a door, and what waits before it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int, limit: int, say: Callable[[str], bytes]) -> None:
        """Take over no descriptor: `fd` stays the caller's. `say` makes a line of trapeze's own out of a text."""
        self._loop = loop
        self._limit = limit
        self._say = say
        self._buffer = bytearray()
        self._scheduled: asyncio.Handle | None = None
        self._waiting = False
        self._open: Source | None = None
        self._interrupted: set[Source] = set()
        """In the middle of a line, with lines of others after what there is of it."""
        self._skipping: set[Source] = set()
        self._full = False
        self.dropped = 0
        self._reported = 0
        self.tty = False
        self._door: Door | None = None
        with contextlib.suppress(OSError):
            self._door = Door(fd)
            self.tty = os.isatty(fd)

    def put(self, source: Source, prefix: bytes, text: bytes, more: bool) -> None:
        """Queue a line, or a piece of one."""
        if self._door is None or self._refused(source, more):
            return
        buffer = self._buffer
        if self._open != source:
            self._break()
            if self.dropped:
                self._mark()
            buffer += prefix
            if source in self._interrupted:
                self._interrupted.discard(source)
                buffer += CONTINUED
        buffer += text
        if more:
            self._open = source
        else:
            self._open = None
            buffer += b"\n"
        if self._waiting:
            return
        if len(buffer) >= WRITE_SIZE:
            self._flush()
        elif self._scheduled is None:
            self._scheduled = self._loop.call_soon(self._flush)

    def _refused(self, source: Source, more: bool) -> bool:
        """Is there no room for it? Then it is counted, and its further pieces are refused too."""
        if self._skipping and source in self._skipping:
            if not more:
                self._skipping.discard(source)
            return True
        size = len(self._buffer)
        # Half empty before lines are taken again, or the report of dropped lines would come between every two.
        if size < (self._limit // 2 if self._full else self._limit):
            self._full = False
            return False
        self._full = True
        self.dropped += 1
        if source == self._open:
            self._break()
        self._interrupted.discard(source)  # its rest is skipped
        if more:
            self._skipping.add(source)
        return True

    def _break(self) -> None:
        """End the line that is in the middle of its pieces."""
        if self._open is not None:
            self._interrupted.add(self._open)
            self._open = None
            self._buffer += b"\n"

    def _mark(self) -> None:
        lines, them = ("1 line", "it") if self.dropped == 1 else (f"{self.dropped} lines", "them")
        self._reported += self.dropped
        self.dropped = 0
        self._buffer += self._say(f"{lines} dropped: this output could not take {them}")

    def _flush(self) -> None:
        """Write what can be written now; see to it that the rest follows."""
        if self._scheduled is not None:
            self._scheduled.cancel()
            self._scheduled = None
        self._write()
        if self._full and not self._buffer and self.dropped:
            self._full = False
            self._break()
            self._mark()
            self._write()
        self._watch(bool(self._buffer))

    def _write(self) -> None:
        buffer = self._buffer
        while buffer and self._door is not None:
            try:
                with memoryview(buffer) as view, view[: self._door.size] as chunk:
                    written = self._door.write(chunk)
            except BlockingIOError:
                return
            except OSError as error:
                self._failed(error)
                return
            del buffer[:written]
        self._reported = 0

    def _failed(self, error: OSError) -> None:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            # The disk may have room again later: these lines are lost, the next are tried.
            report = 1 if self._reported else 0
            self.dropped += max(1, self._buffer.count(b"\n") - report) + self._reported
            self._reported = 0
            self._buffer.clear()
            self._open = None
            return
        # The reader has gone, the terminal hung up. Nobody listens, and that is no reason to stop serving.
        self.close()

    def _watch(self, wanted: bool) -> None:
        if self._door is None or wanted == self._waiting:
            return
        if not wanted:
            self._loop.remove_writer(self._door.fd)
        else:
            try:
                self._loop.add_writer(self._door.fd, self._flush)
            except OSError:
                # epoll takes no files and no /dev/null, which never ask to be waited for either.
                return
        self._waiting = wanted

    @property
    def waiting(self) -> bytes:
        """What is not written yet."""
        return bytes(self._buffer)

    def resume(self, waiting: bytes) -> None:
        """Write first what another program in our place has left."""
        self._buffer[:0] = waiting
        self._flush()

    def flush(self, deadline: float) -> bool:
        """Write all, waiting until the monotonic `deadline`; return whether all is out."""
        while True:
            self._flush()
            door, left = self._door, deadline - time.monotonic()
            if door is None or not self._buffer:
                return not self._buffer
            if left <= 0 or not door.writable(left):
                return False

    def close(self) -> None:
        """Forget what is not written; take nothing more."""
        self._watch(False)
        if self._scheduled is not None:
            self._scheduled.cancel()
            self._scheduled = None
        door, self._door = self._door, None
        if door is not None:
            door.close()
        self._buffer.clear()
