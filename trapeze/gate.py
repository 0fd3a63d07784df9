"""What spawning has to wait for, in one service, now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trapeze import restart
from trapeze.lifecycle import State
from trapeze.planner import Gate, StandIn, pace

if TYPE_CHECKING:
    from trapeze.service import Service

__all__ = ["gate"]


def gate(service: Service) -> Gate:
    """Others that come first, failures that were too many, commands and imports that precede the first worker."""
    limit, retry_at = _limit(service)
    steps = [process for process in service.processes.values() if process.role == "pre_start"]
    return Gate(
        open=not service.waiting_for,
        limit=limit,
        retry_at=retry_at,
        finished=frozenset(service.ledger.finished),
        steps_left=bool(steps) or service.steps_done < len(service.current.steps) or service.zygotes.needed,
        step_running=bool(steps) or service.zygotes.importing,
        stand_in=_stand_in(service),
    )


def _stand_in(service: Service) -> StandIn | None:
    """Who fills the gaps as long as the wanted generation has not shown that it serves."""
    number = service.trial.stand_in
    if number is None:
        return None
    want = service.orders.want(service.generations[number])
    due = service.ledger.standing.not_before
    if not want.enabled or not want.count:
        return None
    return StandIn(number, want.count, due if due > service.host.now() else None)


def _limit(service: Service) -> tuple[int | None, float | None]:
    """How many may be spawned now, and when that may be different."""
    now = service.host.now()
    history = service.ledger.history
    limit = restart.may_spawn(history, now)
    workers = service.workers()
    starting = sum(process.state is State.STARTING for process in workers)
    if limit == 1 and starting:
        return 0, None  # the end of the one that starts is what to wait for
    # Forking takes no time; importing does.
    first = service.good is None and service.current.spec.app is not None and service.zygotes.why_not(service.current)
    if limit is None and first and not any(process.state is State.READY for process in workers):
        return pace(starting, service.host.processors, now, service.begun)
    return limit, history.not_before
