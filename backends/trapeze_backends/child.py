"""Entry point on the other side of exec: read the job, settle, then serve an app, run a command, or check."""

from __future__ import annotations

import os
import sys

from trapeze_backends.contract import Job, StartError
from trapeze_backends.jsontext import loads
from trapeze_backends.notify import Notifier

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ["EXIT_START_FAILED", "main", "read_job"]

EXIT_START_FAILED = 3


def main(job_fd: int) -> NoReturn:
    """Do the job that `job_fd` holds and end the process: 0, or 3 when it could not start."""
    notifier = Notifier(None)
    try:
        job = read_job(job_fd)
        notifier = Notifier(job.notify_fd)
        if job.mode == "check":
            from trapeze_backends.check import check

            sys.exit(check(job))
        from trapeze_backends.process import settle

        settle(job)
        if job.mode == "exec":
            from trapeze_backends.execute import execute

            execute(job, notifier)
        from trapeze_backends.stacks import register

        register(job.dump_signal)  # before anything of the app runs: its import may hang
        if job.mode in ("zygote", "spare"):
            from trapeze_backends.zygote import stand_by

            # Comes back in workers only: forked ones, or this process once it was asked to become one.
            job, notifier, loaded = stand_by(job, notifier)
            from trapeze_backends.serve import run

            run(job, notifier, loaded)
        else:
            from trapeze_backends.serve import serve

            serve(job, notifier)
    except StartError as error:
        from trapeze_backends.finish import leave

        notifier.error(error.message, traceback=error.traceback, hint=error.hint)
        leave(EXIT_START_FAILED)
    from trapeze_backends.finish import end

    end(0)


def read_job(fd: int) -> Job:
    """Read the job from `fd` and close it. What stands before a NUL is the text that this interpreter began with."""
    size = os.fstat(fd).st_size
    text = b""
    while piece := os.pread(fd, max(size - len(text), 1), len(text)):
        text += piece
    os.close(fd)
    return Job(loads(text.rpartition(b"\0")[2].decode()))
