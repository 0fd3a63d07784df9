"""A whole nginx.conf around what a `Site` says, for an nginx that runs as one of our services. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from trapeze.nginx.site import Site
from trapeze.nginx.text import MARK, Facts, body, indented, quoted

__all__ = ["Frame", "whole", "wrapped"]

_TYPES = (
    ("text/html", "html htm"), ("text/css", "css"), ("text/javascript", "js mjs"), ("text/plain", "txt"),
    ("text/xml", "xml"), ("application/json", "json map"), ("application/wasm", "wasm"), ("application/pdf", "pdf"),
    ("image/svg+xml", "svg"), ("image/png", "png"), ("image/jpeg", "jpg jpeg"), ("image/gif", "gif"),
    ("image/webp", "webp"), ("image/avif", "avif"), ("image/x-icon", "ico"), ("font/woff2", "woff2"),
    ("font/woff", "woff"), ("video/mp4", "mp4"), ("audio/mpeg", "mp3"),
)  # fmt: skip
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


class Frame(Struct, frozen=True, kw_only=True):
    """What the machine says about the rest of the file."""

    directory: str
    """Where nginx may write: its pid and its temporary files."""
    user: str | None = None
    """Of nginx's workers; None: nginx is not started by root and has no choice."""
    types: str | None = None
    """The file with nginx's table of MIME types, where there is one."""
    log: bool = False
    """Each request is logged to stdout."""
    connections: int = 1024
    """For each nginx worker: half of them to clients, half to the app."""


def whole(site: Site, facts: Facts, frame: Frame, source: str) -> str:
    """Return a complete configuration; `daemon off;` is on the command line, as nginx refuses it twice."""
    lines = [
        f"{MARK} from {source}: it is written again at each start and reload.",
        "",
        *([f"user {frame.user};"] if frame.user else []),
        "worker_processes auto;",
        f"pid {quoted(frame.directory + '/nginx.pid')};",
        "error_log stderr error;",
        "# Requests that an nginx worker has not finished so long after a reload or a stop are cut off.",
        "worker_shutdown_timeout 60s;",
        f"events {{ worker_connections {frame.connections}; }}",
        "http {",
        *indented([*_http(frame), "", *body(site, facts)]),
        "}",
    ]
    return "\n".join(lines) + "\n"


def _http(frame: Frame) -> Iterator[str]:
    yield from (f"{name}_temp_path {quoted(f'{frame.directory}/{name}')};" for name in _TEMPORARY)
    if frame.log:
        yield "log_format trapeze '$remote_addr \"$request\" $status $body_bytes_sent bytes, $request_time s, '"
        yield "                   'app $upstream_status in $upstream_response_time s';"
        yield "access_log /dev/stdout trapeze;"
    else:
        yield "access_log off;"
    yield "default_type application/octet-stream;"
    if frame.types is not None:
        yield f"include {quoted(frame.types)};"
    else:
        yield "types {"
        yield from (f"    {kind} {endings};" for kind, endings in _TYPES)
        yield "}"
    yield "sendfile on;"
    yield "tcp_nopush on;"
    yield "server_tokens off;"
    yield "gzip on;"
    yield "gzip_types text/css text/javascript text/plain application/json image/svg+xml;"


def wrapped(path: str, frame: Frame) -> str:
    """Return the least configuration in which a file for the http block can be tested."""
    temporary = "\n".join(f"    {name}_temp_path {quoted(f'{frame.directory}/{name}')};" for name in _TEMPORARY)
    user = f"user {frame.user};\n" if frame.user else ""
    return (
        f"{user}pid {quoted(frame.directory + '/nginx.pid')};\nerror_log stderr notice;\n"
        f"events {{ }}\nhttp {{\n    access_log off;\n{temporary}\n    include {quoted(path)};\n}}\n"
    )
