"""Checks that only the worker's side can make: is the backend installed there, can it honour the options?

One interpreter per web app is asked, all at the same time, as the user that the workers will be.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

from trapeze.config import Resolved
from trapeze.errors import Problem
from trapeze.examine_backend import finish_check, start_check
from trapeze.generation import Generation

__all__ = ["backend_problems", "begin", "end"]

Running = dict[str, "subprocess.Popen[bytes]"]


def begin(resolved: Resolved, names: Sequence[str] | None = None, *, import_app: bool = False) -> Running:
    """Start the checks of all enabled web apps (or the named ones)."""
    running: Running = {}
    try:
        for name, spec in resolved.config.services.items():
            if spec.app is None or (names and name not in names):
                continue
            made = Generation.make(0, name, spec, dict.fromkeys(spec.sockets, ()), resolved.directory)
            launch = made.launch(name, 0)
            job = {**made.job(name, 0, mode="check"), "import_app": import_app}
            running[name] = start_check(
                launch.python,
                job,
                env=dict(launch.env),
                cwd=launch.cwd,
                user=launch.user,
                group=launch.group,
                extra_groups=launch.groups,
            )
    except BaseException:
        cancel(running)
        raise
    return running


def cancel(running: Running) -> None:
    """End checks whose answer nobody wants any more."""
    for popen in running.values():
        popen.kill()
        popen.communicate()


def end(running: Running) -> list[Problem]:
    """Wait for the checks; return what they found."""
    problems: list[Problem] = []
    for name, popen in running.items():
        answer = finish_check(popen)
        for found in answer.get("problems", []):
            problems.append(Problem(f"services.{name}.{found['field']}", found["reason"], found.get("hint", "")))
    return problems


async def backend_problems(resolved: Resolved, names: Sequence[str] | None = None) -> list[Problem]:
    """`begin` and `end` for the event loop, which goes on meanwhile."""
    import asyncio

    loop = asyncio.get_running_loop()
    running = begin(resolved, names)
    try:
        for popen in running.values():
            pidfd = os.pidfd_open(popen.pid)
            dead = asyncio.Event()
            loop.add_reader(pidfd, dead.set)
            try:
                await dead.wait()
            finally:
                loop.remove_reader(pidfd)
                os.close(pidfd)
    except BaseException:
        cancel(running)
        raise
    return end(running)
