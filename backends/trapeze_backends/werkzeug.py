"""werkzeug's development server on inherited sockets: what `flask run` serves with, and its debugger."""

from __future__ import annotations

import sys

from trapeze_backends.contract import Backend, Problem
from trapeze_backends.installed import is_installed, version_of
from trapeze_backends.optioncheck import BOUND, check_kinds, check_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

    from trapeze_backends.contract import Job
    from trapeze_backends.worker import Worker

__all__ = ["WerkzeugBackend", "backend"]

KINDS = {"threaded": bool, "debugger": bool, "evalex": bool}
"""Settings, and of what kind they are."""

OWNED = {
    "use_debugger": "it is called `debugger` here",
    "use_evalex": "it is called `evalex` here",
    "use_reloader": "use the field `watch`",
    "reloader_interval": "use the field `watch`",
    "reloader_type": "use the field `watch`",
    "extra_files": "use the field `watch`",
    "exclude_patterns": "use the field `watch`",
    "hostname": BOUND,
    "host": BOUND,
    "port": BOUND,
    "fd": BOUND,
    "application": "use the field `app`",
    "processes": "use the field `workers`",
    "request_handler": "it is ours",
    "ssl_context": "a proxy in front speaks TLS",
}
"""Settings that belong to the supervisor, each with the reason."""


class WerkzeugBackend(Backend):
    """WSGI, for development; a thread for each request, and no connection is kept."""

    name = "werkzeug"
    note = "for development only"
    interfaces = frozenset({"wsgi"})
    fields = {"threads": "trapeze", "keepalive": "no: closes after each answer"}

    def version(self) -> str:
        """Version of werkzeug."""
        return version_of("werkzeug")

    def check(self, job: Job) -> list[Problem]:
        """Not installed; options that are the supervisor's, or that it does not know; a debugger that cannot work."""
        if not is_installed("werkzeug"):
            return [Problem("backend", f"werkzeug is not installed in {sys.prefix}", "pip install werkzeug")]
        options = job.options
        problems = check_names("werkzeug", options, KINDS, OWNED) + check_kinds(options, KINDS)
        if options.get("threaded") is False and job.threads is not None:
            problems.append(Problem("threads", "werkzeug has none with threaded = false", "leave one of them out"))
        if options.get("evalex"):
            if not options.get("debugger"):
                problems.append(Problem("options.evalex", "it is a part of the debugger", "add debugger = true"))
            if job.workers > 1:
                reason = "its console must reach the process in which the error was"
                problems.append(Problem("options.evalex", reason, "workers = 1"))
        return problems

    def preload(self, job: Job, interface: str) -> None:
        """The server, and its debugger if it is wanted."""
        __import__("trapeze_backends.werkzeug_server")
        if job.options.get("debugger"):
            __import__("werkzeug.debug")

    def run(self, app: Any, sockets: list[socket.socket], worker: Worker) -> None:
        """Serve until the worker is asked to stop, then drain."""
        from trapeze_backends.werkzeug_server import run

        run(app, sockets, worker)


backend = WerkzeugBackend
