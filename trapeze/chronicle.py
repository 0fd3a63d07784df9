"""What happened, told: every change becomes a transition in the log, and what people should see a line.

Who says what at which level is decided here and nowhere else: a death is one line, a traceback is said once and then
counted, a gap that is being filled is no news. A service that fails again and again says so less and less often: a loop
must not fill the disk.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from trapeze import report
from trapeze.events import Clock, EventLog
from trapeze.lifecycle import Outcome, State
from trapeze.output import Journal, LogLine
from trapeze.process import Process
from trapeze.service import Service
from trapeze.status import Status, Transition

__all__ = ["Chronicle"]

_LEVELS = {Status.FAILED: "error", Status.DEGRADED: "warning", Status.RUNNING: "info", Status.DONE: "info"}
_SHOWN = 12
"""So many of the last lines of a failed process are shown; the transition keeps all."""


class Chronicle:
    """Writes the log and the lines of trapeze's own."""

    def __init__(self, clock: Clock, journal: Journal) -> None:
        self.log = EventLog(self._tell)
        self._clock = clock
        self._journal = journal
        self._said: dict[str, Status] = {}
        """By service: the last status that was worth a line."""
        self._reported: dict[str, tuple[Sequence[str], int]] = {}
        """By service: the last failure's output, as `likeness` has it, and how often it came."""
        self.when_failed: Callable[[Service, str], object] = lambda service, why: None
        """Called when a service has become FAILED, with the reason."""
        self.suggests = False
        """Say once, when a service runs, that another server would be faster: to those who try things out."""

    def process(self, service: Service, process: Process, before: State | None, *, quiet: bool) -> None:
        """A change of a process. Deaths are said aloud, the rest only to those who listen to events."""
        stacks = process.stacks if before is process.state or process.state is State.EXITED else None
        ends = process.state in (State.EXITED, State.KILLING) or bool(stacks)
        aloud = ends and not quiet and not self._is_old(service, process)
        self.log.add(
            Transition(
                revision=0,
                at=self._wall() if before is process.state else self._clock.wall(process.since),
                service=_who(service, process),
                process=process.id,
                pid=process.pid,
                index=process.index if process.role == "worker" else None,
                generation=process.generation,
                from_=before.value if before else "",
                to=process.state.value,
                why=process.why,
                level="info" if aloud else "debug",
                output=stacks or [],
            )
        )

    def _is_old(self, service: Service, process: Process) -> bool:
        """One more try of a service that is known to be FAILED. The end of one that had served is news."""
        if self._said.get(service.name) is not Status.FAILED or process.outcome is Outcome.STOPPED:
            return False
        return process.uptime(process.since) < service.current.spec.restarts.healthy

    def status(
        self, service: Service, before: tuple[Status, float] | None, now: Status, why: str, *, quiet: bool
    ) -> None:
        """A change of a service's status; `before` is the last one and since when (monotonic)."""
        level = "debug" if quiet or not self._is_news(service, now) else _LEVELS.get(now, "debug")
        if now is Status.RUNNING:
            why = self._where(service, why)
            if before is not None and before[0] is Status.STARTING:
                why += f" ({self._clock.now() - before[1]:.2f} s)"
        self.log.add(
            Transition(
                revision=0,
                at=self._wall(),
                service=service.name,
                generation=service.want.generation,
                from_=before[0].value if before else "",
                to=now.value,
                why=why,
                level=level,
            )
        )
        if now is Status.FAILED:
            self.when_failed(service, why)
        elif now is Status.RUNNING and self.suggests and (other := service.facts.faster):
            self.suggests = False
            which = f"{other} is installed too, and faster for most {service.facts.interface.upper()} apps"
            how = f"`trapeze bench {service.current.spec.app}` measures it, --backend {other} takes it"
            self.note(f"{service.name}: {which}: {how}", service=service.name)

    @staticmethod
    def _where(service: Service, why: str) -> str:
        generation = service.want.generation
        return ", ".join(
            [
                *([f"generation {generation}"] if service.top > 1 else []),
                why,
                *(_url(listening.address) for listening in service.current.sockets),
            ]
        )

    def _is_news(self, service: Service, status: Status) -> bool:
        """A gap that is being filled has been said with the death; so is the end of it no news."""
        if status is Status.DEGRADED and report.health(service).starting:
            return False
        said, self._said[service.name] = self._said.get(service.name), status
        return said is not status

    def last_words(self, service: Service, process: Process) -> None:
        """The same traceback again and again is said once, then counted: the 2nd, 4th, 8th... time."""
        output, alike = service.ledger.output, likeness(service.ledger.output)
        before, count = self._reported.get(service.name, ([], 0))
        count = count + 1 if before == alike else 1
        self._reported[service.name] = (alike, count)
        if process.stacks:
            return  # written line by line just now, as what the worker has said
        if count == 1:
            what = "traceback" if process.error and process.error[1] else "last output"
            index = f"[{process.index}]" if process.role == "worker" else ""
            text = f"{what} of {_who(service, process)}{index} pid {process.pid}:"
            self.note(text, service=service.name, level="error", output=output)
        elif count & (count - 1) == 0:
            self.note(f"{service.name}: same error again ({count} times)", service=service.name, level="error")

    def has_said(self, service: Service) -> bool:
        """Are the last words of its last failure in the log already?"""
        return self._reported.get(service.name, ([], 0))[0] == likeness(service.ledger.output)

    def note(self, text: str, *, service: str = "", level: str = "info", output: Sequence[str] = ()) -> None:
        """Something that is not a change of one process."""
        self.log.add(
            Transition(revision=0, at=self._wall(), service=service, why=text, level=level, output=list(output))
        )

    def line(self, service: Service, process: Process, stream: str, text: str, more: bool) -> None:
        """A line of a child's output."""
        index = process.index if process.role == "worker" else None
        self._journal.append(LogLine(self._wall(), service.name, index, process.pid, stream, text, more))

    def _wall(self) -> float:
        return self._clock.wall(self._clock.now())

    def _tell(self, transition: Transition) -> None:
        """The log line of a transition."""
        if transition.level == "debug":
            return
        text = str(transition)
        if transition.level != "info":
            text = f"{transition.level.upper()} {text}"
        shown = transition.output if transition.why.startswith("traceback") else transition.output[-_SHOWN:]
        if transition.to:
            shown = []  # stacks: they are in the log as lines of the process
        for line in (text, *(f"  {line}" for line in shown)):
            self._journal.append(LogLine(transition.at, "trapeze", None, None, "trapeze", line))


_VARYING = re.compile(r"0x[0-9a-fA-F]+|\b(?=[0-9a-f-]*\d)[0-9a-f]{8}[0-9a-f-]*\b|(?<!\d)(?<!, line )\d+")


def likeness(lines: Sequence[str]) -> list[str]:
    """What two outputs of one error have in common: no pids, ports, addresses, ids and times, but line numbers."""
    return [_VARYING.sub("#", line) for line in lines]


def _who(service: Service, process: Process) -> str:
    """A worker is told from the others by its index; the steps of pre_start are counted as the errors count them."""
    if process.role == "worker":
        return service.name
    return f"{service.name} {process.role}" + (f" {process.index + 1}" if process.role == "pre_start" else "")


def _url(address: str) -> str:
    """An address as people can click it."""
    return address if address.startswith(("unix:", "fd:")) else f"http://{address}"
