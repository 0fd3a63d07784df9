"""Command lines of the servers run by themselves, without trapeze, with as many workers: by name.

A server that has a way of its own to run several workers is run in that way; the others are forked by `prefork`, and
call the function that their documentation recommends. A pool of threads has the size that it has under trapeze: granian
would take hundreds by itself, and gunicorn one, and what differed would be that.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trapeze_bench.served import Served
from trapeze_bench.targets import THREADS, gunicorn_words, program

__all__ = ["NATIVES", "PLAIN", "Native"]

Words = Callable[[Served, int], list[str]]


@dataclass(frozen=True)
class Native:
    """A server run by itself."""

    name: str
    interfaces: Sequence[str]
    words: Words
    """From an app and a port of 127.0.0.1 to the command line. It is run in the directory of the app."""
    module: str
    """What has to be installed."""
    backend: str
    """trapeze's name of the same server."""
    options: Sequence[str] = ()
    """KEY=VALUE that make trapeze's backend the same as this one."""
    pip: str = ""
    """What to install, where it is not what the module is called."""

    @property
    def is_installed(self) -> bool:
        """Can it be run here?"""
        try:
            return importlib.util.find_spec(self.module) is not None
        except ModuleNotFoundError:  # its package is not there
            return False

    @property
    def install(self) -> str:
        """The line that installs it."""
        return f"pip install {self.pip or self.module.partition('.')[0]}"


def _gunicorn(kind: str) -> Words:
    def words(served: Served, port: int) -> list[str]:
        threads = (served.threads or THREADS) if kind == "gthread" else None
        return gunicorn_words(served, port, kind, threads)

    return words


def _uvicorn(served: Served, port: int) -> list[str]:
    words = ["--workers", str(served.workers), "--host", "127.0.0.1", "--port", str(port), "--no-access-log"]
    return [*program("uvicorn"), *words, *(["--factory"] if served.factory else []), served.app]


def _granian(served: Served, port: int) -> list[str]:
    words = ["--interface", served.interface, "--workers", str(served.workers), "--host", "127.0.0.1", "--no-ws"]
    words += ["--blocking-threads", str(served.threads or THREADS)] if served.interface == "wsgi" else []
    words += ["--factory"] if served.factory else []
    return [*program("granian"), *words, "--log-level", "error", "--port", str(port), served.app]


def _hypercorn(served: Served, port: int) -> list[str]:
    loop = "uvloop" if importlib.util.find_spec("uvloop") else "asyncio"  # as trapeze's backend chooses it
    words = ["-w", str(served.workers), "-k", loop, "--log-level", "ERROR"]
    app = served.app + ("()" if served.factory else "")
    return [*program("hypercorn"), *words, "-b", f"127.0.0.1:{port}", f"{served.interface}:{app}"]


def _uwsgi(served: Served, port: int) -> list[str]:
    """A connection for each request, as under trapeze: its http11-socket would give a thread to every idle one."""
    script = Path(sys.executable).with_name("uwsgi")
    found = str(script) if script.exists() else shutil.which("uwsgi") or "uwsgi"
    words = ["--master", "--die-on-term", "--need-app", "--disable-logging", "--processes", str(served.workers)]
    words += ["--add-header", "Connection: close"]  # it closes, and does not say so: load generators count errors
    words += ["--enable-threads", "--threads", str(served.threads)] if served.threads else []
    app = served.app + ("()" if served.factory else "")
    return [found, "--http-socket", f"127.0.0.1:{port}", *words, "--module", app, "-H", sys.prefix]


def _forked(name: str, module: str = "prefork") -> Words:
    def words(served: Served, port: int) -> list[str]:
        app = served.app + ("()" if served.factory else "")
        more = [str(served.threads)] if served.threads else []
        return [
            sys.executable,
            "-m",
            f"trapeze_bench.{module}",
            name,
            str(port),
            str(served.workers),
            app,
            served.interface,
            *more,
        ]

    return words


WSGI, ASGI = ("wsgi",), ("asgi",)
NATIVES = {
    each.name: each
    for each in (
        Native("gunicorn-sync", WSGI, _gunicorn("sync"), "gunicorn", "gunicorn", ["worker_class=sync"]),
        Native("gunicorn-gthread", WSGI, _gunicorn("gthread"), "gunicorn", "gunicorn"),
        Native("gunicorn-gevent", WSGI, _gunicorn("gevent"), "gevent", "gunicorn", ["worker_class=gevent"]),
        Native("gunicorn-asgi", ASGI, _gunicorn("asgi"), "gunicorn.asgi", "gunicorn"),
        Native("uvicorn", ASGI, _uvicorn, "uvicorn", "uvicorn"),
        Native("granian", ("wsgi", "asgi"), _granian, "granian", "granian"),
        Native("hypercorn", ("asgi", "wsgi"), _hypercorn, "hypercorn", "hypercorn"),
        Native("waitress", WSGI, _forked("waitress"), "waitress", "waitress"),
        Native("gevent", WSGI, _forked("gevent"), "gevent", "gevent"),
        Native("cheroot", WSGI, _forked("cheroot"), "cheroot", "cheroot"),
        Native("bjoern", WSGI, _forked("bjoern"), "bjoern", "bjoern"),
        Native("fastpysgi", WSGI, _forked("fastpysgi", "reserving"), "fastpysgi", "fastpysgi"),
        Native("uwsgi", WSGI, _uwsgi, "pyuwsgi", "uwsgi", pip="pyuwsgi"),
        Native("daphne", ASGI, _forked("daphne"), "daphne", "daphne"),
        Native("aiohttp", ("aiohttp",), _forked("aiohttp"), "aiohttp", "aiohttp"),
        Native("tornado", WSGI, _forked("tornado"), "tornado", "tornado"),
        Native("werkzeug", WSGI, _forked("werkzeug"), "werkzeug", "werkzeug"),
        Native("wsgiref", WSGI, _forked("wsgiref"), "chaussette", "chaussette", ["backend=wsgiref"]),
    )
}
"""By name, in the order in which they are shown."""


def _plain(served: Served, port: int) -> list[str]:
    return gunicorn_words(served, port, "sync", None)


PLAIN = Native("gunicorn, plain", WSGI, _plain, "gunicorn", "gunicorn")
"""What most people run: its own arbiter, the sync worker. The reference of WSGI apps."""
