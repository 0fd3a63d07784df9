"""The health request: asked of the app inside a new worker, before it accepts any request from outside.

Through the app itself, with an environ or a scope of ours: the listening socket is shared, so a request sent there
would be answered by any worker. A wrong answer, an error or no answer in time is a failed start, with the reason.
"""

from __future__ import annotations

import contextlib
import io
import signal
import sys

from trapeze_backends.contract import StartError
from trapeze_backends.loading import failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType
    from typing import Any, NoReturn

__all__ = ["ask_asgi", "ask_wsgi"]

LIMIT = 64 * 1024
"""Bytes of the answer's body that are read."""
LINES, LETTERS = 20, 2000
"""So much of the body is shown when the status is wrong."""
LATER = 0.5
"""Seconds after the time-out at which code that does not let go is interrupted wherever it is."""


class NoAnswer(BaseException):
    """Raised inside the app when the time is over; no `except Exception` of a framework makes an answer of it."""


class Request:
    """What is asked, from the job's `health`."""

    def __init__(self, raw: dict[str, Any]) -> None:
        from urllib.parse import unquote_to_bytes

        self.path: str = raw["path"]
        encoded, _, query = self.path.partition("?")
        self.encoded = encoded.encode()
        self.decoded = unquote_to_bytes(encoded)
        self.query = query
        given = {str(name).lower(): str(value) for name, value in (raw.get("headers") or {}).items()}
        self.headers = {"host": raw.get("host") or "localhost", "user-agent": "trapeze", "accept": "*/*", **given}
        self.status: int | None = raw.get("status")
        self.timeout = float(raw.get("timeout") or 10.0)
        proto = self.headers.get("x-forwarded-proto", "http")
        self.scheme = proto if proto in ("http", "https") else "http"
        name, colon, port = self.headers["host"].rpartition(":")
        if not (colon and port.isdigit()):
            name, port = self.headers["host"], "443" if self.scheme == "https" else "80"
        self.server = (name.strip("[]") or "localhost", port)

    def environ(self) -> dict[str, Any]:
        """For WSGI, as PEP 3333 wants it."""
        fields = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in self.headers.items()}
        for name in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            if f"HTTP_{name}" in fields:
                fields[name] = fields.pop(f"HTTP_{name}")
        return {
            "REQUEST_METHOD": "GET",
            "SCRIPT_NAME": "",
            "PATH_INFO": self.decoded.decode("latin-1"),
            "RAW_URI": self.path,
            "QUERY_STRING": self.query,
            "SERVER_NAME": self.server[0],
            "SERVER_PORT": self.server[1],
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "127.0.0.1",
            **fields,
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": self.scheme,
            "wsgi.input": io.BytesIO(),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": False,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
        }

    def scope(self, state: dict[str, Any] | None) -> dict[str, Any]:
        """For ASGI 3; `state` is what the lifespan has left there."""
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": self.scheme,
            "path": self.decoded.decode("utf-8", "replace"),
            "raw_path": self.encoded,
            "query_string": self.query.encode(),
            "root_path": "",
            "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self.headers.items()],
            "client": ("127.0.0.1", 0),
            "server": (self.server[0], int(self.server[1])),
            "trapeze.health": True,  # it is no client's, and has no line in the access log
        }
        if state is not None:
            scope["state"] = dict(state)
        return scope

    def judge(self, status: int, body: bytes, tracebacks: list[str]) -> None:
        """Raise StartError if this is not the right answer."""
        right = status == self.status if self.status is not None else 200 <= status <= 399
        if right:
            return
        wanted = f", not {self.status}" if self.status is not None else ""
        hint = ""
        if status == 400:
            hint = f"does the app refuse the host {self.headers['host']!r}? health.host says another"
        text = tracebacks[-1] if tracebacks else _beginning(body)
        raise StartError(f"health {self.path} answered {status}{wanted}", traceback=text, hint=hint)

    def failed(self, error: BaseException) -> StartError:
        """The app has raised `error`, or was interrupted."""
        told = failure(f"health {self.path} failed", error)
        return self.too_late(told.traceback) if isinstance(error, NoAnswer) else told

    def too_late(self, traceback: str = "") -> StartError:
        """There was no answer; `traceback` says where the app was."""
        return StartError(f"health {self.path} did not answer in {self.timeout:g} s", traceback=traceback)


def _beginning(body: bytes) -> str:
    lines = body.decode("utf-8", "replace")[:LETTERS].splitlines()[:LINES]
    return "".join(f"{line}\n" for line in lines)


# ---- WSGI ----


def ask_wsgi(app: Any, raw: dict[str, Any]) -> None:
    """Ask a WSGI app; to be called on the main thread.

    Raises:
        StartError: it is not healthy.
    """
    request = Request(raw)
    answer = _Answer()
    with _noted_errors() as tracebacks:
        try:
            with _green_timeout(request.timeout), _alarm(request.timeout):
                answer.read(app(request.environ(), answer.start))
        except (Exception, SystemExit, NoAnswer) as error:
            raise request.failed(error) from None
    if not answer.status:
        raise StartError(f"health {request.path} failed: the app did not call start_response")
    request.judge(int(answer.status[:3]), answer.body, tracebacks)


class _Answer:
    """What a WSGI app answers."""

    def __init__(self) -> None:
        self.status = ""
        self.body = b""

    def start(self, status: str, headers: Any, exc_info: Any = None) -> Any:
        """`start_response`."""
        self.status = status
        return self.write

    def write(self, piece: bytes) -> None:
        """Take a piece of the body."""
        self.body = (self.body + piece)[:LIMIT]

    def read(self, pieces: Any) -> None:
        """Take the body, or as much of it as anybody wants to see."""
        try:
            for piece in pieces:
                self.write(piece)
                if len(self.body) >= LIMIT and self.status:
                    break
        finally:
            if hasattr(pieces, "close"):
                pieces.close()


def _green_timeout(seconds: float) -> contextlib.AbstractContextManager[Any]:
    """For green threads: while their loop sleeps, no handler of the signal module runs."""
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    if gevent is not None and gevent.is_module_patched("time"):
        return sys.modules["gevent"].Timeout(seconds, NoAnswer)  # type: ignore[no-any-return]
    if eventlet is not None and eventlet.is_monkey_patched("time"):
        return sys.modules["eventlet"].Timeout(seconds, NoAnswer)  # type: ignore[no-any-return]
    return contextlib.nullcontext()


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Interrupt whatever the main thread does when the time is over."""

    def interrupt(signum: int, frame: FrameType | None) -> NoReturn:
        raise NoAnswer

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before if before is not None else signal.SIG_DFL)


# ---- ASGI ----

_running: set[Any] = set()
"""Tasks that have answered and go on: only a reference keeps a task alive."""


async def ask_asgi(app: Any, raw: dict[str, Any], state: dict[str, Any] | None) -> None:
    """Ask an ASGI app, in the loop that it will be served by.

    Raises:
        StartError: it is not healthy.
    """
    import asyncio

    request = Request(raw)
    exchange = _Exchange()
    with _noted_errors() as tracebacks, _alarm(request.timeout + LATER):
        task = asyncio.ensure_future(exchange.run(app, request.scope(state)))
        answered = asyncio.ensure_future(exchange.answered.wait())
        await asyncio.wait({task, answered}, timeout=request.timeout, return_when=asyncio.FIRST_COMPLETED)
        answered.cancel()
        if not task.done() and not exchange.answered.is_set():
            task.cancel()
            await asyncio.wait({task}, timeout=LATER)
            raise request.too_late(exchange.stack)
        if exchange.status >= 500 and not task.done():
            await asyncio.wait({task}, timeout=LATER)  # Starlette answers first, and then raises
        error = task.exception() if task.done() and not task.cancelled() else None
        if error is not None and not (exchange.status and tracebacks):
            if exchange.status:
                tracebacks.append(request.failed(error).traceback)
            else:
                raise request.failed(error) from None
        if not exchange.status:
            raise StartError(f"health {request.path} failed: the app ended without an answer")
        try:
            request.judge(exchange.status, exchange.body, tracebacks)
        except StartError:
            task.cancel()
            raise
        _running.add(task)
        task.add_done_callback(_running.discard)


class _Exchange:
    """One request and its answer."""

    def __init__(self) -> None:
        import asyncio

        self.status = 0
        self.body = b""
        self.stack = ""
        self.answered = asyncio.Event()
        self._asked = False

    async def run(self, app: Any, scope: dict[str, Any]) -> None:
        """Call the app; notes where it was when it is cancelled."""
        import asyncio

        try:
            await app(scope, self.receive, self.send)
        except asyncio.CancelledError as error:
            self.stack = failure("", error).traceback
            raise

    async def receive(self) -> dict[str, Any]:
        """The request has no body, and the client stays until the answer is there."""
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.answered.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        """Take a piece of the answer."""
        if message["type"] == "http.response.start":
            self.status = int(message["status"])
        elif message["type"] == "http.response.body":
            self.body = (self.body + bytes(message.get("body", b"")))[:LIMIT]
            if not message.get("more_body", False) or len(self.body) >= LIMIT:
                self.answered.set()


# ---- what frameworks make of an error ----


@contextlib.contextmanager
def _noted_errors() -> Iterator[list[str]]:
    """Collect the tracebacks of errors that Django and Flask turn into an answer with status 500."""
    tracebacks: list[str] = []

    def note(sender: Any, **more: Any) -> None:
        error = more.get("exception") or sys.exc_info()[1]
        if error is not None:
            tracebacks.append(failure("", error).traceback)

    django, flask = sys.modules.get("django.core.signals"), sys.modules.get("flask.signals")
    signals = [module.got_request_exception for module in (django, flask) if module is not None]
    for each in signals:
        each.connect(note, weak=False)
    try:
        yield tracebacks
    finally:
        for each in signals:
            each.disconnect(note)
