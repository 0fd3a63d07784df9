"""Plays the supervisor for a zygote: asks it for workers, and follows those by pidfd as its own children."""

from __future__ import annotations

import array
import json
import os
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.server import Listener
from tests.support.wait import until
from tests.support.workerkit import PATIENCE, Talking, WorkerProcess

__all__ = ["Forked", "Zygote"]


class Zygote(WorkerProcess):
    """A zygote or a spare. Arguments as of `WorkerProcess`; the listeners are for its workers.

    This process has to be a subreaper, which pytest is (see `audit`).
    """

    def __init__(self, directory: Path, listeners: Sequence[Listener] = (), **fields: Any) -> None:
        self.workers: list[Forked] = []
        self.last = 0
        self.line, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.line.settimeout(PATIENCE)
        fields.setdefault("label", "web zygote workerapp")
        fields = {"mode": "zygote", "preload": "auto", **fields}
        with there:
            super().__init__(directory, (), pass_fds=[there.fileno()], fork_fd=there.fileno(), **fields)
        self.serves = list(listeners)
        for listener in self.serves:
            listener.sock.setblocking(False)

    @property
    def pid(self) -> int:
        """Its process."""
        return self.process.pid

    def request(self, index: int, passed: list[int], **fields: Any) -> dict[str, Any]:
        """The job of the next worker; puts the listeners among the descriptors to be passed."""
        listening = []
        for listener in self.serves:
            listening.append({"name": "web", "fd": len(passed), "address": listener.address, "backlog": 77})
            passed.append(listener.fd)
        job = {**self.job, "mode": "serve", "index": index, "label": f"web[{index}] {self.job['app']}"}
        job |= {"fork_fd": None, "notify_fd": None, "sockets": listening, "env": {"TRAPEZE_INDEX": str(index)}}
        return {**job, **fields}

    def ask(self, request: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        """Send a request, return its answer."""
        self.last += 1
        packet = json.dumps({"id": self.last, **request}).encode()
        self.line.sendmsg([packet], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
        answer = json.loads(self.line.recv(1 << 16))
        assert answer["id"] == self.last
        return dict(answer)

    def fork(self, index: int = 0, *, go: bool = True, **fields: Any) -> Forked:
        """Have it fork a worker; with `go`, let that begin."""
        worker = Forked(self, index, fields)
        self.workers.append(worker)
        if go:
            worker.begin()
        return worker

    def employ(self, index: int = 0, **fields: Any) -> None:
        """Have a spare become a worker: it goes on with what it has."""
        fds: list[int] = []
        job = self.request(index, fds, **fields)
        assert self.ask({"job": job, "stdio": None, "go": None}, fds) == {"id": self.last, "pid": self.pid}

    def close(self) -> None:
        """Kill what is left of it and of its workers."""
        for worker in self.workers:
            worker.close()
        super().close()
        self.line.close()


class Forked(Talking):
    """A worker that a zygote has forked."""

    def __init__(self, zygote: Zygote, index: int, fields: dict[str, Any]) -> None:
        self.messages: list[dict[str, str]] = []
        self.notify, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.notify.settimeout(PATIENCE)
        self.out = zygote.directory / f"out-{zygote.pid}-{len(zygote.workers)}"
        gate, self.go = os.pipe()
        self.status: int | None = None
        with theirs, open(self.out, "wb") as out:
            fds = [theirs.fileno(), out.fileno(), gate]
            job = zygote.request(index, fds, **fields)
            answer = zygote.ask({"job": {**job, "notify_fd": 0}, "stdio": [1, 1], "go": 2}, fds)
        os.close(gate)
        assert "pid" in answer, answer
        assert answer["pid"] != zygote.pid, "it has not forked, but become a worker itself"
        self.pid: int = answer["pid"]
        self.pidfd = os.pidfd_open(self.pid)

    def begin(self) -> None:
        """Say the word."""
        os.write(self.go, b"G")
        self.drop()

    def drop(self) -> None:
        """Close the gate: before it has begun it leaves."""
        if self.go >= 0:
            os.close(self.go)
        self.go = -1

    def signal(self, signum: int) -> None:
        """Send a signal."""
        signal.pidfd_send_signal(self.pidfd, signum)

    def stop(self) -> None:
        """Ask it to leave, and wait until it has taken note."""
        self.signal(signal.SIGTERM)
        message = self.message()
        assert message == {"STOPPING": "1"}, (message, self.output)

    def wait(self) -> int:
        """Wait for its end; returns its exit status, that is -9 for SIGKILL."""
        if self.status is None:
            dead = until(
                lambda: os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG), PATIENCE, f"end of {self.pid}"
            )
            assert dead is not None
            self.status = dead.si_status if dead.si_code == os.CLD_EXITED else -dead.si_status
        return self.status

    def close(self) -> None:
        """Kill what is left."""
        self.drop()
        if self.status is None:
            self.signal(signal.SIGKILL)
            self.wait()
        os.close(self.pidfd)
        self.notify.close()
