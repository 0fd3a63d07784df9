"""From a configuration to a running supervisor and back to an exit code. The order of things at start-up lives here.

Checks that need another interpreter run beside the binding and beside our own imports; the control door is imported
when the workers are already on their way.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import resource
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence

from trapeze import __version__, verify
from trapeze.config import Resolved
from trapeze.console import Console
from trapeze.errors import ConfigError
from trapeze.preflight import examine
from trapeze.runtime import Claim, claim
from trapeze.signals import install
from trapeze.sockets import ListenSocket, open_sockets, systemd_sockets
from trapeze.supervisor import Supervisor

__all__ = ["run"]

_PR_SET_CHILD_SUBREAPER = 36
_FDS_PER_PROCESS = 5
"""pidfd, two pipes, a notify socket, and one in passing."""


def run(load: Callable[[], Resolved], *, keep_going: bool = False) -> int:
    """Run until everything has stopped. Return the exit code.

    Args:
        load: reads the configuration; called again at each reload.
        keep_going: go on when a service fails at its first start.

    Raises:
        TrapezeError: it could not start (nothing is left), or a service failed at its first start.
    """
    _fill_standard_descriptors()
    with _early_signals(), contextlib.ExitStack() as undo:
        resolved = load()
        problems = examine(resolved)
        if problems:
            raise ConfigError(problems)
        checks = verify.begin(resolved)
        undo.callback(lambda: verify.cancel(checks))
        claimed = claim(resolved.config.name, resolved.config.control)
        undo.callback(claimed.release)
        sockets = _bind(resolved, undo)
        problems = verify.end(checks)
        checks.clear()
        if problems:
            raise ConfigError(problems)
        return asyncio.run(_serve(load, resolved, sockets, claimed, keep_going))


def _fill_standard_descriptors() -> None:
    """With one of 0, 1, 2 closed, a listening socket would get its number, and output would go into it."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


@contextlib.contextmanager
def _early_signals() -> Iterator[None]:
    """Until the loop listens, SIGTERM and SIGINT are exceptions: obeyed at once, and what was opened is closed."""

    def leave(signum: int, _frame: object) -> None:
        raise SystemExit(0 if signum == signal.SIGTERM else 130)

    before = {signum: signal.signal(signum, leave) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _bind(resolved: Resolved, undo: contextlib.ExitStack) -> Mapping[str, Sequence[ListenSocket]]:
    inherited = systemd_sockets(os.environ, os.getpid())
    sockets: dict[str, Sequence[ListenSocket]] = {}
    for name, spec in resolved.config.sockets.items():
        sockets[name] = open_sockets(name, spec, systemd=inherited)
        for held in sockets[name]:
            undo.callback(held.close)
    return sockets


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
        # Imported only now, with the workers on their way: nobody asks before there is something to tell.
        from trapeze import control

        door = await control.serve(supervisor, claimed.sock, resolved.config.control)
        try:
            await supervisor.wait_finished()
        finally:
            claimed.release()
            await door.close()
    finally:
        supervisor.close()
        console.flush()
        console.close()
    if supervisor.error is not None:
        raise supervisor.error
    return 0


def _wants_terminal(resolved: Resolved) -> bool:
    """`breakpoint()` works under --reload with one worker: it keeps the terminal."""
    apps = [spec for spec in resolved.config.services.values() if spec.app is not None]
    return len(apps) == 1 and apps[0].watch and apps[0].workers == 1 and os.isatty(0)
