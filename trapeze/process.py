"""One process: its state, its named deadlines, and the handle to the operating system.

The object lives exactly as long as one OS process. What follows what stands in `lifecycle.TABLE`; here it is carried
out: signals are sent and deadlines set.
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Sequence

from msgspec import Struct

from trapeze.lifecycle import LIVE, Effect, Event, Outcome, State, in_words, outcome, step
from trapeze.planner import Seen
from trapeze.prelude import DUMP_SIGNAL, ChildHandle
from trapeze.sockets import ListenSocket

__all__ = ["TO_DUMP", "Process", "Timeouts"]

_KILL_AGAIN = 5.0
"""Seconds between SIGKILLs: a process in uninterruptible sleep may take the first only later."""

TO_DUMP = 0.5
"""Seconds between the request for the stacks and SIGKILL: it takes milliseconds, where it works at all."""

_TAIL_LINES = 40
_SAID = 200
"""Characters that are kept of what it had said when it was not ready in time."""

_START_FAILED = 3
"""Exit status of a worker of ours that has said why it cannot start."""

_STACK_LINES = 400
"""Lines of a dump that are kept: a hundred threads come to a thousand or more."""


class Timeouts(Struct, frozen=True):
    """The clocks of one process, in seconds; 0 means no limit."""

    start: float
    stop: float
    stop_signal: int


class Process:
    """One incarnation. `role` is "worker", or "pre_start" for a command that runs before the first worker."""

    def __init__(
        self, id: int, index: int, generation: int, timeouts: Timeouts, now: float, *, role: str = "worker"
    ) -> None:
        self.id = id
        self.index = index
        self.generation = generation
        self.role = role
        self.state = State.STARTING
        self.born = now
        """When it was spawned, monotonic seconds."""
        self.since = now
        self.why = "spawned"
        self.handle: ChildHandle | None = None
        self.pid: int | None = None
        self.ready_at: float | None = None
        self.said = ""
        """What it says of itself (STATUS=)."""
        self.retire = False
        """Somebody wants it replaced; the planner decides when."""
        self.wish = ""
        """Why it should be recycled, when its turn has come."""
        self.recycle = ""
        """Why it is being recycled now."""
        self.slot: int | None = None
        """In the scoreboard."""
        self.stacks: list[str] | None = None
        """What it has written on stderr since it was asked for its stacks; None if it was not."""
        self.asked = False
        """The planner asked it to leave."""
        self.imports = ""
        """What it imports for others, and is ready once it has."""
        self.speaks = False
        """It is a worker of ours, that says when it has taken note of its stop signal."""
        self.heard_stop = False
        """It has said so."""
        self.held: list[ListenSocket] = []
        """Sockets whose queue has to be empty before it gets its stop signal; see `lastout`."""
        self.own: Sequence[ListenSocket] = ()
        """Sockets that nobody else accepts on (`listen = "reuseport"`); ours are closed when it is to close its own."""
        self.error: tuple[str, str, str] | None = None
        """Message, traceback and hint of a worker that could not start."""
        self.overran: float | None = None
        """When its time to become ready was over, monotonic seconds: from then on it is replaced."""
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self.outcome: Outcome | None = None
        self.stop_probe: Callable[[], None] = lambda: None
        self._verdict = ""
        self._timeouts = timeouts
        self._deadlines: dict[State, float] = {}
        if timeouts.start:
            self._deadlines[State.STARTING] = now + timeouts.start

    @property
    def deadline(self) -> float | None:
        """When something has to happen by itself: the deadline of the present state, monotonic seconds."""
        return self._deadlines.get(self.state)

    @property
    def live(self) -> bool:
        """Does it count towards what the service wants?"""
        return self.state in LIVE

    def seen(self) -> Seen:
        """The process as the planner sees it."""
        accepting = self.state is State.STOPPING and self.speaks and not self.heard_stop
        return Seen(self.id, self.index, self.generation, self.state, self.since, self.retire, accepting, self.recycle)

    def uptime(self, now: float) -> float:
        """Seconds since it became ready; 0 if it never did."""
        return 0.0 if self.ready_at is None else now - self.ready_at

    def apply(self, event: Event, now: float, why: str = "", *, extend: float = 0.0) -> bool:
        """Let `event` happen; carry out its effect. Return whether the state changed.

        Args:
            event: what happened.
            now: monotonic seconds.
            why: the reason in words, kept with the new state.
            extend: for EXTEND, the seconds from now that the present state may take.
        """
        before = self.state
        next_state, effect = step(before, event)
        if before is State.STARTING and event in (Event.DEADLINE, Event.HUNG):
            self.overran = now
        if next_state is not before:
            self.state, self.since = next_state, now
            self.why = why
            self.stop_probe()
            if next_state is State.EXITED:
                self._let_go()
        self._carry_out(effect, now, extend)
        return next_state is not before

    @property
    def stop_timeout(self) -> float:
        """Seconds it has to leave, from the moment on when it was wanted to."""
        return self._timeouts.stop

    def release(self, now: float) -> None:
        """Send the stop signal that was held back, and say before how much of the time is left."""
        self.held = []
        if self.handle is not None:
            self.handle.tell(f"STOP_TIMEOUT={max(0.0, (self.deadline or now) - now):.3f}")
            self.handle.send(self._timeouts.stop_signal)
        self._let_go()

    def _let_go(self) -> None:
        """Held by us, they would go on listening when it has closed them."""
        for sock in self.own:
            sock.close()
        self.own = ()

    def _carry_out(self, effect: Effect, now: float, extend: float) -> None:
        if effect is Effect.ACCEPTED:
            self.ready_at = now
            if self.handle is not None:
                self.handle.hurry()
        elif effect in (Effect.TERMINATE, Effect.AWAIT_EXIT):
            # An unlimited stop_timeout does not exist: 0 means "do not wait".
            self._deadlines[State.STOPPING] = now + self._timeouts.stop
            if effect is Effect.TERMINATE and self.handle is not None and not self.held:
                self.handle.send(self._timeouts.stop_signal)
            if not self.held:
                self._let_go()
        elif effect is Effect.DUMP:
            self._deadlines[State.KILLING] = now + TO_DUMP
            self.dump()
        elif effect is Effect.KILL:
            self._deadlines[State.KILLING] = now + _KILL_AGAIN
            if self.handle is not None:
                self.handle.kill()
        elif effect is Effect.EXTEND and self.deadline is not None:
            # Only ever later: a child cannot shorten what the operator allowed.
            self._deadlines[self.state] = max(self._deadlines[self.state], now + extend)

    def dump(self) -> None:
        """Have it write the stacks of all its threads on stderr. One that is stopped (SIGSTOP) would not: wake it."""
        self.stacks = []
        if self.handle is not None:
            self.handle.send(DUMP_SIGNAL)
            self.handle.send(signal.SIGCONT)

    def line(self, stream: str, text: str) -> None:
        """It has written a line."""
        self.tail.append(text)
        if self.stacks is not None and stream == "stderr" and len(self.stacks) < _STACK_LINES:
            self.stacks.append(text)

    def condemn(self, now: float, why: str) -> None:
        """It hangs: the deadline of its state is now."""
        self._deadlines[self.state] = now
        self._verdict = why

    def tell_to_leave(self) -> None:
        """It is condemned, and will be killed: if it comes round before, it takes nothing new."""
        if self.handle is not None:
            self.handle.send(self._timeouts.stop_signal)

    def reprieve(self, now: float) -> None:
        """It was to be killed, and has come round after all: it has the time that others have to leave."""
        self._deadlines[State.KILLING] = now + self._timeouts.stop

    @property
    def expiry(self) -> Event:
        """What it is that the deadline of the present state has passed: what is ours can say where it hangs."""
        ours = self.speaks or self.role in ("zygote", "spare", "heir")
        return Event.HUNG if ours and self.state is State.STARTING else Event.DEADLINE

    def overdue(self, now: float) -> str:
        """The reason in words why the deadline of the present state has passed."""
        if self.state is State.STARTING:
            return self._late()
        if self.state is State.STOPPING:
            before = "" if self.overran is None else f"{self.why}, "
            return self._verdict or f"{before}still there {self._timeouts.stop:g} s after the stop signal"
        if self.state is State.KILLING:
            return f"still there {now - self.since:.0f} s after SIGKILL: in uninterruptible sleep?"
        return self._verdict

    def _late(self) -> str:
        """What was to happen in time, and what came in its place: the probe's last answer, or its own STATUS=."""
        what = "done" if self.role == "pre_start" else "ready"
        said = self.said if len(self.said) <= _SAID else f"{self.said[:_SAID]} [...]"
        return f"not {what} in {self._timeouts.start:g} s" + (f" ({said})" if said else "")

    def bury(self, status: int, now: float) -> Outcome:
        """The process was reaped with `status`. Return how that is to be judged."""
        before, reason = self.state, self.why
        # A command that runs before the first worker is never "ready": its exit 0 is its success.
        served = self.ready_at is not None or (self.role == "pre_start" and before is State.STARTING and status == 0)
        self.outcome = outcome(before, asked=self.asked, was_ready=served, status=status)
        self.apply(Event.EXIT, now, self._epitaph(before, reason, status))
        return self.outcome

    def _epitaph(self, before: State, reason: str, status: int) -> str:
        text = in_words(status)
        if self.error is not None:
            # That it has exited so says nothing that its reason does not say; any other end does.
            return self.error[0] if status == _START_FAILED else f"{self.error[0]} ({text})"
        if self.asked and self.recycle and not (self._verdict and before is State.KILLING):
            return f"{text} (recycled: {self.recycle})"
        if (self.asked and not self._verdict) or before not in (State.STOPPING, State.KILLING) or not reason:
            return self._plain_epitaph(text)
        return f"{reason}, {text}"

    def _plain_epitaph(self, text: str) -> str:
        if self.ready_at is not None or self.asked:
            return text
        if self.imports:
            return f"{text} while importing {self.imports}"
        return f"{text} before it was ready" if self.role == "worker" else text
