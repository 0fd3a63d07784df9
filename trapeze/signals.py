"""Signals: each is a verb, the same that the command line and the control door call."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import traceback
from collections.abc import Callable

from trapeze.errors import TrapezeError
from trapeze.supervisor import Supervisor

__all__ = ["HANDLED", "install", "uninstall"]

HANDLED = (
    signal.SIGHUP,
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGCHLD,
)

_ONE_WISH = 0.2
"""Seconds within which several signals are one: timeout(1), make and the terminal send it to us and to our group."""


def install(loop: asyncio.AbstractEventLoop, supervisor: Supervisor) -> None:
    """Obey HUP (reload), TERM, INT (stop; the second time fast), QUIT (fast), TTIN, TTOU, USR1, USR2, CHLD."""
    tasks: set[asyncio.Task[None]] = set()

    def keep(task: asyncio.Task[None]) -> None:
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    first: list[float] = []

    def stop(name: str) -> Callable[[], None]:
        def shutdown() -> None:
            first.append(loop.time())
            impatient = supervisor.stopping and first[-1] - first[0] > _ONE_WISH
            if impatient or not supervisor.stopping:
                supervisor.shutdown(name, fast=impatient)

        return shutdown

    def say(name: str, text: str) -> Callable[[], None]:
        return lambda: supervisor.machine.chronicle.note(f"{name}: {text}")

    handlers: dict[signal.Signals, Callable[[], None]] = {
        signal.SIGHUP: lambda: keep(loop.create_task(_reload(supervisor))),
        signal.SIGTERM: stop("SIGTERM"),
        signal.SIGINT: stop("SIGINT"),
        signal.SIGQUIT: lambda: supervisor.shutdown("SIGQUIT", fast=True),
        signal.SIGTTIN: lambda: _scale(supervisor, "SIGTTIN", 1),
        signal.SIGTTOU: lambda: _scale(supervisor, "SIGTTOU", -1),
        signal.SIGUSR1: say("SIGUSR1", "no log files are open, nothing to reopen"),
        signal.SIGUSR2: lambda: keep(loop.create_task(_upgrade(supervisor))),
        signal.SIGCHLD: supervisor.reap_strays,
    }
    for signum, handler in handlers.items():
        loop.add_signal_handler(signum, handler)


def uninstall(loop: asyncio.AbstractEventLoop) -> None:
    """Hear nothing more: asyncio closes its wake-up descriptor before it takes the handlers away.

    A signal in between (an orphan that has just died, an impatient ^C) would put a traceback at the end of the output.
    """
    for signum in HANDLED:
        loop.remove_signal_handler(signum)
        signal.signal(signum, signal.SIG_DFL if signum == signal.SIGCHLD else signal.SIG_IGN)


async def _reload(supervisor: Supervisor) -> None:
    try:
        await supervisor.reload(None, "SIGHUP")
    except TrapezeError as error:
        supervisor.machine.chronicle.note(f"reload refused, nothing changed: {error.render()}", level="error")
    except Exception:
        output = traceback.format_exc().rstrip().split("\n")
        supervisor.machine.chronicle.note("internal error in a reload", level="error", output=output)


async def _upgrade(supervisor: Supervisor) -> None:
    if supervisor.upgrade is None:
        supervisor.machine.chronicle.note("SIGUSR2: no upgrade while everything starts", level="error")
        return
    with contextlib.suppress(TrapezeError):  # it has been said
        await supervisor.upgrade("SIGUSR2", None)


def _scale(supervisor: Supervisor, name: str, delta: int) -> None:
    """One worker more or less, of every web service that is not stopped."""
    for service in supervisor.services.values():
        if service.current.spec.is_web and service.want.enabled and service.want.count + delta > 0:
            supervisor.scale(service.name, name, delta=delta)
