"""Servers that bind for themselves, natively with as many workers: each binds the port with SO_REUSEPORT.

python -m trapeze_bench.reserving fastpysgi 8000 4 app:wsgi wsgi
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Sequence

from trapeze_bench.loading import load

__all__ = ["main"]


def main(arguments: Sequence[str]) -> int:
    """Serve until SIGTERM."""
    name, port, workers = arguments[0], int(arguments[1]), int(arguments[2])
    assert name == "fastpysgi"
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind(("127.0.0.1", port))
    children = []
    for _ in range(workers):
        pid = os.fork()
        if pid == 0:
            import fastpysgi

            signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
            fastpysgi.run(load(arguments[3]), "127.0.0.1", port)
            os._exit(0)
        children.append(pid)

    def stop(*_: object) -> None:
        for pid in children:
            os.kill(pid, signal.SIGKILL)

    signal.signal(signal.SIGTERM, stop)
    for pid in children:
        os.waitpid(pid, 0)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
