"""The lines of the access log: what they say, when they are written, and what they never contain."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trapeze_backends.accesslog import logged

LINE = re.compile(
    r'(\S+) - - \[[^]]+\] "((?:[^"\\]|\\.)*)" (\d+) (\d+) "((?:[^"\\]|\\.)*)" "((?:[^"\\]|\\.)*)" [\d.]+\n'
)


class Wrapper:
    """A server's `wsgi.file_wrapper`."""

    def __iter__(self) -> Iterator[bytes]:
        yield b"from a file"


def environ(**more: Any) -> dict[str, Any]:
    return {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/a",
        "QUERY_STRING": "b=c",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "192.0.2.1",
        "wsgi.file_wrapper": Wrapper,
        **more,
    }


def wsgi(app: Any, **more: Any) -> list[bytes]:
    result = logged(app, "wsgi")(environ(**more), lambda *said: lambda data: None)
    try:
        return list(result)
    finally:
        getattr(result, "close", lambda: None)()


def parts(text: str) -> tuple[str, ...]:
    found = LINE.fullmatch(text)
    assert found is not None, text
    return found.groups()


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    def app(environ: Any, start: Any) -> Any:
        start("201 Created", [])
        return [b"ab", b"c"]

    assert wsgi(app, HTTP_REFERER="http://x/", HTTP_USER_AGENT="curl/8") == [b"ab", b"c"]
    assert parts(capsys.readouterr().out) == ("192.0.2.1", "GET /a?b=c HTTP/1.1", "201", "3", "http://x/", "curl/8")


def test_stream_is_written_when_it_is_over(capsys: pytest.CaptureFixture[str]) -> None:
    def app(environ: Any, start: Any) -> Any:
        start("200 OK", [])
        yield b"ab"
        assert capsys.readouterr().out == ""
        yield b"c"

    assert wsgi(app) == [b"ab", b"c"]
    assert parts(capsys.readouterr().out)[2:4] == ("200", "3")


def test_write(capsys: pytest.CaptureFixture[str]) -> None:
    def app(environ: Any, start: Any) -> Any:
        start("200 OK", [])(b"abcd")
        return []

    wsgi(app)
    assert parts(capsys.readouterr().out)[3] == "4"


def test_file_stays_one_and_its_length_is_believed(capsys: pytest.CaptureFixture[str]) -> None:
    def app(environ: Any, start: Any) -> Any:
        start("200 OK", [("Content-Length", "11")])
        return Wrapper()

    result = logged(app, "wsgi")(environ(), lambda *said: None)
    assert type(result) is Wrapper
    result.close()  # type: ignore[attr-defined]
    assert parts(capsys.readouterr().out)[3] == "11"


def test_error_is_a_500(capsys: pytest.CaptureFixture[str]) -> None:
    def app(environ: Any, start: Any) -> Any:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        wsgi(app)
    assert parts(capsys.readouterr().out)[2] == "500"


def test_mounted_path_and_unix_peer(capsys: pytest.CaptureFixture[str]) -> None:
    wsgi(lambda environ, start: [start("200 OK", []) and b""], SCRIPT_NAME="/shop", REMOTE_ADDR="", QUERY_STRING="")
    assert parts(capsys.readouterr().out)[:2] == ("-", "GET /shop/a HTTP/1.1")


@settings(max_examples=200)
@given(st.text(max_size=30), st.text(max_size=30))
def test_a_client_cannot_make_a_line_or_leave_the_quotes(path: str, agent: str) -> None:
    import contextlib
    import io

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        wsgi(lambda environ, start: [start("200 OK", []) and b""], PATH_INFO=path, HTTP_USER_AGENT=agent)
    text = out.getvalue()
    assert LINE.fullmatch(text), text
    assert not [letter for letter in text[:-1] if ord(letter) < 32 or 127 <= ord(letter) < 160]


def ask(app: Any, **more: Any) -> None:
    scope = {"type": "http", "method": "GET", "path": "/a", "query_string": b"b=c", "http_version": "1.1"}
    scope |= {"client": ("192.0.2.1", 5), "headers": [(b"user-agent", b"curl/8")], **more}

    async def nothing(message: Any = None) -> Any:
        return {"type": "http.request"}

    asyncio.run(logged(app, "asgi")(scope, nothing, nothing))


async def answer(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 201, "headers": []})
    await send({"type": "http.response.body", "body": b"ab", "more_body": True})
    await send({"type": "http.response.body", "body": b"c"})


def test_asgi(capsys: pytest.CaptureFixture[str]) -> None:
    ask(answer)
    assert parts(capsys.readouterr().out) == ("192.0.2.1", "GET /a?b=c HTTP/1.1", "201", "3", "-", "curl/8")


def test_asgi_app_that_raises(capsys: pytest.CaptureFixture[str]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        ask(app, client=None)
    assert parts(capsys.readouterr().out)[:3] == ("-", "GET /a?b=c HTTP/1.1", "500")


def test_health_request_is_nobodys(capsys: pytest.CaptureFixture[str]) -> None:
    ask(answer, **{"trapeze.health": True})
    assert capsys.readouterr().out == ""
