"""Going from one configuration to the next: everything that can fail first, then one step that cannot.

`prepare` reads, checks and binds and leaves the machine alone; `apply` is synchronous and only changes what is wanted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from msgspec.structs import replace

from trapeze.checks_nginx import is_generated
from trapeze.config import Resolved, diff
from trapeze.errors import BindError, ConfigError, Problem, UnknownName
from trapeze.fronting import Fronting
from trapeze.generation import Generation
from trapeze.limits import parse_signal
from trapeze.machine import Machine
from trapeze.preflight import examine
from trapeze.service import Service
from trapeze.sockets import ListenSocket, open_sockets, systemd_sockets
from trapeze.spec import ServiceSpec, SocketSpec
from trapeze.status import Ticket
from trapeze.verify import backend_problems

__all__ = ["Running", "Swap"]


class Running(Protocol):
    """What a swap needs of the supervisor."""

    resolved: Resolved
    sockets: dict[str, Sequence[ListenSocket]]
    open: set[ListenSocket]
    machine: Machine
    fronting: Fronting

    @property
    def services(self) -> Mapping[str, Service]:
        """All services by name."""

    def add(self, name: str) -> None:
        """Take up a service of the configuration."""

    def make_generation(self, name: str, number: int) -> Generation:
        """A generation of a service, from the present configuration."""

    def watch(self) -> None:
        """Have a file watch for each service that wants one, and for no other."""

    def hold(self, resolved: Resolved, sockets: Mapping[str, Sequence[ListenSocket]]) -> None:
        """Go by another configuration."""


class Swap:
    """A configuration that was found good, with its sockets already bound."""

    def __init__(
        self,
        supervisor: Running,
        resolved: Resolved,
        sockets: Mapping[str, Sequence[ListenSocket]],
        rolling: Sequence[str],
        named: bool,
        front: str | None = None,
    ) -> None:
        """`front`: what is new to an nginx of ours, if anything is."""
        self._named = named
        self._front = front
        held = supervisor.sockets
        self._moved = any(sockets[name] != held[name] for name in sockets if name in held)
        self._supervisor = supervisor
        self._resolved = resolved
        self._sockets = sockets
        self._rolling = rolling

    @classmethod
    async def prepare(cls, supervisor: Running, load: Callable[[], Resolved], names: Sequence[str] | None) -> Swap:
        """Read and check the configuration, bind what is new in it.

        With `names` only these services are taken from it; everything else stays as it runs.

        Raises:
            ConfigError, BindError, UnknownName: nothing has changed.
        """
        loaded = load()
        resolved = _only(loaded, supervisor.resolved, names) if names else loaded
        problems = examine(resolved)
        unknown = _unknown(supervisor, resolved, names)
        if not problems and unknown:
            problems = await backend_problems(supervisor.machine.spawn, resolved, unknown)
        if problems:
            raise ConfigError(problems)
        if names:  # meanwhile another reload may have failed, and given back what it had brought
            resolved = _only(loaded, supervisor.resolved, names)
        _refuse_fixed(supervisor.resolved, resolved)
        changes = diff(supervisor.resolved.config, resolved.config)
        rolling = _rolling(supervisor, resolved, names, {*changes.changed, *_moved(resolved, changes.sockets_changed)})
        fresh: dict[str, Sequence[ListenSocket]] = {}
        kept = {name: held for name, held in supervisor.sockets.items() if name in resolved.config.sockets}
        try:
            for name in (*changes.sockets_added, *changes.sockets_changed):
                fresh[name] = _opened(supervisor, resolved, name)
            front = await supervisor.fronting.prepare(resolved, {**kept, **fresh}, names)
        except BaseException:
            _close_fresh(supervisor, fresh)
            raise
        return cls(supervisor, resolved, {**kept, **fresh}, rolling, bool(names), front)

    def discard(self) -> None:
        """Close what was bound for it."""
        _close_fresh(self._supervisor, self._sockets)

    def apply(self) -> list[Service]:
        """Want the new configuration. Return the services that were touched."""
        self._signal_unchanged()
        supervisor, resolved = self._supervisor, self._resolved
        supervisor.machine.first.clear()  # what is new and broken must not end what serves
        changes = diff(supervisor.resolved.config, resolved.config)
        before = supervisor.resolved, supervisor.sockets
        supervisor.hold(resolved, self._sockets)
        try:
            made = {name: supervisor.make_generation(name, supervisor.services[name].top + 1) for name in self._rolling}
        except BaseException:
            supervisor.hold(*before)
            raise
        for name, generation in made.items():
            supervisor.services[name].adopt(generation)
        for name in changes.removed:
            supervisor.machine.remove(name)
        for name in changes.added:
            supervisor.add(name)
        self._take_unused()
        touched = [*self._rolling, *changes.added]
        return [supervisor.services[name] for name in touched]

    def tell(self, ticket: Ticket) -> None:
        """Let an nginx of ours know, after `apply`; `ticket` is the reload's."""
        self._supervisor.fronting.apply(self._front, self._rolling, self._moved, ticket)

    def _take_unused(self) -> None:
        """Sockets on which no service accepts wait for no new code."""
        used = {sock for service in self._supervisor.services.values() for sock in service.current.sockets}
        for sock in (sock for group in self._sockets.values() for sock in group if sock not in used):
            try:
                sock.take()
            except BindError as error:
                self._supervisor.machine.chronicle.note(str(error), level="error")

    def _signal_unchanged(self) -> None:
        """Commands that reload themselves by a signal, unless they are replaced anyway."""
        for name, spec in self._resolved.config.services.items():
            signum = _takes_signal(spec)
            if signum is None or name in self._rolling or self._named or name not in self._supervisor.services:
                continue
            for process in self._supervisor.services[name].workers():
                if process.live and process.handle is not None:
                    process.handle.send(signum)
            self._supervisor.machine.chronicle.note(f"{name}: sent {spec.reload}", service=name)


def _takes_signal(spec: ServiceSpec) -> int | None:
    """The signal by which a command reloads itself, if it does."""
    if spec.reload is None or not spec.reload.startswith("signal:"):
        return None
    return parse_signal(spec.reload.removeprefix("signal:"))


def _only(new: Resolved, old: Resolved, names: Sequence[str]) -> Resolved:
    """The configuration that runs, with the named services (and the sockets they need) taken from the new one."""
    for name in names:
        if name not in new.config.services or name not in old.config.services:
            known = ", ".join(sorted(new.config.services)) or "none"
            raise UnknownName(f"no service {name!r}", hint=f"services: {known}")
    services = {**old.config.services, **{name: new.config.services[name] for name in names}}
    needed = {socket for name in names for socket in new.config.services[name].sockets}
    sockets = {**old.config.sockets, **{name: new.config.sockets[name] for name in needed}}
    nginx = new.config.nginx if any(is_generated(new.config.services[name]) for name in names) else old.config.nginx
    return new._replace(config=replace(old.config, services=services, sockets=sockets, nginx=nginx))


def _refuse_fixed(old: Resolved, new: Resolved) -> None:
    """What belongs to the running instance cannot change under it; to accept and ignore it would be a lie."""
    fixed = {"name": old.config.name != new.config.name, "control": old.config.control != new.config.control}
    hint = "change it back, or restart the supervisor"
    problems = [Problem(path, "cannot be changed by a reload", hint) for path, differs in fixed.items() if differs]
    if problems:
        raise ConfigError(problems)


def _unknown(supervisor: Running, resolved: Resolved, names: Sequence[str] | None) -> list[str]:
    """Services whose server has to be asked about its options. Not those that serve with the same ones: what has become
    of the server since then, the new code finds out as it starts, and a reload needs the processor for that."""

    def serves_so(name: str) -> bool:
        service = supervisor.services.get(name)
        if service is None or service.good is None:
            return False
        return service.generations[service.good].section == resolved.config.services[name]

    return [name for name in names or resolved.config.services if not serves_so(name)]


def _moved(resolved: Resolved, sockets: Sequence[str]) -> set[str]:
    """Services that accept on a socket whose section changed."""
    return {name for name, spec in resolved.config.services.items() if not set(sockets).isdisjoint(spec.sockets)}


def _rolling(supervisor: Running, resolved: Resolved, names: Sequence[str] | None, changed: set[str]) -> list[str]:
    """Which services get a new generation.

    Without names: web services always (their code may be new), side services only if their section changed: Redis is
    never bounced by a deploy.
    """
    # Not those that are only still leaving: they are taken up anew.
    running = [name for name in resolved.config.services if name in supervisor.resolved.config.services]
    if names:
        # An nginx of ours reads its file again: to replace it would refuse connections meanwhile.
        names = [name for name in names if name in changed or not is_generated(resolved.config.services[name])]
        # And those that share a socket whose section changed: they would go on accepting where nobody comes any more.
        return [*names, *(name for name in running if name in changed and name not in names)]
    services = resolved.config.services
    return [n for n in running if n in changed or services[n].is_web or services[n].reload == "restart"]


def _opened(supervisor: Running, resolved: Resolved, name: str) -> Sequence[ListenSocket]:
    """Bind a new or changed section; an address that we hold already is taken over, not bound twice."""
    spec = resolved.config.sockets[name]
    held = list(supervisor.open)  # also those that are only still draining: going back to them is no new bind
    before = supervisor.resolved.config.sockets.get(name)
    # With other permissions it is the same socket under another descriptor: nobody has them before the new code serves.
    same_but_for_addresses = before is not None and _unplaced(before) == _unplaced(spec)
    systemd = systemd_sockets(os.environ, os.getpid())
    keep = held if same_but_for_addresses else ()
    return open_sockets(name, spec, systemd=systemd, replaces=held, keep=keep, later=True)


def _unplaced(spec: SocketSpec) -> SocketSpec:
    return replace(spec, bind="", slots=None)


def _close_fresh(supervisor: Running, fresh: Mapping[str, Sequence[ListenSocket]]) -> None:
    for group in fresh.values():
        for socket in group:
            if socket not in supervisor.open:
                socket.close()
