"""Ask the worker's side what would go wrong, in the interpreter and as the user that would run the app.

A check is a process like a worker, started with a Job whose mode is "check"; it prints one JSON object and exits. No
server is ever imported here.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Mapping
from typing import Any

import msgspec

from trapeze.boot import boot_words
from trapeze.errors import ConfigError, Problem
from trapeze.prelude import open_job, worker_package

__all__ = ["TIMEOUT", "Check", "finish_check", "read_answer", "start_check", "too_late"]

Check = subprocess.Popen[bytes]

TIMEOUT = 60.0
"""Seconds a check may take. Importing a large app on a cold machine takes ten."""

_BASE: dict[str, object] = {
    "version": 1,
    "mode": "check",
    "service": "web",
    "index": 0,
    "generation": 0,
    "label": "check",
    "stop_signal": 15,
    "rlimits": {},
    "nice": None,
    "notify_fd": None,
    "sockets": [],
    "app": None,
    "factory": False,
    "interface": "auto",
    "backend": "auto",
    "options": {},
    "threads": None,
    "keepalive": None,
    "access_log": False,
    "root_path": "",
    "stop_timeout": 30.0,
    "workers": 1,
    "app_dir": None,
    "reload": False,
    "import_app": False,
}


def start_check(python: str, job: Mapping[str, object], *, field: str = "python", **how: Any) -> Check:
    """Start a check and return at once.

    Args:
        python: the interpreter that would run the app.
        job: what differs from an empty Job; see the worker contract.
        field: that says which interpreter it is, for the error.
        how: env, cwd, user, group, extra_groups... as for `subprocess.Popen`.

    Raises:
        ConfigError: the interpreter cannot be run.
    """
    whole = {**_BASE, "parent": os.getpid(), **job, "mode": "check"}
    label = f"check {whole['service']}"
    memfd = open_job(whole)
    try:
        return subprocess.Popen(
            boot_words(python, label, memfd, worker_package()),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(memfd,),
            **how,
        )
    except OSError as error:
        what = error.filename or python
        reason = f"cannot run {what}: {os.strerror(error.errno or 0).lower()}"
        field = "user" if how.get("user") is not None else field
        raise ConfigError([Problem(f"services.{whole['service']}.{field}", reason)]) from None
    finally:
        os.close(memfd)


def finish_check(check: Check, timeout: float = TIMEOUT) -> dict[str, Any]:
    """Wait for a check; return its answer, in which a check that failed itself is one more problem.

    Returns:
        {"backend", "version", "python", "problems": [{"field", "reason", "hint"}]}
    """
    try:
        out, err = check.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        check.kill()
        check.communicate()
        return too_late(timeout)
    return read_answer(out, err.decode(errors="replace"), check.returncode)


NO_PROGRAM = (126, 127)
"""Statuses by which a shell, or a shim that stands in for an interpreter, says that there is none."""


def read_answer(out: bytes, err: str, status: int) -> dict[str, Any]:
    """Return what a check that has ended said; see `finish_check`."""
    # The app may print while it is imported: the answer is the last line.
    last = out.rstrip().rpartition(b"\n")[2]
    with contextlib.suppress(msgspec.DecodeError):
        answer = msgspec.json.decode(last)
        if isinstance(answer, dict):
            return {"backend": "", "version": "", "python": "", "problems": [], **answer}
    words = err.strip().splitlines()
    if status == 0:
        return _failed("the check has said nothing", "is its interpreter a Python?", "python")
    ended = f"exit status {status}" if status >= 0 else f"signal {-status}"
    if status in NO_PROGRAM:
        return _failed(
            f"it cannot be run: {words[0].strip() if words else ended}", "name an interpreter by its path", "python"
        )
    return _failed(f"the check failed with {ended}: {words[-1].strip() if words else 'it said nothing'}", "")


def too_late(timeout: float) -> dict[str, Any]:
    """The answer of a check that did not end."""
    return _failed(f"the check did not end within {timeout:g} s", "does the app do its work when it is imported?")


def _failed(reason: str, hint: str, field: str = "app") -> dict[str, Any]:
    problem = {"field": field, "reason": reason, "hint": hint}
    return {"backend": "", "version": "", "python": "", "problems": [problem]}
