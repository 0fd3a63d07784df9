"""Modes zygote and spare: import the app once, say READY, and make workers of it, now and later.

A zygote forks a worker for each request, or an heir: a process like itself, with a line of its own, which goes on with
what was imported when the zygote is killed. A spare, and a zygote whose app cannot be forked safely, stands by and
becomes a worker itself when it is asked to. None of them holds a listening socket: descriptors come with each request.
"""

from __future__ import annotations

import gc
import os
import signal
import sys

from trapeze_backends import forkclean
from trapeze_backends.contract import Job, StartError
from trapeze_backends.features import is_program, why_not_preloaded
from trapeze_backends.finish import keep_files, leave
from trapeze_backends.forking import Line, Order, Reserve, begin, close_all, fork_reserve, fork_worker, own_pid
from trapeze_backends.notify import Notifier
from trapeze_backends.serve import Loaded, import_app
from trapeze_backends.title import set_title
from trapeze_backends.warm import warm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import NoReturn

    from trapeze_backends.forking import Packet

__all__ = ["stand_by"]

PAUSE = 0.1
"""Seconds without a request before a worker is forked in advance: whoever starts now needs the processor more."""


def stand_by(job: Job, notifier: Notifier) -> tuple[Job, Notifier, Loaded]:
    """Import the app, then wait for requests. Returns in workers only: with the job, and the line to the supervisor.

    Raises:
        StartError: the app cannot be imported.
    """
    if job.fork_fd is None:
        raise ValueError("a zygote needs fork_fd")
    line = Line(job.fork_fd)
    before = forkclean.look()
    threshold = _pause()
    loaded = _import_all(job)
    unsafe = why_not_preloaded(loaded.backend) or _unsafe(before, job)
    if threshold is None and not unsafe:
        unsafe = f"the garbage collector of {sys.implementation.name} moves what forked workers would share"
    forks = job.mode == "zygote" and (not unsafe or job.preload is True)
    for number in {signal.SIGTERM, job.stop_signal}:
        signal.signal(number, _leave)
    backend = loaded.backend
    notifier.ready(interface=loaded.interface, backend=backend.name, version=backend.version(), unsafe=unsafe)
    # While the supervisor is being told: it takes as long as that.
    if threshold is not None:
        keep_files()
        gc.freeze()  # or the first full collection would write to every object, and copy every page
    if not forks:
        _resume(threshold)
    order = _next_order(line, notifier, loaded) if forks else _next(line).order
    for number in {signal.SIGTERM, job.stop_signal}:
        signal.signal(number, signal.SIG_DFL)
    if not forks:
        line.answer(order.id, pid=own_pid())
        line.close()
    if order.job.notify_fd is not None:
        notifier.close()
        notifier = Notifier(order.job.notify_fd)
    if forks:
        begin(order)
        _resume(threshold)
    set_title(job.label, order.job.label)
    os.environ.update(order.job.env)
    return order.job, notifier, loaded


def _import_all(job: Job) -> Loaded:
    """The app, the modules of its server, and what frameworks import when the first request comes."""
    loaded = import_app(job)
    if is_program(loaded.backend):
        return loaded
    preload = getattr(loaded.backend, "preload", None)  # a backend need not inherit from ours
    if preload is not None:
        try:
            preload(job, loaded.interface)
        except StartError:
            pass  # the worker will find the same, and reports it
        except Exception as error:
            print(f"preload: {loaded.backend.name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    warm(job, loaded.interface)
    return loaded


def _unsafe(before: forkclean.Before, job: Job) -> str:
    """Why the app should not be forked; what is only doubtful is said on stderr, once."""
    found = forkclean.find(before, job.app_dir)
    if job.mode == "zygote":
        for text in found.warnings:
            print(f"preload: {job.app} has opened {text}", file=sys.stderr, flush=True)
    return found.reason


def _next(line: Line) -> Packet:
    """Wait for a request."""
    packet = line.receive()
    if packet is None:
        _leave()
    return packet


def _next_order(line: Line, notifier: Notifier, loaded: Loaded) -> Order:
    """Fork for as long as there are requests. Returns in the workers; heirs go on here as their zygote does."""
    reserves = True
    while True:
        order = _next_fork(line, notifier, reserves=reserves)
        line.close()
        if order.job.mode != "zygote" or order.job.fork_fd is None:
            return order
        notifier.close()
        begin(order)
        line, notifier = Line(order.job.fork_fd), Notifier(order.job.notify_fd)
        backend = loaded.backend
        # What there is to say against forking, the zygote has said.
        notifier.ready(interface=loaded.interface, backend=backend.name, version=backend.version(), unsafe="")
        reserves = False


def _next_fork(line: Line, notifier: Notifier, *, reserves: bool) -> Order:
    """Have a process for each request, for as long as there are any. Returns in these, with the request.

    While nobody asks, one is forked in advance: the next crash is replaced without the time that forking takes. Without
    `reserves` only from the first request on: before that, an heir is needed by nobody.
    """
    reserve: Reserve | None = None

    def let_go() -> None:
        line.close()
        notifier.close()

    while True:
        if reserves and reserve is None and line.is_quiet(PAUSE):
            made = _reserve(let_go)
            if isinstance(made, Order):
                return made
            reserve = made
        packet = _next(line)
        number, reserves = packet.order.id, True
        handed, reserve = reserve, None
        if handed is not None and handed.hand_on(packet):
            line.answer(number, pid=handed.pid)
        else:
            try:
                pid = fork_worker()
            except OSError as error:
                line.answer(number, error=f"cannot fork: {os.strerror(error.errno or 0)}")
            else:
                if pid == 0:
                    return packet.order
                line.answer(number, pid=pid)
        close_all(packet.fds)


def _reserve(let_go: Callable[[], None]) -> Reserve | Order | None:
    """None where there is no place for one more: it is a convenience."""
    try:
        return fork_reserve(let_go)
    except OSError:
        return None


def _pause() -> tuple[int, int, int] | None:
    """Have the garbage collector rest; returns how it was set, None where it cannot be set (PyPy).

    Not gc.disable(): so the app's own word on it is still known afterwards. A collection now would move nothing out of
    the way and only cost time; what is left over is frozen with the rest.
    """
    if not hasattr(gc, "freeze"):
        return None
    threshold = gc.get_threshold()
    gc.set_threshold(0)
    return threshold


def _resume(threshold: tuple[int, int, int] | None) -> None:
    """Let the garbage collector go on, unless the app has made settings of its own."""
    if threshold is not None and gc.get_threshold()[0] == 0:
        gc.set_threshold(*threshold)


def _leave(signum: int = 0, frame: FrameType | None = None) -> NoReturn:
    """End at once: exit handlers of the app are for processes that have served."""
    leave(0)
