"""Real Redis on a Unix socket, and as much of its protocol as the tests speak."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path
from typing import Self

from tests.support.nginx import program
from tests.support.wait import until

__all__ = ["Redis", "ask", "redis_command"]


def redis_command(path: Path, *more: str) -> list[str]:
    """Command line of a Redis that listens on this Unix socket only and writes nothing to disk."""
    return [program("redis-server"), "--port", "0", "--unixsocket", str(path), "--save", "", *more]


def ask(path: Path | str, *words: str) -> str:
    """Send one command; the first line of the answer without its type mark, or the text of a bulk answer.

    Raises OSError when nobody listens.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(10)
        sock.connect(str(path))
        parts = [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
        sock.sendall(f"*{len(words)}\r\n{''.join(parts)}".encode())
        with sock.makefile("rb") as stream:
            line = stream.readline().decode().rstrip("\r\n")
            if line.startswith("$") and line != "$-1":
                return stream.read(int(line[1:])).decode()
            return line[1:]


class Redis:
    """A Redis that a test has beside the server (as a side service, the server itself starts one)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start it and wait until it answers."""
        self._process = subprocess.Popen(
            redis_command(self.path), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
        )
        until(self._answers, what="redis to answer")
        return self

    def _answers(self) -> bool:
        try:
            return self.ask("PING") == "PONG"
        except OSError:
            return False

    def ask(self, *words: str) -> str:
        """Send one command."""
        return ask(self.path, *words)

    def close(self) -> None:
        """Stop it; it removes its socket file."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
