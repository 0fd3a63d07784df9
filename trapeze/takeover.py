"""From one program to the next in the same process: the step itself, and how the next one sees that it was taken.

Who starts it says so by one environment variable, which is taken out at once: no child shall see it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, MutableMapping, Sequence

from msgspec import Struct

__all__ = ["RESUME", "Told", "become", "begin", "memfd_of"]

RESUME = "TRAPEZE_RESUME"
"""The number of the memfd with the state. `probe:` before it means: only say whether you understand it; `back:` means:
you wrote it yourself, and the program after you has failed."""


class Told(Struct):
    """What a probe says on stdout, in one line of JSON."""

    trapeze: str
    """Always "resume"."""
    version: str
    python: str
    state: int
    """The version of the document that it writes itself."""
    dismisses: bool = False
    """It would dismiss a stand-in at the control door (`doorman`); one that does not know of it must not find any."""


def begin(environ: MutableMapping[str, str]) -> tuple[int, str] | None:
    """Return the descriptor of the state, and "probe", "back" or ""; None at an ordinary start."""
    kind, _, number = environ.pop(RESUME, "").rpartition(":")
    return (int(number), kind) if number.isdecimal() else None


def memfd_of(state: bytes) -> int:
    """Return a descriptor from which `state` can be read: never argv or /tmp, which others may read."""
    memfd = os.memfd_create("trapeze-state")
    data = memoryview(state)
    while data:
        data = data[os.write(memfd, data) :]
    return memfd


def become(
    program: str,
    words: Sequence[str],
    state: bytes,
    descriptors: Iterable[int],
    *,
    signals: Iterable[int] = (),
    kind: str = "",
) -> None:
    """Become `program`. All signals that it handles are blocked; `signals` are sent to it, and wait.

    Raises:
        OSError: it cannot be run; all descriptors are as they were.
    """
    memfd = memfd_of(state)
    inherited = [memfd, *descriptors]
    try:
        for fd in inherited:
            os.set_inheritable(fd, True)
        for signum in signals:
            os.kill(os.getpid(), signum)
        os.execve(program, list(words), {**os.environ, RESUME: f"{kind}:{memfd}" if kind else str(memfd)})
    finally:
        for fd in inherited:
            os.set_inheritable(fd, False)
        os.close(memfd)
