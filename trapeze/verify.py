"""Checks that only the worker's side can make: is the backend installed there, can it honour the options?

One interpreter per web app is asked, all at the same time, as the user that the workers will be.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trapeze.config import Resolved
from trapeze.errors import ConfigError, Problem
from trapeze.examine_backend import TIMEOUT, finish_check, read_answer, start_check, too_late
from trapeze.generation import Generation
from trapeze.prelude import ChildHandle, Launch, Listener

if TYPE_CHECKING:
    import asyncio

__all__ = ["backend_problems", "begin", "end"]

Running = dict[str, "tuple[subprocess.Popen[bytes], bool]"]
"""The checks by service; with each, whether its interpreter is that of a `venv`."""
Spawn = Callable[[Launch, Listener], ChildHandle]
_KEPT = 256 * 1024
"""Characters of a check's output that are kept."""


def begin(resolved: Resolved, names: Sequence[str] | None = None, *, import_app: bool = False) -> Running:
    """Start the checks of all enabled web apps (or the named ones)."""
    running: Running = {}
    try:
        for name, launch in _launches(resolved, names):
            job = {**(launch.job or {}), "import_app": import_app}
            in_venv = resolved.config.services[name].venv is not None
            check = start_check(
                launch.python,
                job,
                field="venv" if in_venv else "python",
                env=dict(launch.env),
                cwd=launch.cwd,
                user=launch.user,
                group=launch.group,
                extra_groups=launch.groups,
            )
            running[name] = check, in_venv
    except BaseException:
        cancel(running)
        raise
    return running


def cancel(running: Running) -> None:
    """End checks whose answer nobody wants any more."""
    for popen, _ in running.values():
        popen.kill()
        popen.communicate()


def end(running: Running) -> list[Problem]:
    """Wait for the checks; return what they found."""
    return [
        problem
        for name, (popen, in_venv) in running.items()
        for problem in _problems(name, finish_check(popen), in_venv=in_venv)
    ]


def _problems(name: str, answer: Mapping[str, Any], *, in_venv: bool) -> Iterator[Problem]:
    for found in answer.get("problems", []):
        field = "venv" if in_venv and found["field"] == "python" else found["field"]
        yield Problem(f"services.{name}.{field}", found["reason"], found.get("hint", ""))


async def backend_problems(spawn: Spawn, resolved: Resolved, names: Sequence[str] | None = None) -> list[Problem]:
    """The same while the supervisor runs: the checks are children like all others, read, timed and reaped by it.

    Args:
        spawn: the launcher's.
        resolved: the configuration.
        names: only these services; None for all.
    """
    import asyncio

    loop = asyncio.get_running_loop()
    answers: dict[str, _Answer] = {}
    children: list[ChildHandle] = []
    try:
        for name, launch in _launches(resolved, names):
            answers[name] = _Answer(loop.create_future())
            children.append(spawn(launch, answers[name]))
        if answers:
            await asyncio.wait([answer.status for answer in answers.values()], timeout=TIMEOUT)
    except OSError as error:
        raise ConfigError([Problem("", f"the check cannot be started: {error}")]) from None
    finally:
        for child in children:
            child.kill()
    services = resolved.config.services
    return [
        problem
        for name, answer in answers.items()
        for problem in _problems(name, answer.read(), in_venv=services[name].venv is not None)
    ]


def _launches(resolved: Resolved, names: Sequence[str] | None) -> Iterator[tuple[str, Launch]]:
    for name, spec in resolved.config.services.items():
        if spec.app is not None and (not names or name in names):
            made = Generation.make(0, name, spec, dict.fromkeys(spec.sockets, ()), resolved.directory)
            yield name, made.launch_check(name)


class _Answer:
    """Listens to one check."""

    def __init__(self, status: asyncio.Future[int]) -> None:
        self.status = status
        self._text = {"stdout": "", "stderr": ""}

    def on_line(self, stream: str, text: str, more: bool) -> None:
        # The end is what counts; an app that prints without end while it is imported must not fill our memory.
        self._text[stream] = (self._text[stream] + text + ("" if more else "\n"))[-_KEPT:]

    def on_message(self, datagram: bytes) -> None:
        """A check has nothing to notify."""

    def on_exit(self, status: int) -> None:
        if not self.status.done():
            self.status.set_result(status)

    def read(self) -> dict[str, Any]:
        """What it said."""
        if not self.status.done():
            self.status.cancel()
            return too_late(TIMEOUT)
        return read_answer(self._text["stdout"].encode(), self._text["stderr"], self.status.result())
