"""From "module:attribute" to the app, for the servers that have to be told by a line of Python."""

from __future__ import annotations

import importlib
import sys
from typing import Any

__all__ = ["load"]


def load(name: str) -> Any:
    """Import an app from the current directory or the environment; "module:attribute()" calls it first.

    Raises:
        ImportError, AttributeError: it is not there.
    """
    sys.path.insert(0, "")
    module, _, attribute = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in attribute.removesuffix("()").split("."):
        found = getattr(found, part)
    return found() if attribute.endswith("()") else found
