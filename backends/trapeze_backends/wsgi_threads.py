"""WSGI apps in the threads of a server that is an event loop: what its own wrapper collects to the end is streamed.

The loop hands each request to a thread and is told of the answer: of one that is whole (a list, which is what most apps
return) once, at the end; of others piece by piece, and the thread waits until the client has taken each.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sys
import threading
import traceback
from io import BytesIO
from typing import Any
from urllib.parse import unquote_to_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["THREADS", "Pool", "Sink", "make_environ", "respond"]

THREADS = 4
"""Of a pool, where the job does not say."""


class Sink:
    """Where an answer goes; a server's own. All of it is called on the loop."""

    started = False

    async def start(self, status: str, headers: Sequence[tuple[str, str]]) -> None:
        """The head. What is there of a body follows at once."""
        raise NotImplementedError

    async def write(self, piece: bytes) -> None:
        """A piece of the body; returns when there may be more."""
        raise NotImplementedError

    async def finish(self) -> None:
        """The end."""
        raise NotImplementedError

    def abort(self) -> None:
        """The app has failed in the middle: cut the connection, so that nobody takes this for the end."""
        raise NotImplementedError


class Pool:
    """Threads that do not keep the process from ending: one that never comes back must not hold a stop.

    Args:
        size: how many there are at most.
        freed: called on the loop whenever a request is finished.
    """

    def __init__(self, size: int, freed: Callable[[], None] = lambda: None) -> None:
        self.size = size
        self.freed = freed
        self.busy = 0
        """Requests that wait or are under way."""
        self.finished = 0
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]] | None] = queue.SimpleQueue()
        self._threads = 0

    @property
    def has_room(self) -> bool:
        """Is there a thread for one more request?"""
        return self.busy < self.size

    def submit(self, function: Callable[[], Any]) -> asyncio.Future[Any]:
        """Have a thread call `function`; what it returns, or raises, is that of the future."""
        future = self._loop.create_future()
        self.busy += 1
        if self._threads < min(self.busy, self.size):
            self._threads += 1
            threading.Thread(target=self._work, name=f"wsgi-{self._threads}", daemon=True).start()
        self._queue.put((function, future))
        return future

    def close(self) -> None:
        """End the threads that wait for something to do."""
        for _ in range(self._threads):
            self._queue.put(None)

    def _work(self) -> None:
        while (task := self._queue.get()) is not None:
            function, future = task
            result: Any = None
            error: BaseException | None = None
            try:
                result = function()
            except BaseException as raised:
                error = raised
            try:
                self._loop.call_soon_threadsafe(self._done, future, result, error)
            except RuntimeError:
                return  # the loop has ended
            del task, function, future, result, error  # not until the next request

    def _done(self, future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        self.busy -= 1
        self.finished += 1
        if not future.done():
            if error is None:
                future.set_result(result)
            else:
                # A coroutine cannot raise the one, and passes the others on to the loop.
                future.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))
        self.freed()


async def respond(pool: Pool, app: Any, environ: dict[str, Any], sink: Sink) -> None:
    """Have `app` answer one request. An error in it is shown, and is a 500 where that can still be said."""
    call = _Call(app, environ, sink)
    try:
        body = await pool.submit(call.run)
        try:
            if not sink.started:
                await sink.start(call.status, _with_length(call, body))
            if body and not call.is_head:
                await sink.write(body)
            await sink.finish()
        except OSError as error:
            raise _Gone from error
    except _Gone:
        sink.abort()
    except Exception as error:
        traceback.print_exception(type(error), error, error.__traceback__)
        await _failed(sink)


async def _failed(sink: Sink) -> None:
    if sink.started:
        sink.abort()
        return
    text = b"Internal Server Error"
    with contextlib.suppress(OSError):
        await sink.start("500 " + text.decode(), [("Content-Type", "text/plain"), ("Content-Length", str(len(text)))])
        await sink.write(text)
        await sink.finish()


def _with_length(call: _Call, body: bytes) -> list[tuple[str, str]]:
    """The headers, with the length of an answer that is there as a whole."""
    headers = list(call.headers)
    bare = call.status[:1] == "1" or call.status[:3] in ("204", "304")
    if bare or (not body and call.is_head):
        return headers
    if not any(name.lower() == "content-length" for name, _ in headers):
        headers.append(("Content-Length", str(len(body))))
    return headers


class _Gone(Exception):
    """The client has."""


class _Call:
    """One request, in its thread."""

    def __init__(self, app: Any, environ: dict[str, Any], sink: Sink) -> None:
        self.status = ""
        self.headers: Sequence[tuple[str, str]] = ()
        self.is_head = environ["REQUEST_METHOD"] == "HEAD"
        """Its answer has the length that a body would have, and none (RFC 9110, section 9.3.2)."""
        self._app = app
        self._environ = environ
        self._sink = sink
        self._loop = asyncio.get_running_loop()
        self._pushed = False

    def run(self) -> bytes:
        """Call the app; returns what is left to be sent."""
        result = self._app(self._environ, self._start_response)
        try:
            if isinstance(result, (list, tuple)) and not self._pushed:
                body = b"".join(result)
            else:
                body = b""
                for piece in result:
                    if piece:
                        self._push(piece)
                    if self.is_head:
                        break  # nothing of it is sent, and it may have no end
            if not self.status:
                raise RuntimeError("the app did not call start_response")
            return body
        finally:
            close = getattr(result, "close", None)
            if close is not None:
                close()

    def _start_response(self, status: str, headers: Sequence[tuple[str, str]], exc_info: Any = None) -> Any:
        if exc_info:
            try:
                if self._pushed:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # it holds this frame
        elif self.status:
            raise AssertionError("start_response was called twice")
        self.status = status
        self.headers = headers
        return self._push

    def _push(self, piece: bytes) -> None:
        """Have a piece sent, and wait until the client has taken it."""
        if not isinstance(piece, bytes):
            raise TypeError(f"the app gave {type(piece).__name__}, not bytes")
        if not self.status:
            raise RuntimeError("the app did not call start_response")
        self._pushed = True
        asyncio.run_coroutine_threadsafe(self._send(piece), self._loop).result()

    async def _send(self, piece: bytes) -> None:
        if not self._sink.started:
            await self._sink.start(self.status, self.headers)
        if self.is_head:
            return
        try:
            await self._sink.write(piece)
        except OSError as error:
            raise _Gone from error


def make_environ(
    method: str, raw_path: bytes, query: str, version: str, headers: Iterable[tuple[str, str]], body: bytes
) -> dict[str, Any]:
    """Return an environ, as PEP 3333 wants it; names of the server and the client are `wsgi_common`'s affair.

    Args:
        method: GET.
        raw_path: as it came, percent signs and all.
        query: what stood behind the question mark.
        version: "HTTP/1.1".
        headers: names in any case.
        body: the whole of it.
    """
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(raw_path).decode("latin-1"),
        "RAW_URI": raw_path.decode("latin-1") + (f"?{query}" if query else ""),
        "QUERY_STRING": query,
        "SERVER_PROTOCOL": version,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }
    for name, value in headers:
        if "_" in name:
            continue  # it would pass for the one with a hyphen: a client's X_Forwarded_For for a proxy's word
        key = "HTTP_" + name.upper().replace("-", "_")
        if key in environ:
            value = f"{environ[key]}{'; ' if key == 'HTTP_COOKIE' else ','}{value}"
        environ[key] = value
    for key in ("HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH"):
        if key in environ:
            environ[key[5:]] = environ.pop(key)
    if environ.pop("HTTP_TRANSFER_ENCODING", None):
        environ["CONTENT_LENGTH"] = str(len(body))  # it has come in chunks, and is whole now
    return environ
