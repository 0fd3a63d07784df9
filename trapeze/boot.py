"""The text that a worker's interpreter begins with: `python -c BOOT LABEL JOB_FD DIRECTORY`.

^C ends it without a traceback from here on; one that shares our terminal is spawned with SIGINT blocked.

What `ps` shows should be the label, so the text itself travels at the head of the job's memfd, and `-c` only reads it.

It resolves the one package `trapeze_backends` from DIRECTORY and nothing else, so that no package that stands beside
it can be imported by the app, and takes the empty entry (the working directory) off sys.path, which `-c` puts there.
"""

from __future__ import annotations

__all__ = ["BOOT", "boot_words"]

BOOT = """\
import _signal
_signal.signal(_signal.SIGINT, _signal.SIG_DFL)
_signal.pthread_sigmask(_signal.SIG_UNBLOCK, [_signal.SIGINT])
import sys
from importlib.machinery import PathFinder
class TrapezeFinder:
    where = [sys.argv[-1]]
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return PathFinder.find_spec(name, cls.where) if name == "trapeze_backends" else None
sys.path[:] = [entry for entry in sys.path if entry]
sys.meta_path.append(TrapezeFinder)
job, sys.argv = int(sys.argv[-2]), ["trapeze"]
from trapeze_backends.child import main
main(job)
"""


def boot_words(python: str, label: str, job_fd: int, directory: str) -> list[str]:
    """The command line of a worker whose job, with BOOT and a NUL before it, is in `job_fd`.

    `directory` is the one that holds `trapeze_backends`.
    """
    code = f"import os; exec(os.pread({job_fd}, {len(BOOT)}, 0))"
    return [python, "-c", code, label, str(job_fd), directory]
