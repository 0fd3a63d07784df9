"""From the machine to what readers see: snapshots, and how far an operation has come. Changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from trapeze.events import Clock
from trapeze.lifecycle import State
from trapeze.planner import outdated
from trapeze.service import Service
from trapeze.status import Health, ProcessStatus, ServiceStatus, Status, derive

__all__ = ["Progress", "Ticket", "health", "is_up", "judge", "progress", "service_status"]


Resident = Callable[[int], int | None]
"""Resident memory of a process in bytes, by pid."""


class Ticket(NamedTuple):
    """A write that was accepted: what to wait for."""

    verb: str
    revision: int
    services: Mapping[str, int]
    """Name -> generation that satisfies it."""


class Progress(NamedTuple):
    """How far a ticket has come."""

    done: bool = False
    failed: bool = False
    code: str = ""
    message: str = ""
    output: Sequence[str] = ()
    services: Mapping[str, int] = {}


def health(service: Service) -> Health:
    """The numbers from which the status of a service is derived."""
    workers = service.workers()
    want = service.want
    counts = {state: sum(process.state is state for process in workers) for state in State}
    outdated_live = sum(process.live and outdated(process.seen(), want) for process in workers)
    count = want.count if want.enabled else 0
    finished = [index for index in service.ledger.finished if index < want.count]
    failed_task = any(service.ledger.finished[index] for index in finished)
    step = next((p for p in service.processes.values() if p.role == "pre_start"), None)
    waiting = ", ".join(service.waiting_for)
    if not waiting and step is not None:
        steps = service.current.steps
        waiting = f"pre_start {step.index + 1} of {len(steps)}: {steps[step.index]}" if step.index < len(steps) else ""
    return Health(
        want=count,
        enabled=want.enabled,
        ready=sum(p.state is State.READY and not outdated(p.seen(), want) for p in workers),
        ready_any=counts[State.READY],
        starting=counts[State.STARTING],
        leaving=counts[State.STOPPING] + counts[State.KILLING],
        outdated=outdated_live,
        ever_ready=service.good is not None,
        exhausted=service.ledger.history.exhausted or failed_task,
        failure=service.ledger.failure,
        waiting_for=waiting,
        task=service.current.spec.is_task,
        done=bool(finished) and len(finished) >= count > 0 and not failed_task and want.enabled,
        frozen=service.frozen,
        idle="stopped" if service.current.spec.enabled else "not enabled in the configuration",
    )


def judge(service: Service) -> tuple[Status, str]:
    """The status of a service and the reason in words."""
    return derive(health(service))


def is_up(service: Service) -> bool:
    """May the services that come `after` this one start?"""
    spec = service.current.spec
    if spec.is_task and spec.ready is None:
        return judge(service)[0] is Status.DONE
    return judge(service)[0] in (Status.RUNNING, Status.DONE, Status.ROLLING) or (
        service.good is not None and health(service).ready > 0
    )


def service_status(service: Service, since: float, clock: Clock, resident: Resident) -> ServiceStatus:
    """What `status` says of a service.

    Args:
        service: the service.
        since: when its status last changed, monotonic seconds.
        clock: to turn monotonic times into those that people read.
        resident: gives the memory of a process by its pid.
    """
    status, why = judge(service)
    spec = service.current.spec
    waits = service.ledger.history.not_before > clock.now()
    return ServiceStatus(
        name=service.name,
        kind="web" if spec.is_web else "side",
        status=status,
        why=why,
        since=clock.wall(since),
        want=service.want.count if service.want.enabled else 0,
        ready=health(service).ready,
        generation=service.want.generation,
        restarts=service.ledger.restarts,
        backend=service.facts.backend or (spec.backend if spec.app is not None else ""),
        interface=service.facts.interface,
        next_try=clock.wall(service.ledger.history.not_before) if waits else None,
        last_failure=service.ledger.failure,
        processes=[
            ProcessStatus(
                id=process.id,
                index=process.index,
                pid=process.pid,
                generation=process.generation,
                state=process.state.value,
                since=clock.wall(process.since),
                why=process.why,
                status=process.said,
                rss=None if process.pid is None else resident(process.pid),
            )
            for process in service.processes.values()
        ],
    )


def progress(ticket: Ticket, services: Mapping[str, Service], rollbacks: Mapping[tuple[str, int], str]) -> Progress:
    """How far `ticket` has come. The first service that failed decides; done when all are."""
    parts = {name: _part(ticket, name, services.get(name), rollbacks) for name in ticket.services}
    generations = {name: services[name].want.generation for name in parts if name in services}
    failed = [part for part in parts.values() if part.failed]
    message = "; ".join(f"{name}: {part.message}" for name, part in parts.items())
    if failed:
        output = [line for part in failed for line in part.output]
        return Progress(True, True, failed[0].code, message, output, generations)
    return Progress(all(part.done for part in parts.values()), False, "", message, (), generations)


def _part(ticket: Ticket, name: str, service: Service | None, rollbacks: Mapping[tuple[str, int], str]) -> Progress:
    if service is None:
        return Progress(done=True, message="gone")
    wanted = ticket.services[name]
    status, why = judge(service)
    if (name, wanted) in rollbacks:
        good = service.want.generation
        why = f"generation {wanted} failed, generation {good} serves on: {rollbacks[name, wanted]}"
        return Progress(True, True, "rolled_back", why, service.ledger.output)
    if service.frozen:
        return Progress(True, True, "bug", why)
    if ticket.verb == "signal":
        return Progress(done=True, message="sent")
    if ticket.verb == "stop":
        return Progress(done=service.gone, message=why if not service.gone else "stopped")
    if status is Status.FAILED:
        return Progress(True, True, "failed", why, service.ledger.output)
    whole = service.is_settled() and not service.waiting_for
    return Progress(done=whole, message=f"generation {service.want.generation}, {why}")
