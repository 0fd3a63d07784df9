"""What systemd hears from us, or whoever else has put NOTIFY_SOCKET into our environment: the sd_notify(3) protocol.

    READY=1         once, when every enabled service has what it wants; again after each reload
    RELOADING=1     at the beginning of each reload, with MONOTONIC_USEC (Type=notify-reload)
    STOPPING=1      when everything is to stop
    STATUS=...      a word on each service, whenever it changes
    WATCHDOG=1      twice in each WATCHDOG_USEC, from the event loop: a supervisor that hangs sends none
    EXTEND_TIMEOUT_USEC   as long as something is on its way: an import of 70 s is no reason to be killed

Without NOTIFY_SOCKET nothing of this exists: no socket, no task, no timer. The variables stay in our own environment,
and `envfile.OURS` sees to it that no service gets them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Self

from trapeze import report
from trapeze.service import Service
from trapeze.status import Status
from trapeze.supervisor import Supervisor

__all__ = ["Upward", "words"]

_EXTENSION = 30.0
"""Seconds that are asked for at a time."""
_EXTEND_EVERY = 10.0
_RETRY = 0.1
"""Seconds until a full socket is tried again."""
_WAITING = 100
"""So many messages are kept for a manager that does not read; the oldest go first."""
_WIDTH = 400
"""Characters of STATUS, which people read in one line."""
_ATTENTION = {Status.FAILED: 0, Status.DEGRADED: 1, Status.STARTING: 2, Status.ROLLING: 3, Status.STOPPING: 4}
_PLAIN = (Status.RUNNING, Status.DONE, Status.STARTING)
"""What needs not be named: its reason says it."""
_SETTLED = (Status.RUNNING, Status.DONE, Status.STOPPED)


class Upward:
    """Tells the manager above us. Use from the event loop's thread."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        supervisor: Supervisor,
        sock: socket.socket,
        watchdog: float | None,
        keep_going: bool,
    ) -> None:
        """`sock` is connected; `watchdog` is the time in seconds within which it wants to hear from us, if it does."""
        self._loop = loop
        self._supervisor = supervisor
        self._sock = sock
        self._keep_going = keep_going
        self.phase = "starting"
        self._said = ""
        self._queue: deque[bytes] = deque(maxlen=_WAITING)
        self._retry: asyncio.TimerHandle | None = None
        self._extension: asyncio.TimerHandle | None = None
        self._beat: asyncio.TimerHandle | None = None
        self._complained = False
        if watchdog is not None:
            self._watchdog(watchdog / 2)
        supervisor.machine.at_shutdown.append(self._stopping)
        supervisor.at_reload.append(self._reload)
        self._reloads: set[asyncio.Task[None]] = set()
        self._task = loop.create_task(self._follow(), name="status for NOTIFY_SOCKET")

    @classmethod
    def start(
        cls,
        loop: asyncio.AbstractEventLoop,
        supervisor: Supervisor,
        environ: Mapping[str, str],
        *,
        keep_going: bool = False,
    ) -> Self | None:
        """Begin, if somebody wants to hear from us; None if not.

        `keep_going`: a service that is FAILED does not keep the whole from being ready.
        """
        address = environ.get("NOTIFY_SOCKET", "")
        if not address:
            return None
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            if address[0] not in "/@":
                raise OSError(f"{address!r} is neither a path nor the name of an abstract socket")
            sock.connect("\0" + address[1:] if address[0] == "@" else address)
        except OSError as error:
            sock.close()
            supervisor.machine.chronicle.note(f"NOTIFY_SOCKET: {error}: nothing is told", level="warning")
            return None
        return cls(loop, supervisor, sock, _watchdog_of(environ), keep_going)

    def close(self) -> None:
        """Say no more."""
        for timer in (self._retry, self._extension, self._beat):
            if timer is not None:
                timer.cancel()
        self._retry = self._extension = self._beat = None
        for task in (self._task, *self._reloads):
            task.cancel()
        self._sock.close()

    # ---- when ----

    async def _follow(self) -> None:
        while True:
            revision = self._supervisor.revision
            self._look()
            await self._supervisor.changed(revision)

    def _look(self) -> None:
        """Say what has become of it since the last time."""
        text = words(self._supervisor.services.values())
        more = {"STATUS": text} if text != self._said else {}
        self._said = text
        if self.phase == "starting" and self._is_up():
            self.phase = "ready"
            more = {"READY": "1", "MAINPID": str(os.getpid()), "STATUS": text}
        elif self.phase == "reloading" and self._has_reloaded():
            self.phase = "ready"
            more = {"READY": "1", "STATUS": text}
        if more:
            self._send(**more)
        if self._extension is None and self._is_busy():
            self._extend()

    def _reload(self) -> None:
        if self.phase == "stopping":
            return
        # Before the first READY=1 it is still the start that is waited for.
        if self.phase != "starting":
            self.phase = "reloading"
            self._send(RELOADING="1", MONOTONIC_USEC=str(time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000))
        task = self._loop.create_task(self._after_reload())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _after_reload(self) -> None:
        """One that is refused changes nothing that `_follow` would hear of."""
        async with self._supervisor.reloading:
            pass
        self._look()

    def _stopping(self) -> None:
        self.phase = "stopping"
        self._send(STOPPING="1")
        self._look()

    def _is_up(self) -> bool:
        enough = (*_SETTLED, Status.FAILED) if self._keep_going else _SETTLED
        judged = [report.judge(service)[0] for service in self._supervisor.services.values()]
        return all(status in enough for status in judged)

    def _has_reloaded(self) -> bool:
        """All are what they are wanted to be, or will not be so soon."""
        return not self._supervisor.reloading.locked() and not any(map(_on_its_way, self._supervisor.services.values()))

    def _is_busy(self) -> bool:
        if self.phase == "ready":
            return False
        services = self._supervisor.services.values()
        return self.phase == "stopping" or any(map(_on_its_way, services))

    def _extend(self) -> None:
        self._extension = None
        if self._is_busy():
            self._send(EXTEND_TIMEOUT_USEC=str(int(_EXTENSION * 1e6)))
            self._extension = self._loop.call_later(_EXTEND_EVERY, self._extend)

    def _watchdog(self, every: float) -> None:
        self._send(WATCHDOG="1")
        self._beat = self._loop.call_later(every, self._watchdog, every)

    # ---- how ----

    def _send(self, **fields: str) -> None:
        self._queue.append("\n".join(f"{name}={value}" for name, value in fields.items()).encode())
        self._flush()

    def _flush(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        try:
            while self._queue:
                self._sock.send(self._queue[0])
                self._queue.popleft()
        except BlockingIOError:
            self._retry = self._loop.call_later(_RETRY, self._flush)
        except OSError as error:
            self._queue.clear()
            if not self._complained:
                self._supervisor.machine.chronicle.note(f"NOTIFY_SOCKET: {error}: what was to be told is lost")
            self._complained = True


def _watchdog_of(environ: Mapping[str, str]) -> float | None:
    """The time in seconds within which the manager wants a sign of life from this process."""
    with contextlib.suppress(ValueError):
        if int(environ.get("WATCHDOG_PID") or os.getpid()) == os.getpid():
            return int(environ.get("WATCHDOG_USEC") or 0) / 1e6 or None
    return None


def _on_its_way(service: Service) -> bool:
    """Is something still to come that was asked for?"""
    if not service.want.enabled:
        return False
    status = report.judge(service)[0]
    return status in (Status.STARTING, Status.ROLLING) or (status is Status.RUNNING and not service.is_settled())


def words(services: Iterable[Service]) -> str:
    """STATUS: a few words on each service in one line, those that want attention first."""
    judged = [(service.name, *report.judge(service)) for service in services]
    judged.sort(key=lambda each: _ATTENTION.get(each[1], len(_ATTENTION)))
    parts = [f"{name}{'' if status in _PLAIN else f' {status.value}'}: {why}" for name, status, why in judged]
    text = " ".join("; ".join(parts).split())
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 4]} ..."
