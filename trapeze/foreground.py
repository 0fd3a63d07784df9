"""The supervisor in the event loop: from bound sockets to the end of everything.

In a file of its own, because `app` imports it (and with it asyncio) only when the checks of the worker's side are on
their way.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import resource
from collections.abc import Callable, Mapping, Sequence

from trapeze import __version__
from trapeze.config import Resolved
from trapeze.console import Console
from trapeze.runtime import Claim
from trapeze.signals import install, uninstall
from trapeze.sockets import ListenSocket
from trapeze.supervisor import Supervisor

__all__ = ["run"]

_PR_SET_CHILD_SUBREAPER = 36
_FDS_PER_PROCESS = 5
"""pidfd, two pipes, a notify socket, and one in passing."""
_DOOR_OPENS = 0.3
"""Seconds that the workers have for themselves before the control door is imported, if no client comes earlier."""


def run(
    load: Callable[[], Resolved],
    resolved: Resolved,
    sockets: Mapping[str, Sequence[ListenSocket]],
    claimed: Claim,
    keep_going: bool,
) -> int:
    """Run until everything has stopped; see `app.run`."""
    return asyncio.run(_serve(load, resolved, sockets, claimed, keep_going))


def _room(resolved: Resolved) -> tuple[int, int] | None:
    """Raise our limit on descriptors if the processes need it; return the old one, for the children."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 128 + _FDS_PER_PROCESS * sum(spec.workers + spec.max_surge for spec in resolved.config.services.values())
    if needed <= soft:
        return None
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(needed * 2, hard) if hard >= 0 else needed * 2, hard))
    return soft, hard


def _become_subreaper() -> None:
    """Orphans of our children come to us instead of to init, so that none is left behind."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


async def _serve(
    load: Callable[[], Resolved],
    resolved: Resolved,
    sockets: Mapping[str, Sequence[ListenSocket]],
    claimed: Claim,
    keep_going: bool,
) -> int:
    loop = asyncio.get_running_loop()
    _become_subreaper()
    supervisor = Supervisor(
        resolved,
        sockets,
        load=load,
        version=__version__,
        pid=os.getpid(),
        fail_fast=not keep_going,
        terminal=_wants_terminal(resolved),
        nofile=_room(resolved),
    )
    console = Console(loop)
    console.reserve(resolved.config.services)
    supervisor.journal.add_sink(console.write)
    install(loop, supervisor)
    try:
        supervisor.begin()
        finished = asyncio.ensure_future(supervisor.wait_finished())
        await _knock(claimed, finished)
        # Imported only now: it would take the processor from the workers that start.
        from trapeze import control, figures

        supervisor.resident = figures.resident
        door = await control.serve(supervisor, claimed.sock, resolved.config.control)
        # Everything is imported: what is there now stays, and the collector (see __main__) need not look at it again.
        gc.freeze()
        gc.enable()
        try:
            await finished
        finally:
            claimed.release()
            await door.close()
    finally:
        uninstall(loop)
        supervisor.close()
        console.flush()
        console.close()
    if supervisor.error is not None:
        raise supervisor.error
    return 0


async def _knock(claimed: Claim, finished: asyncio.Future[None]) -> None:
    """Return when a client stands at the control door, or when the workers have had their time."""
    loop = asyncio.get_running_loop()
    enough = asyncio.Event()
    finished.add_done_callback(lambda _: enough.set())
    loop.add_reader(claimed.sock, enough.set)
    try:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(enough.wait(), _DOOR_OPENS)
    finally:
        loop.remove_reader(claimed.sock)


def _wants_terminal(resolved: Resolved) -> bool:
    """`breakpoint()` works under --reload with one worker: it keeps the terminal."""
    apps = [spec for spec in resolved.config.services.values() if spec.app is not None]
    return len(apps) == 1 and apps[0].watch and apps[0].workers == 1 and os.isatty(0)
