"""A generation on trial: wanted, but it has not shown yet that it serves. What happens when it fails.

A generation that is beyond hope gives way to the last good one, and with it everything that it has brought.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trapeze import restart
from trapeze.lifecycle import Outcome
from trapeze.process import Process

if TYPE_CHECKING:
    from trapeze.service import Service

__all__ = ["Trial"]


class Trial:
    """Of one service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    # ---- how it ends ----

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
            current=process.generation == wanted,
            final=process.role == "pre_start" or self._is_verdict(process),
            siblings=service.workers_of(wanted) if service.good == wanted else (),
        )
        if ledger.history.exhausted and service.good not in (None, wanted):
            self._give_way()

    def _give_way(self) -> None:
        service, failed = self._service, self._service.want.generation
        assert service.good is not None
        service.want = service.orders.want(service.generations[service.good])
        service.ledger.history = restart.FRESH
        service.steps_done = len(service.current.steps)
        service.host.rolled_back(service, failed, service.ledger.failure)

    def _is_verdict(self, process: Process) -> bool:
        """New code that says why it cannot start, or hangs, will do the same in a minute: the deploy has failed."""
        service = self._service
        if service.good in (None, process.generation) or process.outcome is not Outcome.START_FAILED:
            return False
        proved = any(sibling.ready_at is not None for sibling in service.workers_of(process.generation))
        return not proved and (process.role == "zygote" or process.error is not None or process.overran is not None)
