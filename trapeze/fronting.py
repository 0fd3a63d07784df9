"""The nginx that is one of our services, as the supervisor treats it: told of what is new, and never bounced for it.

Its file is judged by nginx before anything changes, written when the new configuration is wanted, and read by nginx on
a HUP: at once, or, where a socket has moved, when those who accept on the new one are there.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from trapeze.checks_nginx import is_generated, servant
from trapeze.config import Resolved
from trapeze.errors import TrapezeError
from trapeze.limits import parse_signal
from trapeze.machine import Machine
from trapeze.report import Progress
from trapeze.service import Service
from trapeze.sockets import ListenSocket
from trapeze.spec import ServiceSpec
from trapeze.status import Ticket

if TYPE_CHECKING:
    from trapeze.nginx.generated import Front

__all__ = ["Fronting"]

Sockets = Mapping[str, Sequence[ListenSocket]]


class Running(Protocol):
    """What it needs of the supervisor."""

    resolved: Resolved
    sockets: dict[str, Sequence[ListenSocket]]
    machine: Machine

    @property
    def services(self) -> Mapping[str, Service]:
        """All services by name."""

    @property
    def revision(self) -> int:
        """Of the last change."""

    async def changed(self, revision: int) -> None:
        """Return once something after `revision` has happened."""

    def progress(self, ticket: Ticket) -> Progress:
        """How far an operation has come."""


class Fronting:
    """The file of one supervisor. Without a service that names it, nothing here does anything."""

    def __init__(self, supervisor: Running) -> None:
        self._supervisor = supervisor
        self._front: Front | None = None
        self._owed: asyncio.Task[None] | None = None

    @property
    def front(self) -> Front:
        """The file; where it is does not change."""
        if self._front is None:
            # A start without nginx need not wait for it; `foreground` imports it when the workers are on their way.
            from trapeze.nginx.generated import Front

            self._front = Front(self._supervisor.resolved.config.name)
        return self._front

    def path_for(self, spec: ServiceSpec) -> str:
        """What {generated:nginx} stands for in the command of this service; "" where it does not occur."""
        return self.front.path if is_generated(spec) else ""

    def begin(self) -> None:
        """Write the file before anything starts.

        Raises:
            TrapezeError: it cannot be made or written.
        """
        resolved, sockets = self._supervisor.resolved, self._supervisor.sockets
        if servant(resolved.config) is not None:
            self.front.write(self.front.text(resolved, sockets), resolved)

    async def prepare(self, resolved: Resolved, sockets: Sockets, names: Sequence[str] | None) -> str | None:
        """Return what the file will say, if nginx is to read it: it says something else, or a reload of nginx itself
        was asked for (a certificate is new). nginx has found it good.

        Raises:
            TrapezeError: it cannot be made, or nginx refuses it.
        """
        name = servant(resolved.config)
        if name is None:
            return None
        text = self.front.text(resolved, sockets)
        if text == self.front.present() and name not in (names or ()):
            return None
        await self.front.judge(self._supervisor.machine.spawn, text, resolved, sockets)
        return text

    def apply(self, text: str | None, rolling: Sequence[str], moved: bool, ticket: Ticket) -> None:
        """Write the file if it is to say something else, and have nginx read it.

        Args:
            text: what it says from now on; None: what it says already, and nobody need read it again.
            rolling: services that are replaced anyway.
            moved: the sockets are elsewhere, and nobody accepts there yet.
            ticket: of the reload, which is over when somebody does.
        """
        name = servant(self._supervisor.resolved.config)
        if name is None and self._front is not None:
            self._front.forget()
        if name is None or text is None:
            return
        starts = name in rolling or self.front.present() is None
        if moved and not starts:
            self._owed = asyncio.get_running_loop().create_task(self._refresh_later(ticket))
            return
        self.front.write(text, self._supervisor.resolved)
        if not starts:
            self._tell(name)

    async def _refresh_later(self, ticket: Ticket) -> None:
        supervisor = self._supervisor
        while not ((now := supervisor.progress(ticket)).done or now.failed):
            await supervisor.changed(supervisor.revision)
        self.refresh()

    def refresh(self) -> None:
        """Let the file say what is so, and have nginx read it if that is something else: a reload was taken back."""
        resolved = self._supervisor.resolved
        name = servant(resolved.config)
        if name is None:
            return
        try:
            text = self.front.text(resolved, self._supervisor.sockets)
            if text != self.front.present():
                self.front.write(text, resolved)
                self._tell(name)
        except TrapezeError as error:
            self._supervisor.machine.chronicle.note(f"{name}: {error.message}", service=name, level="error")

    def _tell(self, name: str) -> None:
        service = self._supervisor.services.get(name)
        if service is None:
            return
        word = service.current.spec.reload or ""
        signum = parse_signal(word.removeprefix("signal:")) if word.startswith("signal:") else signal.SIGHUP
        for process in service.workers():
            if process.live and process.handle is not None:
                process.handle.send(signum)
        self._supervisor.machine.chronicle.note(f"{name}: reads its new configuration", service=name)

    def close(self) -> None:
        """Leave nothing behind."""
        if self._owed is not None:
            self._owed.cancel()
        if self._front is not None or servant(self._supervisor.resolved.config) is not None:
            self.front.remove()
