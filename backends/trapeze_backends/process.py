"""What a fresh child does to itself, whatever it then runs: parent death, resource limits, niceness."""

from __future__ import annotations

import os

from trapeze_backends.contract import Job, StartError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["follow_parent", "settle"]

PR_SET_PDEATHSIG = 1


def settle(job: Job) -> None:
    """Tie this process to its supervisor, set limits and niceness.

    Raises:
        StartError: a limit or the niceness could not be set.
    """
    follow_parent(job.parent, job.stop_signal)
    _limit(job.rlimits)
    _renice(job.nice)


def follow_parent(parent: int, signum: int) -> None:
    """Have the kernel send `signum` when the supervisor dies; leave at once if that has happened already.

    `parent` 0 means that nobody is to be followed (a worker run by hand).
    """
    if not parent:
        return
    _prctl(PR_SET_PDEATHSIG, signum)
    # It may have died between fork and prctl: then the signal never comes.
    if os.getppid() != parent:
        os._exit(0)


def _prctl(option: int, value: int) -> None:
    """Call prctl(2). `ctypes` costs 2 ms to import, the C module below it a tenth of that."""
    try:
        from _ctypes import call_function, dlopen, dlsym

        itself: Any = None  # the program: whatever libc it runs with
        call_function(dlsym(dlopen(itself, 2), "prctl"), (option, value, 0, 0, 0))
        return
    except (ImportError, AttributeError, OSError, TypeError):
        pass
    try:
        import ctypes

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
    except (ImportError, AttributeError, OSError):
        return  # a Python without libffi: the supervisor's keeper process still ends us when it dies


def _limit(limits: dict[str, list[int]]) -> None:
    if not limits:
        return
    import resource

    for name, (soft, hard) in limits.items():
        number = getattr(resource, f"RLIMIT_{name.upper()}", None)
        if number is None:
            raise StartError(f"rlimits: there is no limit called {name!r}")
        if resource.getrlimit(number) == (soft, hard):
            continue
        try:
            resource.setrlimit(number, (soft, hard))
        except (ValueError, OSError) as error:
            now = resource.getrlimit(number)[1]
            raise StartError(
                f"rlimits: cannot set {name} to {_words(soft)}:{_words(hard)}: {error}",
                hint=f"the hard limit is {_words(now)}; only root can raise it",
            ) from None


def _words(limit: int) -> str:
    return "unlimited" if limit == -1 else str(limit)


def _renice(nice: int | None) -> None:
    if nice is None or os.getpriority(os.PRIO_PROCESS, 0) == nice:
        return
    try:
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    except OSError as error:
        raise StartError(f"nice: cannot set {nice}: {error.strerror}", hint="only root can lower it") from None
