"""Going back to a generation that served before: by `rollback`, or because the one that was wanted has failed.

What a generation has brought goes with it: its section of the configuration, and the sockets that nobody else wants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from trapeze import report
from trapeze.errors import BindError, NothingKept
from trapeze.generation import Generation
from trapeze.listensocket import ListenSocket
from trapeze.service import Service
from trapeze.spec import SocketSpec
from trapeze.swap import Running

__all__ = ["give_back", "roll_back"]


def give_back(supervisor: Running, service: Service, failed: Generation) -> None:
    """Let the configuration and the sockets be again what they were for the generation that is wanted again."""
    good, config = service.current, supervisor.resolved.config
    if good.section is None or service.name not in config.services:
        return
    services = {**config.services, service.name: good.section}
    specs, held = dict(config.sockets), dict(supervisor.sockets)
    for name in {*failed.listens, *good.listens}:
        if _is_shared(supervisor, held.get(name, ()), good):
            continue
        if name in good.listens:
            specs[name], held[name] = good.listens[name], [sock for sock in good.sockets if sock.name == name]
        elif not any(name in spec.sockets for spec in services.values()):
            del specs[name], held[name]
    resolved = supervisor.resolved._replace(config=replace(config, services=services, sockets=specs))
    before = supervisor.sockets
    supervisor.hold(resolved, held)
    _assert_sections(supervisor, service, before, held)
    supervisor.watch()
    supervisor.fronting.refresh()


def _is_shared(supervisor: Running, group: Sequence[ListenSocket], good: Generation) -> bool:
    """Does another service want to accept on what the failed generation brought?"""
    brought = [sock for sock in group if sock not in good.sockets]
    return any(sock in service.current.sockets for service in supervisor.services.values() for sock in brought)


def _assert_sections(
    supervisor: Running,
    service: Service,
    before: Mapping[str, Sequence[ListenSocket]],
    after: Mapping[str, Sequence[ListenSocket]],
) -> None:
    """Where a file has already got the permissions of the new section, or a queue its length, they go back."""
    known = [sock for group in before.values() for sock in group]
    for sock in [sock for group in after.values() for sock in group if sock not in known]:
        try:
            if any(other.identity == sock.identity and not other.pending for other in known):
                sock.assert_section()
        except BindError as error:
            supervisor.machine.note(service, str(error), "error")


def roll_back(supervisor: Running, service: Service) -> int:
    """Want the generation that served before, whose code is still in memory; return its number.

    Raises:
        NothingKept: no earlier generation is there.
    """
    target, name = service.predecessor, service.name
    if target is None:
        why, hint = report.why_nothing_kept(service)
        raise NothingKept(f"{name}: no earlier generation is kept: {why}", hint=hint)
    generation, left = service.generations[target], service.current
    if target == service.good:  # a reload is called off, with all that it has brought
        service.rollback(generation)
        give_back(supervisor, service, left)
        return target
    missing = [socket for socket in generation.spec.sockets if socket not in supervisor.sockets]
    if missing:
        raise NothingKept(f"{name}: generation {target} accepted on socket {missing[0]!r}, which is gone")
    # On the sockets of today: the addresses it knew may have been given up.
    config = supervisor.resolved.config
    sockets = [held for wanted in generation.spec.sockets for held in supervisor.sockets[wanted]]
    listens: dict[str, SocketSpec] = {wanted: config.sockets[wanted] for wanted in generation.spec.sockets}
    service.rollback(replace(generation, sockets=sockets, listens=listens))
    if generation.section is not None and name in config.services:
        services = {**config.services, name: generation.section}
        supervisor.hold(supervisor.resolved._replace(config=replace(config, services=services)), supervisor.sockets)
        supervisor.watch()
        supervisor.fronting.refresh()
    return target
