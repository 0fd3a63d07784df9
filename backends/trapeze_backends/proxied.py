"""What a proxy says of its client, believed of proxies that are trusted and of nobody else; the same for every server.

X-Forwarded-For, X-Forwarded-Proto and X-Forwarded-Host have no standard. Each proxy adds to the right of the first, so
the addresses are read from there: the first that is not trusted is the client (all trusted: the leftmost). Of the other
two the rightmost value counts, which is what the nearest proxy said. The headers themselves stay as they are: an app
may look at them in a way of its own. X-Request-Start, of trusted proxies too, is noted (`queued`).
"""

from __future__ import annotations

from trapeze_backends.queued import noted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from trapeze_backends.board import Waits
    from trapeze_backends.contract import Backend, Job

__all__ = ["DEFAULT", "Trust", "proxied", "told", "trusted_by"]

DEFAULT = ("127.0.0.1", "::1", "unix")
"""Proxies on this machine."""

SECURE = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
"""Scheme of a WebSocket behind a proxy that was asked by the scheme on the left."""

NAMES = (b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-request-start")
MARKS = (b"x-forwarded", b"x-request-s")
"""How the names of headers begin that say that there is something to be looked at."""


def trusted_by(job: Job, backend: Backend) -> list[str]:
    """Return who is trusted: the field, or what the server's own settings say, or proxies on this machine."""
    if job.trusted_proxies is not None:
        return job.trusted_proxies
    own = getattr(backend, "trusted", None)
    said = own(job) if own is not None else None
    return list(DEFAULT) if said is None else list(said)


class Trust:
    """Which peers are believed.

    Args:
        entries: addresses, networks as "10.0.0.0/8", "unix" for those behind a Unix socket, "*" for everybody.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        names = set(entries)
        self.everybody = "*" in names
        self.unix = self.everybody or "unix" in names
        self._known: dict[str, bool] = {name: True for name in names if "/" not in name and name not in ("*", "unix")}
        self._networks: list[Any] = []
        if any("/" in name for name in names):
            import ipaddress

            self._networks = [ipaddress.ip_network(name, strict=False) for name in names if "/" in name]

    def __contains__(self, address: str) -> bool:
        found = self._known.get(address)
        if found is None:
            found = self._look(address)
            if len(self._known) < 10_000:  # clients come from anywhere; whoever is asked about must not fill our memory
                self._known[address] = found
        return found

    def _look(self, address: str) -> bool:
        if self.everybody:
            return True
        plain = address[7:] if address[:7].lower() == "::ffff:" else address  # IPv4 on a dual-stack socket
        if plain != address and plain in self:
            return True
        if not self._networks:
            return False
        import ipaddress

        try:
            found = ipaddress.ip_address(plain)
        except ValueError:
            return False
        return any(found in network for network in self._networks)

    def client(self, forwarded: str) -> tuple[str, int] | None:
        """Return address and port (0: not said) of the client in an X-Forwarded-For; None if it is nonsense."""
        found = None
        for entry in reversed(forwarded.split(",")):
            told = _address(entry.strip())
            if told is None:
                break  # "unknown", or made up: what stands left of it is worth no more
            found = told
            if told[0] not in self:
                break
        return found


def _address(text: str) -> tuple[str, int] | None:
    """Take apart "192.0.2.1", "192.0.2.1:5000", "2001:db8::1", "[2001:db8::1]:5000"."""
    from socket import AF_INET, AF_INET6, inet_pton

    host, port = text, ""
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        port = port.lstrip(":")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        inet_pton(AF_INET6 if ":" in host else AF_INET, host)
    except (OSError, ValueError):
        return None
    return host, int(port) if port.isascii() and port.isdecimal() and len(port) < 6 else 0


def _last(text: str) -> str:
    return text.rpartition(",")[2].strip()


def proxied(app: Any, interface: str, entries: Iterable[str], waits: Waits) -> Any:
    """Return `app`, told by trusted proxies who its client is, and which scheme and host it asked for.

    Args:
        app: what is wrapped.
        interface: "wsgi" or "asgi".
        entries: who is trusted.
        waits: where it is noted how long requests have waited.
    """
    trust = Trust(entries)
    return _wsgi(app, trust, waits) if interface == "wsgi" else _asgi(app, trust, waits)


def told(
    trust: Trust, peer: str, forwarded: str, scheme: str, host: str
) -> tuple[tuple[str, int] | None, str, str] | None:
    """Return client, scheme and host as a proxy has told them, None or "" for what it has not; None if it is not
    believed. For servers whose requests are neither an environ nor a scope.

    Args:
        trust: who is.
        peer: address of the other end, "" for a Unix peer.
        forwarded: the header X-Forwarded-For, several lines of it as one list.
        scheme: X-Forwarded-Proto.
        host: X-Forwarded-Host.
    """
    if not (peer in trust if peer else trust.unix):
        return None
    said = _last(scheme).lower()
    return trust.client(forwarded) if forwarded else None, said if said in ("http", "https") else "", _last(host)


def _wsgi(app: Any, trust: Trust, waits: Waits) -> Any:
    def believing(environ: dict[str, Any], start_response: Any) -> Any:
        if (
            "HTTP_X_FORWARDED_FOR" in environ
            or "HTTP_X_FORWARDED_PROTO" in environ
            or "HTTP_X_FORWARDED_HOST" in environ
            or "HTTP_X_REQUEST_START" in environ
        ):
            peer = environ.get("REMOTE_ADDR")
            if peer in trust if peer else trust.unix and not environ.get("trapeze.nameless"):
                _correct(environ, trust)
                if "HTTP_X_REQUEST_START" in environ:
                    noted(environ["HTTP_X_REQUEST_START"], waits)
        return app(environ, start_response)

    return believing


def _correct(environ: dict[str, Any], trust: Trust) -> None:
    if forwarded := environ.get("HTTP_X_FORWARDED_FOR"):
        client = trust.client(forwarded)
        if client is not None:
            environ["REMOTE_ADDR"] = client[0]
            environ["REMOTE_PORT"] = str(client[1])
            environ.pop("REMOTE_HOST", None)
    if scheme := environ.get("HTTP_X_FORWARDED_PROTO"):
        scheme = _last(scheme).lower()
        if scheme in ("http", "https"):
            environ["wsgi.url_scheme"] = scheme
    if host := environ.get("HTTP_X_FORWARDED_HOST"):
        environ["HTTP_HOST"] = _last(host)


def _asgi(app: Any, trust: Trust, waits: Waits) -> Any:
    def believing(scope: Any, receive: Any, send: Any) -> Any:
        if scope["type"] != "lifespan":
            for name, _ in scope["headers"]:
                if name[:11] in MARKS:
                    client = scope.get("client")
                    if client[0] in trust if client and client[0] else trust.unix:
                        _correct_scope(scope, trust, waits)
                    break
        return app(scope, receive, send)

    return believing


def _correct_scope(scope: Any, trust: Trust, waits: Waits) -> None:
    said = _forwarded(scope["headers"])
    if start := said.get(NAMES[3]):
        noted(start, waits)
    if forwarded := said.get(NAMES[0]):
        client = trust.client(forwarded)
        if client is not None:
            scope["client"] = client
    if scheme := said.get(NAMES[1]):
        scheme = _last(scheme).lower()
        if scheme in SECURE:
            plain = {"ws": "http", "wss": "https"}.get(scheme, scheme)
            scope["scheme"] = SECURE[scheme] if scope["type"] == "websocket" else plain
    if host := said.get(NAMES[2]):
        value = _last(host).encode("latin-1")
        scope["headers"] = [*((name, old) for name, old in scope["headers"] if name != b"host"), (b"host", value)]


def _forwarded(headers: Iterable[tuple[bytes, bytes]]) -> Mapping[bytes, str]:
    """These headers, each as one text: several lines of one name are one list (RFC 9110, section 5.3)."""
    said: dict[bytes, str] = {}
    for name, value in headers:
        if name in NAMES:
            text = bytes(value).decode("latin-1")
            said[name] = f"{said[name]},{text}" if name in said else text
    return said
