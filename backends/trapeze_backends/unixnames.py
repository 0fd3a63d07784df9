"""What a Unix socket is called.

The supervisor binds it under a private name and renames it, and the kernel remembers the first. An abstract one has a
name in bytes, which gunicorn takes for a pair of host and port.
"""

from __future__ import annotations

import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from trapeze_backends.contract import Listener

__all__ = ["name_of", "naming_app", "unix_names"]


def unix_names(sockets: Sequence[Any], listeners: Sequence[Listener]) -> dict[Any, str]:
    """Return the path of each Unix socket by the name that the kernel has for it; abstract ones are left out."""
    return {
        sock.getsockname(): listener.address.removeprefix("unix:")
        for sock, listener in zip(sockets, listeners, strict=False)
        if sock.family == socket.AF_UNIX and not listener.address.startswith("unix:@")
    }


def name_of(listener: Listener) -> str:
    """Return what messages call a Unix socket: its path, or `@NAME`."""
    return listener.address.removeprefix("unix:")


def naming_app(app: Any) -> Any:
    """Return a WSGI app for gunicorn whose SERVER_NAME and SERVER_PORT are right on Unix sockets.

    They are those of the Host header, as gunicorn has it where it can; and never empty (PEP 3333).
    """

    def naming(environ: dict[str, Any], start_response: Any) -> Any:
        connection = environ.get("gunicorn.socket")
        if connection is not None and connection.family == socket.AF_UNIX:
            default = "443" if environ["wsgi.url_scheme"] == "https" else "80"
            host = environ.get("HTTP_HOST") or "localhost"
            name, _, port = host.rpartition(":")
            if not (name and port.isdecimal()):
                name, port = host.removesuffix(":"), default
            environ["SERVER_NAME"], environ["SERVER_PORT"] = name, port
        return app(environ, start_response)

    return naming
