"""An app that says what it knows of its client: for examples/front/trapeze.toml."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["application"]

PAGE = """<!doctype html>
<link rel="stylesheet" href="/static/style.css">
<p>You are {client}, and you asked for {scheme}://{host}{path}
"""


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    """The page."""
    page = PAGE.format(
        client=environ["REMOTE_ADDR"],
        scheme=environ["wsgi.url_scheme"],
        host=environ["HTTP_HOST"],
        path=environ["PATH_INFO"],
    ).encode()
    start_response("200 OK", [("Content-Type", "text/html"), ("Content-Length", str(len(page)))])
    return [page]
