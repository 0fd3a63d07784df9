"""What readers see: an immutable snapshot with a revision, and the status of a service, derived, never stored."""

from __future__ import annotations

import enum

from msgspec import Struct

__all__ = [
    "Health",
    "ProcessStatus",
    "QueueTime",
    "ServiceStatus",
    "Snapshot",
    "SocketStatus",
    "StandbyStatus",
    "Status",
    "Ticket",
    "Transition",
    "derive",
    "says",
]


class Status(enum.Enum):
    """Where a service is."""

    STOPPED = "STOPPED"
    STOPPING = "STOPPING"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    ROLLING = "ROLLING"
    DEGRADED = "DEGRADED"
    FAILED = "FAILED"
    DONE = "DONE"


class ProcessStatus(Struct, frozen=True, kw_only=True):
    """One incarnation of one process."""

    id: int
    """Ours; never reused."""
    index: int
    pid: int | None
    generation: int
    state: str
    since: float
    """When the state was entered: seconds since the epoch."""
    why: str
    status: str = ""
    """What the process says of itself (STATUS=)."""
    rss: int | None = None
    """Resident memory in bytes, pages shared with others included; None where it cannot be read."""


class StandbyStatus(Struct, frozen=True, kw_only=True):
    """A process that has imported the app and does not serve."""

    id: int
    role: str
    """"zygote": workers are forked from it; "spare": it replaces the first worker that crashes; "heir": it takes
    the zygote's place if that is killed."""
    pid: int | None
    generation: int
    state: str
    since: float
    """When the state was entered: seconds since the epoch."""
    rss: int | None = None
    """Resident memory in bytes, as for processes."""


class QueueTime(Struct, frozen=True, kw_only=True):
    """How long requests had waited when their worker took them, since the proxy in front had them (X-Request-Start): of
    the workers that are there now, each since it started. Seconds."""

    requests: int
    """Of which it is known."""
    mean: float
    p50: float
    """To the next power of two."""
    p99: float
    """The same."""
    longest: float
    counts: list[int] = []
    """Requests by time since the service began, those of workers that have left included: the k-th number is of those
    that waited less than 2 ** (k - 15) s, the last of all others."""
    seconds: float = 0.0
    """What these have waited, all together."""


class ServiceStatus(Struct, frozen=True, kw_only=True):
    """One service."""

    name: str
    kind: str
    """"web" or "side"."""
    status: Status
    why: str
    since: float
    """When the status last changed: seconds since the epoch."""
    want: int
    ready: int
    """Processes that serve, of whatever generation; not more than are wanted while one replaces the other."""
    generation: int
    restarts: int
    """Replacements of processes that ended without having been asked to."""
    backend: str = ""
    interface: str = ""
    next_try: float | None = None
    """When the next spawn is due, in seconds since the epoch, where a delay is running."""
    last_failure: str = ""
    """The reason of the last unasked end."""
    pinned: bool = False
    """New workers are forked from the code that was imported for this generation, whatever lies on the disk now."""
    pinned_why: str = ""
    """Why it is not pinned; "" for what has no app."""
    imported_again: float | None = None
    """When the app was imported for this generation once more, in seconds since the epoch: its zygote and the heir had
    both ended, or the service was stopped. What was on the disk then need not be what was deployed."""
    kept: list[int] = []
    """Earlier generations that `rollback` can go back to, the next one first."""
    queue_time: QueueTime | None = None
    """None: no proxy has said anything."""
    processes: list[ProcessStatus] = []
    standby: list[StandbyStatus] = []


class SocketStatus(Struct, frozen=True, kw_only=True):
    """One address that is listened on."""

    name: str
    address: str
    fd: int
    waiting: int | None = None
    """Connections in the listen queue: nobody has accepted them yet. None where the kernel does not tell, or where each
    worker has a socket of its own."""
    limit: int | None = None
    """How many may wait there: the backlog, or net.core.somaxconn if that is less."""
    slot: int | None = None
    """The slot whose workers accept on it; None: all do."""
    closed: bool = False
    """Nobody new is let in: its slot has no worker, or its service stops."""
    dropped: int | None = None
    """Connections that were turned away since the socket was made, most of them because the queue was full. None for
    Unix sockets: who finds one full waits."""


class Snapshot(Struct, frozen=True, kw_only=True):
    """Everything, at one revision."""

    revision: int
    pid: int
    name: str
    version: str
    since: float
    """When the supervisor started: seconds since the epoch."""
    config: str | None
    """The file it runs, if there is one."""
    services: list[ServiceStatus]
    sockets: list[SocketStatus]
    stopping: bool = False
    upgrading: bool = False
    """A new program is about to take the supervisor's place. This is how things stood when it set out."""
    image: int = 1
    """How many programs this process has been: one more with each upgrade in place."""
    image_since: float = 0.0
    """Since when it is this one: seconds since the epoch."""
    installed: str = ""
    """The version of trapeze on the disk, which `upgrade` would run; empty where it cannot be read."""


class Transition(Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    """One change. The log line is its text, `GET /events` is its JSON."""

    revision: int
    at: float
    """Seconds since the epoch."""
    service: str
    process: int | None = None
    pid: int | None = None
    index: int | None = None
    generation: int | None = None
    from_: str = ""
    to: str = ""
    why: str = ""
    level: str = "info"
    output: list[str] = []
    """The last lines of a process that failed, or its traceback."""

    def __str__(self) -> str:
        if not self.to:
            return self.why
        who = self.service if self.index is None else f"{self.service}[{self.index}]"
        pid = f" pid {self.pid}" if self.pid is not None else ""
        # An end says itself in words ("killed by SIGKILL"); every other change is named.
        if self.to == "EXITED":
            return says(f"{who}{pid}", self.why)
        return f"{who}{pid} {self.to}" + (f": {self.why}" if self.why else "")


_PREDICATES = (
    *("exited with ", "killed by ", "not ready in ", "not done in ", "still there ", "cannot start: "),
    "leaves of its own accord",
)


def says(who: str, why: str) -> str:
    """Return who ended and why: "worker 0 exited with status 3", but "worker 0: no module named 'shop'".

    Args:
        who: the process.
        why: how it ended in our words, which go on from the name, or a reason in words of its own.
    """
    return f"{who} {why}".rstrip() if not why or why.startswith(_PREDICATES) else f"{who}: {why}"


class Ticket(Struct, frozen=True):
    """An order that was accepted, and what to wait for: all that a later program needs to tell how far it has come."""

    verb: str
    revision: int
    services: dict[str, int]
    """Name -> generation that satisfies it."""
    running: frozenset[str] = frozenset()
    """Those of them that were wanted to run when it was accepted."""


class Health(Struct, frozen=True):
    """What the status of a service is derived from."""

    want: int
    """Processes wanted; 0 when it is disabled."""
    enabled: bool
    ready: int
    """READY ones of the wanted generation that are to stay."""
    ready_any: int
    """READY ones of any generation."""
    starting: int
    leaving: int
    """STOPPING and KILLING ones."""
    outdated: int
    """Live ones that are to be replaced."""
    ever_ready: bool
    """Some process of the wanted generation has been ready."""
    exhausted: bool
    """Too many failures within the period."""
    failure: str
    """Why the last one ended unasked; empty when none did since it was last fully ready."""
    waiting_for: str
    """Names of the services it waits for (`after`), or the pre_start step that runs."""
    task: bool
    done: bool
    """A task whose processes have all exited 0."""
    frozen: str
    """A bug of ours, in words: the service is left alone."""
    idle: str = "stopped"
    """Why it is not wanted, where it is not."""


def derive(h: Health) -> tuple[Status, str]:
    """Return the status of a service and the reason in words."""
    if h.frozen:
        return Status.FAILED, f"internal error, processes left as they are: {h.frozen}"
    if h.done:
        return Status.DONE, "exited 0"
    if not h.enabled or h.want == 0:
        return _stopped(h)
    if h.exhausted:
        served = f", {h.ready_any} of {h.want} still ready" if h.ready_any else ""
        return Status.FAILED, f"{h.failure or 'gave up'}{served}"
    if h.waiting_for:
        serving = f", {h.ready_any} ready" if h.ready_any else ""
        return (Status.ROLLING if h.ready_any else Status.STARTING), f"waiting for {h.waiting_for}{serving}"
    if h.outdated:
        return Status.ROLLING, f"{h.ready} of {h.want} replaced"
    if h.ready >= h.want:
        return Status.RUNNING, "running" if h.task else f"{h.ready} of {h.want} ready"
    return _short(h)


def _stopped(h: Health) -> tuple[Status, str]:
    left = h.ready_any + h.starting + h.leaving
    if left:
        return Status.STOPPING, f"{left} still to leave"
    return Status.STOPPED, h.idle if not h.enabled else "scaled to 0"


def _short(h: Health) -> tuple[Status, str]:
    missing = f"{h.ready} of {h.want} ready"
    if h.failure:
        return Status.DEGRADED, f"{missing}, {h.failure}"
    if h.ever_ready and h.ready and not h.starting and not h.leaving:
        return Status.DEGRADED, missing
    return Status.STARTING, missing
