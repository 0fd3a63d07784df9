"""SERVER_NAME and SERVER_PORT on Unix sockets under gunicorn."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from trapeze_backends.unixnames import naming_app


@pytest.mark.parametrize(
    ("host", "scheme", "expected"),
    [
        ("shop.example", "http", ("shop.example", "80")),
        ("shop.example:8080", "http", ("shop.example", "8080")),
        ("shop.example", "https", ("shop.example", "443")),
        ("[2001:db8::1]", "http", ("[2001:db8::1]", "80")),
        ("[2001:db8::1]:8080", "http", ("[2001:db8::1]", "8080")),
        ("shop.example:", "http", ("shop.example", "80")),
        ("", "http", ("localhost", "80")),
        (None, "https", ("localhost", "443")),
    ],
)
def test_on_a_unix_socket(host: str | None, scheme: str, expected: tuple[str, str]) -> None:
    seen: dict[str, Any] = {}
    app = naming_app(lambda environ, start_response: seen.update(environ))
    with socket.socket(socket.AF_UNIX) as sock:
        environ = {"gunicorn.socket": sock, "wsgi.url_scheme": scheme, "SERVER_NAME": "0", "SERVER_PORT": "118"}
        app({**environ, **({} if host is None else {"HTTP_HOST": host})}, None)

    assert (seen["SERVER_NAME"], seen["SERVER_PORT"]) == expected


def test_tcp_is_left_as_it_is() -> None:
    seen: dict[str, Any] = {}
    app = naming_app(lambda environ, start_response: seen.update(environ))
    with socket.socket(socket.AF_INET) as sock:
        app({"gunicorn.socket": sock, "SERVER_NAME": "127.0.0.1", "SERVER_PORT": "8000", "HTTP_HOST": "a:1"}, None)

    assert (seen["SERVER_NAME"], seen["SERVER_PORT"]) == ("127.0.0.1", "8000")
