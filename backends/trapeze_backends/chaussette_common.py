"""chaussette's classes, given a socket that is ready."""

from __future__ import annotations

import socket
from typing import Any

from trapeze_backends.worker import Worker

__all__ = ["with_socket"]


def with_socket(module: Any, cls: type[Any], sock: Any, app: Any, worker: Worker, **options: Any) -> Any:
    """Make one of chaussette's servers on a socket that is ready: its own `create_socket` would make it blocking, for
    every process that shares it."""
    original, module.create_socket = module.create_socket, lambda *args, **kwargs: sock
    try:
        return cls(
            ("fd://0", 0),
            app,
            backlog=worker.job.backlog,
            socket_type=socket.SOCK_STREAM,
            address_family=sock.family,
            **options,
        )
    finally:
        module.create_socket = original
