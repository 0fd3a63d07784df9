"""What the app is told of a request: by PEP 3333 and CGI in the environ, by the ASGI specification in the scope."""

from __future__ import annotations

import json
import time
from typing import Any

from trapeze.conformance.stage import Stage, expect
from trapeze.conformance.worker import Door

__all__ = ["mounted", "proxies", "told", "unix"]

ASKED = "/facts/caf%C3%A9/a%20b"
SLASH = "/facts/a%2Fb"


class Facts:
    """The same facts of both interfaces."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self.raw = raw
        is_wsgi = "wsgi.version" in raw
        get = raw.get
        self.scheme: str = raw["wsgi.url_scheme"] if is_wsgi else raw["scheme"]
        self.root: str = get("SCRIPT_NAME", "") if is_wsgi else get("root_path", "")
        self.query: str = raw["QUERY_STRING"] if is_wsgi else raw["query_string"]
        client, server = get("client") or ["", 0], get("server") or ["", None]
        self.client: str = get("REMOTE_ADDR", "") if is_wsgi else str(client[0])
        self.server: tuple[str, str] = (
            (raw["SERVER_NAME"], str(raw["SERVER_PORT"])) if is_wsgi else (str(server[0]), str(server[1]))
        )

    def header(self, name: str) -> list[str]:
        """Values of a request header."""
        if "wsgi.version" in self.raw:
            value = self.raw.get(f"HTTP_{name.upper().replace('-', '_')}")
            return [] if value is None else [part.strip() for part in value.split(",")]
        return [value for header, value in self.raw["headers"] if header == name]


def ask(door: Door, path: str = "/facts", **headers: str) -> Facts:
    """What the app is told of one request."""
    with door.connect() as client:
        answer = client.get(path, **headers, Connection="close")
        expect(answer.status == 200, f"the request was answered with {answer.status}")
        return Facts(json.loads(answer.body))


def told(stage: Stage) -> None:
    """Addresses, path, query, headers."""
    door, door6 = stage.door(), stage.door("tcp6")
    both = [door] if "several_sockets" in stage.subject.lacks else [door, door6]
    stage.start(*both)
    for each in both:
        host, port = each.sock.getsockname()[:2]
        facts = ask(each)
        with stage.check(f"the server's address on {host}"):
            expect(facts.server == (host, str(port)), f"it is said to be {facts.server}")
        with stage.check(f"the client's address on {host}", "client_address"):
            expect(facts.client == host, f"it is said to be {facts.client!r}")
    facts = ask(door, f"{ASKED}?a=%C3%A9&b=c%20d")
    with stage.check("the path"):
        name = "PATH_INFO" if not stage.asgi else "path"
        path = "/facts/café/a b".encode().decode("latin-1") if not stage.asgi else "/facts/café/a b"
        expect(facts.raw[name] == path, f"{name} is {facts.raw[name]!r}")
    with stage.check("a path with a slash that was encoded", "encoded_slash"):
        seen = ask(door, SLASH).raw[name]
        expect(seen == "/facts/a/b", f"{name} is {seen!r}")
    with stage.check("the query"):
        expect(facts.query == "a=%C3%A9&b=c%20d", f"it is {facts.query!r}")
    with stage.check("scheme and root"):
        expect((facts.scheme, facts.root) == ("http", ""), f"they are {facts.scheme!r} and {facts.root!r}")
    if stage.asgi:
        with stage.check("the path as it came", "raw_path"):
            expect(facts.raw["raw_path"] == ASKED, f"raw_path is {facts.raw['raw_path']!r}")
    else:
        with stage.check("wsgi.multiprocess"):
            expect(facts.raw["wsgi.multiprocess"] is True, f"it is {facts.raw['wsgi.multiprocess']!r}, of two workers")
    _headers(stage, door)


def _headers(stage: Stage, door: Door) -> None:
    with door.connect() as client:
        lines = b"Host: example.com\r\nX-Two: a\r\nX-Latin: caf\xe9\r\nX-Two: b\r\nCookie: c=d\r\nConnection: close"
        client.send(b"GET /facts HTTP/1.1\r\n" + lines + b"\r\n\r\n")
        facts = Facts(json.loads(client.answer().body))
    with stage.check("a header that is not ASCII", "latin_headers"):
        expect(facts.header("x-latin") == ["café"], f"X-Latin is {facts.header('x-latin')}")
    with stage.check("headers"):
        expect(facts.header("host") == ["example.com"], f"Host is {facts.header('host')}")
        expect(facts.header("cookie") == ["c=d"], f"Cookie is {facts.header('cookie')}")
    with stage.check("a header that comes twice", "repeated_headers"):
        expect(facts.header("x-two") == ["a", "b"], f"X-Two is {facts.header('x-two')}")


def unix(stage: Stage) -> None:
    """On a Unix socket."""
    door = stage.door("unix")
    worker = stage.spawn(door)
    with stage.check("it serves on a Unix socket", "unix"):
        worker.ready()
        facts = ask(door)
        expect(facts.client == "", f"the client's address is said to be {facts.client!r}")
        if stage.asgi:
            expect(facts.server == (str(door.path), "None"), f"the server is said to be {facts.server}")
        else:
            expect(facts.server == ("localhost", "80") or facts.server[0], f"SERVER_NAME is {facts.server[0]!r}")
        worker.stop()
        expect(worker.wait() == 0, "it did not exit with 0")
        expect(door.path is not None and door.path.is_socket(), "the socket's file is gone")


FORWARDED = {
    "X_Forwarded_For": "1.1.1.1, 203.0.113.9",
    "X_Forwarded_Proto": "https",
    "X_Forwarded_Host": "shop.example",
}


def proxies(stage: Stage) -> None:
    """Who is believed, and who is not."""
    door = stage.door()
    worker = stage.start(door, trusted_proxies=["127.0.0.1"])
    with stage.check("a trusted proxy is believed"):
        facts = ask(door, **FORWARDED)
        seen = (facts.client, facts.scheme, facts.header("host"))
        expect(seen == ("203.0.113.9", "https", ["shop.example"]), f"client, scheme and host are {seen}")
    with stage.check("how long a request has waited is noted"):
        ask(door, X_Request_Start=f"t={time.time() - 2.001:.3f}")  # it may be rounded up, by half of the last place
        waited = worker.waited()
        expect(waited.requests == 1 and 2 <= waited.longest < 60, f"noted is {waited}")
    other = stage.door()
    worker = stage.start(other, trusted_proxies=["192.0.2.1"])
    with stage.check("nobody else is"):
        facts = ask(other, **FORWARDED, X_Request_Start=f"t={time.time() - 2:.3f}")
        expect(not worker.waited().requests, "a stranger has said how long a request has waited")
        expect(facts.scheme == "http", f"the scheme is {facts.scheme}")
        expect(facts.header("host") == ["example.com"], f"the host is {facts.header('host')}")
        expect(facts.client in ("127.0.0.1", ""), f"the client is said to be {facts.client!r}")


def mounted(stage: Stage) -> None:
    """Under a prefix, which the proxy strips or passes on."""
    door = stage.door()
    stage.start(door, root_path="/shop")
    for path in ("/shop/facts", "/facts"):
        with stage.check(f"root_path, asked for {path}"):
            facts = ask(door, path)
            where = facts.raw["path"] if stage.asgi else facts.root + facts.raw["PATH_INFO"]
            expect((facts.root, where) == ("/shop", "/shop/facts"), f"root and path are {facts.root!r}, {where!r}")
