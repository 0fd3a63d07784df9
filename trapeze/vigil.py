"""What a service does with what its workers write into the scoreboard: finds those that hang, recycles the others.

One look at the table judges all workers of the service, and says when the next look is due: when the first of them will
have been silent for `heartbeat_timeout`, its oldest request will have taken `request_timeout`, or it will have reached
its age. Workers that are well have moved on by then, so a service is looked at about once in its shortest timeout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from trapeze.checks_worker import SLOWEST_BEAT
from trapeze.generation import Generation
from trapeze.host import Table
from trapeze.lifecycle import State
from trapeze.limits import parse_size
from trapeze.planner import unwanted
from trapeze.prelude import Launch
from trapeze.process import TO_DUMP, Process
from trapeze.scoreboard import Reading

if TYPE_CHECKING:
    from trapeze.service import Service

__all__ = ["Terms", "Verdict", "Vigil", "judge"]

_ASLEEP = 2.0
"""A look so many seconds late means that we were stopped ourselves, and our workers probably with us (a paused
container, SIGSTOP to the group): then nobody's silence counts."""


_DOUBT = 1.0
"""Seconds between the look that finds a worker hanging and the one that condemns it, a quarter of its timeout at most.
After a shorter standstill of the whole machine it only has to come round once; one that hangs never does."""


class Terms(Struct):
    """On what terms one worker serves; seconds, 0 means no limit."""

    heartbeat: float = 0.0
    request: float = 0.0
    age: float = 0.0
    next_look: float | None = None
    """Monotonic seconds; None before the first one."""
    doubted: bool = False
    """The last look found it hanging."""

    @property
    def doubt(self) -> float:
        """Seconds until the look that condemns it."""
        return min([_DOUBT, *(timeout / 4 for timeout in (self.heartbeat, self.request) if timeout)])


class Verdict(Struct, frozen=True):
    """What one look at one worker has found."""

    next_look: float | None = None
    """When it has to be looked at again, if nothing else happens; None: never."""
    kill: str = ""
    """Why it hangs, if it does."""
    shed: str = ""
    """Why it has to go although other requests in it are well."""


def judge(terms: Terms, reading: Reading | None, now: float, *, asleep: bool = False) -> Verdict:
    """Judge a worker that is ready by what it has written. Pure.

    Args:
        terms: the timeouts.
        reading: its slot; None if it has none.
        now: monotonic seconds.
        asleep: nobody has run for a while; what has taken long says nothing.
    """
    if reading is None or not (terms.heartbeat or terms.request):
        return Verdict()
    # Nonsense that is no number or lies in the future does no harm: it is a beat.
    beat = reading.beat if 0 <= reading.beat <= now else now
    times = []
    if terms.heartbeat:
        # Silence counts from the first beat on: a server that never beats is not watched.
        last = now if asleep or not beat else beat
        if now >= last + terms.heartbeat:
            return Verdict(kill=f"no heartbeat for {terms.heartbeat:g} s")
        times.append(last + terms.heartbeat)
    if terms.request:
        begun = reading.oldest if 0 < reading.oldest <= now and not asleep else now
        if now >= begun + terms.request:
            why = f"a request has taken longer than {terms.request:g} s"
            # Where the main loop stands still as well, none of the others will ever be answered.
            stuck = bool(beat and now - beat >= max(terms.request, SLOWEST_BEAT))
            lost = stuck or (reading.in_flight or 0) <= 1
            if lost:
                return Verdict(kill=why)
            return Verdict(min([*times, now + terms.request]), shed=why)
        times.append(begun + terms.request)
    return Verdict(min(times))


class Vigil:
    """Of one service."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.board: Table | None = None
        """Made with the first worker, kept over all generations, closed with the last one of a stopped service."""
        self._terms: dict[int, Terms] = {}
        """By process id."""
        self._dumping: dict[int, float] = {}
        """Workers that write their stacks and are to serve on for a while; when to tell of it, monotonic seconds."""

    # ---- the life of a worker ----

    def equip(self, process: Process, generation: Generation, launch: Launch) -> Launch:
        """Give a new worker a slot and its limits, each with its own jitter: not all are recycled at once.

        Raises:
            OSError: the scoreboard cannot be made.
        """
        spec = generation.spec
        if spec.app is None or launch.job is None:
            return launch
        if self.board is None:
            self.board = self._service.host.scoreboard()
        process.slot = self.board.allocate(process.id)
        draw = self._service.host.jitter
        more: dict[str, object] = {}
        if spec.max_requests:
            tenth = spec.max_requests // 10
            jitter = tenth if spec.max_requests_jitter is None else spec.max_requests_jitter
            more["max_requests"] = spec.max_requests + int(draw() * (jitter + 1))
        if spec.max_rss:
            more["max_rss"] = int(parse_size(spec.max_rss) * (1 - spec.recycle_jitter * draw()))
        age = spec.max_age * (1 - spec.recycle_jitter * draw()) if spec.max_age else 0.0
        if generation.terminal:  # somebody may stand in a debugger
            self._terms[process.id] = Terms(age=age)
        else:
            self._terms[process.id] = Terms(spec.heartbeat_timeout, spec.request_timeout, age)
        if process.slot is None:
            return replace(launch, job={**launch.job, **more})
        more["board"] = {"fd": self.board.fd, "slot": process.slot, "full": bool(spec.request_timeout)}
        return replace(launch, job={**launch.job, **more}, fds=(*launch.fds, self.board.fd))

    def left(self, process: Process) -> None:
        """A process is gone: its slot is another's from now on."""
        self._terms.pop(process.id, None)
        self._dumping.pop(process.id, None)
        if self.board is None:
            return
        if process.slot is not None:
            self.board.free(process.slot)
        if not self.board.taken and not self._service.want.enabled:
            self.board.close()
            self.board = None

    def reading(self, process: Process) -> Reading | None:
        """What a worker has written; None if it has no slot."""
        if self.board is None or process.slot is None:
            return None
        return self.board.read(process.slot)

    # ---- looking ----

    @property
    def due(self) -> float | None:
        """When `look` has something to do by itself, monotonic seconds."""
        ready = [self._terms[process.id] for process in self._watched()]
        times = [terms.next_look for terms in ready if terms.next_look is not None]
        return min([*times, *self._dumping.values()], default=None)

    def look(self, now: float) -> None:
        """Judge the workers if it is time to; let the next one that wishes to be recycled have its turn."""
        watched = self._watched()
        for process in watched:
            terms = self._terms[process.id]
            if terms.next_look is None and (soonest := self._first(process, terms, now)):
                terms.next_look = soonest
        planned = [at for process in watched if (at := self._terms[process.id].next_look) is not None]
        if planned and min(planned) <= now:
            asleep = now - min(planned) > _ASLEEP
            for process in watched:
                self._judge(process, self._terms[process.id], now, asleep)
        for id in [id for id, at in self._dumping.items() if at <= now]:
            self._tell_stacks(id)
        self._recycle_next()

    def _watched(self) -> list[Process]:
        return [
            process for process in self._service.workers() if process.state is State.READY and process.id in self._terms
        ]

    @staticmethod
    def _first(process: Process, terms: Terms, now: float) -> float | None:
        times = [now + seconds for seconds in (terms.heartbeat, terms.request) if seconds]
        if terms.age and process.ready_at is not None:
            times.append(process.ready_at + terms.age)
        return min(times, default=None)

    def _judge(self, process: Process, terms: Terms, now: float, asleep: bool) -> None:
        verdict = judge(terms, self.reading(process), now, asleep=asleep)
        terms.next_look = verdict.next_look
        if verdict.kill and terms.doubted:
            process.condemn(now, verdict.kill)
            return
        terms.doubted = bool(verdict.kill)
        if terms.doubted:
            terms.next_look = now + terms.doubt
            return
        if verdict.shed and not process.recycle:
            process.dump()
            process.recycle = verdict.shed
            self._dumping[process.id] = now + TO_DUMP
        if terms.age and process.ready_at is not None:
            at = process.ready_at + terms.age
            if at <= now:
                process.wish = process.wish or f"is {now - process.ready_at:.0f} s old"
            else:
                terms.next_look = at if terms.next_look is None else min(at, terms.next_look)

    def _tell_stacks(self, id: int) -> None:
        del self._dumping[id]
        process = self._service.processes[id]
        self._tell(process)
        process.stacks = None

    def _tell(self, process: Process) -> None:
        if process.state is State.READY:
            process.why = f"to be replaced: {process.recycle}"
        self._service.host.changed(self._service, process, process.state)

    def _is_leaving(self, process: Process) -> bool:
        """Will it be replaced anyway, and soon? New code that only starts may take long, or fail."""
        service, want = self._service, self._service.want
        serves = any(other.state is State.READY for other in service.workers_of(want.generation))
        if service.trial.stands_in(process) and not serves:
            want = replace(want, generation=process.generation)
        return unwanted(process.seen(), want)

    def _recycle_next(self) -> None:
        """One at a time: it is another's turn when the one before has its replacement and leaves."""
        service = self._service
        workers = service.workers()
        if any(process.live and process.recycle for process in workers):
            return
        waiting = [
            process
            for process in workers
            if process.wish and process.state is State.READY and not self._is_leaving(process)
        ]
        if waiting:
            first = min(waiting, key=lambda process: process.id)
            first.recycle = first.wish
            self._tell(first)
