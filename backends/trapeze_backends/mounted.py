"""An app under a path prefix, with the same meaning for every server: both kinds of proxy will do, those that pass the
prefix on and those that strip it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["mounted"]


def mounted(app: Any, interface: str, prefix: str) -> Any:
    """Return `app` with SCRIPT_NAME (WSGI) or root_path (ASGI) set to `prefix`."""
    prefix = "/" + prefix.strip("/") if prefix.strip("/") else ""
    if not prefix:
        return app
    return _wsgi(app, prefix) if interface == "wsgi" else _asgi(app, prefix)


def _wsgi(app: Any, prefix: str) -> Any:
    latin = prefix.encode().decode("latin-1")

    def wrapped(environ: dict[str, Any], start_response: Any) -> Any:
        path = environ.get("PATH_INFO", "")
        if path == latin or path.startswith(latin + "/"):
            environ["PATH_INFO"] = path[len(latin) :]
        environ["SCRIPT_NAME"] = latin
        return app(environ, start_response)

    return wrapped


def _asgi(app: Any, prefix: str) -> Any:
    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] in ("http", "websocket"):
            scope["root_path"] = prefix
            path = scope["path"]
            if path != prefix and not path.startswith(prefix + "/"):
                scope["path"] = prefix + path
        await app(scope, receive, send)

    return wrapped
