"""A service: what is wanted of it, the processes it has, and the step from one to the other.

Whatever happens is applied at once, synchronously; then `react()` asks the planner until it wants nothing more. There
are no procedures that could be interrupted, so there is nothing to lock: a scale during a reload during a crash is just
another plan.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from trapeze import notify, restart
from trapeze.generation import Generation
from trapeze.host import Host
from trapeze.ledger import Ledger
from trapeze.lifecycle import Event, Outcome, State
from trapeze.planner import Gate, Plan, Prepare, Rules, Spawn, Stop, Want, outdated, pace, plan, settled
from trapeze.process import Process

__all__ = ["Service"]


_TAIL_WIDTH = 1000
"""Characters of a line that are kept for a process's last words."""


class Service:
    """One service. All methods are synchronous and called from the event loop's thread."""

    def __init__(self, name: str, host: Host, generation: Generation) -> None:
        self.name = name
        self.host = host
        spec = generation.spec
        self.generations: dict[int, Generation] = {generation.number: generation}
        self.want = Want(spec.workers, generation.number, spec.enabled)
        self.good: int | None = None
        """The last generation that settled: what a failed one falls back to."""
        self.processes: dict[int, Process] = {}
        self.ledger = Ledger()
        self.waiting_for: tuple[str, ...] = (spec.after and tuple(spec.after)) or ()
        """Services that have still to be ready before the first process may start."""
        self.steps_done = 0
        """pre_start commands of this generation that exited 0."""
        self.facts = notify.Facts()
        self.frozen = ""
        self.wake_at: float | None = None
        self.begun: float | None = None
        """When its very first worker was spawned, monotonic seconds."""
        self.top = generation.number
        """The highest generation number used."""

    # ---- what is wanted: the verbs, each a change of `want` ----

    @property
    def current(self) -> Generation:
        """The generation that is wanted."""
        return self.generations[self.want.generation]

    def adopt(self, generation: Generation) -> None:
        """Want another generation (a reload)."""
        before = self.current.spec
        after = generation.spec
        # A scale done at run time stays, unless the file's own value is another now.
        count = after.workers if after.workers != before.workers else self.want.count
        enabled = after.enabled if after.enabled != before.enabled else self.want.enabled
        self.generations[generation.number] = generation
        self.top = generation.number
        self.want = Want(count, generation.number, enabled)
        self._begin_anew()

    def scale(self, count: int) -> None:
        """Want `count` processes."""
        self.want = replace(self.want, count=count)
        self.host.touched(self)

    def enable(self) -> None:
        """Want it to run."""
        if not self.want.enabled:
            self.want = replace(self.want, enabled=True)
        self._begin_anew()

    def disable(self) -> None:
        """Want it to stop."""
        self.want = replace(self.want, enabled=False)
        self.host.touched(self)

    def restart(self, process: int | None = None) -> None:
        """Want its processes (or one) replaced by new ones of the same generation."""
        for found in self.processes.values():
            if found.live and process in (None, found.id):
                found.retire = True
        self._begin_anew()

    def _begin_anew(self) -> None:
        """Forget failures and finished tasks: somebody wants it tried now."""
        self.ledger.begin_anew()
        if not any(process.live for process in self.processes.values() if process.generation == self.want.generation):
            self.steps_done = 0
        self.host.touched(self)

    def force(self) -> None:
        """Kill what is still there."""
        for process in list(self.processes.values()):
            process.asked = True
            self._apply(process, Event.FORCE, "not waited for")

    # ---- what is: events ----

    def became_ready(self, process: Process, why: str = "ready") -> None:
        """It said, or its probe found, that it serves."""
        if process.id in self.processes and process.state is State.STARTING:
            self._apply(process, Event.READY, why)
            self.host.touched(self)

    def heard(self, process: Process, message: notify.Message) -> None:
        """The process said something."""
        if message.facts is not None:
            self.facts = message.facts
        if message.error is not None:
            process.error = (message.error.message, message.error.traceback, message.error.hint)
        if message.status is not None:
            process.said = message.status
        if message.extend is not None:
            self._apply(process, Event.EXTEND, extend=message.extend)
        if message.ready:
            self.became_ready(process)
        if message.stopping:
            process.heard_stop = True
            if process.live:
                self._apply(process, Event.LEAVING, "leaves of its own accord")
        self.host.touched(self)

    def exited(self, process: Process, status: int) -> None:
        """The process was reaped."""
        now = self.host.now()
        before = process.state
        judged = process.bury(status, now)
        self.host.changed(self, process, before)
        if process.role == "pre_start" and judged is Outcome.DONE:
            self.steps_done += process.generation == self.want.generation
        else:
            self._account(process, status, now)
        self.host.ended(self, process)
        del self.processes[process.id]
        self.host.touched(self)

    def _account(self, process: Process, status: int, now: float) -> None:
        """Let the end of a process count; a generation that is beyond hope gives way to the last good one."""
        policy = self.generations[process.generation].spec.restarts
        current = process.generation == self.want.generation
        self.ledger.enter(process, status, now, policy, self.host.jitter(), current=current)
        if self.ledger.history.exhausted and self.good not in (None, self.want.generation):
            assert self.good is not None
            failed = self.want.generation
            self.want = replace(self.want, generation=self.good)
            self.ledger.history = restart.FRESH
            self.steps_done = len(self.current.steps)
            self.host.rolled_back(self, failed, self.ledger.failure)

    # ---- from one to the other ----

    @property
    def rules(self) -> Rules:
        """How it may be changed: web services overlap, the others must not."""
        spec = self.current.spec
        return Rules(spec.max_surge, spec.max_unavailable, exclusive=not spec.is_web)

    def workers(self) -> list[Process]:
        """Its processes, without the pre_start commands."""
        return [process for process in self.processes.values() if process.role == "worker"]

    def _current_workers(self) -> list[Process]:
        return [process for process in self.workers() if process.generation == self.want.generation]

    def plan(self) -> Plan:
        """What the planner says now."""
        limit, retry_at = self._limit()
        steps = [process for process in self.processes.values() if process.role == "pre_start"]
        gate = Gate(
            open=not self.waiting_for,
            limit=limit,
            retry_at=retry_at,
            finished=frozenset(self.ledger.finished),
            steps_left=bool(steps) or self.steps_done < len(self.current.steps),
            step_running=bool(steps),
        )
        return plan([process.seen() for process in self.workers()], self.want, self.rules, gate)

    def _limit(self) -> tuple[int | None, float | None]:
        """How many may be spawned now, and when that may be different."""
        now = self.host.now()
        limit = restart.may_spawn(self.ledger.history, now)
        starting = sum(process.state is State.STARTING for process in self.workers())
        if limit == 1 and starting:
            return 0, None  # the end of the one that starts is what to wait for
        first = self.good is None and self.current.spec.app is not None
        if limit is None and first and not any(process.state is State.READY for process in self.workers()):
            return pace(starting, self.host.processors, now, self.begun)
        return limit, self.ledger.history.not_before

    def react(self) -> None:
        """Do what the planner says until it says nothing more; note when to be woken."""
        if self.frozen:
            return
        now = self.host.now()
        for process in [p for p in self.processes.values() if p.deadline is not None and p.deadline <= now]:
            self._apply(process, Event.DEADLINE, process.overdue(now))
        self.ledger.forgive(self._current_workers(), now, self.current.spec.restarts)
        self._stop_steps()
        while (todo := self.plan()).actions:
            for action in todo.actions:
                if isinstance(action, Stop):
                    self._stop(action)
                elif isinstance(action, Spawn):
                    self._spawn(action.index)
                else:
                    assert isinstance(action, Prepare)
                    self._spawn(self.steps_done, role="pre_start")
        self._settle()
        self.wake_at = self._next_wake(todo, now)

    def _stop(self, action: Stop) -> None:
        process = self.processes[action.id]
        process.asked = True
        self._apply(process, Event.STOP, action.why)

    def _stop_steps(self) -> None:
        """A pre_start command of a generation that nobody wants any more has to go."""
        for process in self.processes.values():
            if process.role == "pre_start" and process.live and outdated(replace(process.seen(), index=0), self.want):
                process.asked = True
                self._apply(process, Event.STOP, "no longer wanted")

    def _spawn(self, index: int, *, role: str = "worker") -> None:
        generation = self.current
        timeouts = generation.timeouts if role == "worker" else generation.step_timeouts
        now = self.host.now()
        process = Process(self.host.next_id(), index, generation.number, timeouts, now, role=role)
        self.processes[process.id] = process
        worker = role == "worker"
        if worker and self.begun is None:
            self.begun = now
        launch = generation.launch(self.name, index) if worker else generation.launch_step(self.name, index)
        try:
            process.handle = self.host.spawn(launch, _Ear(self, process))
        except OSError as error:
            self._spawn_failed(process, error, now)
            return
        process.pid = process.handle.pid
        self.host.changed(self, process, None)
        spec = generation.spec
        process.speaks = worker and spec.app is not None
        if worker and spec.app is None:
            if spec.ready is None:
                self.became_ready(process, "runs")
            elif spec.ready != "notify":
                process.stop_probe = self.host.probe(self, process, spec.ready)

    def _spawn_failed(self, process: Process, error: OSError, now: float) -> None:
        process.error = (f"cannot start: {error.strerror}: {error.filename}" if error.filename else str(error), "", "")
        process.outcome = Outcome.START_FAILED
        self._apply(process, Event.SPAWN_FAILED, process.error[0])
        self._account(process, 127, now)
        self.host.ended(self, process)
        del self.processes[process.id]

    def _apply(self, process: Process, event: Event, why: str = "", *, extend: float = 0.0) -> None:
        before = process.state
        if process.apply(event, self.host.now(), why, extend=extend):
            self.host.changed(self, process, before)

    def _settle(self) -> None:
        if self.is_settled() and self.want.enabled and self._is_proved():
            self.good = self.want.generation
            self.ledger.whole()
        used = {process.generation for process in self.processes.values()} | {self.want.generation, self.good}
        self.generations = {number: made for number, made in self.generations.items() if number in used}

    def _is_proved(self) -> bool:
        """A task is good when it has ended well, everything else when it is ready."""
        finished = self.ledger.finished.values()
        spec = self.current.spec
        ended = not spec.is_task or spec.ready is not None or len(finished) >= self.want.count
        return ended and not any(finished)

    def is_settled(self) -> bool:
        """Is what is wanted so?"""
        view = [process.seen() for process in self.workers()]
        return settled(view, self.want, frozenset(self.ledger.finished))

    def _next_wake(self, todo: Plan, now: float) -> float | None:
        times = [process.deadline for process in self.processes.values()]
        times.append(todo.wake_at)
        times.append(self.ledger.forgiveness_due(self._current_workers(), now, self.current.spec.restarts))
        return min((at for at in times if at is not None), default=None)

    @property
    def gone(self) -> bool:
        """Nothing of it is left that we could wait for."""
        return all(process.handle is not None and process.handle.unreachable for process in self.processes.values())

    def retained(self) -> Sequence[Generation]:
        """The generations it still refers to."""
        return list(self.generations.values())


class _Ear:
    """Passes on what one child says."""

    def __init__(self, service: Service, process: Process) -> None:
        self._service = service
        self._process = process
        self._inside = False
        """The line that came last goes on."""

    def on_line(self, stream: str, text: str, more: bool) -> None:
        if not self._inside:
            self._process.tail.append(text if len(text) <= _TAIL_WIDTH else f"{text[:_TAIL_WIDTH]} [...]")
        self._inside = more
        self._service.host.line(self._service, self._process, stream, text, more)

    def on_message(self, datagram: bytes) -> None:
        try:
            self._service.heard(self._process, notify.parse(datagram))
        except Exception:
            self._service.host.broken(self._service)

    def on_exit(self, status: int) -> None:
        try:
            self._service.exited(self._process, status)
        except Exception:
            self._service.host.broken(self._service)
