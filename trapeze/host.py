"""What a service needs from the supervisor around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from trapeze.lifecycle import State
from trapeze.prelude import ChildHandle, Launch, Listener
from trapeze.process import Process

if TYPE_CHECKING:
    from trapeze.service import Service

__all__ = ["Host"]


class Host(Protocol):
    """What a service needs from the supervisor: the clock, the launcher, and somebody to tell."""

    processors: int
    """How many processors we may use."""

    def now(self) -> float:
        """Monotonic seconds."""

    def jitter(self) -> float:
        """A random draw from [0, 1)."""

    def next_id(self) -> int:
        """A number for a new process; never reused."""

    def spawn(self, launch: Launch, listener: Listener) -> ChildHandle:
        """Start a process; OSError if that failed."""

    def probe(self, service: Service, process: Process, ready: str) -> Callable[[], None]:
        """Ask until `process` is ready, then call `service.became_ready`; return how to stop asking."""

    def changed(self, service: Service, process: Process, before: State | None) -> None:
        """`process` is in another state (`before` is None: it was spawned)."""

    def ended(self, service: Service, process: Process) -> None:
        """`process` was reaped and judged."""

    def rolled_back(self, service: Service, generation: int, why: str) -> None:
        """`generation` failed; what is wanted is the last good one again."""

    def line(self, service: Service, process: Process, stream: str, text: str, more: bool) -> None:
        """A line of output."""

    def touched(self, service: Service) -> None:
        """Something happened to `service`: react soon."""

    def broken(self, service: Service) -> None:
        """An exception is being handled that nobody expected: our bug."""
