"""A generation on trial: wanted, but not settled yet. Who stands in for it meanwhile, what happens when it fails.

As long as new code has not shown that it serves, the last good generation fills every gap (see `planner`). A generation
that is beyond hope gives way to it. Its sockets take their paths when its first worker is ready, and not before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trapeze.errors import BindError
from trapeze.lifecycle import Outcome
from trapeze.process import Process

if TYPE_CHECKING:
    from trapeze.generation import Generation
    from trapeze.service import Service

__all__ = ["Trial"]

_SHORT = 40
"""Characters of a command that is named with its number."""


class Trial:
    """Of one service."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.unbroken = False
        """The last good generation has not been stopped since it settled, so there is something to keep up."""

    @property
    def stand_in(self) -> int | None:
        """The generation that fills the gaps while another is wanted."""
        service = self._service
        if not self.unbroken or service.good is None or service.good == service.want.generation:
            return None
        spec = service.generations[service.good].spec
        return service.good if spec.is_web and spec.restarts.policy != "never" else None

    def stands_in(self, process: Process) -> bool:
        """Is it one that fills a gap, or has to be replaced like one?"""
        return process.generation == self.stand_in and process.role == "worker"

    def renew(self) -> None:
        """A start after a stop: the code is no longer in memory, and what is on the disk now may be other code.

        So it is another generation of the same. What has not served yet, nor been imported, keeps its number.
        """
        service = self._service
        if service.good == service.want.generation:
            service.top += 1
            made = service.current.numbered(service.top)
            service.orders.hand_on(service.current, made)
            service.generations[made.number] = made
            service.want, service.good = service.orders.want(made), made.number

    # ---- how it ends ----

    def take_sockets(self, process: Process) -> BindError | None:
        """It is the first of its generation that serves: clients are to find it. Why they cannot, if so."""
        service = self._service
        if process.role == "worker" and process.generation == service.want.generation:
            try:
                for sock in service.current.sockets_of(process.index):
                    sock.take()
            except BindError as error:
                return error
        return None

    def account(self, process: Process, status: int, now: float) -> None:
        """Let the end of a process count; a generation that is beyond hope gives way to the last good one."""
        service = self._service
        ledger, wanted = service.ledger, service.want.generation
        ledger.enter(
            process,
            status,
            now,
            service.generations[process.generation].spec.restarts,
            service.host.jitter(),
            who=_name(process, service.generations[process.generation]),
            current=process.generation == wanted,
            stands_in=self.stands_in(process),
            final=process.role == "pre_start" or self._is_verdict(process),
            siblings=service.workers_of(process.generation) if process.generation == service.good else (),
        )
        if ledger.history.exhausted and service.good not in (None, wanted):
            self._give_way()

    def _give_way(self) -> None:
        service, failed = self._service, self._service.want.generation
        assert service.good is not None
        service.want = service.orders.want(service.generations[service.good])
        service.ledger.give_way()
        service.last_out.doubt()
        service.steps_done = len(service.current.steps)
        service.host.rolled_back(service, failed, service.ledger.failure)

    def _is_verdict(self, process: Process) -> bool:
        """New code that says why it cannot start, or hangs, will do the same in a minute: the deploy has failed."""
        service = self._service
        if service.good in (None, process.generation) or process.outcome is not Outcome.START_FAILED:
            return False
        proved = any(sibling.ready_at is not None for sibling in service.workers_of(process.generation))
        return not proved and (process.role == "zygote" or process.error is not None or process.overran is not None)


def _name(process: Process, made: Generation) -> str:
    """What it is called where its failure is told; "" if it speaks for the app, not for itself."""
    if process.role == "worker":
        return f"{'process' if made.spec.app is None else 'worker'} {process.index}"
    if process.role == "pre_start":
        command = made.steps[process.index]
        named = f" ({command})" if len(command) <= _SHORT and command.isprintable() else ""
        return f"pre_start {process.index + 1}{named}"
    return "" if process.role == "zygote" and process.error is not None else process.role
