"""Where checks run: workers of one backend, and what was found of them."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from trapeze.conformance.worker import PATIENCE, Door, Failure, Worker

__all__ = ["Result", "Stage", "Subject", "expect", "until"]


class Subject(NamedTuple):
    """What is checked: a backend, with the options that make it what it is."""

    backend: str
    interface: str
    python: str
    options: Mapping[str, Any]
    speaks: Collection[str]
    """What it says it speaks beyond HTTP/1.1."""
    lacks: Mapping[str, str]
    """Promises that it says it cannot keep, each with the reason."""


class Result(NamedTuple):
    """One check."""

    name: str
    promise: str
    """The promise that it looks at (`features.PROMISES`); "" for what no backend may lack."""
    why: str
    """What is wrong; "" if nothing is."""


def expect(condition: object, why: str) -> None:
    """Say what was found, unless the condition holds.

    Raises:
        Failure: it does not.
    """
    if not condition:
        raise Failure(why)


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait until `condition()` is true; returns what it returned.

    Raises:
        Failure: it never was.
    """
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        if time.monotonic() >= end:
            raise Failure(f"{what} never came")
        select.select([], [], [], 0.01)
    return found


class Stage:
    """One run of the checks.

    Args:
        subject: what is checked.
        directory: for sockets and output; has to be short enough for the path of a Unix socket.
    """

    def __init__(self, subject: Subject, directory: Path) -> None:
        self.subject = subject
        self.directory = directory
        self.results: list[Result] = []
        self._doors: list[Door] = []
        self._workers: list[Worker] = []

    @property
    def asgi(self) -> bool:
        """Does the app speak ASGI?"""
        return self.subject.interface == "asgi"

    def door(self, kind: str = "tcp") -> Door:
        """A listening socket: "tcp", "tcp6" or "unix"."""
        made = Door(self.directory if kind == "unix" else None, "::1" if kind == "tcp6" else "127.0.0.1")
        self._doors.append(made)
        return made

    def spawn(self, *doors: Door, app: str = "", env: dict[str, str] | None = None, **fields: Any) -> Worker:
        """A worker on these doors."""
        subject = self.subject
        fields.setdefault("backend", subject.backend)
        fields["options"] = {**subject.options, **fields.get("options", {})}
        name = f"conformance_app:{subject.interface}{app}"
        made = Worker(self.directory, doors, python=subject.python, env=env, app=name, **fields)
        self._workers.append(made)
        return made

    def start(self, *doors: Door, **fields: Any) -> Worker:
        """A worker that is ready."""
        made = self.spawn(*doors, **fields)
        made.ready()
        return made

    @contextmanager
    def check(self, name: str, promise: str = "") -> Iterator[None]:
        """What stands in the block is one check; what goes wrong in it is noted, and the next goes on."""
        why = ""
        try:
            yield
        except AssertionError as error:
            why = str(error) or "it is not so"
        except TimeoutError:
            why = f"no answer within {PATIENCE:g} s"
        except (OSError, ValueError, KeyError, IndexError) as error:
            why = f"{type(error).__name__}: {error}"
        self.results.append(Result(name, promise, why))

    def clear(self) -> None:
        """End workers, close sockets."""
        for worker in self._workers:
            worker.close()
        for door in self._doors:
            door.close()
        self._workers.clear()
        self._doors.clear()
