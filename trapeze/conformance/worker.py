"""Plays the supervisor for one worker: listening sockets, the job in a memfd, the notify socket, the exec."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from trapeze.boot import boot_words
from trapeze.conformance.wire import Connection
from trapeze.prelude import DUMP_SIGNAL, open_job, worker_package
from trapeze.scoreboard import Reading, Scoreboard, Waits

__all__ = ["GRACE", "PATIENCE", "Door", "Failure", "Worker"]

SERVED = Path(__file__).parent / "served"
PATIENCE = 10.0
"""Seconds after which a check gives up; a worker that is well answers in a few milliseconds."""
GRACE = 0.4
"""`drain_grace` of the workers, seconds."""
BACKLOG = 77
"""An unusual one, to be seen again."""


class Failure(AssertionError):
    """A check has found something; the text says what."""


class Door:
    """A listening socket, prepared as the supervisor does.

    Args:
        directory: where a Unix socket gets its file; None for TCP.
        host: address for TCP.
    """

    def __init__(self, directory: Path | None = None, host: str = "127.0.0.1") -> None:
        self.path: Path | None = None
        if directory is not None:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.path = directory / f"s{self.sock.fileno()}"
            self.sock.bind(str(self.path))
            self.address = f"unix:{self.path}"
        else:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self.sock = socket.socket(family, socket.SOCK_STREAM)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sock.bind((host, 0))
            host, port = self.sock.getsockname()[:2]
            self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.sock.listen(BACKLOG)
        self.sock.setblocking(False)

    @property
    def fd(self) -> int:
        """Its descriptor, the same in the worker."""
        return self.sock.fileno()

    def connect(self) -> Connection:
        """A new connection; it waits in the queue until somebody accepts it."""
        client = socket.socket(self.sock.family, socket.SOCK_STREAM)
        client.settimeout(PATIENCE)
        client.connect(str(self.path) if self.path else self.sock.getsockname())
        return Connection(client)

    def close(self) -> None:
        """Close our copy."""
        self.sock.close()


class Worker:
    """One worker process.

    Args:
        directory: for its output and its Unix sockets; it is the working directory too.
        doors: what it accepts on.
        python: the interpreter.
        env: added to the environment.
        fields: of the job: `backend`, `app`, `options`...
    """

    def __init__(
        self,
        directory: Path,
        doors: Sequence[Door],
        *,
        python: str = sys.executable,
        env: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> None:
        self.notify, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.gate, gate = socket.socketpair()
        for end in (self.notify, self.gate):
            end.settimeout(PATIENCE)
        self.out = directory / f"out-{self.notify.fileno()}"
        self.board = Scoreboard()
        self._slot = self.board.allocate(1)
        job = {
            "version": 1,
            "mode": "serve",
            "service": "web",
            "index": 0,
            "generation": 1,
            "label": "web[0]",
            "parent": os.getpid(),
            "stop_signal": int(signal.SIGTERM),
            "notify_fd": theirs.fileno(),
            "sockets": [{"name": "web", "fd": door.fd, "address": door.address, "backlog": BACKLOG} for door in doors],
            "app_dir": str(SERVED),
            "app": "conformance_app:wsgi",
            "workers": 2,
            "stop_timeout": PATIENCE,
            "drain_grace": GRACE,
            "board": {"fd": self.board.fd, "slot": self._slot, "waits": self.board.waits, "full": False},
            "dump_signal": int(DUMP_SIGNAL),
            **fields,
        }
        memfd = open_job(job)
        environ = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "LISTEN_"))}
        try:
            with open(self.out, "wb") as out:
                self.process = subprocess.Popen(
                    boot_words(python, "web[0]", memfd, worker_package()),
                    env={**environ, "GATE": str(gate.fileno()), **(env or {})},
                    cwd=directory,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    pass_fds=[memfd, theirs.fileno(), gate.fileno(), self.board.fd, *(door.fd for door in doors)],
                    start_new_session=True,
                )
        finally:
            os.close(memfd)
            theirs.close()
            gate.close()

    # ---- what it says ----

    @property
    def output(self) -> str:
        """What it wrote on stdout and stderr so far."""
        return self.out.read_text(errors="replace")

    def message(self, seconds: float = PATIENCE) -> dict[str, str]:
        """Wait for its next message; {} when it has gone.

        Raises:
            Failure: it says nothing.
        """
        self.notify.settimeout(seconds)
        try:
            packet = self.notify.recv(1 << 20)
        except TimeoutError:
            raise Failure(f"it said nothing for {seconds:g} s{self._last_words()}") from None
        return dict(line.partition("=")[::2] for line in packet.decode().split("\n")) if packet else {}

    def ready(self) -> dict[str, Any]:
        """Wait until it is ready; returns what it says of itself.

        Raises:
            Failure: it says something else, or nothing.
        """
        message = self.message()
        if "X_TRAPEZE_ERROR" in message:
            error = json.loads(message["X_TRAPEZE_ERROR"])
            hint = f" ({error['hint']})" if error.get("hint") else ""
            raise Failure(f"it cannot start: {error['message']}{hint}")
        if message.get("READY") != "1":
            raise Failure(f"it did not say READY=1 but {message or 'goodbye'}{self._last_words()}")
        said: dict[str, Any] = json.loads(message["X_TRAPEZE"])
        return said

    def error(self) -> dict[str, str]:
        """Wait until it says why it cannot start, and has gone.

        Raises:
            Failure: it starts, or goes without a word.
        """
        message = self.message()
        if "X_TRAPEZE_ERROR" not in message:
            raise Failure(f"it did not say why it cannot start: {message}{self._last_words()}")
        status = self.wait()
        if status != 3:
            raise Failure(f"it could not start, and exited with {status}, not 3")
        said: dict[str, str] = json.loads(message["X_TRAPEZE_ERROR"])
        return said

    def reading(self) -> Reading:
        """What stands in its slot of the scoreboard."""
        assert self._slot is not None
        return self.board.read(self._slot)

    def waited(self) -> Waits:
        """What it has noted of how long requests had waited."""
        assert self._slot is not None
        return self.board.waited(self._slot)

    def _last_words(self) -> str:
        lines = self.output.strip().splitlines()[-1:]
        return f"; its last line: {lines[0]}" if lines else ""

    # ---- the gate ----

    def entered(self) -> None:
        """Wait until a request for /gate (or a start-up with a gate) is inside the app."""
        try:
            self.gate.recv(3)
        except TimeoutError:
            raise Failure(f"the request did not reach the app{self._last_words()}") from None

    def let_go(self) -> None:
        """Let it go on."""
        self.gate.sendall(b"g")

    # ---- its end ----

    def stop(self, signum: int = signal.SIGTERM) -> None:
        """Ask it to leave, and wait until it has taken note."""
        self.process.send_signal(signum)
        message = self.message()
        if message != {"STOPPING": "1"}:
            raise Failure(f"asked to leave, it did not say STOPPING=1 but {message or 'goodbye'}{self._last_words()}")

    def wait(self) -> int:
        """Wait for its end; returns its exit status, a signal's number negative."""
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise Failure(f"it did not leave within {PATIENCE:g} s{self._last_words()}") from None

    def close(self) -> None:
        """Kill what is left, and close our ends."""
        if self.process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        for end in (self.notify, self.gate):
            end.close()
        self.board.close()
