"""Name of a backend -> the object. Ours are known by name; third parties register in a group of entry points."""

from __future__ import annotations

import sys

from trapeze_backends.contract import StartError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from trapeze_backends.contract import Backend

__all__ = ["AUTO", "BUILT_IN", "ENTRY_POINTS", "auto", "get"]

ENTRY_POINTS = "trapeze.backends"
"""Group of entry points: name = "package.module:Class"; what is named is called without arguments."""

BUILT_IN = {
    "gunicorn": "trapeze_backends.gunicorn",
    "uvicorn": "trapeze_backends.uvicorn",
    "waitress": "trapeze_backends.waitress",
    "gevent": "trapeze_backends.gevent",
    "cheroot": "trapeze_backends.cheroot",
    "bjoern": "trapeze_backends.bjoern",
    "werkzeug": "trapeze_backends.werkzeug",
    "chaussette": "trapeze_backends.chaussette",
    "aiohttp": "trapeze_backends.aiohttp",
    "daphne": "trapeze_backends.daphne",
    "fastpysgi": "trapeze_backends.fastpysgi",
    "granian": "trapeze_backends.granian",
    "hypercorn": "trapeze_backends.hypercorn",
    "tornado": "trapeze_backends.tornado",
    "uwsgi": "trapeze_backends.uwsgi",
}
"""The same as our own entry points say: reading those would cost every worker 30 ms."""

AUTO = {"wsgi": "gunicorn", "asgi": "uvicorn", "aiohttp": "aiohttp", "tornado": "tornado"}


def auto(interface: str) -> str:
    """Return the name of the backend that "auto" means for an interface."""
    return AUTO[interface]


def get(name: str) -> Backend:
    """Return the backend of that name.

    Raises:
        StartError: there is none, or the package that registered it cannot be imported.
    """
    if name in BUILT_IN:
        module = BUILT_IN[name]
        __import__(module)
        return sys.modules[module].backend()  # type: ignore[no-any-return]
    from importlib.metadata import entry_points  # 30 ms: only who uses a backend of somebody else pays

    found = list(entry_points(group=ENTRY_POINTS))
    for point in found:
        if point.name == name:
            try:
                return point.load()()  # type: ignore[no-any-return]
            except Exception as error:
                raise StartError(
                    f"backend {name!r} ({point.value}) cannot be loaded: {type(error).__name__}: {error}"
                ) from error
    known = sorted({*BUILT_IN, *(point.name for point in found)})
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known in {sys.prefix}: {', '.join(known)}"
    raise StartError(f"unknown backend {name!r}", hint=hint)
