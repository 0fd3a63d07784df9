"""uWSGI: in the worker's own interpreter where `pyuwsgi` is installed, else as the program `uwsgi`.

pyuwsgi is uWSGI as a Python module: what it serves is in the interpreter that has called it, so its workers can be
forked like any other. The program has an interpreter of its own, in which the app is then imported.
"""

from __future__ import annotations

import os
import sys

from trapeze_backends.contract import Backend, Problem
from trapeze_backends.installed import is_installed, version_of
from trapeze_backends.uwsgi_settings import check_options, check_program, find_program, server_words, version_said

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

    from trapeze_backends.contract import Job
    from trapeze_backends.worker import Worker

__all__ = ["UwsgiBackend", "backend"]


class UwsgiBackend(Backend):
    """WSGI by threads, and a connection for each request."""

    name = "uwsgi"
    interfaces = frozenset({"wsgi"})
    fields = {
        "threads": "native",
        "keepalive": "no: closes each connection (its http11-socket would give a thread to every idle one)",
    }

    lacks = {
        "chunk_extensions": "uWSGI takes them for a part of the size, and refuses the body",
        "request_line": "uWSGI takes any three words for a request: put a proxy in front",
    }

    def __init__(self) -> None:
        self._path = ""

    def version(self) -> str:
        """Version of uWSGI."""
        inside = sys.modules.get("uwsgi")
        if inside is not None:
            return inside.version.decode()  # type: ignore[no-any-return]
        if not self._path and is_installed("pyuwsgi"):
            return version_of("pyuwsgi")
        return version_said(self._path or find_program())

    def check(self, job: Job) -> list[Problem]:
        """Not installed, or for another Python; options that are the supervisor's, or unknown to this uWSGI."""
        self._path = str(job.options.get("binary-path") or "")
        if not self._path and not is_installed("pyuwsgi"):
            self._path = find_program()
            if not self._path:
                hint = "pip install pyuwsgi, or 'trapeze-server[uwsgi]'"
                return [Problem("backend", f"uWSGI is not installed in {sys.prefix}", hint)]
        problems = check_options(job, self._path)
        if self._path:
            self.program = True
            self.lacks = {**type(self).lacks, "preload": "the program uwsgi imports the app itself; pyuwsgi would not"}
            problems = check_program(job, self._path) or problems
        return problems

    def preload(self, job: Job, interface: str) -> None:
        """The module, and what goes around the app."""
        import pyuwsgi  # noqa: F401

        import trapeze_backends.uwsgi_inside
        import trapeze_backends.uwsgi_quiet  # noqa: F401

    def run(self, app: Any, sockets: list[socket.socket], worker: Worker) -> None:
        """Serve; the process ends in here."""
        from trapeze_backends.uwsgi_inside import run

        run(app, sockets, worker, server_words(worker.job, sockets))

    def command(self, job: Job, sockets: list[socket.socket]) -> list[str]:
        """The program, told to import what every program is to import."""
        from trapeze_backends.program import APP

        for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"):
            os.environ.pop(name, None)  # it would take the sockets once more, for a protocol of its own
        return [self._path, *server_words(job, sockets), "--module", APP]

    def inside(self, app: Any, sockets: list[socket.socket], worker: Worker) -> Any:
        """Have our thread begin with uWSGI's own."""
        import uwsgi

        from trapeze_backends.uwsgi_inside import Watch

        watch = Watch(app, sockets, worker, lambda: None)
        uwsgi.post_fork_hook = watch.begin
        return watch.app


backend = UwsgiBackend
