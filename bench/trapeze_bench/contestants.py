"""Every backend, and the same server run natively with as many workers."""

from __future__ import annotations

import importlib.util
import shutil
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trapeze_bench.serving import Effort, duel
from trapeze_bench.table import Figure
from trapeze_bench.targets import THREADS, WORKERS, Failed, Target, gunicorn, program, running

__all__ = ["CONTESTANTS", "Contestant", "best", "overhead"]

Words = Callable[[int], list[str]]


@dataclass(frozen=True)
class Contestant:
    """One backend."""

    name: str
    app: str
    """ "wsgi" or "asgi" of the hello app, or another module's."""
    native: Words
    """From a port to the command line of the server itself."""
    module: str
    """What has to be installed."""
    flags: Sequence[str] = ()
    """More words for `trapeze serve`."""
    backend: str = ""
    shared: bool = True
    """Its workers accept on one socket."""

    @property
    def ours(self) -> Target:
        """Under trapeze."""
        app = self.app if ":" in self.app else f"trapeze_bench.hello:{self.app}"
        words = ["serve", app, "--workers", str(WORKERS), "--backend", self.backend or self.name, *self.flags]
        return Target(f"trapeze+{self.name}", lambda port: [*program("trapeze"), *words, "--bind", f"127.0.0.1:{port}"])

    @property
    def is_installed(self) -> bool:
        """Can it be run here?"""
        return importlib.util.find_spec(self.module) is not None


def _prefork(name: str) -> Words:
    return lambda port: [sys.executable, "-m", "trapeze_bench.prefork", name, str(port), str(WORKERS)]


def _gunicorn(kind: str, *more: str, app: str = "wsgi") -> Words:
    return lambda port: gunicorn(port, "-k", kind, *more, app=f"trapeze_bench.hello:{app}")


def _uvicorn(port: int) -> list[str]:
    words = ["--workers", str(WORKERS), "--host", "127.0.0.1", "--port", str(port), "--no-access-log"]
    return [*program("uvicorn"), *words, "trapeze_bench.hello:asgi"]


def _granian(app: str) -> Words:
    threads = ["--blocking-threads", "1"] if app == "wsgi" else []
    words = ["--interface", app, "--workers", str(WORKERS), "--host", "127.0.0.1", "--no-ws", "--log-level", "error"]
    return lambda port: [*program("granian"), *words, *threads, "--port", str(port), f"trapeze_bench.hello:{app}"]


def _hypercorn(app: str) -> Words:
    words = ["-w", str(WORKERS), "-k", "uvloop", "--log-level", "ERROR"]
    return lambda port: [*program("hypercorn"), *words, "-b", f"127.0.0.1:{port}", f"{app}:trapeze_bench.hello:{app}"]


def _uwsgi(port: int) -> list[str]:
    script = Path(sys.executable).with_name("uwsgi")
    found = str(script) if script.exists() else shutil.which("uwsgi") or "uwsgi"
    words = ["--master", "--die-on-term", "--need-app", "--disable-logging", "--processes", str(WORKERS)]
    return [
        found,
        "--http11-socket",
        f"127.0.0.1:{port}",
        *words,
        "--module",
        "trapeze_bench.hello:wsgi",
        "-H",
        sys.prefix,
    ]


def _fastpysgi(port: int) -> list[str]:
    return [sys.executable, "-m", "trapeze_bench.reserving", "fastpysgi", str(port), str(WORKERS)]


CONTESTANTS = (
    Contestant("gunicorn-sync", "wsgi", _gunicorn("sync"), "gunicorn", ("--option", "worker_class=sync"), "gunicorn"),
    Contestant("gunicorn-gthread", "wsgi", _gunicorn("gthread"), "gunicorn", (), "gunicorn"),
    Contestant(
        "gunicorn-gevent", "wsgi", _gunicorn("gevent"), "gevent", ("--option", "worker_class=gevent"), "gunicorn"
    ),
    Contestant("gunicorn-asgi", "asgi", _gunicorn("asgi", app="asgi"), "gunicorn.asgi", (), "gunicorn"),
    Contestant("uvicorn", "asgi", _uvicorn, "uvicorn"),
    Contestant("granian-wsgi", "wsgi", _granian("wsgi"), "granian", (), "granian"),
    Contestant("granian-asgi", "asgi", _granian("asgi"), "granian", (), "granian"),
    Contestant("hypercorn-asgi", "asgi", _hypercorn("asgi"), "hypercorn", (), "hypercorn"),
    Contestant("hypercorn-wsgi", "wsgi", _hypercorn("wsgi"), "hypercorn", (), "hypercorn"),
    Contestant("waitress", "wsgi", _prefork("waitress"), "waitress"),
    Contestant("gevent", "wsgi", _prefork("gevent"), "gevent"),
    Contestant("cheroot", "wsgi", _prefork("cheroot"), "cheroot"),
    Contestant("bjoern", "wsgi", _prefork("bjoern"), "bjoern"),
    Contestant("fastpysgi", "wsgi", _fastpysgi, "fastpysgi", shared=False),
    Contestant("uwsgi", "wsgi", _uwsgi, "pyuwsgi"),
    Contestant("daphne", "asgi", _prefork("daphne"), "daphne"),
    Contestant("aiohttp", "trapeze_bench.hello_aiohttp:app", _prefork("aiohttp"), "aiohttp"),
    Contestant("tornado", "wsgi", _prefork("tornado"), "tornado", ("--threads", str(THREADS))),
    Contestant("werkzeug", "wsgi", _prefork("werkzeug"), "werkzeug"),
    Contestant(
        "chaussette-wsgiref", "wsgi", _prefork("wsgiref"), "chaussette", ("--option", "backend=wsgiref"), "chaussette"
    ),
)


def overhead(chosen: Sequence[str], effort: Effort) -> list[Figure]:
    """Requests per second of each backend under trapeze, of the same server run natively with as many workers."""
    figures = []
    for each in CONTESTANTS:
        if (chosen and each.name not in chosen) or not each.is_installed:
            continue
        figures += _against(f"{each.name}: of native", each.ours, Target(each.name, each.native), effort, 0.97)
    ratios = [each.value for each in figures if each.value is not None and each.name.startswith("throughput")]
    if len(ratios) > 1:
        middle = statistics.median(ratios)
        figures.append(
            Figure(f"the median of these {len(ratios)}", middle, "ratio", at_least=0.99, note="throughput, of native")
        )
    return figures


PLAIN = Target("gunicorn, plain", lambda port: gunicorn(port, "-k", "sync", "--threads", "1"))


def best(chosen: Sequence[str], effort: Effort) -> list[Figure]:
    """The fastest ones against what most people run: plain gunicorn (sync) for WSGI, `uvicorn --workers` for ASGI."""
    bounds = {"granian-wsgi": (PLAIN, 6.0), "fastpysgi": (PLAIN, 14.0), "bjoern": (PLAIN, None)}
    bounds["granian-asgi"] = (Target("uvicorn --workers", _uvicorn), 1.0)
    figures = []
    for each in CONTESTANTS:
        if each.name in bounds and (not chosen or each.name in chosen) and each.is_installed:
            other, bound = bounds[each.name]
            figures += _against(f"{each.name} of {other.name}", each.ours, other, effort, bound)
    return figures


def _against(name: str, ours: Target, other: Target, effort: Effort, bound: float | None) -> list[Figure]:
    try:
        with running(ours) as one, running(other) as native:
            return duel(name, one, native, effort, at_least=bound)
    except Failed as error:
        effort.say(f"{name}: {error}")
        return [Figure(f"throughput, {name}", None, "ratio", at_least=bound, note=str(error).splitlines()[0])]
