"""One question at the control door, as plain data: whom it reaches, what it may say, and how it is refused."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Protocol

from msgspec import Meta, Struct

from trapeze.door import Reply
from trapeze.errors import BindError, ConfigError, TrapezeError, UnknownName
from trapeze.status import Ticket

if TYPE_CHECKING:
    from trapeze.config import Resolved
    from trapeze.output import Journal
    from trapeze.status import Snapshot, Transition

__all__ = [
    "Call",
    "EventsQuery",
    "LogsQuery",
    "NoQuery",
    "ProcessQuery",
    "Progress",
    "Refusal",
    "ScaleQuery",
    "SettledQuery",
    "ShutdownQuery",
    "SignalQuery",
    "Supervisor",
    "UpgradeQuery",
    "WriteQuery",
    "error_body",
    "error_reply",
]

Wait = Annotated[float, Meta(ge=0, le=86_400)] | None
ProcessId = Annotated[int, Meta(ge=0)] | None


class Progress(Protocol):
    """How far a ticket is; see `supervisor.Progress`."""

    @property
    def done(self) -> bool: ...
    @property
    def failed(self) -> bool: ...
    @property
    def code(self) -> str: ...
    @property
    def message(self) -> str: ...
    @property
    def output(self) -> Sequence[str]: ...
    @property
    def services(self) -> Mapping[str, int]: ...


class Supervisor(Protocol):
    """What this door may call; all of it on the thread of the loop. `who` says who asks, for the log."""

    @property
    def revision(self) -> int: ...
    @property
    def journal(self) -> Journal: ...
    @property
    def resolved(self) -> Resolved: ...
    @property
    def upgrade(self) -> Callable[[str, str | None], Awaitable[Mapping[str, object]]] | None: ...
    def snapshot(self) -> Snapshot: ...
    def transitions(self, since: int) -> Sequence[Transition]: ...
    async def changed(self, revision: int) -> None: ...
    def progress(self, ticket: Ticket) -> Progress: ...
    async def reload(self, names: Sequence[str] | None, who: str) -> Ticket: ...
    def rollback(self, name: str, who: str) -> Ticket: ...
    def restart(self, names: Sequence[str] | None, who: str, process: int | None = None) -> Ticket: ...
    def scale(self, name: str, who: str, *, count: int | None = None, delta: int = 0) -> Ticket: ...
    def start(self, names: Sequence[str], who: str) -> Ticket: ...
    def stop(self, names: Sequence[str], who: str) -> Ticket: ...
    def signal(self, name: str, signum: int, who: str, process: int | None = None) -> Ticket: ...
    def shutdown(self, who: str, *, fast: bool = False) -> None: ...


class Refusal(TrapezeError):
    """A request that cannot be honoured: `status` and `code` of the answer."""

    def __init__(
        self, status: int, code: str, message: str, *, hint: str = "", headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.code = code
        self.headers = headers


# ---- query parameters, a struct for each shape


class NoQuery(Struct, forbid_unknown_fields=True):
    """Takes none."""


class EventsQuery(Struct, forbid_unknown_fields=True):
    """After which revision; on and on; or, once, until there is something."""

    since: Annotated[int, Meta(ge=0)] = 0
    follow: bool = False
    wait: Wait = None


class LogsQuery(Struct, forbid_unknown_fields=True):
    """Of whom, how many, on and on."""

    service: list[str] = []
    lines: Annotated[int, Meta(ge=0, le=1_000_000)] = 100
    follow: bool = False


class WriteQuery(Struct, forbid_unknown_fields=True):
    """How long to wait (seconds), and whether to tell what happens meanwhile."""

    wait: Wait = None
    progress: bool = False


class SettledQuery(WriteQuery, kw_only=True):
    """Which order, as its stream named it in JSON; and since when its transitions are to be told."""

    ticket: str
    since: Annotated[int, Meta(ge=0)] = 0


class ProcessQuery(WriteQuery):
    """A write that may be for one process."""

    process: ProcessId = None


class ScaleQuery(WriteQuery):
    """How many, or how many more."""

    count: Annotated[int, Meta(ge=0, le=10_000)] | None = None
    delta: Annotated[int, Meta(ge=-10_000, le=10_000)] = 0


class SignalQuery(ProcessQuery):
    """Which signal."""

    signal: str = ""


class ShutdownQuery(WriteQuery):
    """Without grace for what is in flight?"""

    fast: bool = False


class UpgradeQuery(Struct, forbid_unknown_fields=True):
    """The interpreter to go on with (absolute path), how long to wait; `progress` makes the answer a line."""

    python: str | None = None
    wait: Wait = None
    progress: bool = False


class Call(NamedTuple):
    """A request that has found its route."""

    supervisor: Supervisor
    query: Any
    name: str
    """The service in the path; empty where there is none."""
    who: str
    uid: int = -1
    """User who asks, as the kernel says."""


# ---- how it is refused


def error_reply(error: TrapezeError) -> Reply:
    """Return the answer that tells a client of this error."""
    match error:
        case Refusal():
            return error_body(error.status, error.code, error.message, hint=error.hint)._replace(headers=error.headers)
        case ConfigError():
            problems = [problem._asdict() for problem in error.problems]
            return error_body(422, error.code, error.message, hint=error.hint, problems=problems)
        case BindError():
            return error_body(422, error.code, error.message, hint=error.hint)
        case UnknownName():
            return error_body(404, error.code, error.message, hint=error.hint)
    return error_body(409, error.code, error.message, hint=error.hint)


def error_body(
    status: int,
    code: str,
    message: str,
    *,
    hint: str = "",
    output: Sequence[str] = (),
    problems: Sequence[Mapping[str, str]] = (),
) -> Reply:
    """Return an answer of the one shape that every refusal has."""
    value = {"code": code, "message": message, "hint": hint, "output": list(output), "problems": list(problems)}
    return Reply(status, value)
