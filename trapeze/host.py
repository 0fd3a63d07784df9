"""What a service needs from the supervisor around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from trapeze.lifecycle import State
from trapeze.prelude import ChildHandle, ForkListener, Launch, Listener
from trapeze.process import Process
from trapeze.scoreboard import Reading, Waits

if TYPE_CHECKING:
    from trapeze.service import Service

__all__ = ["Host", "Table"]


class Table(Protocol):
    """A scoreboard, as a service uses it; see `scoreboard.Scoreboard`."""

    fd: int
    waits: int | None

    @property
    def taken(self) -> set[int]:
        """The slots that are in use."""

    def allocate(self, id: int) -> int | None:
        """Return an empty slot for process `id`; None when all are taken."""

    def free(self, slot: int) -> None:
        """Take a slot back."""

    def read(self, slot: int) -> Reading:
        """Return what stands in a slot."""

    def waited(self, slot: int) -> Waits:
        """Return how long requests have waited."""

    def departed(self) -> Waits:
        """Return the same of all workers that have left."""

    def close(self) -> None:
        """Close it."""


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

    def fork(self, zygote: ChildHandle, launch: Launch, listener: ForkListener) -> ChildHandle:
        """Have a zygote make a process; OSError if it takes no request. The pid comes by the listener."""

    def employ(self, spare: ChildHandle, launch: Launch, listener: ForkListener) -> ChildHandle:
        """Have one that stands by become a worker; OSError if it takes no request."""

    def scoreboard(self) -> Table:
        """A new scoreboard; OSError if it cannot be made."""

    def others(self, service: Service) -> Sequence[Service]:
        """All services but this one."""

    def note(self, service: Service, text: str, level: str = "info") -> None:
        """Say something about `service` that is not a change of one process."""

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
