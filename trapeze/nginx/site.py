"""From a configuration to what nginx has to be told, as plain data. Pure: nothing is looked up here.

The one rule behind the numbers: whoever is behind never closes a connection first. nginx drops an idle one to the app
before the app would, be it in the middle of the day (`keepalive`) or while a worker leaves (`drain_grace`), so that no
request is ever sent into a connection that is about to close.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from ipaddress import ip_address, ip_network

from msgspec import Struct
from msgspec.structs import replace

from trapeze.addresses import Abstract, Address, Tcp, Unix, parse
from trapeze.checks_nginx import routes_of
from trapeze.errors import Problem
from trapeze.limits import parse_size
from trapeze.slots import addresses_of
from trapeze.spec import Config, ServiceSpec

__all__ = ["KEPT", "Host", "Location", "Site", "Upstream", "addresses_at", "plan", "reached_at"]

MOST = 5.0
"""Seconds that nginx keeps an idle connection to the app, unless the app keeps it shorter."""
KEPT = 16
"""Idle connections that each nginx worker keeps to the app, where it keeps some."""
_READ = 60.0
"""Seconds that nginx waits for the app, unless the app may take longer: its own default."""
_AFTER = 5.0
"""Seconds longer than `request_timeout` that nginx waits, so that the worker's end is what the log tells of."""

_KEEPS: Mapping[str, tuple[str, float]] = {
    "gunicorn": ("keepalive", 2.0),
    "uvicorn": ("timeout_keep_alive", 5.0),
    "hypercorn": ("keep_alive_timeout", 5.0),
    "waitress": ("channel_timeout", 120.0),
    "cheroot": ("timeout", 10.0),
    "granian": ("", 30.0),
    "aiohttp": ("keepalive_timeout", 75.0),
    "tornado": ("idle_connection_timeout", 3600.0),
    "daphne": ("", 60.0),
    "gevent": ("", math.inf),
}
"""Backend to the name of its own option, and its own default, of the time that an idle connection is kept."""
_LEAST = 2.0
"""The shortest of these: for `auto`, and for servers that nobody knows."""


class Upstream(Struct, frozen=True, kw_only=True):
    """Where the requests of a service go."""

    name: str
    service: str
    servers: Sequence[str]
    """As nginx writes them: `unix:/run/app.sock`, `127.0.0.1:8000`. Those of this machine come first."""
    slots: int
    """The first so many are one worker's each; 0: the first is all workers'."""
    keepalive: int
    """Idle connections kept by each nginx worker; 0: none."""
    why_none: str
    """Why none is kept, in words; empty where some are."""
    idle_ms: int
    """For so many milliseconds."""
    why_idle: Sequence[str]
    """What that follows from, in words."""
    read: float
    """Seconds that nginx waits for the app."""
    why_read: str
    doubts: str
    """Whom `trusted_proxies` would have to name so that the app believes nginx; empty where it does."""


class Location(Struct, frozen=True, kw_only=True):
    """One path: passed to an upstream, or read from a directory."""

    path: str
    upstream: Upstream | None = None
    streams: bool = False
    """Answers without an end: not buffered."""
    directory: str = ""
    media: bool = False
    """The directory holds files of users."""


class Host(Struct, frozen=True, kw_only=True):
    """One server block."""

    names: Sequence[str]
    locations: Sequence[Location]


class Site(Struct, frozen=True, kw_only=True):
    """All of it."""

    name: str
    """Of the instance; upstreams and variables of nginx are named after it."""
    hosts: Sequence[Host]
    upstreams: Sequence[Upstream]
    listens: Sequence[str]
    """Empty: as is usual."""
    certificate: str | None
    certificate_key: str | None
    body: int
    """Bytes; 0: no limit."""
    includes: Sequence[str]
    spans: bool
    """There are other machines."""

    @property
    def slug(self) -> str:
        """The name as part of the name of a variable."""
        return re.sub(r"\W", "_", self.name, flags=re.ASCII)


def plan(
    config: Config, services: Collection[str] = (), addresses: Mapping[str, Sequence[str]] | None = None
) -> Site | list[Problem]:
    """Return what nginx has to be told, or why that cannot be said.

    Args:
        config: checked and resolved.
        services: only these; none: all that are fronted.
        addresses: what the sockets are really bound to, by name, where that is known.
    """
    spec = config.nginx
    routes = routes_of(config, services)
    if isinstance(routes, Problem):
        return [routes]
    upstreams: dict[str, Upstream] = {}
    for name in dict.fromkeys(routes.values()):
        made = _upstream(name, config, addresses or {})
        if isinstance(made, Problem):
            return [made]
        upstreams[name] = made
    by_host: dict[str, dict[str, Upstream]] = {}
    for route, name in routes.items():
        host, slash, path = route.partition("/")
        by_host.setdefault(host, {})[slash + path] = upstreams[name]
    return Site(
        name=config.name,
        hosts=[
            Host(names=[host] if host else spec.names, locations=_locations(config, paths))
            for host, paths in by_host.items()
        ],
        upstreams=list(upstreams.values()),
        listens=spec.listens,
        certificate=spec.certificate,
        certificate_key=spec.certificate_key,
        body=parse_size(spec.max_body) if spec.max_body != 0 else 0,
        includes=spec.includes,
        spans=any(spec.peers_of(name) for name in upstreams),
    )


def _locations(config: Config, paths: Mapping[str, Upstream]) -> list[Location]:
    spec = config.nginx
    found = [
        *(Location(path=path, directory=place.rstrip("/") + "/") for path, place in spec.static.items()),
        *(Location(path=path, directory=place.rstrip("/") + "/", media=True) for path, place in spec.media.items()),
    ]
    for path in spec.sse:
        nearest = max((prefix for prefix in paths if path.startswith(prefix)), key=len, default=None)
        if nearest is not None:
            found.append(Location(path=path, upstream=paths[nearest], streams=True))
    streams = {each.path for each in found}
    return [*found, *(Location(path=path, upstream=up) for path, up in paths.items() if path not in streams)]


def _upstream(name: str, config: Config, addresses: Mapping[str, Sequence[str]]) -> Upstream | Problem:
    spec = config.services[name]
    here = _servers(name, spec, config, addresses)
    if isinstance(here, Problem):
        return here
    servers = [*here, *config.nginx.peers_of(name)]
    idle, why = _idle(name, spec)
    kept, why_none = _kept(name, spec, servers, config.nginx.keepalive, idle)
    read, why_read = _patience(name, spec)
    slug = re.sub(r"[^\w.-]", "_", f"{config.name}_{name}", flags=re.ASCII)
    return Upstream(
        name=slug,
        service=name,
        servers=servers,
        slots=len(here) if len(here) > 1 else 0,
        keepalive=kept,
        why_none=why_none,
        idle_ms=int(idle * 1000),
        why_idle=why,
        read=read,
        why_read=why_read,
        doubts=_doubts(spec.trusted_proxies, servers[0]),
    )


def _doubts(trusted: Sequence[str] | None, server: str) -> str:
    if trusted is None or "*" in trusted:
        return ""
    if server.startswith("unix:"):
        return "" if "unix" in trusted else "unix"
    ours = "::1" if server.startswith("[::1]") else "127.0.0.1"  # by which nginx comes to another address is not known
    here = ip_address(ours)
    networks = [ip_network(each, strict=False) for each in trusted if each != "unix"]
    return "" if any(here in network for network in networks) else ours


def _kept(name: str, spec: ServiceSpec, servers: Sequence[str], asked: int | None, idle: float) -> tuple[int, str]:
    """How many idle connections nginx keeps, and why none.

    A kept connection belongs to one worker, whatever that is doing: a request on it waits behind a slow one although
    another worker is free. A new one waits in the queue of the socket, and the first free worker takes it; on a Unix
    socket that costs little. Where a server of the upstream is one worker, or another machine, there is nobody who
    could take it instead, or connecting is dear.
    """
    if idle <= 0:
        return 0, f"{name} closes after each answer (keepalive = 0)"
    if asked == 0:
        return 0, "keepalive = 0 in [nginx]"
    if asked is not None:
        return asked, ""
    if len(servers) > 1 or spec.workers <= 1 or not servers[0].startswith("unix:"):
        return KEPT, ""
    return 0, (
        f"the {spec.workers} workers of {name} share the socket, and a kept connection belongs to one of them: a "
        "request on it would wait while that one is busy, though another is free. A new one goes to whichever is "
        f"free. keepalive = {KEPT} in [nginx] keeps them all the same"
    )


def _servers(name: str, spec: ServiceSpec, config: Config, known: Mapping[str, Sequence[str]]) -> list[str] | Problem:
    """The address of the service, or those of its workers where each has its own: Unix sockets rather than ports, since
    they cost less and have permissions."""
    groups = [addresses_at(each, config, known) for each in spec.sockets]
    found = [address for group in groups for address in group]
    for group, each in zip(groups, spec.sockets, strict=True):
        slots = config.sockets[each].slots if config.sockets[each].listen == "per-worker" else 1
        for kind in (Unix, Tcp):
            written = [text for address in group if isinstance(address, kind) and (text := reached_at(address))]
            if written:
                return written[:slots]
    if any(isinstance(address, Abstract) for address in found):
        reason, hint = "nginx cannot connect to an abstract socket", "give it a path: unix:/run/NAME/web.sock"
    else:
        shown = ", ".join(map(str, found)) or "nothing"
        reason, hint = f"{shown}: nobody can tell yet where that will be", "start trapeze, or write the address out"
    return Problem(f"services.{name}.socket", reason, hint)


def addresses_at(name: str, config: Config, known: Mapping[str, Sequence[str]]) -> list[Address]:
    """Return the addresses of a socket: those it is really bound to where that is known, else those of its section."""
    if known.get(name):
        return [parse(text) for text in known[name]]
    return [address for _, address in addresses_of(config.sockets[name])]


def reached_at(address: Address) -> str:
    """Return an address as nginx on this machine writes it; "" where it cannot, or the port is not known yet."""
    match address:
        case Unix(path):
            return f"unix:{path}"
        case Tcp(host, port) if port:
            everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}
            return str(replace(address, host=everywhere.get(host, host)))
    return ""


def _keeps(spec: ServiceSpec) -> tuple[float, str]:
    """Seconds that the app keeps an idle connection, and who says so."""
    if spec.keepalive is not None:
        return spec.keepalive, "keepalive"
    if spec.app is None:
        return _LEAST, "a guess: a command says nothing of it"
    option, default = _KEEPS.get(spec.backend, ("", _LEAST))
    value = spec.options.get(option) if option else None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value), f"options.{option}"
    if spec.backend not in _KEEPS:
        return _LEAST, "gunicorn's default, uvicorn's is longer"
    return default, f"{spec.backend}'s default"


def _idle(name: str, spec: ServiceSpec) -> tuple[float, list[str]]:
    """Seconds that nginx may keep an idle connection, and why so short."""
    keeps, says = _keeps(spec)
    limits = [("keepalive", keeps, says)]
    if spec.app is not None:
        limits.append(("drain_grace", spec.drain_grace, "drain_grace"))
    idle = min(MOST, *(_before(seconds) for _, seconds, _ in limits))
    why = []
    for field, seconds, said in limits:
        if _before(seconds) < MOST:
            what = "idle connections are kept" if field == "keepalive" else "a leaving worker keeps idle connections"
            source = f" ({said})" if said != field else ""
            why.append(f"{what} {seconds:g} s{source}; with {field} = 6 in [services.{name}] nginx could keep them 5 s")
    return idle, why


def _before(seconds: float) -> float:
    """A time that is surely over when `seconds` are: a second less, or half of what is short."""
    return seconds / 2 if seconds < 2 else seconds - 1


def _patience(name: str, spec: ServiceSpec) -> tuple[float, str]:
    if spec.request_timeout:
        return spec.request_timeout + _AFTER, f"request_timeout of {name} is {spec.request_timeout:g} s"
    if spec.stop_timeout > _READ:
        return spec.stop_timeout, f"stop_timeout of {name}: so long may a request take in a worker that leaves"
    return _READ, f"{name} has no request_timeout: nginx's own default"
