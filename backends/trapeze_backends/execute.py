"""Mode exec: become another program, which finds its sockets from descriptor 3 on (systemd's protocol)."""

from __future__ import annotations

import _signal as signal  # the package around it imports enum: 3 ms
import errno
import os

from trapeze_backends.contract import Job
from trapeze_backends.notify import Notifier

__all__ = ["announce", "execute", "pass_sockets", "replace_by"]

FIRST = 3
"""Number of the first passed descriptor (SD_LISTEN_FDS_START)."""


def execute(job: Job, notifier: Notifier) -> None:
    """Replace this process by `job.command`; ends it with 127 (not found) or 126 (cannot be run) if that fails."""
    spares = [] if notifier.fd is None else [notifier.fd]
    notifier.fd = next(iter(pass_sockets([listener.fd for listener in job.listeners], spares)), None)
    names = [listener.name for listener in job.listeners]
    announce(names)
    number, message = replace_by([substitute(word, names) for word in job.command])
    notifier.error(message)
    if notifier.fd is not None:
        os.write(2, f"{message}\n".encode("utf-8", "backslashreplace"))
    os._exit(127 if number in (errno.ENOENT, errno.ENOTDIR) else 126)


def replace_by(words: list[str]) -> tuple[int, str]:
    """Become the program that `words` name; returns only if that fails: errno, and what is wrong in one line."""
    # Python ignores these two, and what is ignored stays ignored over exec.
    for signum in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(signum, signal.SIG_DFL)
    try:
        os.execvp(words[0], words)
    except OSError as failure:
        number, reason = failure.errno or errno.EIO, failure.strerror or str(failure)
        if number == errno.ENOENT and os.path.exists(words[0]):
            reason = "the interpreter in its first line does not exist"
    except (ValueError, IndexError):
        number, reason = errno.ENOENT, "empty, or with a null byte in it"
    return number, f"cannot run {words[0] if words else 'the command'}: {reason}"


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


def pass_sockets(fds: list[int], spares: list[int]) -> list[int]:
    """Move `fds` to 3, 4, ...; return the new numbers of `spares`, which close on exec."""
    import fcntl

    above = FIRST + len(fds)
    # First out of the way, all of them, then into place: the old and the new numbers may overlap.
    parked = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) for fd in fds]
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) for fd in spares]
    for fd in (*spares, *fds):
        os.close(fd)
    for position, fd in enumerate(parked):
        os.dup2(fd, FIRST + position, inheritable=True)
        os.close(fd)
    return moved


def announce(names: list[str]) -> None:
    """Say in the environment which sockets there are from descriptor 3 on."""
    for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    if names:
        os.environ["LISTEN_FDS"] = str(len(names))
        os.environ["LISTEN_PID"] = str(os.getpid())
        os.environ["LISTEN_FDNAMES"] = ":".join(names)
