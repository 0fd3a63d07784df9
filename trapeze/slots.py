"""`listen = "per-worker"`: a socket for each slot of a service, and which worker accepts on which. Pure.

Beside a common queue, from which a worker takes what it has time for, this is the other way to spread requests: the
proxy in front sees each worker by its own address, and sends a request to the one that has the least to do. The sockets
belong to slots and not to processes: what waits in the queue of a worker that died waits for its replacement.

There are as many as the file says workers. Of more workers (`scale`) several share a slot; of fewer, the last slots are
closed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

from trapeze.addresses import Abstract, Address, Inherited, Systemd, Tcp, Unix, fits, parse
from trapeze.spec import Config, SocketSpec

__all__ = ["accepted_by", "addresses_of", "count_of", "is_served", "problems", "users_of"]


class Slotted(Protocol):
    """What these functions know of a socket."""

    name: str
    slot: int | None


_Sock = TypeVar("_Sock", bound=Slotted)


def addresses_of(spec: SocketSpec) -> list[tuple[int | None, Address]]:
    """Return all addresses of a section, with the slot of each; None where all workers accept.

    Raises:
        ValueError: one of them cannot be read.
    """
    parsed = [parse(text) for text in spec.addresses]
    if spec.listen != "per-worker":
        return [(None, address) for address in parsed]
    return [(slot, _address(address, slot)) for address in parsed for slot in range(spec.slots or 1)]


def _address(address: Address, slot: int) -> Address:
    """Port 8000 is that of slot 0, 8001 that of slot 1; web.sock becomes web.0.sock."""
    match address:
        case Tcp(host, port, v6):
            return Tcp(host, port + slot if port else 0, v6)
        case Unix(path):
            return Unix(_numbered(path, slot))
        case Abstract(name):
            return Abstract(_numbered(name, slot))
    return address


def _numbered(name: str, slot: int) -> str:
    directory, slash, file = name.rpartition("/")
    stem, dot, suffix = file.rpartition(".")
    return f"{directory}{slash}{stem}.{slot}.{suffix}" if dot and stem else f"{name}.{slot}"


def users_of(name: str, config: Config) -> list[str]:
    """The services that accept on a socket."""
    return [
        service
        for service, spec in config.services.items()
        if name in spec.sockets or (spec.app is not None and spec.socket is None and service == name)
    ]


def count_of(name: str, config: Config) -> int | None:
    """How many slots a socket has: what its section says, or one for each worker. None if it has none."""
    spec = config.sockets[name]
    if spec.listen != "per-worker":
        return spec.slots
    return spec.slots or max((config.services[each].workers for each in users_of(name, config)), default=1) or 1


def problems(spec: SocketSpec) -> Iterator[str]:
    """Yield what is wrong with the numbers of a section whose addresses can be read."""
    if spec.listen != "per-worker":
        if spec.slots is not None:
            yield 'slots goes with listen = "per-worker"'
        return
    for text in spec.addresses:
        address = parse(text)
        if isinstance(address, Inherited | Systemd):
            yield f'{address}: listen = "per-worker" goes with addresses that trapeze binds'
            continue
        last = _address(address, (spec.slots or 1) - 1)
        if isinstance(last, Tcp) and last.port > 65535:
            yield f"{address}: port {last.port} of the last slot is too high: the limit is 65535"
        if isinstance(last, Unix | Abstract):
            try:
                fits("path", last.path if isinstance(last, Unix) else last.name)
            except ValueError as error:
                yield f"{last}: {error}"


def accepted_by(sockets: Sequence[_Sock], index: int) -> list[_Sock]:
    """Those on which the worker with this index accepts."""
    slots: dict[str, int] = {}
    for sock in sockets:
        if sock.slot is not None:
            slots[sock.name] = max(slots.get(sock.name, 0), sock.slot + 1)
    return [sock for sock in sockets if sock.slot is None or sock.slot == index % slots[sock.name]]


def is_served(sock: Slotted, workers: int) -> bool:
    """Does one of so many workers accept on it?"""
    return workers > 0 and (sock.slot is None or sock.slot < workers)
