"""The supervisor in the event loop: from bound sockets to the end of everything.

In a file of its own, because `app` imports it (and with it asyncio) only when the checks of the worker's side are on
their way.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import gc
import os
import resource
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from trapeze import __version__
from trapeze.config import Resolved
from trapeze.console import Console
from trapeze.errors import TrapezeError
from trapeze.keeper import MARK, Keeper, mark
from trapeze.runtime import Claim
from trapeze.service import Service
from trapeze.signals import HANDLED, install, uninstall
from trapeze.sockets import ListenSocket
from trapeze.supervisor import Supervisor
from trapeze.takeover import Told
from trapeze.upward import Upward

if TYPE_CHECKING:
    from trapeze import upgrade

__all__ = ["probe", "resume", "run"]

_PR_SET_CHILD_SUBREAPER = 36
_FDS_PER_PROCESS = 5
"""pidfd, two pipes, a notify socket, and one in passing."""
_DOOR_OPENS = 0.3
"""Seconds that the workers have for themselves before the control door is imported, if no client comes earlier."""

_PAUSE_ENDS = 0.1
"""Seconds after an upgrade in place in which those who stand at the door come first."""


def run(
    load: Callable[[], Resolved],
    resolved: Resolved,
    sockets: Mapping[str, Sequence[ListenSocket]],
    claimed: Claim,
    keep_going: bool,
) -> int:
    """Run until everything has stopped; see `app.run`."""

    def made(console: Console) -> tuple[Supervisor, Keeper]:
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
        return supervisor, _keeper(asyncio.get_running_loop(), supervisor)

    return asyncio.run(_serve(made, claimed, keep_going))


def probe(memfd: int) -> int:
    """Say whether we could take the place of the program that wrote the state; everything the real start needs is here.

    Raises:
        CannotRead: the state is not understood.
    """
    from trapeze import carry, control, figures, resume, upgrade  # noqa: F401  # as if they were needed
    from trapeze.nginx import generated  # noqa: F401

    carry.read(os.pread(memfd, os.fstat(memfd).st_size, 0))
    python = ".".join(map(str, sys.version_info[:3]))
    told = Told(trapeze="resume", version=__version__, python=python, state=carry.VERSION, dismisses=True)
    os.write(1, msgspec.json.encode(told) + b"\n")
    return 0


def resume(
    load: Callable[[], Resolved],
    memfd: int,
    kind: str,
    keep_going: Callable[[], bool],
    complete: Callable[[], object] = lambda: None,
) -> int:
    """Take the place of the program that wrote the state, and run until everything has stopped; see `upgrade`.

    Args:
        load: reads the configuration; called at each reload.
        memfd: with the state.
        kind: "back" if we wrote it ourselves, and the program in between has failed.
        keep_going: of the command line; asked only if the state does not say it.
        complete: called when clients have been answered, to import what is left.
    """
    from trapeze import resume as restoring

    document, data = restoring.read_from(memfd)
    claimed = restoring.claim_of(document)
    going_on = keep_going() if document.keep_going is None else document.keep_going
    came_back = kind == "back"
    if came_back:
        document.image -= 1

    def made(console: Console) -> tuple[Supervisor, Keeper]:
        loop = asyncio.get_running_loop()
        try:
            sockets = restoring.sockets_of(document)
            supervisor = restoring.supervisor_of(
                document, sockets, load=load, version=__version__, fail_fast=not going_on
            )
            keeper = _keeper(loop, supervisor)
            restoring.restore(document, sockets, supervisor, keeper, console)
        except Exception:
            if not came_back:
                restoring.go_back(document, data)
            restoring.give_up(document, claimed)
            raise
        return supervisor, keeper

    def go_on(supervisor: Supervisor) -> None:
        if document.doorman >= 0:
            os.close(document.doorman)
        restoring.go_on(document, supervisor, HANDLED, came_back=came_back)

    return asyncio.run(_serve(made, claimed, going_on, go_on, document.phase, complete))


def _keeper(loop: asyncio.AbstractEventLoop, supervisor: Supervisor) -> Keeper:
    return Keeper(loop, supervisor.machine.launcher, supervisor.machine.chronicle.note)


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
    made: Callable[[Console], tuple[Supervisor, Keeper]],
    claimed: Claim,
    keep_going: bool,
    go_on: Callable[[Supervisor], None] | None = None,
    phase: str = "",
    complete: Callable[[], object] = lambda: None,
) -> int:
    """Serve; from the beginning, or with `go_on` from where another program in our place has left off."""
    loop = asyncio.get_running_loop()
    _become_subreaper()
    # All that we start inherits it, and is known by it when we are dead.
    os.environ[MARK] = mark()
    console = Console(loop)
    supervisor, keeper = made(console)
    console.reserve(supervisor.resolved.config.services)
    supervisor.journal.add_sink(console.write)
    supervisor.machine.chronicle.when_failed = lambda service, why: loop.call_soon(_end_all, supervisor, service, why)
    upward = Upward.start(loop, supervisor, os.environ, keep_going=keep_going)
    if upward is not None and phase:
        upward.phase = phase
    install(loop, supervisor)
    try:
        finished = asyncio.ensure_future(supervisor.wait_finished())
        if go_on is None:
            supervisor.begin()
            await _knock(claimed, finished)
        # Imported only now: it would take the processor from the workers that start.
        from trapeze import control

        async def open_door() -> control.Door:
            return await control.serve(supervisor, claimed.sock, supervisor.resolved.config.control)

        door = await open_door()

        @functools.cache
        def upgrading() -> upgrade.Upgrade:
            from trapeze import upgrade

            parts = upgrade.Parts(claimed, console, keeper, upward, open_door, keep_going)
            return upgrade.Upgrade(supervisor, parts, door)

        supervisor.upgrade = lambda who, python: upgrading()(who, python)
        if go_on is not None:
            go_on(supervisor)
        if os.getpid() != 1 and keeper.pidfd < 0:  # when pid 1 ends, the kernel ends everything else
            keeper.start()
        # After an upgrade those who stand at the door have waited long enough.
        loop.call_later(_PAUSE_ENDS if go_on is not None else 0, _complete, supervisor, (upgrading, complete))
        try:
            await finished
        finally:
            claimed.release()
            await upgrading().door.close()
    finally:
        uninstall(loop)
        keeper.close()
        if upward is not None:
            upward.close()
        supervisor.close()
        console.flush()
        console.close()
    if supervisor.error is not None:
        raise supervisor.error
    return 0


def _complete(supervisor: Supervisor, imports: Iterable[Callable[[], object]]) -> None:
    """Import the last of what we shall ever need: an upgrade of the package under us then changes nothing."""
    from trapeze import figures
    from trapeze.nginx import generated  # noqa: F401  # by name: `fronting` and `prelude` import parts of it when needed

    for each in imports:
        each()
    supervisor.resident = figures.resident
    # What is there now stays, and the collector (see __main__) need not look at it again.
    gc.freeze()
    gc.enable()


def _end_all(supervisor: Supervisor, service: Service, why: str) -> None:
    """A service is FAILED: with `exit_on_failure` that is the end, and our exit code says so."""
    if service.current.spec.exit_on_failure and not supervisor.stopping:
        supervisor.machine.error = TrapezeError(f"{service.name} FAILED, so everything was stopped: {why}")
        supervisor.shutdown(f"exit_on_failure of {service.name}")


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
