"""The shop's front: takes orders, puts them into a queue, shows what became of them. Plain WSGI."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from resp import Redis


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """POST /orders puts one in, GET /orders lists those that are done, GET /healthz asks Redis."""
    route = f"{environ['REQUEST_METHOD']} {environ.get('PATH_INFO') or '/'}"
    handler = ROUTES.get(route)
    if handler is None:
        return answer(start_response, "404 Not Found", {"error": f"no {route} here"})
    with Redis.from_environment() as redis:
        status, data = handler(redis, environ)
    return answer(start_response, status, data)


def order(redis: Redis, environ: dict[str, Any]) -> tuple[str, Any]:
    """Queue what the request's body says."""
    length = int(environ.get("CONTENT_LENGTH") or 0)
    what = environ["wsgi.input"].read(length).decode()
    number = redis("INCR", "orders")
    redis("LPUSH", "queue", json.dumps({"order": number, "what": what}))
    return "202 Accepted", {"order": number}


def orders(redis: Redis, environ: dict[str, Any]) -> tuple[str, Any]:
    """What the workers have done."""
    done = redis("LRANGE", "done", 0, -1)
    assert isinstance(done, list)
    return "200 OK", [json.loads(str(entry)) for entry in done]


def health(redis: Redis, environ: dict[str, Any]) -> tuple[str, Any]:
    """Is Redis there?"""
    return "200 OK", {"redis": redis("PING")}


ROUTES = {"POST /orders": order, "GET /orders": orders, "GET /healthz": health}


def answer(start_response: Callable[..., Any], status: str, data: Any) -> list[bytes]:
    """Send JSON."""
    body = json.dumps(data).encode() + b"\n"
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
