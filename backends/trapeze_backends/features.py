"""What each backend does of the fields that mean the same everywhere, and which promises it cannot keep.

A backend says it in three attributes, all optional: `fields`, `lacks` and `speaks` (see `contract.Backend`). From them
come the errors of a check, the table of `trapeze backends`, and the one in the documentation.
"""

from __future__ import annotations

from trapeze_backends.contract import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from trapeze_backends.contract import Backend, Job

__all__ = [
    "FIELDS",
    "PROMISES",
    "describe",
    "field_problems",
    "is_program",
    "is_set",
    "why_not_preloaded",
]

NATIVE = "native"
BY_US = "trapeze"
NO = "no"

FIELDS = {
    "workers": BY_US,
    "threads": NO,
    "max_requests": BY_US,
    "request_timeout": BY_US,
    "keepalive": NO,
    "stop_timeout": BY_US,
    "drain_grace": BY_US,
    "access_log": BY_US,
    "trusted_proxies": BY_US,
    "root_path": BY_US,
    "health": BY_US,
}
"""The fields, each with what holds for a backend that does not say: done around the server, or not at all."""

PROMISES = {
    "shared_queue": "connections wait in one queue, which outlives the workers",
    "unix": "it serves on Unix sockets",
    "several_sockets": "it serves several sockets at once",
    "in_flight": "requests under way are answered before a worker leaves",
    "unread": "connections that were accepted and not read yet are answered before a worker leaves",
    "kept": "kept connections are told that they close, and idle ones stay open for drain_grace",
    "pipelining": "requests that come at once on one connection are answered in their order",
    "half_request": "half a request is waited for when a worker leaves",
    "endless": "WebSockets and streams without an end are ended at drain_grace",
    "heartbeat": "a main loop that stands still is found",
    "preload": "workers are forked from one import of the app",
    "client_address": "the app is told the client's address",
    "repeated_headers": "values of a request header that comes twice are joined by a comma (WSGI)",
    "head_length": "an answer to HEAD names the length that one to GET has, or none",
    "hostless": "a request of HTTP/1.0, which need not name a host, is answered",
    "expect_continue": "who sends Expect: 100-continue and waits is told to send the body",
    "encoded_slash": "%2F in a path reaches the app decoded, as everything else does (WSGI)",
    "prompt_pieces": "an answer is sent piece by piece, as the app makes it",
    "latin_headers": "values of request headers that are not ASCII reach the app",
    "raw_path": "the app is told the path as it came, not decoded (ASGI)",
    "lifespan": "the app's lifespan start-up and shutdown are run (ASGI)",
    "chunked_request": "request bodies without a length are read",
    "chunk_extensions": "what stands behind the sizes of chunks, and behind the last chunk, is passed over",
    "request_line": "what is no request is refused",
    "length_and_chunked": "a request with both Content-Length and Transfer-Encoding is refused, or ends its connection",
    "two_lengths": "a request with two different Content-Lengths is refused",
    "bare_lf": "a request whose lines end in LF alone is refused, or read as if they ended in CRLF",
    "space_before_colon": "a request with a space between a header's name and its colon is refused",
}
"""What every worker keeps, unless its backend says that it cannot (`lacks`)."""


def is_set(job: Job, field: str) -> bool:
    """Does the configuration ask for something that only holds if the server, or we, do it?"""
    return (field in ("threads", "keepalive", "trusted_proxies") and getattr(job, field) is not None) or (
        field in ("max_requests", "request_timeout", "access_log", "root_path", "health") and bool(getattr(job, field))
    )


def field_problems(backend: Backend, job: Job) -> list[Problem]:
    """Return a problem for each field that is set and that this backend cannot honour."""
    found = []
    for field in FIELDS:
        how, why = _answer(backend, field)
        if how == NO and is_set(job, field):
            found.append(Problem(field, f"{_title(backend)} {why or 'has no such setting'}", "leave it out"))
    if job.preload is True and (why := why_not_preloaded(backend)):
        found.append(Problem("preload", f"cannot be had: {why}", "leave it out"))
    return found


def _title(backend: Backend) -> str:
    return getattr(backend, "title", "") or backend.name


def _answer(backend: Backend, field: str) -> tuple[str, str]:
    how, _, why = str(getattr(backend, "fields", {}).get(field, FIELDS[field])).partition(":")
    return how, why.strip()


def describe(backend: Backend) -> dict[str, Any]:
    """Return what a check's answer says of the backend itself, as JSON wants it."""
    answers = {field: _answer(backend, field) for field in FIELDS}
    return {
        "interfaces": sorted(backend.interfaces),
        "speaks": sorted(getattr(backend, "speaks", ())),
        "fields": {field: how for field, (how, _) in answers.items()},
        "why": {field: why for field, (how, why) in answers.items() if why},
        "lacks": dict(getattr(backend, "lacks", {})),
        "note": getattr(backend, "note", ""),
    }


def is_program(backend: Backend) -> bool:
    """Is it run by exec?"""
    return bool(getattr(backend, "program", False))


def why_not_preloaded(backend: Backend) -> str:
    """Why its workers cannot be forked from one import of the app; "" if they can."""
    why = getattr(backend, "lacks", {}).get("preload", "")
    return why or (f"{backend.name} is a program, which imports the app itself" if is_program(backend) else "")
