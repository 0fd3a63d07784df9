"""Every in-process backend, and the requests that each of them gets. None is left out: what is missing has a reason."""

from __future__ import annotations

import importlib.util
import json
from typing import NamedTuple

from tests.chaos.records import Flow

__all__ = ["CASES", "Case", "Places", "flows", "missing", "queues"]


class Case(NamedTuple):
    """One server."""

    name: str
    backend: str
    options: str = "{}"
    """TOML."""
    interface: str = "wsgi"
    modules: tuple[str, ...] = ()
    """What must be installed."""
    single: bool = False
    """One request at a time in each worker, and no connections kept."""
    split: bool = False
    """Answers come from children of the worker."""
    closes: bool = False
    """It closes each connection after its answer."""

    @property
    def keeps(self) -> bool:
        """Does it take `keepalive`? (bjoern keeps connections for as long as the client likes.)"""
        return not self.single and not self.split and not self.closes


def _gunicorn(kind: str, **more: object) -> Case:
    options = json.dumps(kind)
    return Case(f"gunicorn-{kind}", "gunicorn", f"{{ worker_class = {options} }}", modules=("gunicorn",), **more)  # type: ignore[arg-type]


def _chaussette(kind: str, *modules: str, **more: object) -> Case:
    options = f"{{ backend = {json.dumps(kind)} }}"
    return Case(f"chaussette-{kind}", "chaussette", options, modules=("chaussette", *modules), **more)  # type: ignore[arg-type]


CASES = (
    _gunicorn("sync", single=True),
    _gunicorn("gthread"),
    Case("gunicorn-gevent", "gunicorn", '{ worker_class = "gevent" }', modules=("gunicorn", "gevent")),
    Case("gunicorn-asgi", "gunicorn", interface="asgi", modules=("gunicorn.asgi",)),
    Case("uvicorn-uvloop", "uvicorn", interface="asgi", modules=("uvicorn", "uvloop")),
    Case("uvicorn-asyncio", "uvicorn", '{ loop = "asyncio", http = "h11" }', "asgi", ("uvicorn", "h11")),
    Case("hypercorn-uvloop", "hypercorn", interface="asgi", modules=("hypercorn", "uvloop")),
    Case("hypercorn-asyncio", "hypercorn", '{ worker_class = "asyncio" }', "asgi", ("hypercorn",)),
    Case("hypercorn-wsgi", "hypercorn", modules=("hypercorn",)),
    Case("daphne", "daphne", interface="asgi", modules=("daphne",)),
    Case("aiohttp", "aiohttp", interface="aiohttp", modules=("aiohttp",)),
    Case("tornado", "tornado", interface="tornado", modules=("tornado",)),
    Case("tornado-wsgi", "tornado", modules=("tornado",)),
    _chaussette("wsgiref", single=True),
    _chaussette("waitress", "waitress"),
    _chaussette("gevent", "gevent"),
    _chaussette("geventwebsocket", "geventwebsocket"),
    _chaussette("eventlet", "eventlet"),
    _chaussette("bjoern", "bjoern", split=True),
    Case("waitress", "waitress", modules=("waitress",)),
    Case("gevent", "gevent", modules=("gevent",)),
    Case("cheroot", "cheroot", modules=("cheroot",)),
    Case("bjoern", "bjoern", modules=("bjoern",), split=True),
    Case("werkzeug", "werkzeug", modules=("werkzeug",), closes=True),
    Case("fastpysgi", "fastpysgi", modules=("fastpysgi",)),
    Case("granian-wsgi", "granian", modules=("granian",)),
    Case("granian-asgi", "granian", interface="asgi", modules=("granian", "uvloop")),
    Case("uwsgi", "uwsgi", modules=("pyuwsgi",), closes=True),
)


def missing(case: Case) -> str:
    """Why this backend cannot be run here; "" if it can."""
    for module in case.modules:
        try:
            found = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            found = None
        if found is None:
            return f"{module} is not installed"
    return ""


class Places(NamedTuple):
    """Where a service is reached."""

    tcp: str
    unix: str
    moving: tuple[str, ...]
    """A socket that moves: at least one of these takes connections at any time."""
    kept_proxy: str
    """nginx that keeps its connections to the service."""
    plain_proxy: str
    """nginx that connects anew for each request."""


# Kind, place, requests per second of a server that serves many at a time and of one that serves one, the rest of Flow.
# Kept connections and pauses stay well below the drain_grace of half a second; `long-kept` is the one that does not:
# its connections are closed while they are idle, which must be done in order.
_KINDS: tuple[tuple[str, str, float, float, dict[str, float | str]], ...] = (
    ("fresh", "tcp", 8, 6, {"size": 2000}),
    ("fresh-unix", "unix", 6, 5, {"size": 200_000}),
    ("fresh-post", "tcp", 6, 5, {"method": "POST", "size": 20_000}),
    ("kept", "tcp", 12, 4, {"keep": 3}),
    ("kept-post", "unix", 8, 4, {"method": "POST", "keep": 2, "size": 500}),
    ("long-kept", "tcp", 2, 1, {"keep": 3}),
    ("slow-post", "tcp", 2, 0.5, {"method": "POST", "pieces": 4, "pause": 0.1, "size": 3000}),
    ("busy", "unix", 3, 1, {"busy": 0.2}),
    ("moving", "moving", 4, 3, {}),
    ("nginx-kept", "kept_proxy", 6, 4, {"keep": 2, "size": 3000}),
    ("nginx-kept-post", "kept_proxy", 4, 3, {"method": "POST", "size": 3000}),
    ("nginx", "plain_proxy", 4, 3, {}),
    ("nginx-post", "plain_proxy", 4, 3, {"method": "POST", "size": 3000}),
)


def flows(case: Case, places: Places, factor: float = 1.0) -> list[Flow]:
    """The requests that a backend gets, modest enough for two busy processors."""
    made = []
    for kind, place, many, one, more in _KINDS:
        where = getattr(places, place)
        addresses = where if isinstance(where, tuple) else (where,)
        made.append(Flow(case.name, kind, addresses, factor * (one if case.single else many), **more))  # type: ignore[arg-type]
    return made


def queues(case: Case, places: Places, seconds: float) -> list[Flow]:
    """Requests that wait in the listen queues when the service stops."""
    kinds = {"queue": places.tcp, "queue-unix": places.unix}
    return [Flow(case.name, kind, (address,), 1.0, busy=seconds) for kind, address in kinds.items()]
