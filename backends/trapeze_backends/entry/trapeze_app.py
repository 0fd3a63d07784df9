"""The app of this worker, for a server that is a program of its own and is told to serve `trapeze_app:app`.

Of our package only this directory is on PYTHONPATH, so that the app can import nothing of ours by accident; nor can the
programs that it starts, since the variable is put back.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import PathFinder

__all__ = ["app"]

HERE = os.path.dirname(os.path.abspath(__file__))


class TrapezeFinder:
    """Finds the one package, as in `trapeze/boot.py`."""

    where = (os.path.dirname(os.path.dirname(HERE)),)

    @classmethod
    def find_spec(cls, name, path=None, target=None):  # type: ignore[no-untyped-def]
        """The finder's only duty."""
        return PathFinder.find_spec(name, cls.where) if name == "trapeze_backends" else None


left = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry not in ("", HERE)]
os.environ["PYTHONPATH"] = os.pathsep.join(left)
if not left:
    del os.environ["PYTHONPATH"]
sys.path[:] = [entry for entry in sys.path if entry not in ("", ".", HERE)]
sys.meta_path.append(TrapezeFinder)

from trapeze_backends.program import load  # noqa: E402

app = load()
