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
from trapeze.scoreboard import Reading, Waits

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
    alone: bool = False
    """A request hangs in one of its threads and was alone in it: that need not be given all of stop_timeout."""
    told: bool = False
    """It was told to leave together with its verdict: if it comes round after all, it may."""
    ends: float | None = None
    """When what was idle in it has been closed, monotonic seconds; None before it has heard that it is to leave."""

    @property
    def doubt(self) -> float:
        """Seconds until the look that condemns it."""
        return min([_DOUBT, *(timeout / 4 for timeout in (self.heartbeat, self.request) if timeout)])

    @property
    def silence(self) -> str:
        """The verdict on a main loop that stands still."""
        return f"no heartbeat for {self.heartbeat:g} s"


class Verdict(Struct, frozen=True):
    """What one look at one worker has found."""

    next_look: float | None = None
    """When it has to be looked at again, if nothing else happens; None: never."""
    kill: str = ""
    """Why it hangs, if it does."""
    shed: str = ""
    """Why it has to go although its main loop is well."""
    alone: bool = False
    """What hangs is all that there is in it."""


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
            return Verdict(kill=terms.silence)
        times.append(last + terms.heartbeat)
    if terms.request:
        if now >= (begun := _oldest(reading, now, asleep)) + terms.request:
            why = f"a request has taken longer than {terms.request:g} s"
            if beat and now - beat >= max(terms.request, SLOWEST_BEAT):
                # None of the others will ever be answered either.
                return Verdict(kill=why)
            return Verdict(min([*times, now + terms.request]), shed=why, alone=_is_alone(reading))
        times.append(begun + terms.request)
    return Verdict(min(times))


def _oldest(reading: Reading, now: float, asleep: bool = False) -> float:
    """When the oldest request in flight began; now if there is none, or if it is nonsense."""
    return reading.oldest if 0 < reading.oldest <= now and not asleep else now


def _is_alone(reading: Reading) -> bool:
    """Is a request that hangs, hangs in a thread, and is the only one? On a loop that beats no request is lost."""
    return not reading.loop and reading.in_flight is not None and reading.in_flight <= 1


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
        place = {"fd": self.board.fd, "slot": process.slot, "full": bool(spec.request_timeout)}
        more["board"] = place if self.board.waits is None else {**place, "waits": self.board.waits}
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

    def waited(self, process: Process) -> Waits:
        """How long its requests had waited."""
        if self.board is None or process.slot is None:
            return Waits()
        return self.board.waited(process.slot)

    def departed(self) -> Waits:
        """How long the requests of those had waited that have left."""
        return Waits() if self.board is None else self.board.departed()

    # ---- looking ----

    @property
    def due(self) -> float | None:
        """When `look` has something to do by itself, monotonic seconds."""
        looked_at = [self._terms[process.id] for process in (*self._watched(), *self._leaving())]
        times = [terms.next_look for terms in looked_at if terms.next_look is not None]
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
        for process in self._leaving():
            self._see_off(process, self._terms[process.id], now)
        for process in self._condemned():
            self._look_again(process, now)
        for id in [id for id, at in self._dumping.items() if at <= now]:
            self._tell_stacks(id)
        self._recycle_next()

    def _watched(self) -> list[Process]:
        return [
            process for process in self._service.workers() if process.state is State.READY and process.id in self._terms
        ]

    def _leaving(self) -> list[Process]:
        """Those that are on their way out because of a request that was alone in them."""
        workers = [process for process in self._service.workers() if process.id in self._terms]
        return [p for p in workers if p.state is State.STOPPING and self._terms[p.id].alone]

    def _condemned(self) -> list[Process]:
        """Those that will be killed as soon as they have written their stacks, and have not come round yet."""
        workers = [process for process in self._service.workers() if process.id in self._terms]
        return [p for p in workers if p.state is State.KILLING and self._terms[p.id].told]

    def _see_off(self, process: Process, terms: Terms, now: float) -> None:
        """Kill it when nothing but the request that hangs is left in it: not before what it had accepted without having
        read it has become a request, or was closed as idle."""
        if terms.ends is None and process.heard_stop:
            terms.ends = now + self._service.generations[process.generation].spec.drain_grace + TO_DUMP
        if terms.ends is None or now < terms.ends:
            terms.next_look = terms.ends
            return
        terms.next_look = now + TO_DUMP
        reading = self.reading(process)
        if reading is not None and _is_alone(reading) and now >= _oldest(reading, now) + terms.request:
            process.condemn(now, process.recycle)

    def _look_again(self, process: Process, now: float) -> None:
        """Once more before the kill."""
        reading = self.reading(process)
        if process.deadline is not None and process.deadline <= now:
            self._terms[process.id].told = False
            if reading is not None and process.since < reading.beat <= now:
                process.reprieve(now)

    @staticmethod
    def _first(process: Process, terms: Terms, now: float) -> float | None:
        times = [now + seconds for seconds in (terms.heartbeat, terms.request) if seconds]
        if terms.age and process.ready_at is not None:
            times.append(process.ready_at + terms.age)
        return min(times, default=None)

    def _judge(self, process: Process, terms: Terms, now: float, asleep: bool) -> None:
        verdict = judge(terms, self.reading(process), now, asleep=asleep)
        terms.next_look = verdict.next_look
        hangs = bool(verdict.kill or (verdict.shed and not process.recycle))
        if hangs and not terms.doubted:
            terms.doubted, terms.next_look = True, now + terms.doubt
            return
        terms.doubted = False
        if verdict.kill:
            process.condemn(now, verdict.kill)
            terms.told = verdict.kill != terms.silence
            if terms.told:
                process.tell_to_leave()
            return
        if hangs:
            self._shed(process, terms, verdict, now)
        if terms.age and process.ready_at is not None:
            at = process.ready_at + terms.age
            if at <= now:
                process.wish = process.wish or f"is {now - process.ready_at:.0f} s old"
            else:
                terms.next_look = at if terms.next_look is None else min(at, terms.next_look)

    def _shed(self, process: Process, terms: Terms, verdict: Verdict, now: float) -> None:
        process.dump()
        process.recycle = verdict.shed
        terms.alone = verdict.alone
        if terms.alone:
            self._tell(process)  # its stacks go with its end
        else:
            self._dumping[process.id] = now + TO_DUMP

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
