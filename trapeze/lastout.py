"""Last out: when nobody would be left to accept on a socket, its queue is answered before the last workers leave.

A worker that leaves while siblings serve on loses nothing: what waits in the listen queue is theirs. When the service
stops (or is scaled to 0, or has moved to another address) there are none. Then, in this order: the doors of the socket
are closed, so that nobody new comes; the workers go on accepting until the queue is found empty; only then they get
their stop signal. The clock of `stop_timeout` runs from the beginning: whoever waits must not make a stop endless.

In the state table such a worker is STOPPING from the first moment, and only its signal is held back.

Of a socket that is a worker's own (`listen = "reuseport"`) it is always the last one out, unless the kernel hands on
what waits; and of those of a slot (`listen = "per-worker"`) that is not used any more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from trapeze.errors import BindError
from trapeze.lifecycle import State
from trapeze.planner import Plan, Stop
from trapeze.process import Process
from trapeze.slots import is_served
from trapeze.sockets import ListenSocket
from trapeze.tcpsockets import migrates

if TYPE_CHECKING:
    from trapeze.service import Service

__all__ = ["LastOut"]

_LOOK_AGAIN = 0.02
"""Seconds between two looks at a queue, and before the first one: a connection that was under way when the doors were
closed (a handshake, a path that was just looked up) has come by then."""

_SHARE = 0.75
"""The part of stop_timeout after which the queue is given up, so that what is being answered has the rest to end."""

_TRY_AGAIN = 1.0
"""Seconds until doors that could not be opened are tried again."""


class LastOut:
    """Of one service: which of its workers wait for a queue, and which of its sockets have closed doors."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._unsure = True
        """Doors may be closed: by us, or by the program that we have taken the place of."""
        self._complaint = ""

    def hold(self, process: Process, todo: Plan) -> None:
        """Called before `process` is asked to leave, together with all whom `todo` stops."""
        if process.state is not State.READY:
            return
        leaving = {action.id for action in todo.actions if isinstance(action, Stop)}
        sockets = self._service.generations[process.generation].sockets_of(process.index)
        process.held = [
            sock
            for sock in sockets
            if not (sock.borrowed or sock.reserved or self._is_wanted(sock) or self._is_accepted_on(sock, leaving))
        ]
        reserved = [sock for sock in sockets if sock.reserved]
        for sock, own in zip(reserved, process.own, strict=False):
            if not (migrates() and self._is_accepted_on(sock, leaving)):
                process.held.append(own)
        for sock in process.held:
            self._unsure = True
            sock.close_doors()

    def attend(self, now: float) -> float | None:
        """Open and close doors, let those go whose queue is empty; return when to look again."""
        wake = self._open(now) if self._unsure and self._serves else None
        for process in self._service.workers():
            if process.held and process.state is State.STOPPING:
                if self._may_go(process, now):
                    process.release(now)
                else:
                    wake = now + _LOOK_AGAIN
        return wake

    def doubt(self) -> None:
        """Other sockets are wanted now: their doors may be closed."""
        self._unsure = True

    @property
    def _serves(self) -> bool:
        want = self._service.want
        return want.enabled and want.count > 0

    def _open(self, now: float) -> float | None:
        try:
            sockets = self._service.current.sockets
            for sock in sockets:
                if sock.doors_closed and is_served(sock, self._service.want.count):
                    sock.open_doors()
        except BindError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                self._service.host.note(self._service, self._complaint, "error")
            return now + _TRY_AGAIN
        # Those of slots that are not used stay closed, until they are.
        self._unsure, self._complaint = any(sock.slot is not None and sock.doors_closed for sock in sockets), ""
        return None

    def _may_go(self, process: Process, now: float) -> bool:
        if now >= process.since + _SHARE * process.stop_timeout:
            return True
        for sock in process.held:
            if self._is_wanted(sock):  # since then somebody has: let them be there first
                if not self._is_accepted_on(sock, {process.id}):
                    return False
            elif now < process.since + _LOOK_AGAIN or sock.waiting:
                return False
        return True

    # ---- who else is there ----

    def _is_wanted(self, sock: ListenSocket) -> bool:
        """Does a service want to accept on it, now or once its workers are there?"""
        wanting = [service for service in self._all() if service.last_out._serves]
        return any(
            _among(sock, [each for each in service.current.sockets if is_served(each, service.want.count)])
            for service in wanting
        )

    def _is_accepted_on(self, sock: ListenSocket, leaving: Collection[int]) -> bool:
        """Is there a worker that accepts on it, beside those that are leaving?"""
        return any(
            process.state is State.READY
            and process.id not in leaving
            and _among(sock, service.generations[process.generation].sockets_of(process.index))
            for service in self._all()
            for process in service.workers()
        )

    def _all(self) -> Iterator[Service]:
        yield self._service
        yield from self._service.host.others(self._service)


def _among(sock: ListenSocket, others: Collection[ListenSocket]) -> bool:
    """Is it one of them, or a duplicate of one?"""
    return any(sock is other or sock.identity == other.identity for other in others)
