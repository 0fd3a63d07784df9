"""Passes on to a service what one of its children says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trapeze import notify

if TYPE_CHECKING:
    from trapeze.process import Process
    from trapeze.service import Service

__all__ = ["Ear"]

_TAIL_WIDTH = 1000
"""Characters of a line that are kept for a process's last words."""


class Ear:
    """The `ForkListener` of one process. An exception in the service is our bug, and the host's to deal with."""

    def __init__(self, service: Service, process: Process) -> None:
        self._service = service
        self._process = process
        self.inside = False
        """The line that came last goes on."""

    def on_line(self, stream: str, text: str, more: bool) -> None:
        """A line of output."""
        if not self.inside:
            self._process.line(stream, text if len(text) <= _TAIL_WIDTH else f"{text[:_TAIL_WIDTH]} [...]")
        self.inside = more
        self._service.host.line(self._service, self._process, stream, text, more)

    def on_message(self, datagram: bytes) -> None:
        """A datagram of the notify protocol."""
        try:
            self._service.heard(self._process, notify.parse(datagram))
        except Exception:
            self._service.host.broken(self._service)

    def on_pid(self, pid: int) -> None:
        """A zygote has made it."""
        try:
            self._service.born(self._process, pid)
        except Exception:
            self._service.host.broken(self._service)

    def on_failed(self, reason: str) -> None:
        """A zygote could not make it."""
        try:
            self._service.unborn(self._process, reason)
        except Exception:
            self._service.host.broken(self._service)

    def on_exit(self, status: int) -> None:
        """It was reaped."""
        try:
            self._service.exited(self._process, status)
        except Exception:
            self._service.host.broken(self._service)
