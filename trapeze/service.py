"""A service: what is wanted of it, the processes it has, and the step from one to the other.

Whatever happens is applied at once, synchronously; then `react()` asks the planner until it wants nothing more. There
are no procedures that could be interrupted, so there is nothing to lock: a scale during a reload during a crash is just
another plan.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from trapeze import notify
from trapeze.ear import Ear
from trapeze.gate import gate
from trapeze.generation import Generation
from trapeze.host import Host
from trapeze.lastout import LastOut
from trapeze.ledger import Ledger
from trapeze.lifecycle import Event, Outcome, State
from trapeze.orders import Orders
from trapeze.planner import Plan, Prepare, Rules, Spawn, Stop, Want, outdated, plan, settled
from trapeze.process import Process
from trapeze.trial import Trial
from trapeze.vigil import Vigil
from trapeze.zygotes import IMPORTS, Zygotes

__all__ = ["Service"]


class Service:
    """One service. All methods are synchronous and called from the event loop's thread."""

    def __init__(self, name: str, host: Host, generation: Generation) -> None:
        self.name = name
        self.host = host
        spec = generation.spec
        self.generations: dict[int, Generation] = {generation.number: generation}
        self.orders = Orders()
        self.want: Want = self.orders.want(generation)
        self.good: int | None = None
        """The last generation that settled: what a failed one falls back to."""
        self.past: list[int] = []
        """Earlier good generations that are kept for `rollback`, the latest last."""
        self.processes: dict[int, Process] = {}
        self.zygotes = Zygotes(self)
        self.vigil = Vigil(self)
        self.trial = Trial(self)
        self.last_out = LastOut(self)
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
        self.top = generation.number
        self._go_over(generation)

    def rollback(self, generation: Generation) -> None:
        """Want an earlier generation again, one of `past` or the last good one."""
        self._go_over(generation)

    def _go_over(self, generation: Generation) -> None:
        self.orders.hand_on(self.current, generation)
        self.generations[generation.number] = generation
        self.want = self.orders.want(generation)
        self._begin_anew()

    def scale(self, count: int) -> None:
        """Want `count` processes."""
        self.orders.scale(count, self._in_question)
        self.want = self.orders.want(self.current)
        self.host.touched(self)

    @property
    def _in_question(self) -> set[int]:
        """The generations that an order is for: in the middle of a reload nobody knows which one will serve."""
        return {self.want.generation} | ({self.good} if self.good is not None else set())

    def enable(self) -> None:
        """Want it to run."""
        if not self.want.enabled:
            self.trial.renew()
            self._switch(True)
        self._begin_anew()

    def disable(self) -> None:
        """Want it to stop."""
        self._switch(False)
        self.trial.unbroken = False
        self.host.touched(self)

    def _switch(self, enabled: bool) -> None:
        self.orders.switch(enabled, self._in_question)
        self.want = self.orders.want(self.current)

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

    @property
    def predecessor(self) -> int | None:
        """The generation that `rollback` goes to: the last good one, or when that serves the one before."""
        if self.good is not None and self.good != self.want.generation:
            return self.good
        return self.past[-1] if self.past else None

    # ---- what is: events ----

    def became_ready(self, process: Process, why: str = "ready") -> None:
        """It said, or its probe found, that it serves."""
        if process.id in self.processes and process.state is State.STARTING:
            if error := self.trial.take_sockets(process):
                process.error = (str(error), "", error.hint)
                self._apply(process, Event.STOP, str(error))
            else:
                self._apply(process, Event.READY, why)
            self.host.touched(self)

    def heard(self, process: Process, message: notify.Message) -> None:
        """The process said something."""
        if message.facts is not None:
            self.facts = message.facts
            if message.ready and process.role in IMPORTS and process.state is State.STARTING:
                self.zygotes.became_ready(process, message.facts.unsafe)
        if message.error is not None:
            process.error = (message.error.message, message.error.traceback, message.error.hint)
        if message.status is not None:
            process.said = message.status
        process.wish = message.recycle or process.wish
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
        elif process.role not in IMPORTS or self.zygotes.ended(process, now):
            self.trial.account(process, status, now)
        self.host.ended(self, process)
        del self.processes[process.id]
        self.vigil.left(process)
        self.host.touched(self)

    def born(self, process: Process, pid: int) -> None:
        """A zygote has made it."""
        process.pid = pid
        process.since = self.host.now()  # it may have waited for its turn
        self.host.changed(self, process, None)

    def unborn(self, process: Process, reason: str) -> None:
        """A zygote could not make it."""
        if process.state is State.STARTING:
            self._spawn_failed(process, f"cannot start: {reason}", self.host.now())
            self.host.touched(self)
        elif process.id in self.processes:
            self.exited(process, 0)

    # ---- from one to the other ----

    @property
    def rules(self) -> Rules:
        """How it may be changed: web services overlap, others must not. Back to what is in memory all go at once."""
        spec = self.current.spec
        back = self.want.generation != self.top and self.zygotes.forks(self.want.generation)
        return Rules(max(spec.max_surge, self.want.count * back), spec.max_unavailable, exclusive=not spec.is_web)

    def workers(self) -> list[Process]:
        """Its processes, without the pre_start commands."""
        return [process for process in self.processes.values() if process.role == "worker"]

    def workers_of(self, generation: int) -> list[Process]:
        """Those of one generation."""
        return [process for process in self.workers() if process.generation == generation]

    def plan(self) -> Plan:
        """What the planner says now."""
        return plan([process.seen() for process in self.workers()], self.want, self.rules, gate(self))

    def react(self) -> None:
        """Do what the planner says until it says nothing more; note when to be woken."""
        if self.frozen:
            return
        now = self.host.now()
        self.vigil.look(now)
        for process in [p for p in self.processes.values() if p.deadline is not None and p.deadline <= now]:
            self._apply(process, process.expiry, process.overdue(now))
        self.ledger.forgive(self.workers_of(self.want.generation), now, self.current.spec.restarts)
        self._stop_unwanted()
        while (todo := self.plan()).actions:
            for action in todo.actions:
                if isinstance(action, Stop):
                    self._stop(action, todo)
                elif isinstance(action, Spawn):
                    self._spawn(action.index, generation=action.generation)
                else:
                    assert isinstance(action, Prepare)
                    self._prepare()
        self._settle()
        self._stop_unwanted()
        if missing := self.zygotes.missing(now):
            self._spawn(0, role=missing)
        self.wake_at = self._next_wake(todo, now)

    def _stop(self, action: Stop, todo: Plan) -> None:
        process = self.processes[action.id]
        self.last_out.hold(process, todo)
        process.asked = True
        self._apply(process, Event.STOP, action.why)

    def _stop_unwanted(self) -> None:
        """A pre_start command of a generation that nobody wants any more has to go; imports likewise."""
        steps = [process for process in self.processes.values() if process.role == "pre_start" and process.live]
        old = [process for process in steps if outdated(replace(process.seen(), index=0), self.want)]
        for process in (*old, *self.zygotes.unwanted()):
            process.asked = True
            self._apply(process, Event.STOP, "no longer wanted")

    def _prepare(self) -> None:
        """What comes before the first worker: the commands of pre_start, then the import of the app."""
        if self.steps_done < len(self.current.steps):
            self._spawn(self.steps_done, role="pre_start")
        else:
            self._spawn(0, role="zygote")

    def _spawn(self, index: int, *, role: str = "worker", generation: int | None = None) -> None:
        made = self.current if generation is None else self.generations[generation]
        timeouts = made.step_timeouts if role == "pre_start" else made.timeouts
        now = self.host.now()
        process = Process(self.host.next_id(), index, made.number, timeouts, now, role=role)
        self.processes[process.id] = process
        worker = role == "worker"
        if worker and self.begun is None:
            self.begun = now
        try:
            process.handle = self.zygotes.make(process, made, Ear(self, process))
        except OSError as error:
            text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror or str(error)
            self._spawn_failed(process, f"cannot start: {text}", now)
            return
        if process.handle.pid:  # a zygote tells it later
            process.pid = process.handle.pid
            self.host.changed(self, process, None)
        spec = made.spec
        process.speaks = worker and spec.app is not None
        process.imports = (spec.app or "").partition(":")[0] if role in IMPORTS else ""
        if worker and spec.app is None:
            if spec.ready is None:
                self.became_ready(process, "runs")
            elif spec.ready != "notify":
                process.stop_probe = self.host.probe(self, process, spec.ready)

    def _spawn_failed(self, process: Process, reason: str, now: float) -> None:
        process.error = (reason, "", "")
        process.outcome = Outcome.START_FAILED
        self._apply(process, Event.SPAWN_FAILED, process.error[0])
        if process.role != "heir" or self.zygotes.ended(process, now):  # that one is no import: nobody has failed
            self.trial.account(process, 127, now)
        self.host.ended(self, process)
        del self.processes[process.id]
        self.vigil.left(process)

    def _apply(self, process: Process, event: Event, why: str = "", *, extend: float = 0.0) -> None:
        before = process.state
        if process.apply(event, self.host.now(), why, extend=extend):
            self.host.changed(self, process, before)

    def _settle(self) -> None:
        if self.is_settled() and self.want.enabled and self._is_proved():
            self.past = self.zygotes.kept(self.past, self.good, self.want.generation)
            self.good = self.want.generation
            self.trial.unbroken = True
            self.ledger.whole()
        used = {process.generation for process in self.processes.values()} | {self.want.generation, self.good}
        self.generations = {number: made for number, made in self.generations.items() if number in used}
        self.orders.forget(used)

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
        times += [todo.wake_at, self.zygotes.due(now), self.vigil.due, self.last_out.attend(now)]
        times.append(
            self.ledger.forgiveness_due(self.workers_of(self.want.generation), now, self.current.spec.restarts)
        )
        return min((at for at in times if at is not None), default=None)

    @property
    def gone(self) -> bool:
        """Nothing of it is left that we could wait for."""
        return all(process.handle is not None and process.handle.unreachable for process in self.processes.values())

    def retained(self) -> Sequence[Generation]:
        """The generations whose sockets it still needs: those kept for `rollback` get the sockets of their day."""
        serving = {process.generation for process in self.workers()} | {self.want.generation, self.good}
        return [made for number, made in self.generations.items() if number in serving]
