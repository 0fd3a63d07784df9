"""What is known of this machine, as plain data: all that a finding may be based on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from trapeze.access import Entry, Person
from trapeze.nginx.site import Upstream

__all__ = ["Facts", "NginxFacts", "Passed", "Pool", "RuntimeFacts", "ServiceFacts", "SocketFacts", "StopFacts"]


class SocketFacts(Struct, frozen=True, kw_only=True):
    """One Unix or TCP address of the configuration."""

    name: str
    address: str
    backlog: int
    entry: Entry | None = None
    """The file of a Unix socket, if it is there."""
    directories: Sequence[Entry] = ()
    """Those that lead to it, from the root on."""


class ServiceFacts(Struct, frozen=True, kw_only=True):
    """One service."""

    name: str
    sockets: Sequence[str] = ()
    addresses: Sequence[str] = ()
    """Where it can be reached, as nginx writes it."""
    web: bool = False
    after: Sequence[str] = ()
    """Services that stop when it has stopped."""
    backend: str = ""
    """The server that runs the app; "" for commands, and where nobody knows yet ("auto", not started)."""
    behind: Upstream | None = None
    """What nginx would be told of it; for its times."""
    stop_timeout: float = 30.0
    workers: int = 1
    surge: int = 0
    connections: int | None = None
    """So many at a time the server is told to take in each worker."""
    nofile: int | None = None
    """Descriptors that a worker may have; None where that is not known."""
    accelerators: Sequence[str] = ()
    """Packages without which its server is slower than it could be, and says nothing."""
    packages: Mapping[str, str] = {}
    """Version of each server and parser that its interpreter has."""
    memory: Sequence[int] = ()
    """Bytes that each running process uses, pages shared with others counted in part."""
    standby: Sequence[int] = ()
    """The same of those that have imported the app and do not serve."""
    beats: tuple[str, str] | None = None
    """Directory of gunicorn's heartbeat files and the file system it is on."""


class Pool(Struct, frozen=True, kw_only=True):
    """An `upstream` of nginx's configuration, or an address named in `proxy_pass` itself."""

    servers: Sequence[str]
    keepalive: int = 0
    idle: float = 60.0
    """Seconds that an idle connection is kept."""
    where: str = ""
    """File and line."""


class Passed(Struct, frozen=True, kw_only=True):
    """A `proxy_pass`, with what counts for it."""

    target: str
    """Name of an upstream, or an address."""
    version: str = "1.0"
    connection: str | None = None
    """What is sent as Connection; None: nginx's "close"."""
    where: str = ""


class NginxFacts(Struct, frozen=True, kw_only=True):
    """The nginx of this machine."""

    users: Sequence[Person] = ()
    """Whom its workers are, or would be."""
    pools: Mapping[str, Pool] = {}
    passed: Sequence[Passed] = ()
    connections: int | None = None
    """worker_connections; None where the configuration could not be read."""
    nofile: int | None = None
    """Descriptors that an nginx worker may have."""
    unread: str = ""
    """Why its configuration could not be read."""


class StopFacts(Struct, frozen=True, kw_only=True):
    """Who stops the supervisor, and how long it waits before it kills."""

    who: str
    """"systemd unit shop.service", "docker"."""
    seconds: float
    fix: str
    """How that is changed; {seconds} is what it has to be."""


class RuntimeFacts(Struct, frozen=True, kw_only=True):
    """The directory of the control socket."""

    entry: Entry
    named: bool
    """By TRAPEZE_RUNTIME_DIR."""
    open: bool = False
    """The configuration opens the control socket to others."""


class Facts(Struct, frozen=True, kw_only=True):
    """All of it."""

    services: Sequence[ServiceFacts] = ()
    sockets: Sequence[SocketFacts] = ()
    nginx: NginxFacts | None = None
    somaxconn: int | None = None
    stop: Sequence[StopFacts] = ()
    memory_limit: int | None = None
    """Bytes that the control group of the supervisor may use."""
    memory_group: str = ""
    runtime: RuntimeFacts | None = None
