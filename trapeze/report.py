"""From the machine to what readers see: snapshots, and how far an operation has come. Changes nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from trapeze.events import Clock
from trapeze.lifecycle import State
from trapeze.listenqueue import look
from trapeze.listensocket import ListenSocket
from trapeze.planner import unwanted
from trapeze.scoreboard import together
from trapeze.service import Service
from trapeze.status import (
    Health,
    ProcessStatus,
    QueueTime,
    ServiceStatus,
    SocketStatus,
    StandbyStatus,
    Status,
    Ticket,
    derive,
)
from trapeze.zygotes import IMPORTS

__all__ = [
    "Progress",
    "health",
    "installed",
    "is_up",
    "judge",
    "pin",
    "progress",
    "service_status",
    "socket_status",
    "why_nothing_kept",
]


Resident = Callable[[int], int | None]
"""Resident memory of a process in bytes, by pid."""


class Progress(Struct, frozen=True):
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
    outdated_live = sum(process.live and unwanted(process.seen(), want) for process in workers)
    count = want.count if want.enabled else 0
    finished = [index for index in service.ledger.finished if index < want.count]
    failed_task = any(service.ledger.finished[index] for index in finished)
    step = next((p for p in service.processes.values() if p.role == "pre_start"), None)
    waiting = ", ".join(service.waiting_for)
    if not waiting and step is not None:
        steps = service.current.steps
        waiting = f"pre_start {step.index + 1} of {len(steps)}: {steps[step.index]}" if step.index < len(steps) else ""
    if not waiting and count and service.zygotes.needed and service.zygotes.importing:
        waiting = f"the import of {service.current.spec.app}"
    return Health(
        want=count,
        enabled=want.enabled,
        ready=sum(p.state is State.READY and not unwanted(p.seen(), want) for p in workers),
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


def socket_status(held: ListenSocket) -> SocketStatus:
    """One listening socket, and its queue."""
    own = {field: getattr(held, field) for field in ("name", "address", "fd", "slot")}
    return SocketStatus(**look(held.fd)._asdict(), **own, closed=held.doors_closed)


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
    pinned, pinned_why = pin(service)
    numbers = health(service)
    return ServiceStatus(
        name=service.name,
        kind="web" if spec.is_web else "side",
        status=status,
        why=why,
        since=clock.wall(since),
        want=numbers.want,
        # Who serves, of whatever generation: in the middle of a deploy nothing is missing.
        ready=max(numbers.ready, min(numbers.ready_any, numbers.want)),
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
            if process.role not in IMPORTS
        ],
        pinned=pinned,
        pinned_why=pinned_why,
        imported_again=clock.wall(again) if (again := service.zygotes.again.get(service.want.generation)) else None,
        kept=list(reversed(service.past)),
        queue_time=_queue_time(service),
        standby=[
            StandbyStatus(
                id=process.id,
                role=process.role,
                pid=process.pid,
                generation=process.generation,
                state=process.state.value,
                since=clock.wall(process.since),
                rss=None if process.pid is None else resident(process.pid),
            )
            for process in service.zygotes.all()
        ],
    )


def _queue_time(service: Service) -> QueueTime | None:
    every = together(service.vigil.waited(process) for process in service.workers())
    total = together([every, service.vigil.departed()])
    if not total.requests:
        return None
    return QueueTime(
        requests=every.requests,
        mean=every.seconds / max(every.requests, 1),
        p50=every.quantile(0.5),
        p99=every.quantile(0.99),
        longest=every.longest,
        counts=list(total.times),
        seconds=total.seconds,
    )


_VERSION = re.compile(r'^__version__ = "([^"]+)"', re.MULTILINE)


def installed() -> str:
    """The version of trapeze that lies on the disk now; "" where it cannot be read."""
    try:
        with open(os.path.join(os.path.dirname(__file__), "__init__.py"), encoding="utf-8") as file:
            found = _VERSION.search(file.read())
    except (OSError, ValueError):
        return ""
    return found[1] if found else ""


def pin(service: Service) -> tuple[bool, str]:
    """Is the code of the wanted generation pinned, and why not?"""
    spec = service.current.spec
    if spec.app is None or not service.want.enabled:
        return False, ""
    why = service.zygotes.why_not(service.current)
    if why is None:
        return False, ""  # nobody knows yet; `why` says that it is being imported
    if why:
        return False, why
    ready = service.zygotes.forks(service.current.number)
    return ready, "" if ready else "its zygote has ended, another is on its way"


def why_nothing_kept(service: Service) -> tuple[str, str]:
    """Why there is no generation to go back to, and what to do about it."""
    spec = service.current.spec
    if spec.app is None:
        return "it is a command, whose code trapeze does not import", "put the old version back and reload"
    if spec.keep_generations == 0:
        return "keep_generations is 0", "put the old code back and reload"
    pinned, why = pin(service)
    if not pinned and why:
        return f"it is not preloaded ({why})", "put the old code back and reload"
    if service.top > 1:
        return "the zygote of the generation before has ended", "put the old code back and reload"
    return f"generation {service.want.generation} is the first", ""


def progress(ticket: Ticket, services: Mapping[str, Service], rollbacks: Mapping[tuple[str, int], str]) -> Progress:
    """How far `ticket` has come: done when all of its services are, or have failed."""
    parts = {name: _part(ticket, name, services.get(name), rollbacks) for name in ticket.services}
    generations = {name: services[name].want.generation for name in parts if name in services}
    failed = [part for part in parts.values() if part.failed]
    message = "; ".join(f"{name}: {part.message}" for name, part in parts.items())
    done = all(part.done for part in parts.values())
    if done and failed:
        output: list[str] = []
        for name, part in parts.items():
            if part.failed and part.output:
                output += ([f"{name}:"] if len(parts) > 1 else []) + list(part.output)
        return Progress(True, True, failed[0].code, message, output, generations)
    return Progress(done, False, "", message, (), generations)


def _called_off(ticket: Ticket, name: str, service: Service) -> str:
    """Why an order for another generation will not be carried out any more; "" if it will."""
    if name in ticket.running and not service.want.enabled:
        return "called off: the service was stopped"
    wanted, now = ticket.services[name], service.want.generation
    # A later reload brings newer code than was asked for: that is no failure.
    if now != wanted and now != service.top:
        return f"called off: generation {now} is wanted again"
    return ""


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
    if ticket.verb == "scale" and service.want.enabled and service.want.count == 0:
        return Progress(done=not service.workers(), message=why)
    if ticket.verb == "stop":
        return Progress(done=service.gone, message=why if not service.gone else "stopped")
    if ticket.verb in ("reload", "rollback") and (off := _called_off(ticket, name, service)):
        return Progress(True, True, "called_off", off)
    if status is Status.FAILED:
        return Progress(True, True, "failed", why, service.ledger.output)
    whole = service.is_settled() and not service.waiting_for
    return Progress(done=whole, message=f"generation {service.want.generation}, {why}")
