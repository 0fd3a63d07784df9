"""One process: its state, its named deadlines, and the handle to the operating system.

The object lives exactly as long as one OS process. What follows what stands in `lifecycle.TABLE`; here it is carried
out: signals are sent and deadlines set.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from msgspec import Struct

from trapeze.lifecycle import LIVE, Effect, Event, Outcome, State, in_words, outcome, step
from trapeze.planner import Seen
from trapeze.prelude import ChildHandle

__all__ = ["Process", "Timeouts"]

_KILL_AGAIN = 5.0
"""Seconds between SIGKILLs: a process in uninterruptible sleep may take the first only later."""

_TAIL_LINES = 40


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
        self.since = now
        self.why = "spawned"
        self.handle: ChildHandle | None = None
        self.pid: int | None = None
        self.ready_at: float | None = None
        self.said = ""
        """What it says of itself (STATUS=)."""
        self.retire = False
        """Somebody wants it replaced; the planner decides when."""
        self.asked = False
        """The planner asked it to leave."""
        self.speaks = False
        """It is a worker of ours, that says when it has taken note of its stop signal."""
        self.heard_stop = False
        """It has said so."""
        self.error: tuple[str, str, str] | None = None
        """Message, traceback and hint of a worker that could not start."""
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self.outcome: Outcome | None = None
        self.stop_probe: Callable[[], None] = lambda: None
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
        return Seen(self.id, self.index, self.generation, self.state, self.since, self.retire, accepting)

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
        if next_state is not before:
            self.state, self.since = next_state, now
            self.why = why
            self.stop_probe()
        self._carry_out(effect, now, extend)
        return next_state is not before

    def _carry_out(self, effect: Effect, now: float, extend: float) -> None:
        if effect is Effect.ACCEPTED:
            self.ready_at = now
        elif effect in (Effect.TERMINATE, Effect.AWAIT_EXIT):
            # An unlimited stop_timeout does not exist: 0 means "do not wait".
            self._deadlines[State.STOPPING] = now + self._timeouts.stop
            if effect is Effect.TERMINATE and self.handle is not None:
                self.handle.send(self._timeouts.stop_signal)
        elif effect is Effect.KILL:
            self._deadlines[State.KILLING] = now + _KILL_AGAIN
            if self.handle is not None:
                self.handle.kill()
        elif effect is Effect.EXTEND and self.deadline is not None:
            # Only ever later: a child cannot shorten what the operator allowed.
            self._deadlines[self.state] = max(self._deadlines[self.state], now + extend)

    def overdue(self, now: float) -> str:
        """The reason in words why the deadline of the present state has passed."""
        if self.state is State.STARTING:
            return f"not ready in {self._timeouts.start:g} s"
        if self.state is State.STOPPING:
            return f"still there {self._timeouts.stop:g} s after the stop signal"
        if self.state is State.KILLING:
            return f"still there {now - self.since:.0f} s after SIGKILL: in uninterruptible sleep?"
        return "no heartbeat"

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
            return f"{self.error[0]} ({text})"
        if self.asked or before not in (State.STOPPING, State.KILLING) or not reason:
            early = self.ready_at is None and not self.asked and self.role == "worker"
            return f"{text} before it was ready" if early else text
        return f"{reason}, {text}"
