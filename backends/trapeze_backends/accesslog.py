"""The access log: one line per request on stdout, in one format whatever the server.

It is the combined log format (Apache's, which nginx has by default and every log analyser reads), with the seconds that
the request took at its end:

    192.0.2.1 - - [29/Nov/2026:19:30:01 +0000] "GET /a?b=c HTTP/1.1" 200 12 "-" "curl/8.5.0" 0.0012

A request is written when its answer is over. The size is that of the body as the app made it.
"""

from __future__ import annotations

import sys
import time

from trapeze_backends.measured import closing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["logged", "write_line"]

_ESCAPED = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {ord('"'): '\\"', ord("\\"): "\\\\"}
"""What a client sends must neither end the line nor the text in quotes, nor reach a terminal as a control sequence."""


def logged(app: Any, interface: str) -> Any:
    """Return `app`, each of its requests written to stdout."""
    return _wsgi(app) if interface == "wsgi" else _asgi(app)


def write_line(client: str, request: str, status: str, size: int, referer: str, agent: str, began: float) -> None:
    """Write one line.

    Args:
        client: its address, "" if there is none.
        request: the first line of the request.
        status: of the answer.
        size: bytes of the answer's body.
        referer: that header, "" if there is none.
        agent: the header User-Agent.
        began: when the request began, monotonic seconds.
    """
    now = time.strftime("%d/%b/%Y:%H:%M:%S %z")
    took = time.monotonic() - began
    texts = [text.translate(_ESCAPED) if text else "-" for text in (request, referer, agent)]
    line = f'{client or "-"} - - [{now}] "{texts[0]}" {status} {size} "{texts[1]}" "{texts[2]}" {took:.4f}\n'
    try:
        sys.stdout.write(line)
    except UnicodeEncodeError:  # a stdout of ASCII
        sys.stdout.write(line.encode("ascii", "backslashreplace").decode("ascii"))


def _wsgi(app: Any) -> Any:
    def logging(environ: dict[str, Any], start_response: Any) -> Any:
        noted = _Noted(environ, start_response)
        try:
            result = app(environ, noted.start)
        except BaseException:
            noted.status = "500"
            noted.finish()
            raise
        if type(result) is list or type(result) is tuple:
            noted.size += sum(map(len, result))
            noted.finish()  # some servers take the one piece out of a list and never close it
            return result
        wrapper = environ.get("wsgi.file_wrapper")
        is_file = isinstance(wrapper, type) and isinstance(result, wrapper)
        countable = not is_file and hasattr(result, "__iter__") and not hasattr(result, "__len__")
        return closing(_Counted(result, noted) if countable else result, environ, noted.finish)

    return logging


class _Noted:
    """One WSGI request: what is known of its answer so far."""

    __slots__ = ("_began", "_environ", "_length", "_start_response", "size", "status")

    def __init__(self, environ: dict[str, Any], start_response: Any) -> None:
        self._environ = environ
        self._start_response = start_response
        self._began = time.monotonic()
        self._length = 0
        self.status = "000"
        self.size = 0

    def start(self, status: str, headers: Any, *exc_info: Any) -> Any:
        """`start_response`."""
        self.status = status
        for name, value in headers:
            if name.lower() == "content-length" and value.isdecimal():
                self._length = int(value)  # for answers whose pieces we do not get to see: files
        write = self._start_response(status, headers, *exc_info)
        if write is None:  # against PEP 3333, but it works where nobody calls it
            return None

        def counted(data: bytes) -> Any:
            self.size += len(data)
            return write(data)

        return counted

    def finish(self) -> None:
        """Write the line."""
        get = self._environ.get
        path = get("SCRIPT_NAME", "") + get("PATH_INFO", "")
        query = f"?{get('QUERY_STRING')}" if get("QUERY_STRING") else ""
        request = f"{get('REQUEST_METHOD', '-')} {path}{query} {get('SERVER_PROTOCOL', '')}"
        who, referer, agent = get("REMOTE_ADDR", ""), get("HTTP_REFERER", ""), get("HTTP_USER_AGENT", "")
        write_line(who, request, self.status[:3], self.size or self._length, referer, agent, self._began)


class _Counted:
    """The pieces of a result, their sizes added up."""

    __slots__ = ("_noted", "_result")

    def __init__(self, result: Any, noted: _Noted) -> None:
        self._result = result
        self._noted = noted

    def __iter__(self) -> Any:
        for piece in self._result:
            self._noted.size += len(piece)
            yield piece

    def close(self) -> None:
        """The app's own."""
        if hasattr(self._result, "close"):
            self._result.close()


def _asgi(app: Any) -> Any:
    async def logging(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope.get("trapeze.health"):
            await app(scope, receive, send)
            return
        began = time.monotonic()
        status, size, over = "500", 0, False

        async def sending(message: Any) -> None:
            nonlocal status, size, over
            kind = message["type"]
            if kind == "http.response.start":
                status = str(message["status"])
            elif kind == "http.response.body":
                size += len(message.get("body", b""))
                if not message.get("more_body") and not over:
                    over = True
                    _write_asgi(scope, status, size, began)
            await send(message)

        try:
            await app(scope, receive, sending)
        finally:
            if not over:
                _write_asgi(scope, status, size, began)

    return logging


def _write_asgi(scope: Any, status: str, size: int, began: float) -> None:
    headers = {name: value.decode("latin-1") for name, value in scope["headers"] if name in (b"referer", b"user-agent")}
    query = f"?{scope['query_string'].decode('latin-1')}" if scope.get("query_string") else ""
    request = f"{scope['method']} {scope['path']}{query} HTTP/{scope.get('http_version', '1.1')}"
    client = scope.get("client")
    who = str(client[0]) if client and client[0] else "-"
    write_line(who, request, status, size, headers.get(b"referer", ""), headers.get(b"user-agent", ""), began)
