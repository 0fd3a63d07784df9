"""The text that a worker's interpreter begins with: `python -c BOOT LABEL JOB_FD DIRECTORY`.

^C ends it without a traceback from here on; one that shares our terminal is spawned with SIGINT blocked.

What `ps` shows should be the label, so the text itself travels at the head of the job's memfd, and `-c` only reads it.

It resolves the one package `trapeze_backends` from DIRECTORY and nothing else, so that no package that stands beside
it can be imported by the app, and takes the empty entry (the working directory) off sys.path, which `-c` puts there.

Its first lines are for any Python there is, from 2.7 on: one that is too old says so in the words of a check.
"""

from __future__ import annotations

__all__ = ["BOOT", "boot_words"]

BOOT = """\
import _signal
_signal.signal(_signal.SIGINT, _signal.SIG_DFL)
_signal.pthread_sigmask(_signal.SIG_UNBLOCK, [_signal.SIGINT])
import sys
if sys.version_info < (3, 10):
    import json
    why = "Python %s in %s is too old" % (sys.version.split()[0], sys.prefix)
    sys.stderr.write("error: " + why + "\\n")
    problem = {"field": "python", "reason": why, "hint": "workers need 3.10 or newer"}
    print(json.dumps({"problems": [problem]}))
    sys.exit(3)
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
    code = f"import os; os.lseek({job_fd}, 0, 0); exec(os.read({job_fd}, {len(BOOT)}))"
    return [python, "-c", code, label, str(job_fd), directory]
