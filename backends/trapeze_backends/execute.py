"""Mode exec: become another program, which finds its sockets from descriptor 3 on (systemd's protocol)."""

from __future__ import annotations

import _signal as signal  # the package around it imports enum: 3 ms
import errno
import os

from trapeze_backends.contract import Job
from trapeze_backends.notify import Notifier

__all__ = ["execute"]

FIRST = 3
"""Number of the first passed descriptor (SD_LISTEN_FDS_START)."""


def execute(job: Job, notifier: Notifier) -> None:
    """Replace this process by `job.command`; ends it with 127 (not found) or 126 (cannot be run) if that fails."""
    notifier.fd = _pass_sockets([listener.fd for listener in job.listeners], notifier.fd)
    names = [listener.name for listener in job.listeners]
    _announce(names)
    # Python ignores these two, and what is ignored stays ignored over exec.
    for signum in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(signum, signal.SIG_DFL)
    words = [substitute(word, names) for word in job.command]
    try:
        os.execvp(words[0], words)
    except OSError as failure:
        number, reason = failure.errno, failure.strerror or str(failure)
        if number == errno.ENOENT and os.path.exists(words[0]):
            reason = "the interpreter in its first line does not exist"
    except (ValueError, IndexError):
        number, reason = errno.ENOENT, "empty, or with a null byte in it"
    message = f"cannot run {words[0] if words else 'the command'}: {reason}"
    notifier.error(message)
    if notifier.fd is not None:
        os.write(2, f"{message}\n".encode("utf-8", "backslashreplace"))
    os._exit(127 if number in (errno.ENOENT, errno.ENOTDIR) else 126)


def substitute(word: str, names: list[str]) -> str:
    """Replace {fd:NAME} by the number of the first socket of that name, {fd:NAME:1} by that of the second..."""
    if "{fd:" not in word:
        return word
    seen: dict[str, int] = {}
    for position, name in enumerate(names):
        nth = seen.get(name, 0)
        seen[name] = nth + 1
        number = str(FIRST + position)
        word = word.replace(f"{{fd:{name}:{nth}}}", number)
        if nth == 0:
            word = word.replace(f"{{fd:{name}}}", number)
    return word


def _pass_sockets(fds: list[int], spare: int | None) -> int | None:
    """Move `fds` to 3, 4, ...; return the new number of `spare`, which closes on exec."""
    import fcntl

    above = FIRST + len(fds)
    # First out of the way, all of them, then into place: the old and the new numbers may overlap.
    parked = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) for fd in fds]
    if spare is not None:
        spare, old = fcntl.fcntl(spare, fcntl.F_DUPFD_CLOEXEC, above), spare
        os.close(old)
    for fd in fds:
        os.close(fd)
    for position, fd in enumerate(parked):
        os.dup2(fd, FIRST + position, inheritable=True)
        os.close(fd)
    return spare


def _announce(names: list[str]) -> None:
    for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    if names:
        os.environ["LISTEN_FDS"] = str(len(names))
        os.environ["LISTEN_PID"] = str(os.getpid())
        os.environ["LISTEN_FDNAMES"] = ":".join(names)
