"""The text that a worker's interpreter is started with: `python -c BOOT JOB_FD DIRECTORY LABEL`.

It resolves the one package `trapeze_backends` from DIRECTORY and nothing else, so that no package that stands beside
it can be imported by the app, and takes the empty entry (the working directory) off sys.path, which `-c` puts there.
"""

from __future__ import annotations

__all__ = ["BOOT"]

BOOT = """\
import sys
from importlib.machinery import PathFinder
class TrapezeFinder:
    where = [sys.argv[2]]
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return PathFinder.find_spec(name, cls.where) if name == "trapeze_backends" else None
sys.path[:] = [entry for entry in sys.path if entry]
sys.meta_path.append(TrapezeFinder)
job, sys.argv = int(sys.argv[1]), ["trapeze"]
from trapeze_backends.child import main
main(job)
"""
