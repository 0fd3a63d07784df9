"""Is a package there, and which version? Answered from the file system, without importing it."""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder

__all__ = ["faster", "is_installed", "version_of"]

FASTER = {"wsgi": "granian", "asgi": "granian"}
"""The servers that `backend = "auto"` does not choose, although most apps are served faster by them."""


def is_installed(name: str) -> bool:
    """Can the top-level package `name` be imported?"""
    return name in sys.modules or PathFinder.find_spec(name) is not None


def faster(interface: str) -> str:
    """Return the name of a backend that is there and faster for most apps than what "auto" means; "" if none is."""
    name = FASTER.get(interface, "")
    return name if name and is_installed(name) else ""


def version_of(package: str, distribution: str = "") -> str:
    """Return the version of an installed package, "" when it is not there.

    Its directory of metadata is looked for beside it: `importlib.metadata` would cost 30 ms.
    """
    import os

    spec = PathFinder.find_spec(package)
    if spec is None or not spec.origin:
        return ""
    above = os.path.dirname(spec.origin)
    if os.path.basename(spec.origin).startswith("__init__."):
        above = os.path.dirname(above)
    wanted = (distribution or package).lower().replace("-", "_")
    for entry in os.listdir(above):
        stem, ending = os.path.splitext(entry)
        name, _, version = stem.partition("-")
        if ending == ".dist-info" and name.lower().replace("-", "_") == wanted:
            return version
    return _slowly(distribution or package)


def _slowly(distribution: str) -> str:
    """Editable installs and zipped ones."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""
