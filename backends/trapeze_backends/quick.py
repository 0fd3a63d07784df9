"""Importing a server without what it imports and does not use.

gunicorn imports importlib.metadata (and with it zipfile, csv, email) and argparse for its command line, which does not
run here: a third of the time between exec and the first request. They are put off until somebody uses them.
"""

from __future__ import annotations

import contextlib
import gc
import sys
from types import ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

__all__ = ["quick_import"]


class StandIn(ModuleType):
    """Looks like a module; becomes the real one when an attribute is asked for."""

    def __getattr__(self, name: str) -> Any:
        # Dunders are asked for by the import system and by debuggers, who do not mean the content.
        if name.startswith("__"):
            raise AttributeError(name)
        import importlib

        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


@contextlib.contextmanager
def quick_import(*unused: str) -> Iterator[None]:
    """While the block imports a server, its imports of `unused` get a stand-in; the garbage collector rests meanwhile.

    Who imports them later, the app for instance, gets the real modules. The collector would look at every new object
    several times and find nothing: a tenth of the time.
    """
    was_on = gc.isenabled()
    gc.disable()
    standing = [StandIn(name) for name in unused if name not in sys.modules]
    for module in standing:
        sys.modules[module.__name__] = module
        parent, _, child = module.__name__.rpartition(".")
        if parent in sys.modules:
            # `import a.b` binds `a` and expects that somebody has set `a.b`.
            setattr(sys.modules[parent], child, module)
    try:
        yield
    finally:
        for module in standing:
            if sys.modules.get(module.__name__) is module:
                del sys.modules[module.__name__]
        if was_on:
            gc.enable()
