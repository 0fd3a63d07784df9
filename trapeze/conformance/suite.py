"""All checks of one backend."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from trapeze.conformance import facts, http, leaving
from trapeze.conformance.smuggling import smuggling
from trapeze.conformance.stage import Result, Stage, Subject
from trapeze.conformance.websocket import websocket
from trapeze.conformance.wire import Broken
from trapeze.conformance.worker import Failure

__all__ = ["SCENES", "judge", "play", "run"]

SCENES: Mapping[str, Callable[[Stage], None]] = {
    "answers": http.answers,
    "bodies": http.bodies,
    "errors": http.errors,
    "validators": http.validators,
    "told": facts.told,
    "unix": facts.unix,
    "proxies": facts.proxies,
    "mounted": facts.mounted,
    "smuggling": smuggling,
    "lifespan": leaving.lifespan,
    "health": leaving.health,
    "watched": leaving.watched,
    "log": leaving.log,
    "leaving": leaving.leaving,
    "kept": leaving.kept,
    "queue": leaving.queue,
    "streams": leaving.streams,
    "websocket": websocket,
}
"""Each starts its own workers, and checks several things of them."""


def play(scene: str, subject: Subject) -> list[Result]:
    """Run one scene; a worker that cannot even start is a result too."""
    with tempfile.TemporaryDirectory(prefix="tz-") as directory:
        stage = Stage(subject, Path(directory))
        try:
            SCENES[scene](stage)
        except (Failure, Broken) as failure:
            stage.results.append(Result(f"{scene}: the worker", "", str(failure)))
        except (OSError, ValueError, KeyError) as error:
            stage.results.append(Result(f"{scene}: the worker", "", f"{type(error).__name__}: {error}"))
        finally:
            stage.clear()
        return stage.results


def run(subject: Subject) -> Iterator[Result]:
    """Run everything, one scene after the other."""
    for scene in SCENES:
        yield from play(scene, subject)


def judge(result: Result, lacks: Mapping[str, str]) -> str:
    """Return "ok", "FAILED", "lacks" (failed, and the backend says so), "better" (it says so, and has not failed)."""
    said = result.promise in lacks
    if result.why:
        return "lacks" if said else "FAILED"
    return "better" if said else "ok"
