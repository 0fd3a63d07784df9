"""A `Host` without an operating system: a clock that the test moves, children that do what the test says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from trapeze.generation import Generation
from trapeze.lifecycle import State
from trapeze.prelude import ChildHandle, ForkListener, Launch, Listener
from trapeze.process import Process
from trapeze.scoreboard import Reading, Waits
from trapeze.service import Service
from trapeze.sockets import ListenSocket
from trapeze.spec import ServiceSpec

__all__ = ["FakeBoard", "FakeChild", "FakeHost"]


@dataclass
class FakeChild:
    """A child that exists only on paper."""

    pid: int
    launch: Launch
    listener: Listener
    signals: list[int] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    unreachable: bool = False
    gives_way: bool = False

    def give_way(self) -> None:
        self.gives_way = True

    def hurry(self) -> None:
        self.gives_way = False

    def send(self, signum: int) -> None:
        self.signals.append(signum)

    def tell(self, text: str) -> None:
        self.told.append(text)

    def kill(self) -> None:
        self.signals.append(-9)

    def ready(self) -> None:
        self.listener.on_message(b"READY=1")

    def exit(self, status: int = 0) -> None:
        self.listener.on_exit(status)


class FakeBoard:
    """A scoreboard into which the test writes."""

    EMPTY = Reading(beat=0, requests=0, in_flight=None, full=False, oldest=0, gap=0, classes=(), times=())

    def __init__(self) -> None:
        self.fd = 99
        self.waits: int | None = None
        self.slots: dict[int, Reading] = {}
        self.closed = False

    @property
    def taken(self) -> set[int]:
        return set(self.slots)

    def allocate(self, id: int) -> int | None:
        slot = next(number for number in range(1000) if number not in self.slots)
        self.slots[slot] = self.EMPTY
        return slot

    def free(self, slot: int) -> None:
        del self.slots[slot]

    def read(self, slot: int) -> Reading:
        return self.slots[slot]

    def waited(self, slot: int) -> Waits:
        return Waits()

    def departed(self) -> Waits:
        return Waits()

    def close(self) -> None:
        self.closed = True


class FakeHost:
    """Runs one service. `go()` lets it react to what happened."""

    def __init__(self, spec: ServiceSpec, *, generation: int = 1, processors: int = 64) -> None:
        self.processors = processors
        self.clock = 100.0
        self.draw = 0.5
        self.children: dict[int, FakeChild] = {}
        """Those that live, by pid."""
        self.fail_spawns: list[OSError] = []
        """The next spawns fail with these."""
        self.log: list[str] = []
        self.probes: list[tuple[Process, str]] = []
        self.rollbacks: list[tuple[int, str]] = []
        self.boards: list[FakeBoard] = []
        self._pid = 1000
        self._id = 0
        self.service = Service("web", self, self.make(spec, generation))
        self.go()

    @staticmethod
    def make(spec: ServiceSpec, number: int) -> Generation:
        sockets: tuple[ListenSocket, ...] = ()
        return Generation(number=number, spec=spec, sockets=sockets, directory="/", env={})

    def go(self, seconds: float = 0.0) -> None:
        """Move the clock and let the service react."""
        self.clock += seconds
        self.service.react()

    def now(self) -> float:
        return self.clock

    def jitter(self) -> float:
        return self.draw

    def next_id(self) -> int:
        self._id += 1
        return self._id

    def spawn(self, launch: Launch, listener: Listener) -> FakeChild:
        if self.fail_spawns:
            raise self.fail_spawns.pop(0)
        self._pid += 1
        child = FakeChild(self._pid, launch, listener)
        self.children[child.pid] = child
        return child

    def fork(self, zygote: ChildHandle, launch: Launch, listener: ForkListener) -> FakeChild:
        self.log.append(f"heir of {zygote.pid}" if launch.forks else f"forked by {zygote.pid}")
        child = self.spawn(launch, listener)
        return child

    def employ(self, spare: ChildHandle, launch: Launch, listener: ForkListener) -> FakeChild:
        assert isinstance(spare, FakeChild)
        self.log.append(f"employed {spare.pid}")
        spare.launch, spare.listener = launch, listener
        return spare

    def others(self, service: Service) -> list[Service]:
        return []

    def scoreboard(self) -> FakeBoard:
        self.boards.append(FakeBoard())
        return self.boards[-1]

    def note(self, service: Service, text: str, level: str = "info") -> None:
        self.log.append(text)

    def probe(self, service: Service, process: Process, ready: str) -> Callable[[], None]:
        self.probes.append((process, ready))
        return lambda: self.log.append("probe stopped")

    def changed(self, service: Service, process: Process, before: State | None) -> None:
        self.log.append(f"{process.index}.{process.generation} {before.name if before else '-'}>{process.state.name}")

    def ended(self, service: Service, process: Process) -> None:
        if process.pid is not None:
            del self.children[process.pid]

    def rolled_back(self, service: Service, generation: int, why: str) -> None:
        self.rollbacks.append((generation, why))

    def line(self, service: Service, process: Process, stream: str, text: str, more: bool) -> None:
        self.log.append(text)

    def touched(self, service: Service) -> None:
        pass

    def broken(self, service: Service) -> None:
        raise

    # ---- shorthand for tests ----

    def newest(self) -> FakeChild:
        return self.children[max(self.children)]

    def all_ready(self) -> None:
        """Let starting ones become ready until nothing changes."""
        while True:
            starting = [p for p in self.service.workers() if p.state is State.STARTING]
            if not starting:
                return
            for process in starting:
                assert process.pid is not None
                self.children[process.pid].ready()
            self.go()

    def leave_all(self) -> None:
        """Let those that were asked to leave do so."""
        for process in [p for p in self.service.workers() if p.state is State.STOPPING]:
            assert process.pid is not None
            self.children[process.pid].exit()
        self.go()

    def roll_out(self) -> None:
        """Let a reload run to its end."""
        for _ in range(20):
            self.all_ready()
            self.leave_all()
            if self.service.is_settled():
                return
        raise AssertionError(self.states())

    def states(self) -> list[str]:
        """`index.generation STATE` of each worker, sorted."""
        return sorted(f"{p.index}.{p.generation} {p.state.name}" for p in self.service.workers())
