"""What children print: bytes from a pipe or terminal -> lines -> a journal that remembers the last of them.

A `Stream` reads one descriptor and cuts it into lines; the `Journal` keeps the newest lines of each service, bounded in
bytes, and hands every line on to sinks (the console) and subscribers (`trapeze logs -f`).
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import os
from collections import deque
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

if TYPE_CHECKING:
    from typing import Self

__all__ = ["Journal", "LogLine", "Stream", "Subscription"]

READ_SIZE = 64 * 1024
"""Bytes read per wake-up of a stream: a chatty child cannot starve the loop."""
DRAIN_SIZE = 1024 * 1024
"""Most bytes `Stream.drain` reads: the largest pipe an ordinary user may have."""
LINE_LIMIT = 1024 * 1024
"""Bytes; longer lines are passed on in pieces."""
LINE_OVERHEAD = 224
"""Bytes a stored line costs beyond its text: the struct, its float, its place in the ring."""


class LogLine(msgspec.Struct, frozen=True, gc=False):
    """One line that a process printed, or that trapeze says itself."""

    at: float
    """Seconds since the epoch."""
    service: str
    index: int | None
    pid: int | None
    stream: str
    """"stdout", "stderr" or "trapeze"."""
    text: str
    """Without its line end."""
    more: bool = False
    """This is a piece of a longer line; the next line of the same process and stream goes on with it."""


class Subscription:
    """The lines that arrive from now on: an async iterator for one reader, bounded in lines and in bytes.

    A reader that does not keep up loses the oldest lines; the next thing it then gets is a line of stream "trapeze"
    that says how many. `close()` ends the iteration after what is still queued.
    """

    def __init__(self, services: Collection[str] | None, limit: int, limit_bytes: int) -> None:
        self._services = None if services is None else frozenset(services)
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._lines: deque[LogLine] = deque()
        self._bytes = 0
        self._dropped = 0
        self._waiter: asyncio.Future[None] | None = None
        self.closed = False

    def push(self, line: LogLine) -> None:
        """Queue a line if its service is wanted; called by the journal, on the loop's thread."""
        if self.closed or (self._services is not None and line.service not in self._services):
            return
        self._lines.append(line)
        self._bytes += cost(line)
        while len(self._lines) > self._limit or (self._bytes > self._limit_bytes and len(self._lines) > 1):
            self._bytes -= cost(self._lines.popleft())
            self._dropped += 1
        self._wake()

    def close(self) -> None:
        """End the subscription. Safe to call twice."""
        self.closed = True
        self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> LogLine:
        while not self._lines:
            if self.closed:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._dropped:
            first, dropped, self._dropped = self._lines[0], self._dropped, 0
            lines = "1 line" if dropped == 1 else f"{dropped} lines"
            return LogLine(first.at, "trapeze", None, None, "trapeze", f"{lines} dropped: the reader did not keep up")
        line = self._lines.popleft()
        self._bytes -= cost(line)
        return line


def cost(line: LogLine) -> int:
    """Return how many bytes of memory a stored line takes."""
    return line.text.__sizeof__() + LINE_OVERHEAD


class _Entry(Struct, frozen=True):
    number: int
    """Order of arrival over all services; the wall clock may step back, this does not."""
    line: LogLine


class _Ring:
    """The newest lines of one service."""

    __slots__ = ("entries", "size")

    def __init__(self) -> None:
        self.entries: deque[_Entry] = deque()
        self.size = 0


class Journal:
    """The newest lines of each service, and the place where every line passes."""

    def __init__(self, limit_bytes_per_service: int = 256 * 1024, *, subscription_bytes: int = 4 * 1024 * 1024) -> None:
        """Limits are bytes of memory, the overhead per line included."""
        self._limit = limit_bytes_per_service
        self._subscription_bytes = subscription_bytes
        self._longest = max(256, limit_bytes_per_service // 8)
        self._rings: dict[str, _Ring] = {}
        self._numbers = itertools.count()
        self._subscriptions: list[Subscription] = []
        self._sinks: list[Callable[[LogLine], None]] = []

    def add_sink(self, sink: Callable[[LogLine], None]) -> None:
        """Call `sink` with every line from now on, before `append` returns. It must neither block nor raise."""
        self._sinks.append(sink)

    def remove_sink(self, sink: Callable[[LogLine], None]) -> None:
        """Undo `add_sink`; no error if it is not there."""
        with contextlib.suppress(ValueError):
            self._sinks.remove(sink)

    def append(self, line: LogLine) -> None:
        """Remember a line and pass it on. What is remembered of a very long one is its beginning and its end."""
        ring = self._rings.get(line.service)
        if ring is None:
            ring = self._rings[line.service] = _Ring()
        kept = line if len(line.text) <= self._longest else self._shorten(line)
        ring.entries.append(_Entry(next(self._numbers), kept))
        ring.size += kept.text.__sizeof__() + LINE_OVERHEAD
        while ring.size > self._limit and len(ring.entries) > 1:
            ring.size -= ring.entries.popleft().line.text.__sizeof__() + LINE_OVERHEAD
        for sink in self._sinks:
            sink(line)
        if self._subscriptions:
            self._feed(line)

    def _shorten(self, line: LogLine) -> LogLine:
        half = self._longest // 2
        text = f"{line.text[:half]} [{len(line.text) - 2 * half} characters cut] {line.text[-half:]}"
        return msgspec.structs.replace(line, text=text)

    def _feed(self, line: LogLine) -> None:
        for subscription in self._subscriptions:
            subscription.push(line)
        if any(subscription.closed for subscription in self._subscriptions):
            self._subscriptions = [each for each in self._subscriptions if not each.closed]

    def tail(self, services: Collection[str] | None, lines: int) -> list[LogLine]:
        """Return the last `lines` lines of these services (None: of all), in the order in which they arrived."""
        if lines <= 0:
            return []
        names = self._rings if services is None else [name for name in self._rings if name in services]
        newest = heapq.merge(*(reversed(self._rings[name].entries) for name in names), reverse=True, key=_number)
        return [entry.line for entry in itertools.islice(newest, lines)][::-1]

    def subscribe(self, services: Collection[str] | None, limit: int = 10_000) -> Subscription:
        """Return the stream of lines of these services (None: of all) that arrive from now on."""
        self._subscriptions = [each for each in self._subscriptions if not each.closed]
        subscription = Subscription(services, limit, self._subscription_bytes)
        self._subscriptions.append(subscription)
        return subscription

    def drop(self, service: str) -> None:
        """Forget the lines of a service."""
        self._rings.pop(service, None)

    def close(self) -> None:
        """End all subscriptions."""
        for subscription in self._subscriptions:
            subscription.close()
        self._subscriptions = []


def _number(entry: _Entry) -> int:
    return entry.number


class Splitter:
    """Bytes in, lines out: however the bytes were cut up on their way, the lines are the same.

    A line ends at "\\n"; one "\\r" before it goes too. Bytes that are not UTF-8 come out as `\\xNN`. A line of more
    than `limit` bytes (at least 4) comes in pieces, all but the last with `more` true, and no character is cut.
    """

    __slots__ = ("_limit", "_on_line", "_pending")

    def __init__(self, on_line: Callable[[str, bool], None], limit: int = LINE_LIMIT) -> None:
        self._on_line = on_line
        self._limit = limit
        self._pending = bytearray()

    def feed(self, data: bytes) -> None:
        """Take the next bytes and pass on the lines that they complete."""
        end = data.rfind(b"\n")
        if end < 0:
            self._pending += data
        elif len(self._pending) + end <= self._limit:
            # No line in here can be too long: decode all of them in one go. A newline is never part of a character.
            head = bytes(self._pending) + data[:end] if self._pending else data[:end]
            self._pending[:] = data[end + 1 :]
            on_line = self._on_line
            text = head.decode("utf-8", "backslashreplace")
            if "\r" in text:
                # One "\r" before each line end; any other stays where it is.
                text = (text[:-1] if text[-1] == "\r" else text).replace("\r\n", "\n")
            for line in text.split("\n"):
                on_line(line, False)
        else:
            self._feed_long(data)
        if len(self._pending) > self._limit:
            self._pass_pieces()

    def _feed_long(self, data: bytes) -> None:
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._pending += line
            self._pass_pieces()
            self._pass_last()
        self._pending += rest

    def _pass_pieces(self) -> None:
        pending = self._pending
        while len(pending) > self._limit:
            cut = self._limit
            # Back to the first byte of the character that straddles the limit. Four continuation bytes in a row are
            # not UTF-8, or the fourth begins a new sequence: then the limit itself is as good a place as any.
            for at in range(self._limit, max(0, self._limit - 4), -1):
                if pending[at] & 0xC0 != 0x80:
                    cut = at
                    break
            self._on_line(pending[:cut].decode("utf-8", "backslashreplace"), True)
            del pending[:cut]

    def _pass_last(self) -> None:
        line = self._pending.decode("utf-8", "backslashreplace")
        self._pending.clear()
        self._on_line(line.removesuffix("\r"), False)

    @property
    def rest(self) -> bytes:
        """The unfinished line."""
        return bytes(self._pending)

    def finish(self) -> None:
        """Pass on what is left of an unfinished last line."""
        if self._pending:
            self._pass_last()


class Stream:
    """Reads one descriptor (pipe, terminal, socket) until its other side is closed. Owns the descriptor."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        fd: int,
        on_line: Callable[[str, bool], None],
        on_close: Callable[[], None],
        *,
        limit: int = LINE_LIMIT,
        rest: bytes = b"",
    ) -> None:
        """Start reading.

        Args:
            loop: where it is read; everything is called on its thread.
            fd: readable descriptor; made non-blocking, closed when done.
            on_line: called with (text, more) for each line.
            on_close: called exactly once: at the end of the data, at an error, or by `close()`.
            limit: bytes; longer lines come in pieces.
            rest: an unfinished line that was read before.
        """
        self._loop = loop
        self.fd = fd
        self.splitter = Splitter(on_line, limit)
        self.splitter.feed(rest)
        self._on_close = on_close
        os.set_blocking(fd, False)
        loop.add_reader(fd, self._read)

    @property
    def closed(self) -> bool:
        """Is it done?"""
        return self.fd < 0

    def _read(self) -> int:
        """Read once; return the number of bytes, 0 when there is nothing now or nothing more."""
        try:
            data = os.read(self.fd, READ_SIZE)
        except BlockingIOError:
            return 0
        except OSError:
            # EIO is how a pseudo-terminal says that nobody has its other side open; any other error ends it as well,
            # since a descriptor that cannot be read would wake the loop for ever.
            data = b""
        if not data:
            self.close()
            return 0
        self.splitter.feed(data)
        return len(data)

    def drain(self) -> None:
        """Read what is there now without waiting: for when the process is gone but a grandchild holds the pipe."""
        budget = DRAIN_SIZE
        while budget > 0 and self.fd >= 0 and (got := self._read()):
            budget -= got

    def close(self) -> None:
        """Stop reading, pass on an unfinished last line, close the descriptor. Safe to call twice."""
        fd, self.fd = self.fd, -1
        if fd < 0:
            return
        self._loop.remove_reader(fd)
        os.close(fd)
        self.splitter.finish()
        self._on_close()
