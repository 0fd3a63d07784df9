"""WSGI on granian: its threads call the app, the main thread looks after the sockets.

granian's own wrapper of a WSGI app is not used: it sends the head of an answer before the app's first piece, which may
well be what calls start_response, has no `write`, does not close lists, and copies the process's environment into each
environ.
"""

from __future__ import annotations

import io
import os
import select
import socket
import sys
import time
import traceback
from queue import SimpleQueue

from trapeze_backends.contract import StartError
from trapeze_backends.endless import may_end
from trapeze_backends.granian_server import DRAIN_TICK, Calls, Door, Scheduler, compiled, leave, limited, settings
from trapeze_backends.wsgi_common import host_and_port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from trapeze_backends.worker import Worker

__all__ = ["run"]

THREADS = 4
PIECE = 65536


class NoLoop:
    """Stands in for an event loop: granian looks one attribute up, and needs none for WSGI."""

    call_soon = None


def run(app: Any, sockets: list[socket.socket], worker: Worker) -> None:
    """Serve until the worker is asked to stop, then drain."""
    job = worker.job
    before = len(os.listdir("/proc/self/task"))
    threads = job.threads or job.options.get("blocking_threads") or THREADS
    made = settings(worker, threads)
    tokens: SimpleQueue[None] = SimpleQueue()
    for _ in range(threads):
        tokens.put(None)
    wake = worker.wake_fd()
    every: list[_Calls] = []
    doors = []
    try:
        for sock, listener in zip(sockets, job.listeners, strict=True):
            calls = _Calls()
            every.append(calls)
            serve = _server(_runner(app, sock, worker, calls, tokens), job.options.get("runtime_mode", "auto"))
            doors.append(Door(sock, listener.backlog, made, limited(worker, threads), serve, calls))
    except (TypeError, AttributeError) as error:
        raise StartError(f"granian {compiled.__version__} is not as trapeze knows it: {error}") from None
    worker.ready()
    poll = select.poll()
    poll.register(wake, select.POLLIN)
    while not worker.stopping:
        busy = sum(len(calls.live) for calls in every)
        worker.beat(sum(calls.begun for calls in every), busy)
        poll.poll(min(door.widen(busy < threads) for door in doors) * 1000)
    _drain(doors, worker)
    leave(worker, before)


def _drain(doors: list[Door], worker: Worker) -> None:
    end = time.monotonic() + worker.job.patience
    for door in doors:
        door.shut()
    while True:
        time.sleep(DRAIN_TICK)  # also before the first look: somebody may be on the threshold
        now = time.monotonic()
        doors = [door for door in doors if not door.clear(now, worker.grace_ends)]
        if not doors:
            return
        if now >= end:
            worker.leave_now()


def _server(runner: Callable[[Any, Any], None], mode: str) -> Callable[[dict[str, Any], Any, bool], object]:
    def serve(given: dict[str, Any], signal: Any, is_unix: bool) -> object:
        granian = compiled.WSGIWorker(**given)
        name = ("serve_str" if mode == "st" else "serve_mtr") + ("_uds" if is_unix else "")
        getattr(granian, name)(Scheduler(NoLoop, runner, None, None, None), NoLoop, signal)
        return granian

    return serve


def _runner(
    app: Any, sock: socket.socket, worker: Worker, calls: _Calls, tokens: SimpleQueue[None]
) -> Callable[[Any, dict[str, Any]], None]:
    """Return what granian's threads call for each request."""
    facts = _facts(sock, worker)
    get, put = tokens.get, tokens.put
    following, enter, leave = calls.next, calls.live.add, calls.live.discard

    def run(proto: Any, environ: dict[str, Any]) -> None:
        answer = Answer()
        answer.number = calls.begun = following()
        enter(answer)
        get()  # with several worker objects there are several pools of threads
        try:
            environ.update(facts)
            if environ["SERVER_PROTOCOL"] == "HTTP/1":
                environ["SERVER_PROTOCOL"] = "HTTP/1.0"
            if "CONTENT_LENGTH" in environ or "HTTP_TRANSFER_ENCODING" in environ:
                environ["wsgi.input"] = Input(environ["wsgi.input"])
            else:
                environ["wsgi.input"] = io.BytesIO()
            result = app(environ, answer)
            if type(result) is list and len(result) == 1 and answer.status and not answer.written:
                answer.send(proto, worker, environ, result[0])
            else:
                _answer(result, answer, proto, worker, environ)
        except BaseException:
            _failed(proto)
        finally:
            put(None)
            leave(answer)

    return run


class _Calls(Calls):
    """In the app are these very answers."""

    __slots__ = ()

    def unanswered(self) -> list[int]:
        return [answer.number for answer in list(self.live) if not answer.sent]


def _facts(sock: socket.socket, worker: Worker) -> dict[str, Any]:
    """What stands in every environ."""
    name, port = host_and_port(sock)
    facts = {
        "SERVER_NAME": name,
        "SERVER_PORT": port,
        "SCRIPT_NAME": "",
        "wsgi.version": (1, 0),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": worker.job.workers > 1,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,  # werkzeug's: it ends where the body does, which may come in chunks
    }
    return {**facts, "REMOTE_ADDR": ""} if sock.family == socket.AF_UNIX else facts


class Answer:
    """start_response, and what it was told."""

    __slots__ = ("headers", "number", "sent", "status", "written")

    def __init__(self) -> None:
        self.number = 0
        self.status = ""
        self.headers: list[tuple[str, str]] = []
        self.written: list[bytes] = []
        self.sent = False

    def __call__(self, status: str, headers: Any, exc_info: Any = None) -> Callable[[bytes], None]:
        if exc_info is not None:
            try:
                if self.sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self.status:
            raise AssertionError("start_response was called twice")
        self.status = status
        self.headers = headers
        return self.written.append

    def head(self, worker: Worker, environ: dict[str, Any]) -> tuple[int, list[tuple[str, str]]]:
        """Status and headers for granian, which would end the process over a status that is none."""
        code = int(self.status[:4])
        if not 200 <= code <= 999:
            raise ValueError(f"start_response was given the status {self.status!r}")
        self.sent = True
        headers = list(self.headers)
        if worker.stopping and environ["SERVER_PROTOCOL"] != "HTTP/2":
            headers.append(("Connection", "close"))
        return code, headers

    def send(self, proto: Any, worker: Worker, environ: dict[str, Any], body: bytes) -> None:
        """Answer with a body that is there."""
        proto.response_bytes(*self.head(worker, environ), body)


def _answer(result: Any, answer: Answer, proto: Any, worker: Worker, environ: dict[str, Any]) -> None:
    try:
        if isinstance(result, (list, tuple)) and answer.status:
            answer.send(proto, worker, environ, b"".join([*answer.written, *result]))
            return
        pieces = Pieces(result, answer, worker)
        first = next(pieces, b"")  # may be what calls start_response
        if not answer.status:
            raise AssertionError("the app did not call start_response")
        if not first:
            answer.send(proto, worker, environ, b"".join(answer.written))
            return
        pieces.first = b"".join([*answer.written, first])
        proto.response_iter(*answer.head(worker, environ), pieces)
    finally:
        if hasattr(result, "close"):
            result.close()


class Pieces:
    """What the app returned, piece by piece; empty ones are left out."""

    def __init__(self, result: Any, answer: Answer, worker: Worker) -> None:
        self.first = b""
        self._rest: Iterator[bytes] = iter(may_end(result, lambda: answer.headers, worker))

    def __iter__(self) -> Pieces:
        return self

    def __next__(self) -> bytes:
        if self.first:
            first, self.first = self.first, b""
            return first
        try:
            for piece in self._rest:
                if piece:
                    return piece
        except BaseException:
            traceback.print_exc()
            raise  # granian cuts the answer off
        raise StopIteration

    def close(self) -> None:
        """granian calls it when all is sent, or the client is gone; the app's own is called by us, however it ended."""


def _failed(proto: Any) -> None:
    """The app has failed: say it, and answer if it has not."""
    traceback.print_exc()
    body = b"Internal Server Error\n"
    proto.response_bytes(500, [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))], body)


class Input:
    """`wsgi.input` of a request that has a body. granian's own does not take -1, nor a limit for a line."""

    __slots__ = ("_body", "_rest")

    def __init__(self, body: Any) -> None:
        self._body = body
        self._rest = b""

    def read(self, size: int | None = -1) -> bytes:
        """As files do."""
        rest, self._rest = self._rest, b""
        if size is None or size < 0:
            pieces = [rest]
            while piece := self._body.read(PIECE):
                pieces.append(piece)
            return b"".join(pieces)
        if len(rest) > size:
            rest, self._rest = rest[:size], rest[size:]
        missing = size - len(rest)
        return rest + self._body.read(missing) if missing else rest

    def readline(self, size: int | None = -1) -> bytes:
        """As files do."""
        line, self._rest = self._rest, b""
        if b"\n" not in line:
            line += self._body.readline()
        limit = line.find(b"\n") + 1 or len(line)
        if size is not None and 0 <= size < limit:
            limit = size
        self._rest = line[limit:]
        return line[:limit]

    def readlines(self, hint: int | None = -1) -> list[bytes]:
        """As files do."""
        lines, total = [], 0
        for line in self:
            lines.append(line)
            total += len(line)
            if hint is not None and 0 < hint <= total:
                break
        return lines

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")
