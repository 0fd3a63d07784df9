"""Who takes part: every installed backend under trapeze, the reference, and with --native each server by itself."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

from trapeze_bench.natives import NATIVES, PLAIN, Native
from trapeze_bench.results import Result
from trapeze_bench.served import Served
from trapeze_bench.targets import THREADS, gunicorn_words, program

__all__ = ["DEVELOPMENT", "Backend", "Entrant", "Unusable", "choose", "shown"]

DEVELOPMENT = {"werkzeug", "wsgiref"}
"""Servers that nobody runs in production: measured only if they are named."""


class Unusable(Exception):
    """What was asked for cannot be measured here."""

    def __init__(self, message: str, hint: str = "", *, exit_code: int = 2) -> None:
        """`exit_code`: 2 for what was asked for wrongly, 1 for an app that does not do what it should."""
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code


class Backend(NamedTuple):
    """What is known of one of trapeze's backends."""

    name: str
    version: str
    """Empty if it is not installed."""
    interfaces: Sequence[str]
    threads: bool = True
    """It takes a number of threads."""
    notes: Sequence[str] = ()
    """Why it cannot be used, and what to install."""
    installed: bool = True


@dataclass(frozen=True)
class Entrant:
    """Somebody who takes part."""

    name: str
    role: Literal["reference", "trapeze", "native"]
    backend: str
    version: str = ""
    native: Native | None = None
    """How it is run by itself, for those that are; under trapeze: the same server by itself."""
    options: Sequence[str] = ()
    """KEY=VALUE for trapeze."""
    more: Sequence[str] = ()
    """More words for `trapeze serve`."""
    twin: str = ""
    """Under trapeze: the name of the one that is the same server by itself, if that takes part."""

    def argv(self, served: Served, port: int) -> list[str]:
        """The command line; it is run in the directory of the app."""
        if self.role != "trapeze":
            assert self.native is not None
            return self.native.words(served, port)
        words = ["serve", served.app, "--workers", str(served.workers), "--backend", self.backend]
        words += ["--interface", served.interface, *(["--factory"] if served.factory else [])]
        words += [word for option in self.options for word in ("--option", option)]
        return [*program("trapeze"), *words, *self.more, "--bind", f"127.0.0.1:{port}"]

    def result(self, served: Served) -> Result:
        """An empty one, to be filled."""
        command = shown(self.argv(served, 8000))
        return Result(self.name, self.role, self.backend, self.version, command, native=self.twin)


def shown(argv: Sequence[str]) -> list[str]:
    """A command line as reports show it: without paths."""
    return [Path(word).name if word.startswith("/") else word for word in argv]


def choose(
    served: Served, backends: Sequence[Backend], only: Sequence[str] | None = None, *, native: bool = False
) -> list[Entrant]:
    """Who takes part, the reference first; with `native` each server by itself stands behind its like.

    Args:
        served: the app.
        backends: those that trapeze knows.
        only: names, as of `trapeze backends`, or of their worker classes (gunicorn-sync); None: all that can.
        native: each by itself, too.

    Raises:
        Unusable: one that was named is not installed, or cannot serve the app; or there is nobody.
    """
    ours = _all_ours(served, backends) if only is None else _named(served, backends, only)
    reference = _reference(served, backends)
    found = [] if reference is None else [reference]
    for each in ours:
        itself = _itself(each, served, reference) if native else None
        found.append(each if itself is None else replace(each, twin=itself.name))
        if itself is not None and itself is not reference:
            found.append(itself)
    if not ours:
        raise Unusable(f"no backend that serves {served.interface} apps is installed", "trapeze backends")
    return found


def _itself(ours: Entrant, served: Served, reference: Entrant | None) -> Entrant | None:
    """The same server by itself: the reference, if it is that; None if there is no such thing."""
    if ours.native is None or not ours.native.is_installed:
        return None
    found = replace(ours, name=ours.native.name, role="native", options=(), more=())
    if reference is not None and reference.argv(served, 1) == found.argv(served, 1):
        return reference
    return found


def _all_ours(served: Served, backends: Sequence[Backend]) -> list[Entrant]:
    return [
        entrant
        for backend in backends
        if backend.installed and served.interface in backend.interfaces and backend.name not in DEVELOPMENT
        for entrant in _ours(served, backend)
        if _takes_part(entrant)
    ]


def _takes_part(entrant: Entrant, named: str = "") -> bool:
    """One of several kinds of a backend, none of which was named itself."""
    kind = entrant.native
    return kind is None or (kind.is_installed and (kind.name not in DEVELOPMENT or kind.name == named))


def _named(served: Served, backends: Sequence[Backend], only: Sequence[str]) -> list[Entrant]:
    known = {backend.name: backend for backend in backends}
    found: list[Entrant] = []
    for name in dict.fromkeys(only):
        kind = NATIVES.get(name)
        backend = known.get(name) or (known.get(kind.backend) if kind else None)
        if backend is None:
            kinds = [each.name for each in NATIVES.values() if each.name not in known and each.backend in known]
            raise Unusable(f"there is no backend {name!r}", f"one of {', '.join([*known, *kinds])}")
        _look_at(name, backend, served)
        chosen = [each for each in _ours(served, backend) if name in (backend.name, each.name.removeprefix("trapeze+"))]
        if name in known:
            chosen = [each for each in chosen if _takes_part(each, named=name)]
        if not chosen:
            raise Unusable(f"{name} does not serve {served.interface} apps")
        for each in chosen:
            if each.native is not None and not each.native.is_installed:
                raise Unusable(f"{name} is not installed", each.native.install)
        found += chosen
    return list({each.name: each for each in found}.values())


def _look_at(name: str, backend: Backend, served: Served) -> None:
    if not backend.installed:
        raise Unusable(f"{name} cannot be used: {'; '.join(backend.notes) or 'it is not installed'}")
    if served.interface not in backend.interfaces:
        raise Unusable(f"{name} serves {' and '.join(backend.interfaces)} apps, and this one is {served.interface}")


def _ours(served: Served, backend: Backend) -> Iterator[Entrant]:
    """A backend, or each of its worker classes."""
    kinds = [each for each in NATIVES.values() if each.backend == backend.name and served.interface in each.interfaces]
    if backend.name == "chaussette":  # its default is none of those that are known natively
        yield Entrant("trapeze+chaussette", "trapeze", "chaussette", backend.version, more=_threads(served, backend))
    for kind in kinds:
        yield Entrant(
            f"trapeze+{kind.name}",
            "trapeze",
            backend.name,
            backend.version,
            kind,
            kind.options,
            _threads(served, backend, kind),
        )
    if not kinds and backend.name != "chaussette":
        more = _threads(served, backend)
        yield Entrant(f"trapeze+{backend.name}", "trapeze", backend.name, backend.version, more=more)


def _threads(served: Served, backend: Backend, kind: Native | None = None) -> Sequence[str]:
    """The flag, for those that have threads. `threads` would turn gunicorn's sync class into gthread."""
    if not backend.threads or served.interface != "wsgi":
        return ()
    if backend.name == "gunicorn" and (kind is None or kind.name != "gunicorn-gthread"):
        return ()
    if served.threads is None:
        # Run by itself, it is given a pool of this size: as of `natives`.
        return ("--threads", str(THREADS)) if backend.name == "tornado" else ()
    return ("--threads", str(served.threads))


def _reference(served: Served, backends: Sequence[Backend]) -> Entrant | None:
    """What most people run; None where there is no such thing."""
    versions = {backend.name: backend.version for backend in backends}
    for native in _references().get(served.interface, ()):
        if native.is_installed:
            return Entrant(native.name, "reference", native.backend, versions.get(native.backend, ""), native)
    return None


def _worker_class(kind: str) -> Native:
    def words(served: Served, port: int) -> list[str]:
        return gunicorn_words(served, port, kind, None)

    package = kind.rpartition(".")[0] if "." in kind else f"gunicorn.workers.g{kind}"
    return Native(f"gunicorn -k {kind}", (), words, package, "gunicorn", pip="gunicorn")


def _references() -> dict[str, Sequence[Native]]:
    """By interface, the first that is installed is taken. Plain gunicorn cannot serve ASGI with its sync worker."""
    asgi = NATIVES["gunicorn-asgi"]
    own = replace(asgi, name="gunicorn -k asgi", module="gunicorn.workers.gasgi")
    uvicorn = _worker_class("uvicorn.workers.UvicornWorker")
    both = [uvicorn] if _exists("gunicorn") else []
    return {
        "wsgi": [PLAIN],
        "asgi": [own, *both, replace(NATIVES["uvicorn"], name="uvicorn --workers")],
        "aiohttp": [NATIVES["aiohttp"]],
        "tornado": [_worker_class("tornado")] if _exists("tornado") else [],
    }


def _exists(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
