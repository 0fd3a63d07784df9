"""trapeze: an application server front end for Python web apps.

A supervisor that binds the listening sockets, launches workers which accept on them, and never touches a request.
"""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
