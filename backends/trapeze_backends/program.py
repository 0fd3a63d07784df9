"""A backend that is a program of its own: this process becomes it, and the app is loaded on the other side.

The program inherits the listening sockets (from descriptor 3 on, as systemd passes them), the job, the line to the
supervisor and the scoreboard. It serves `trapeze_app:app`, which its Python can import: that reads the job again and
does what every worker does, from there on. A program that has no Python in it says READY=1 on the descriptor
TRAPEZE_NOTIFY_FD.
"""

from __future__ import annotations

import _signal as signal
import os
import sys

from trapeze_backends.contract import StartError
from trapeze_backends.execute import FIRST, announce, pass_sockets, replace_by
from trapeze_backends.jsontext import dumps
from trapeze_backends.notify import Notifier

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any, NoReturn

    from trapeze_backends.contract import Backend, Job

__all__ = ["APP", "become", "inheritable_descriptors", "load"]

APP = "trapeze_app:app"
"""What a program is to import."""

HERE = os.path.dirname(os.path.abspath(__file__))
ENTRY = os.path.join(HERE, "entry")
"""The directory of that module, and of nothing else."""


def become(job: Job, notifier: Notifier, backend: Backend, sockets: list[socket.socket]) -> NoReturn:
    """Replace this process by the program of the backend.

    Raises:
        StartError: it cannot be run.
    """
    from socket import socket as Socket  # noqa: N812

    inherited = inheritable_descriptors()
    board = job.board["fd"] if job.board else None
    spares = [fd for fd in (notifier.fd, board) if fd is not None]
    moved = pass_sockets([sock.detach() for sock in sockets], spares)
    fields: dict[str, Any] = {**job.raw, "backend": job.backend, "python": sys.executable, "notify_fd": None}
    fields["inherited"] = [fd for fd in inherited if fd not in (*spares, *(each.fd for each in job.listeners))]
    for fd in moved:
        os.set_inheritable(fd, True)
    if notifier.fd is not None:
        fields["notify_fd"] = notifier.fd = moved.pop(0)
        os.environ["TRAPEZE_NOTIFY_FD"] = str(notifier.fd)
    if job.board:
        fields["board"] = {**job.board, "fd": moved.pop(0)}
    for position, listener in enumerate(job.listeners):
        listener.fd = FIRST + position
    fields["sockets"] = [
        {"name": each.name, "fd": each.fd, "address": each.address, "backlog": each.backlog} for each in job.listeners
    ]
    announce([listener.name for listener in job.listeners])
    os.environ["TRAPEZE_JOB"] = str(_written(dumps(fields)))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (ENTRY, os.environ.get("PYTHONPATH"))))
    if job.dump_signal:
        signal.signal(job.dump_signal, signal.SIG_IGN)  # until somebody inside can write stacks
    passed = [Socket(fileno=listener.fd) for listener in job.listeners]
    words = backend.command(job, passed)
    for sock in passed:
        sock.detach()  # or they are closed with these objects
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    _, message = replace_by(words)
    raise StartError(message)


def inheritable_descriptors() -> list[int]:
    """Return what a program that is started now would get, above stderr."""
    found = []
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            if fd > 2 and os.get_inheritable(fd):
                found.append(fd)
        except OSError:  # the one of the listing itself
            continue
    return found


def _written(text: str) -> int:
    fd = os.memfd_create("trapeze-job")
    os.write(fd, text.encode("utf-8", "surrogateescape"))
    os.set_inheritable(fd, True)
    return fd


def load() -> Any:
    """In the program: return the app, with all around it that is around it in every worker.

    What fails is reported to the supervisor, and ends the process with 3.
    """
    from trapeze_backends.child import EXIT_START_FAILED, read_job
    from trapeze_backends.finish import leave
    from trapeze_backends.serve import adopt, begin, load_app, prepare_app
    from trapeze_backends.stacks import register

    job = read_job(int(os.environ.pop("TRAPEZE_JOB")))
    os.environ.pop("TRAPEZE_NOTIFY_FD", None)
    notifier = Notifier(job.notify_fd)
    sys.executable = job.raw.get("python") or sys.executable  # a program with a Python in it has set itself
    register(job.dump_signal)
    for number in {signal.SIGTERM, job.stop_signal, signal.SIGQUIT}:
        signal.signal(number, signal.SIG_DFL)  # until it serves: the import may take long, and the program may wait
    sockets = adopt(job)
    _held.extend(sockets)
    for fd in inheritable_descriptors():
        if fd not in job.raw["inherited"]:
            os.set_inheritable(fd, False)  # what the program has opened for itself
    try:
        backend = begin(job)
        assert backend is not None
        app, sockets, worker = prepare_app(job, notifier, load_app(job, backend), sockets)
        return backend.inside(app, sockets, worker)
    except StartError as error:
        notifier.error(error.message, traceback=error.traceback, hint=error.hint)
        leave(EXIT_START_FAILED)


_held: list[Any] = []
"""The sockets are the program's: were these objects to go, they would close them."""
