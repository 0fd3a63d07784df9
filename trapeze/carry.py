"""What a supervisor knows, as one document: for another program that takes its place (an upgrade in place).

The document is written by one version and read by another, so it is tolerant: what the reader does not know is left
out, what the writer did not know has a default. `VERSION` is raised only by a change that an older reader must not pass
over. Descriptors are in it by their numbers, which stay what they are.

Here are the shapes and how they are read; `saving` fills them in, `resume` makes a supervisor of them again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from os import fsdecode
from typing import Any

import msgspec
from msgspec import Struct

from trapeze.config import Resolved
from trapeze.errors import TrapezeError
from trapeze.following import Kept
from trapeze.generation import Generation
from trapeze.lifecycle import State
from trapeze.notify import Facts
from trapeze.orders import Order
from trapeze.output import LogLine
from trapeze.planner import Want
from trapeze.process import Timeouts
from trapeze.restart import FRESH, History
from trapeze.sockets import ListenSocket
from trapeze.spec import Config, ControlSpec, HealthSpec, RestartSpec, ServiceSpec, SocketSpec
from trapeze.status import Status, Transition
from trapeze.vigil import Terms

__all__ = [
    "VERSION",
    "CannotRead",
    "Document",
    "KeptGeneration",
    "KeptKeeper",
    "KeptProcess",
    "KeptService",
    "KeptSocket",
    "read",
    "spec_of",
    "write",
]

VERSION = 1
"""Of the document; a reader refuses a higher one than its own."""

Tree = dict[str, Any]
Inode = tuple[int, int]


class CannotRead(TrapezeError):
    """The document is of a kind that this version does not understand."""


class KeptSocket(Struct, omit_defaults=True, kw_only=True):
    """One socket that is listened on."""

    name: str
    address: str
    fd: int
    spec: Tree
    path: str = ""
    """Of the file that we made for it."""
    inode: Inode = (-1, -1)
    private: str = ""
    """Its name, where it has not taken its path yet."""
    borrowed: bool = False
    reserved: bool = False
    pending: bool = False
    slot: int | None = None


class KeptGeneration(Struct, omit_defaults=True, kw_only=True):
    """One generation."""

    number: int
    spec: Tree
    sockets: list[int]
    """By their descriptors."""
    directory: str
    backend: str = ""
    terminal: bool = False
    nofile: tuple[int, int] | None = None
    env: list[tuple[bytes, bytes]] = []
    """In bytes: an environment need not be text."""
    uid: int | None = None
    gid: int | None = None
    groups: list[int] | None = None
    section: Tree | None = None
    listens: dict[str, Tree] = {}


class KeptProcess(Struct, omit_defaults=True, kw_only=True):
    """One process of a service. Fields bear the names of `Process`, where it has them."""

    id: int
    index: int
    generation: int
    child: Kept
    timeouts: Timeouts
    role: str = "worker"
    state: State = State.READY
    born: float = 0.0
    since: float = 0.0
    why: str = ""
    pid: int | None = None
    ready_at: float | None = None
    said: str = ""
    retire: bool = False
    wish: str = ""
    recycle: str = ""
    slot: int | None = None
    stacks: list[str] | None = None
    asked: bool = False
    speaks: bool = False
    heard_stop: bool = False
    error: tuple[str, str, str] | None = None
    overran: float | None = None
    imports: str = ""
    held: list[int] = []
    own: list[KeptSocket] = []
    tail: list[str] = []
    inside: bool = False
    """Its last line goes on."""
    deadlines: dict[str, float] = {}
    verdict: str = ""
    terms: Terms | None = None
    """On which it serves, where the vigil looks at it."""
    dumping: float | None = None
    """When the vigil tells of the stacks it is writing."""


class KeptService(Struct, omit_defaults=True, kw_only=True):
    """One service."""

    name: str
    want: Want
    generations: list[KeptGeneration]
    processes: list[KeptProcess] = []
    good: int | None = None
    past: list[int] = []
    waiting_for: tuple[str, ...] = ()
    steps_done: int = 0
    facts: Facts = Facts()
    begun: float | None = None
    top: int = 1
    orders: dict[int, Order] = {}
    unbroken: bool = True
    """See `Trial`."""
    # the ledger
    history: History = FRESH
    standing: History = FRESH
    restarts: int = 0
    finished: dict[int, int] = {}
    failure: str = ""
    output: list[str] = []
    # zygotes
    reasons: dict[int, str] = {}
    imports: History = FRESH
    imported: set[int] = set()
    again: dict[int, float] = {}
    # the scoreboard
    board: int = -1
    slots: list[int] = []


class KeptKeeper(Struct, omit_defaults=True, kw_only=True):
    """The keeper's process, and what it has still to be told."""

    pid: int
    pidfd: int
    pipe: int
    queue: list[bytes] = []


class Document(Struct, kw_only=True):
    """Everything."""

    version: int = VERSION
    by: str = ""
    """The version of trapeze that wrote it."""
    image: int = 1
    """How many programs this process has been before."""
    pid: int = 0
    offset: float = 0.0
    """Seconds from monotonic time to that of people."""
    started: float = 0.0
    closed: float = 0.0
    """When the control door was closed, monotonic seconds."""
    next_id: int = 1
    # the configuration that runs
    config: Tree
    origins: dict[str, str] = {}
    path: str | None = None
    directory: str = "/"
    as_written: dict[str, str] = {}
    terminal: bool = False
    nofile: tuple[int, int] | None = None
    # descriptors that belong to nobody's process
    door: int = -1
    door_path: str = ""
    door_inode: Inode = (-1, -1)
    sockets: list[KeptSocket] = []
    named: dict[str, list[int]] = {}
    """Section of the configuration to the descriptors of its sockets."""
    handed: list[int] = []
    """What was handed to us under a number by which the configuration may call it again."""
    keeper: KeptKeeper | None = None
    # services
    services: list[KeptService] = []
    status: dict[str, tuple[Status, str, float]] = {}
    rollbacks: list[tuple[str, int, str]] = []
    removed: list[str] = []
    strangers: list[tuple[int, bool]] = []
    """Children whose work is begun anew (probes, file watches), and whether they lead a group: to be killed."""
    # what was said
    revision: int = 0
    transitions: list[Transition] = []
    said: dict[str, Status] = {}
    reported: dict[str, tuple[list[str], int]] = {}
    lines: list[LogLine] = []
    console: tuple[bytes, bytes] = (b"", b"")
    came_from: list[str] = []
    """The program that wrote it and its words, if that may be gone back to; see `foreground`."""
    phase: str = ""
    """What the manager above us was told last."""
    keep_going: bool | None = None
    """Of the command line, which is read again only later."""
    doorman: int = -1
    """By whose closing the stand-in at the control door is dismissed."""

    @property
    def descriptors(self) -> Iterator[int]:
        """All that have to stay open, and nothing else."""
        yield from (self.door, *self.handed, *([self.doorman] if self.doorman >= 0 else []))
        yield from (each.fd for each in self.sockets)
        if self.keeper is not None:
            yield from (self.keeper.pidfd, self.keeper.pipe)
        for service in self.services:
            if service.board >= 0:
                yield service.board
            for process in service.processes:
                yield from process.child.descriptors
                yield from (each.fd for each in process.own)

    @property
    def resolved(self) -> Resolved:
        """The configuration that runs."""
        return Resolved(config_of(self.config), self.origins, self.path, self.directory)


class _Head(Struct):
    version: int
    by: str = ""


def write(document: Document) -> bytes:
    """The document as bytes. What of it is not text (file names may be anything) does not get lost."""
    try:
        return msgspec.msgpack.encode(document)
    except UnicodeEncodeError:
        return msgspec.msgpack.encode(_printable(msgspec.to_builtins(document, builtin_types=(bytes,))))


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_printable(key): _printable(inner) for key, inner in value.items()}
    return [_printable(inner) for inner in value] if isinstance(value, list | tuple) else value


def read(data: bytes) -> Document:
    """Understand a document, whoever wrote it.

    Raises:
        CannotRead: in words.
    """
    try:
        head = msgspec.msgpack.decode(data, type=_Head)
        if head.version > VERSION:
            raise CannotRead(
                f"the state of trapeze {head.by} is of version {head.version}, this one reads up to {VERSION}"
            )
        document = msgspec.msgpack.decode(data, type=Document)
        # Also what is only looked at later: who can read a part of it cannot read it.
        _ = document.resolved
        for service in document.services:
            for generation in service.generations:
                generation_of(generation, None)
        for sock in document.sockets:
            spec_of(SocketSpec, sock.spec)
    except msgspec.MsgspecError as error:
        raise CannotRead(f"the state cannot be read: {error}") from error
    return document


_NESTED: dict[type, dict[str, type]] = {
    ServiceSpec: {"restart": RestartSpec, "health": HealthSpec},
    Config: {"control": ControlSpec},
}
_TABLES: dict[type, dict[str, type]] = {Config: {"sockets": SocketSpec, "services": ServiceSpec}}


def known(kind: type, tree: Tree) -> Tree:
    """Of a section, what this version knows: another one may have had options that are gone or not there yet."""
    kept = {key: value for key, value in tree.items() if key in kind.__struct_fields__}  # type: ignore[attr-defined]
    for key, inner in _NESTED.get(kind, {}).items():
        if isinstance(kept.get(key), dict):
            kept[key] = known(inner, kept[key])
    for key, inner in _TABLES.get(kind, {}).items():
        kept[key] = {name: known(inner, each) for name, each in kept.get(key, {}).items()}
    return kept


def spec_of(kind: type[Any], tree: Tree) -> Any:
    """A section as its struct. Raises msgspec.ValidationError."""
    return msgspec.convert(known(kind, tree), kind)


def config_of(tree: Tree) -> Config:
    """The whole configuration."""
    found: Config = spec_of(Config, tree)
    return found


def generation_of(kept: KeptGeneration, sockets: Mapping[int, ListenSocket] | None) -> Generation:
    """A generation, with its sockets by descriptor (None: with none, to see whether it can be read)."""
    return Generation(
        number=kept.number,
        spec=spec_of(ServiceSpec, kept.spec),
        sockets=[sockets[fd] for fd in kept.sockets] if sockets is not None else [],
        directory=kept.directory,
        backend=kept.backend,
        terminal=kept.terminal,
        nofile=kept.nofile,
        env={fsdecode(name): fsdecode(value) for name, value in kept.env},
        uid=kept.uid,
        gid=kept.gid,
        groups=kept.groups,
        section=spec_of(ServiceSpec, kept.section) if kept.section is not None else None,
        listens={name: spec_of(SocketSpec, spec) for name, spec in kept.listens.items()},
    )
