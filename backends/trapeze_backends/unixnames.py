"""What a Unix socket is called: the supervisor binds it under a private name and renames it, and the kernel remembers
the first."""

from __future__ import annotations

import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from trapeze_backends.contract import Listener

__all__ = ["unix_names"]


def unix_names(sockets: Sequence[Any], listeners: Sequence[Listener]) -> dict[Any, str]:
    """Return the path of each Unix socket by the name that the kernel has for it; abstract ones are left out."""
    return {
        sock.getsockname(): listener.address.removeprefix("unix:")
        for sock, listener in zip(sockets, listeners, strict=False)
        if sock.family == socket.AF_UNIX and not listener.address.startswith("unix:@")
    }
