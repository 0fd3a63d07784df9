"""The listening sockets that are held: which of them are still needed, and for which O_NONBLOCK has to be set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from trapeze.service import Service
from trapeze.sockets import ListenSocket

__all__ = ["sweep"]


def sweep(
    held: set[ListenSocket],
    named: Iterable[Sequence[ListenSocket]],
    services: Iterable[Service],
    note: Callable[[str], None],
) -> None:
    """Close those that neither the configuration (`named`) nor a generation refers to, and take them out of `held`."""
    used = {each for group in named for each in group}
    apps: set[ListenSocket] = set()
    for service in services:
        alive = {worker.generation for worker in service.workers()}
        for generation in service.retained():
            used.update(generation.sockets)
            if generation.spec.app is not None and generation.number in alive:
                apps.update(generation.sockets)
    for unused in held - used:
        unused.close()
        held.discard(unused)
    # The flag belongs to all who share the socket: one program that clears it would freeze the workers of apps. Where
    # only commands accept it is theirs: one that has cleared it waits in accept(), and would fail with EAGAIN if it
    # were set again under it.
    for each in held & apps:
        if each.assert_nonblocking():
            note(f"socket {each.name}: O_NONBLOCK was cleared by a worker; set again")
