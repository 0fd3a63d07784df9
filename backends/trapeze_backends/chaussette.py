"""chaussette's servers on inherited sockets.

chaussette 1.3.0 (2015) hides most of its backends on Python 3, clears O_NONBLOCK on a shared listener, fills the
environ with its `fd://` text and handles no SIGTERM. Here its own server classes are used where they still work, given
a socket that is ready, and a stop that drains; where they do not, the server they stand for is used directly.
"""

from __future__ import annotations

import sys

from trapeze_backends.contract import Backend, Problem
from trapeze_backends.installed import is_installed, version_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

    from trapeze_backends.contract import Job
    from trapeze_backends.worker import Worker

__all__ = ["SERVERS", "UNUSABLE", "ChaussetteBackend", "backend"]

SERVERS = {
    "wsgiref": ("", "trapeze_backends.chaussette_plain"),
    "waitress": ("waitress", "trapeze_backends.chaussette_waitress"),
    "gevent": ("gevent", "trapeze_backends.chaussette_gevent"),
    "geventwebsocket": ("gevent-websocket", "trapeze_backends.chaussette_gevent"),
    "eventlet": ("eventlet", "trapeze_backends.chaussette_eventlet"),
    "bjoern": ("bjoern", "trapeze_backends.chaussette_bjoern"),
}
"""Servers that work: what pip calls them, and the module here that runs them."""

LATER = {
    "gevent": ("chaussette.backend._gevent", "gevent.resolver.thread", "encodings.idna"),
    "geventwebsocket": ("chaussette.backend._geventwebsocket", "geventwebsocket.handler", "gevent.resolver.thread"),
    "waitress": ("encodings.idna",),
}
"""What those modules import late."""

UNUSABLE = {
    "meinheld": "meinheld 1.0.2 (2020) crashes at the first request on Python 3.11 and newer",
    "fastgevent": "it needs gevent.wsgi, which gevent removed in 1.3 (2018)",
    "socketio": "it needs gevent-socketio, which exists for Python 2 only",
    "tornado": "it needs tornado.platform.auto and tornado.wsgi.WSGIApplication, which tornado 6 (2019) no longer has",
    "geventws4py": "it needs ws4py's server for gevent, which does not work with gevent 1.3 (2018) and newer",
}
"""chaussette's other backends, and why they cannot work."""

INSTEAD = {
    "meinheld": "bjoern",
    "fastgevent": "gevent",
    "socketio": "geventwebsocket",
    "tornado": "waitress",
    "geventws4py": "geventwebsocket",
}

MODULES = {"gevent-websocket": "geventwebsocket"}
KEEPALIVE = frozenset({"waitress", "gevent", "geventwebsocket", "eventlet"})

OPTIONS = {
    "gevent": frozenset({"spawn"}),
    "geventwebsocket": frozenset({"spawn"}),
    "eventlet": frozenset({"max_size", "socket_timeout", "minimum_chunk_size", "url_length_limit", "debug"}),
    "wsgiref": frozenset({"timeout"}),
    "bjoern": frozenset(),
}
"""Options that each server takes; waitress has many and is asked itself."""

OWNED = frozenset(
    ["host", "port", "listen", "sockets", "unix_socket", "unix_socket_perms", "backlog", "url_prefix", "ipv4", "ipv6"]
)
"""Settings of waitress that belong to the supervisor, or are fields of the service."""


_SPACE = {"space_before_colon": "its parser strips the name: put a proxy in front that refuses it, as nginx does"}
_BOTH = {"length_and_chunked": "it keeps the connection after a request that has both: put a proxy in front"}
_LENGTHS = {"two_lengths": "it takes one of them: put a proxy in front that refuses it, as nginx does"}

LACKS = {
    "wsgiref": {"chunked_request": "wsgiref does not decode chunks", **_LENGTHS, **_SPACE},
    "waitress": _BOTH,
    "gevent": {**_BOTH, **_LENGTHS, **_SPACE},
    "geventwebsocket": {**_BOTH, **_LENGTHS, **_SPACE},
    "eventlet": {"length_and_chunked": "it reads sizes of chunks as Python reads numbers", **_LENGTHS, **_SPACE},
    "bjoern": {
        "half_request": "bjoern refuses a head that comes in two pieces",
        "client_address": "bjoern knows IPv4 addresses only",
        "repeated_headers": "bjoern joins them without a comma",
        **_BOTH,
        **_LENGTHS,
        **_SPACE,
    },
}
"""Promises that a server cannot keep."""


class ChaussetteBackend(Backend):
    """WSGI. `options.backend` names the server; by default waitress where it is installed, wsgiref where it is not."""

    name = "chaussette"
    interfaces = frozenset({"wsgi"})

    def __init__(self) -> None:
        self.server = "waitress" if is_installed("waitress") else "wsgiref"

    def version(self) -> str:
        """chaussette's version, and which of its servers it is."""
        version = version_of("chaussette")
        return f"{version}/{self.server}" if version else ""

    def check(self, job: Job) -> list[Problem]:
        """Not installed, an unusable server, or options that the server does not know."""
        if not is_installed("chaussette"):
            return [Problem("backend", f"chaussette is not installed in {sys.prefix}", "pip install chaussette")]
        options = dict(job.options)
        self.server = options.pop("backend", self.server)
        problem = _unusable(self.server)
        if problem:
            return [problem]
        self.lacks = LACKS[self.server]
        return [*_check_fields(job, self.server), *_check_options(options, self.server)]

    def prepare(self, job: Job) -> None:
        """Patch the standard library for the servers of green threads."""
        self.server = job.options.get("backend", self.server)
        if self.server in ("gevent", "geventwebsocket"):
            from gevent import monkey

            monkey.patch_all()
        elif self.server == "eventlet":
            from trapeze_backends.green import patch_eventlet

            patch_eventlet()

    def preload(self, job: Job, interface: str) -> None:
        """The module of the server, and what that imports when it runs."""
        for module in (SERVERS[self.server][1], *LATER.get(self.server, ())):
            __import__(module)

    def run(self, app: Any, sockets: list[socket.socket], worker: Worker) -> None:
        """Hand over to the module of the server."""
        module = SERVERS[self.server][1]
        __import__(module)
        sys.modules[module].run(app, sockets, worker, self.server)


def _unusable(server: object) -> Problem | None:
    if not isinstance(server, str) or (server not in SERVERS and server not in UNUSABLE):
        known = ", ".join(sorted(SERVERS))
        return Problem("options.backend", f"chaussette has no backend {server!r}", f"it has {known}")
    if server in UNUSABLE:
        return Problem(
            "options.backend", f"chaussette's {server} cannot work: {UNUSABLE[server]}", f'use "{INSTEAD[server]}"'
        )
    package = SERVERS[server][0]
    if package and not is_installed(MODULES.get(package, package)):
        return Problem("options.backend", f"{package} is not installed in {sys.prefix}", f"pip install {package}")
    return None


def _check_fields(job: Job, server: str) -> list[Problem]:
    problems = []
    if job.threads is not None and server != "waitress":
        problems.append(Problem("threads", f"chaussette's {server} has no threads", "leave it out, or use waitress"))
    if job.keepalive is not None and server not in KEEPALIVE:
        reason = "closes after each answer" if server == "wsgiref" else "has no such setting"
        problems.append(Problem("keepalive", f"chaussette's {server} {reason}", "leave it out"))
    if server == "bjoern" and job.stop_signal == 2:
        problems.append(Problem("stop_signal", "bjoern keeps SIGINT for itself", 'use "TERM"'))
    return problems


def _check_options(options: dict[str, Any], server: str) -> list[Problem]:
    if not options:
        return []
    if server == "waitress":
        return _check_waitress(options)
    known = sorted(OPTIONS[server])
    hint = f"it knows {', '.join(known)}" if known else "it has none"
    return [
        Problem(f"options.{name}", f"chaussette's {server} has no such setting", hint)
        for name in options
        if name not in known
    ]


def _check_waitress(options: dict[str, Any]) -> list[Problem]:
    from waitress.adjustments import Adjustments

    problems = []
    for name, value in options.items():
        if name in OWNED:
            reason = f"waitress's {name} has no place here: the supervisor does that"
            problems.append(Problem(f"options.{name}", reason))
            continue
        try:
            Adjustments(**{name: value})
        except (ValueError, TypeError) as error:
            problems.append(Problem(f"options.{name}", f"waitress: {error}"))
    return problems


backend = ChaussetteBackend
