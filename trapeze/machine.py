"""The machine that all services share: the clock, the launcher, the log, and the one callback in which they react.

Every event marks a service as touched; one callback of the event loop lets the touched ones react, opens the gates of
those that wait for others, writes down what changed, and sets the one timer. Nothing here polls.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import traceback
from collections.abc import Callable, Sequence

from trapeze import report
from trapeze.chronicle import Chronicle
from trapeze.errors import StartFailed, TrapezeError
from trapeze.events import Clock
from trapeze.forks import Forking
from trapeze.generation import Generation
from trapeze.launch import Child, Launcher
from trapeze.lifecycle import Outcome, State
from trapeze.output import Journal
from trapeze.prelude import ChildHandle, ForkListener, Launch, Listener
from trapeze.probing import start_probe
from trapeze.process import Process
from trapeze.scoreboard import Scoreboard
from trapeze.service import Service
from trapeze.status import Status
from trapeze.stoporder import Place, follows_web

__all__ = ["Machine"]


class Machine:
    """The `Host` of every service. Lives on the event loop's thread."""

    def __init__(self, clock: Clock, journal: Journal, *, fail_fast: bool, sweep: Callable[[], None]) -> None:
        self.clock = clock
        self.chronicle = Chronicle(clock, journal)
        self.services: dict[str, Service] = {}
        self.status: dict[str, tuple[Status, str, float]] = {}
        """By service: status, reason, and since when (monotonic)."""
        self.rollbacks: dict[tuple[str, int], str] = {}
        """Generations that failed and why, by service and number."""
        self.error: TrapezeError | None = None
        """Why the supervisor ends with exit 1, if it does."""
        self.stopping = False
        self.finished = asyncio.Event()
        """Everything has stopped."""
        self.first: set[str] = set()
        """Services of the first start, whose failure ends everything: until the first reload nothing can be lost."""
        self.give_back: Callable[[Service, Generation], None] = lambda service, failed: None
        """Called when a generation has failed and the last good one is wanted again."""
        self.at_shutdown: list[Callable[[], None]] = []
        """Called once, when everything is to stop: for what is not a service and has to go too."""
        self.removed: set[str] = set()
        """Services that are forgotten once they are gone."""
        self.started = clock.now()
        self.processors = len(os.sched_getaffinity(0))
        self._fail_fast = fail_fast
        self._sweep = sweep
        self._loop = asyncio.get_running_loop()
        self._launcher = Launcher(self._loop)
        self._ids = itertools.count(1)
        self._touched: set[str] = set()
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None

    # ---- Host: what services ask of us ----

    def now(self) -> float:
        """Monotonic seconds."""
        return self.clock.now()

    def jitter(self) -> float:
        """A random draw from [0, 1): 53 bits, as many as `random.random` has, which takes 2 ms to import."""
        return (int.from_bytes(os.urandom(7), "big") >> 3) / 2**53

    def next_id(self) -> int:
        """A number for a new process."""
        return next(self._ids)

    def count_from(self, id: int) -> None:
        """Let `id` be the next number: those before it are another program's."""
        self._ids = itertools.count(id)

    def spawn(self, launch: Launch, listener: Listener) -> ChildHandle:
        """Start a process."""
        return self._launcher.spawn(launch, listener)

    def fork(self, zygote: ChildHandle, launch: Launch, listener: ForkListener) -> ChildHandle:
        """Have a zygote make a process."""
        assert isinstance(zygote, Forking)
        return self._launcher.fork(zygote, launch, listener)

    def employ(self, spare: ChildHandle, launch: Launch, listener: ForkListener) -> ChildHandle:
        """Have one that stands by become a worker."""
        assert isinstance(spare, Child)
        return self._launcher.employ(spare, launch, listener)

    def scoreboard(self) -> Scoreboard:
        """A new scoreboard."""
        return Scoreboard()

    def others(self, service: Service) -> Sequence[Service]:
        """All services but this one."""
        return [other for other in self.services.values() if other is not service]

    def note(self, service: Service, text: str, level: str = "info") -> None:
        """Say something about a service."""
        self.chronicle.note(f"{service.name}: {text}", service=service.name, level=level)

    def probe(self, service: Service, process: Process, ready: str) -> Callable[[], None]:
        """Ask until `process` is ready."""
        return start_probe(self._launcher, self._loop, service, process, ready)

    def touched(self, service: Service) -> None:
        """Let `service` react when the present callback is done."""
        self._touched.add(service.name)
        self.schedule()

    def changed(self, service: Service, process: Process, before: State | None) -> None:
        """Write down a change of a process; an end that ends everything is said by the error it becomes."""
        fatal = (
            process.outcome is Outcome.START_FAILED
            and service.current.spec.app is not None
            and self._is_fatal(service, process)
        )
        self.chronicle.process(service, process, before, quiet=fatal or self._quiet(service))

    def ended(self, service: Service, process: Process) -> None:
        """A process was reaped: say the last words of one that failed; a first start that failed ends everything."""
        if process.outcome is Outcome.STOPPED or process.outcome is Outcome.DONE or self._quiet(service):
            return
        if self._is_fatal(service, process):
            self._fail(service, process)
        elif service.ledger.output and (service.name, process.generation) not in self.rollbacks:
            self.chronicle.last_words(service, process)

    def line(self, service: Service, process: Process, stream: str, text: str, more: bool) -> None:
        """A line of a child's output."""
        self.chronicle.line(service, process, stream, text, more)

    def rolled_back(self, service: Service, generation: int, why: str) -> None:
        """A generation failed and the last good one is wanted again."""
        self.rollbacks[service.name, generation] = why
        self.give_back(service, service.generations[generation])
        text = f"{service.name}: generation {generation} failed, generation {service.want.generation} serves on: {why}"
        output = () if self.chronicle.has_said(service) else service.ledger.output
        self.chronicle.note(text, service=service.name, level="error", output=output)

    def broken(self, service: Service) -> None:
        """An exception in the machine is our bug: say it, leave this service as it is, keep the others alive.

        Its processes serve on; at the end they are stopped by `_stop_frozen`.
        """
        text = traceback.format_exc()
        service.frozen = text.strip().rsplit("\n", 1)[-1]
        service.wake_at = None
        self.error = TrapezeError(f"internal error in service {service.name}: {service.frozen}")
        words = f"internal error, {service.name} is left as it is"
        self.chronicle.note(words, service=service.name, level="error", output=text.rstrip().split("\n"))

    # ---- first starts ----

    def _quiet(self, service: Service) -> bool:
        """After a failed first start its siblings' ends say nothing new."""
        return self.error is not None and service.good is None

    def _is_fatal(self, service: Service, process: Process) -> bool:
        if not self._fail_fast or service.name not in self.first or service.good is not None or self.stopping:
            return False
        if process.role == "pre_start" or service.current.spec.app is not None:
            return process.outcome is Outcome.START_FAILED
        given_up = report.judge(service)[0] is Status.FAILED
        return given_up and any(service.name in other.waiting_for for other in self.services.values())

    def _fail(self, service: Service, process: Process) -> None:
        # A traceback comes by the notify channel and has not been seen; what was printed has.
        _message, output, hint = process.error or ("", "", "")
        self.error = StartFailed(f"{service.name}: {service.ledger.failure}", hint=hint, output=output.rstrip("\n"))
        self.chronicle.note(f"{service.name} failed at its first start", service=service.name, level="debug")
        service.disable()
        service.force()
        self.shutdown()

    # ---- reacting ----

    def add(self, service: Service) -> None:
        """Take up a service."""
        self.services[service.name] = service
        self.removed.discard(service.name)
        self.touched(service)

    def remove(self, name: str) -> None:
        """Stop a service and forget it."""
        self.removed.add(name)
        self.services[name].disable()
        if self.services[name].frozen:
            self._stop_frozen(self.services[name])

    def _stop_frozen(self, service: Service) -> None:
        """The planner is out of order for this one: ask its processes to leave, and kill them when the time is up."""
        generation = service.current
        for process in service.processes.values():
            if process.handle is not None:
                process.handle.send(generation.timeouts.stop_signal)
                self._loop.call_later(generation.timeouts.stop, process.handle.kill)

    @property
    def launcher(self) -> Launcher:
        """Who spawns and reaps."""
        return self._launcher

    def reap_strays(self) -> None:
        """SIGCHLD: reap orphans that came to us."""
        self._launcher.reap_strays()

    async def end_orphans(self, patience: float = 2.0) -> None:
        """The last act: nothing is left behind, not even who made a session of its own. TERM, then KILL."""
        await self._orphans_gone(0.2)  # without a word: what a zygote had forked in advance has just been told to go
        for signum, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 1.0)):
            for pid in self._launcher.orphans():
                # Its zombie is ours to reap, so the number cannot have gone to anybody else.
                self.chronicle.note(f"orphan pid {pid} is still there: {signum.name}")
                os.kill(pid, signum)
            await self._orphans_gone(seconds)

    async def _orphans_gone(self, seconds: float) -> None:
        """Wait for it, so long at most."""
        deadline = self._loop.time() + seconds
        self._launcher.reap_strays()
        while self._launcher.orphans() and self._loop.time() < deadline:
            await asyncio.sleep(0.02)
            self._launcher.reap_strays()

    def shutdown(self) -> None:
        """Stop everything, in order."""
        if not self.stopping:
            self.stopping = True
            for call in self.at_shutdown:
                call()
            for service in self.services.values():
                if service.frozen:
                    self._stop_frozen(service)
        self._touched.update(self.services)
        self.schedule()

    def schedule(self) -> None:
        """React when the present callback is done; many events in one turn of the loop make one reaction."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self.react)

    def react(self) -> None:
        """Let all touched services react, until nothing more follows from it."""
        self._scheduled = False
        while self._touched or self._open_gates():
            names, self._touched = self._touched, set()
            for service in [self.services[name] for name in names if name in self.services]:
                self._react_one(service)
        for name in [name for name in self.removed if self.services[name].gone]:
            del self.services[name], self.status[name]
            self.removed.discard(name)
        self._sweep()
        self._set_timer()
        self.chronicle.log.wake()
        gone = all(service.gone or service.frozen for service in self.services.values())
        waited_for = [child for child in self._launcher.children.values() if not child.unreachable]
        if self.stopping and gone and not waited_for:
            self.finished.set()

    def _react_one(self, service: Service) -> None:
        if service.frozen:
            return
        try:
            service.react()
        except Exception:
            self.broken(service)
        status, why = report.judge(service)
        before = self.status.get(service.name)
        if before is not None and before[:2] == (status, why):
            return
        now = self.clock.now()
        since = before[2] if before is not None and before[0] is status else now
        self.status[service.name] = (status, why, since)
        if before is None or before[0] is not status:
            quiet = self.stopping or self._quiet(service)
            self.chronicle.status(service, (before[0], before[2]) if before else None, status, why, quiet=quiet)

    def _open_gates(self) -> bool:
        """Start what waited for others that are ready now; stop what need not wait. True: somebody must react."""
        if self.stopping:
            self._stop_next()
            return bool(self._touched)
        for service in self.services.values():
            if service.waiting_for:
                others = [self.services[name] for name in service.waiting_for if name in self.services]
                left = tuple(other.name for other in others if not report.is_up(other))
                if left != service.waiting_for:
                    service.waiting_for = left
                    self._touched.add(service.name)
        return bool(self._touched)

    def _stop_next(self) -> None:
        """Stop order: who comes `after` goes before; web services go before side services that are not in front."""
        running = [service for service in self.services.values() if not service.gone]
        web = any(service.current.spec.is_web for service in running)
        specs = {name: service.current.spec for name, service in self.services.items()}
        places = {name: Place(spec.is_web, spec.after) for name, spec in specs.items()}
        for service in [service for service in self.services.values() if service.want.enabled]:
            needed = any(service.name in other.current.spec.after for other in running if other is not service)
            if not needed and (not web or service.current.spec.is_web or follows_web(service.name, places)):
                service.disable()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        times = [service.wake_at for service in self.services.values() if service.wake_at is not None]
        if times:
            self._timer = self._loop.call_at(self._loop.time() + max(0.0, min(times) - self.now()), self._wake)

    def _wake(self) -> None:
        now = self.now()
        self._touched.update(
            name for name, service in self.services.items() if service.wake_at is not None and service.wake_at <= now
        )
        self.react()
