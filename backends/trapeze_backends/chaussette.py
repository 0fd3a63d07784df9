"""chaussette's servers on inherited sockets.

chaussette 1.3.0 (2015) hides most of its backends on Python 3, clears O_NONBLOCK on a shared listener, fills the
environ with its `fd://` text and handles no SIGTERM. Its own server classes are used where they do something
(`chaussette_*.py`), given a socket that is ready and a stop that drains. The others only call servers which are
backends here themselves: those do the work.
"""

from __future__ import annotations

import sys

from trapeze_backends.contract import Backend, Job, Problem
from trapeze_backends.installed import is_installed, version_of
from trapeze_backends.optioncheck import check_kinds, check_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

    from trapeze_backends.worker import Worker

__all__ = ["SERVERS", "UNUSABLE", "ChaussetteBackend", "backend"]

SERVERS = {
    "wsgiref": ("", "trapeze_backends.chaussette_plain"),
    "waitress": ("waitress", "trapeze_backends.waitress"),
    "gevent": ("gevent", "trapeze_backends.gevent"),
    "geventwebsocket": ("gevent-websocket", "trapeze_backends.gevent"),
    "eventlet": ("eventlet", "trapeze_backends.chaussette_eventlet"),
    "bjoern": ("bjoern", "trapeze_backends.bjoern"),
}
"""Servers that work: what pip calls them, and the module here that runs them, or whose backend does."""

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


class ChaussetteBackend(Backend):
    """WSGI. `options.backend` names the server; by default waitress where it is installed, wsgiref where it is not."""

    name = "chaussette"
    interfaces = frozenset({"wsgi"})
    note = f"options.backend: {', '.join(SERVERS)}"

    def __init__(self) -> None:
        self._use("waitress" if is_installed("waitress") else "wsgiref")

    def _use(self, server: str) -> None:
        """Take over what that server says of itself."""
        self.server = server
        self.inner = _inner(server)
        self.title = self.inner.title
        self.fields = self.inner.fields
        self.lacks = self.inner.lacks
        self.speaks = self.inner.speaks

    def version(self) -> str:
        """chaussette's version, and which of its servers it is."""
        version = version_of("chaussette")
        return f"{version}/{self.server}" if version else ""

    def check(self, job: Job) -> list[Problem]:
        """Not installed, an unusable server, or options that the server does not know."""
        if not is_installed("chaussette"):
            return [Problem("backend", f"chaussette is not installed in {sys.prefix}", "pip install chaussette")]
        server = job.options.get("backend", self.server)
        problem = _unusable(server)
        if problem:
            return [problem]
        self._use(server)
        problems = self.inner.check(self._inner_job(job))
        self.speaks = self.inner.speaks
        return problems

    def _inner_job(self, job: Job) -> Job:
        """The job as the backend of that server wants it."""
        inner = Job(job.raw)
        inner.options = _inner_options(job, self.server)
        return inner

    def trusted(self, job: Job) -> list[str] | None:
        """What the server's own settings say."""
        return self.inner.trusted(self._inner_job(job))

    def prepare(self, job: Job) -> None:
        """Patch the standard library for the servers of green threads."""
        self.inner.prepare(self._inner_job(job))

    def preload(self, job: Job, interface: str) -> None:
        """The module of the server, and what that imports when it runs."""
        self.inner.preload(self._inner_job(job), interface)

    def run(self, app: Any, sockets: list[socket.socket], worker: Worker) -> None:
        """Hand over to the server."""
        worker.job.options = _inner_options(worker.job, self.server)
        self.inner.run(app, sockets, worker)


class _Own(Backend):
    """A server of chaussette's own."""

    module = ""
    kinds: dict[str, type] = {}

    def check(self, job: Job) -> list[Problem]:
        """Options that it does not know."""
        return check_names(self.title, job.options, self.kinds, {}) + check_kinds(job.options, self.kinds)

    def preload(self, job: Job, interface: str) -> None:
        """The module that runs it."""
        __import__(self.module)

    def run(self, app: Any, sockets: list[socket.socket], worker: Worker) -> None:
        """Hand over to the module that runs it."""
        __import__(self.module)
        sys.modules[self.module].run(app, sockets, worker)


class _Wsgiref(_Own):
    """One request at a time."""

    module = "trapeze_backends.chaussette_plain"
    kinds = {"timeout": float}
    fields = {"threads": "no: has no threads, waitress has", "keepalive": "no: closes after each answer"}


class _Eventlet(_Own):
    """Green threads."""

    module = "trapeze_backends.chaussette_eventlet"
    kinds = {
        "max_size": int,
        "socket_timeout": float,
        "minimum_chunk_size": int,
        "url_length_limit": int,
        "debug": bool,
    }
    fields = {"threads": "no: has no threads, waitress has", "keepalive": "native"}
    lacks = {"length_and_chunked": "it reads sizes of chunks as Python reads numbers"}

    def prepare(self, job: Job) -> None:
        """Patch the standard library."""
        from trapeze_backends.green import patch_eventlet

        patch_eventlet()


OWN = {"wsgiref": _Wsgiref, "eventlet": _Eventlet}


def _inner(server: str) -> Backend:
    """The backend that does the work of one of chaussette's servers."""
    if server in OWN:
        inner: Backend = OWN[server]()
    else:
        module = SERVERS[server][1]
        __import__(module)
        inner = sys.modules[module].backend()
    inner.title = f"chaussette's {server}"
    return inner


def _inner_options(job: Job, server: str) -> dict[str, Any]:
    options = {name: value for name, value in job.options.items() if name != "backend"}
    if server == "geventwebsocket":
        options["websocket"] = True
    return options


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


backend = ChaussetteBackend
