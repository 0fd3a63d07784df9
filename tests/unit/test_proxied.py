"""Whom a worker believes, and what: X-Forwarded-* of trusted peers."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trapeze_backends.board import SIZE, Waits
from trapeze_backends.proxied import DEFAULT, Trust, proxied, told

WAITS = Waits(memoryview(bytearray(SIZE)))


def environ_after(entries: list[str], peer: str, **headers: str) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    environ = {"REMOTE_ADDR": peer, "REMOTE_PORT": "5", "wsgi.url_scheme": "http", "HTTP_HOST": "own", **headers}
    proxied(lambda environ, start: seen.update(environ), "wsgi", entries, WAITS)(environ, None)
    return seen


def scope_after(
    entries: list[str], client: object, *headers: tuple[bytes, bytes], kind: str = "http"
) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    scheme = "ws" if kind == "websocket" else "http"
    scope = {"type": kind, "scheme": scheme, "client": client, "headers": [(b"host", b"own"), *headers]}
    proxied(lambda scope, receive, send: seen.update(scope), "asgi", entries, WAITS)(scope, None, None)
    return seen


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("1.1.1.1, 203.0.113.9", "203.0.113.9"),  # what the client made up stands to the left
        ("203.0.113.9, 10.1.2.3", "203.0.113.9"),  # a trusted proxy in between
        ("10.0.0.9, 10.1.2.3", "10.0.0.9"),  # nothing but trusted ones: the first
        ("203.0.113.9:4711", "203.0.113.9"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("unknown", "10.0.0.1"),
        ("203.0.113.9, <script>", "10.0.0.1"),
        ("1.1.1.1, nonsense, 10.0.0.7", "10.0.0.7"),
        ("", "10.0.0.1"),
    ],
)
def test_client(forwarded: str, client: str) -> None:
    seen = environ_after(["10.0.0.0/8"], "10.0.0.1", HTTP_X_FORWARDED_FOR=forwarded)
    assert seen["REMOTE_ADDR"] == client


def test_port_is_that_of_the_client() -> None:
    assert environ_after(["*"], "10.0.0.1", HTTP_X_FORWARDED_FOR="203.0.113.9:47")["REMOTE_PORT"] == "47"
    assert environ_after(["*"], "10.0.0.1", HTTP_X_FORWARDED_FOR="203.0.113.9")["REMOTE_PORT"] == "0"


@pytest.mark.parametrize(
    ("entries", "peer", "believed"),
    [
        (list(DEFAULT), "127.0.0.1", True),
        (list(DEFAULT), "::1", True),
        (list(DEFAULT), "::ffff:127.0.0.1", True),
        (list(DEFAULT), "", True),
        (list(DEFAULT), "127.0.0.2", False),
        ([], "127.0.0.1", False),
        ([], "", False),
        (["unix"], "", True),
        (["unix"], "127.0.0.1", False),
        (["127.0.0.1"], "", False),
        (["*"], "192.0.2.1", True),
        (["*"], "", True),
        (["10.0.0.0/8"], "10.200.0.1", True),
        (["10.0.0.0/8"], "::ffff:10.200.0.1", True),
        (["10.0.0.0/8"], "11.0.0.1", False),
        (["2001:db8::/32"], "2001:db8:1::1", True),
    ],
)
def test_who_is_believed(entries: list[str], peer: str, believed: bool) -> None:
    seen = environ_after(entries, peer, HTTP_X_FORWARDED_PROTO="https")
    assert seen["wsgi.url_scheme"] == ("https" if believed else "http")
    scope = scope_after(entries, (peer, 5) if peer else None, (b"x-forwarded-proto", b"https"))
    assert scope["scheme"] == ("https" if believed else "http")


def test_a_peer_without_an_address_that_is_no_unix_peer_is_not_believed() -> None:
    seen = environ_after(["*", "unix"], "", HTTP_X_FORWARDED_PROTO="https", **{"trapeze.nameless": "yes"})
    assert seen["wsgi.url_scheme"] == "http"


@pytest.mark.parametrize(
    ("said", "scheme"),
    [("HTTPS", "https"), ("http, https", "https"), ("https, http", "http"), ("gopher", "http"), ("", "http")],
)
def test_scheme_is_what_the_nearest_proxy_said(said: str, scheme: str) -> None:
    assert environ_after(["*"], "10.0.0.1", HTTP_X_FORWARDED_PROTO=said)["wsgi.url_scheme"] == scheme


def test_host_is_what_the_nearest_proxy_said() -> None:
    assert environ_after(["*"], "1.2.3.4", HTTP_X_FORWARDED_HOST="evil, shop.example")["HTTP_HOST"] == "shop.example"
    scope = scope_after(["*"], ("1.2.3.4", 5), (b"x-forwarded-host", b"shop.example"))
    assert [value for name, value in scope["headers"] if name == b"host"] == [b"shop.example"]


def test_several_lines_of_one_header_are_one_list() -> None:
    lines = [(b"x-forwarded-for", b"1.1.1.1"), (b"x-forwarded-for", b"203.0.113.9")]
    assert scope_after(["10.0.0.1"], ("10.0.0.1", 5), *lines)["client"] == ("203.0.113.9", 0)


def test_scheme_of_websockets() -> None:
    assert scope_after(["*"], None, (b"x-forwarded-proto", b"https"), kind="websocket")["scheme"] == "wss"
    assert scope_after(["*"], None, (b"x-forwarded-proto", b"wss"))["scheme"] == "https"


def test_lifespan_passes() -> None:
    seen: list[Any] = []
    proxied(lambda scope, receive, send: seen.append(scope), "asgi", DEFAULT, WAITS)({"type": "lifespan"}, None, None)
    assert seen == [{"type": "lifespan"}]


@given(st.text(), st.text())
def test_whatever_is_said_the_client_is_an_address(forwarded: str, peer: str) -> None:
    found = Trust(["*"]).client(forwarded)
    assert found is None or (found[0].count(".") == 3 or ":" in found[0])
    assert peer in Trust(["*"])
    assert peer not in Trust([])


def test_memory_of_peers_is_bounded() -> None:
    trust = Trust(["10.0.0.0/8"])
    for number in range(12_000):
        assert f"192.0.{number // 250}.{number % 250}" not in trust
    assert len(trust._known) <= 10_000


@pytest.mark.parametrize(
    ("peer", "said"),
    [
        ("127.0.0.1", (("203.0.113.9", 0), "https", "shop.example")),
        ("", (("203.0.113.9", 0), "https", "shop.example")),
        ("192.0.2.1", None),
    ],
)
def test_told_to_servers_of_another_kind(peer: str, said: Any) -> None:
    assert told(Trust(DEFAULT), peer, "1.1.1.1, 203.0.113.9", "http, HTTPS", "x, shop.example") == said


def test_told_nothing() -> None:
    assert told(Trust(DEFAULT), "", "", "", "") == (None, "", "")
    assert told(Trust(DEFAULT), "", "nonsense", "gopher", "") == (None, "", "")


@pytest.mark.parametrize("interface", ["wsgi", "asgi"])
@pytest.mark.parametrize(("peer", "counted"), [("127.0.0.1", 1), ("203.0.113.9", 0)])
def test_only_a_trusted_proxy_says_how_long_a_request_has_waited(interface: str, peer: str, counted: int) -> None:
    waits = Waits(memoryview(bytearray(SIZE)))
    app = proxied(lambda *arguments: None, interface, DEFAULT, waits)
    said = f"t={time.time() - 0.25:.3f}"

    if interface == "wsgi":
        app({"REMOTE_ADDR": peer, "HTTP_X_REQUEST_START": said}, None)
    else:
        app({"type": "http", "client": (peer, 1), "headers": [(b"x-request-start", said.encode())]}, None, None)

    assert waits.numbers[0] == counted
    assert (waits.times[2] >= 0.249) is bool(counted)
