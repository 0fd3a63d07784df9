"""What hangs together: checks across fields and sections, all of them pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from msgspec.structs import replace

from trapeze.addresses import Address, Tcp, parse
from trapeze.addresses import problems as address_problems
from trapeze.checks_nginx import check_nginx
from trapeze.checks_service import check_service
from trapeze.problems import Problems, did_you_mean, join
from trapeze.slots import addresses_of, count_of, users_of
from trapeze.slots import problems as slot_problems
from trapeze.spec import Config, SocketSpec

__all__ = ["check", "shared_with_apps", "start_order", "unused_sockets"]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_NAME_RULE = "letters, digits, _ . and -, at most 64, a letter, digit or _ first"
_RESERVED = "trapeze"


def check(config: Config, problems: Problems) -> None:
    """Add everything that is wrong with a configuration whose types are right."""
    if not config.services and not problems.found:
        problems.add("services", "nothing to run", "add [services.NAME] with app or command")
    if not config.name.isprintable():
        problems.add("name", "has control characters")
    _sockets(config, problems)
    for name, spec in config.services.items():
        if not _NAME.fullmatch(name) or name == _RESERVED:
            reserved = "no service can have this name: the supervisor's own log lines bear it"
            reason, hint = (reserved, "") if name == _RESERVED else ("not a valid name", _NAME_RULE)
            problems.add(join("services", name), reason, hint)
        check_service(name, spec, config, problems)
    _order(config, problems)
    check_nginx(config, problems)


def _sockets(config: Config, problems: Problems) -> None:
    taken: list[tuple[str, Address]] = []
    for name, spec in config.sockets.items():
        path = join("sockets", name)
        if not _NAME.fullmatch(name):
            problems.add(path, "not a valid name", _NAME_RULE)
        found = _addresses(name, spec, config, problems)
        for address in found:
            other, held = next(((other, held) for other, held in taken if _same(address, held)), ("", address))
            if other == path and held != address:  # what is listed twice, word for word, has been said
                problems.add(join(path, "bind"), f"{address} is taken by {held}", "one of them is enough")
            elif other and other != path:
                problems.add(join(path, "bind"), f"{address} is taken by {other}", "each socket needs its own address")
            taken.append((path, address))


def _addresses(name: str, spec: SocketSpec, config: Config, problems: Problems) -> list[Address]:
    """All that the section stands for, as far as they can be read."""
    path = join("sockets", name)
    found = [address for text in spec.addresses if (address := _address(text, path, problems)) is not None]
    users = users_of(name, config)
    if spec.listen == "per-worker" and len(users) > 1:
        reason = f'"per-worker" is for one service, and {" and ".join(users)} accept there'
        problems.add(join(path, "listen"), reason, "give each a socket of its own")
    if len(found) < len(spec.addresses):
        return found
    whole = replace(spec, slots=count_of(name, config))
    for reason in (*address_problems(whole), *slot_problems(whole)):
        problems.add(path, reason)
    return [address for _, address in addresses_of(whole)]


def _address(text: str, path: str, problems: Problems) -> Address | None:
    try:
        return parse(text)
    except ValueError as error:
        problems.add(join(path, "bind"), str(error))
        return None


def _same(one: Address, other: Address) -> bool:
    """Can only one of them be bound? A port on all interfaces is also taken on each."""
    if not (isinstance(one, Tcp) and isinstance(other, Tcp)):
        return one == other
    if one.port != other.port or one.port == 0 or one.v6 != other.v6:
        return False
    hosts = {_LOCAL.get(one.host, one.host), _LOCAL.get(other.host, other.host)}
    return len(hosts) == 1 or bool(hosts & _EVERYWHERE)


_LOCAL = {"localhost": "127.0.0.1"}
_EVERYWHERE = frozenset({"0.0.0.0", "::"})


def shared_with_apps(config: Config) -> Iterator[tuple[str, str]]:
    """(path, reason) for each command that accepts beside an app: it works only if it never waits in accept()."""
    users = {socket: name for name, spec in config.services.items() if spec.app is not None for socket in spec.sockets}
    for name, spec in config.services.items():
        for socket in spec.sockets if spec.app is None else ():
            if socket in users and socket in config.sockets:
                reason = f'the app "{users[socket]}" accepts there too, and keeps the socket non-blocking'
                yield join(join("services", name), "socket"), reason


def unused_sockets(config: Config) -> Iterator[tuple[str, str]]:
    """(path, reason) for each socket that no service names: it is bound, and whoever connects waits for ever."""
    for name in config.sockets:
        if not users_of(name, config):
            yield join("sockets", name), "no service accepts there: who connects waits for ever"


def _order(config: Config, problems: Problems) -> None:
    """`after`: known, not itself, not disabled, no circle."""
    services = config.services
    for name, spec in services.items():
        path = join(join("services", name), "after")
        for other in spec.after:
            if other == name:
                problems.add(path, "names the service itself")
            elif other not in services:
                hint = did_you_mean(other, services) or f"services are {', '.join(services)}"
                problems.add(path, f'there is no service "{other}"', hint)
            elif spec.enabled and not services[other].enabled:
                problems.add(path, f'"{other}" is not enabled, so "{name}" would wait for ever')
    for circle in _circles(config):
        problems.add(join(join("services", circle[0]), "after"), f"goes in a circle: {' -> '.join(circle)}")


def _circles(config: Config) -> list[list[str]]:
    """Circles as [a, b, a], at least one of each knot; a service after itself is not listed."""
    services = config.services
    found: list[list[str]] = []
    done: set[str] = set()
    for first in services:
        trail = [] if first in done else [first]
        ahead = [iter(services[name].after) for name in trail]
        while ahead:
            other = next(ahead[-1], None)
            if other is None:
                ahead.pop()
                done.add(trail.pop())
            elif other in trail:
                if other != trail[-1]:
                    found.append([*trail[trail.index(other) :], other])
            elif other in services and other not in done:
                trail.append(other)
                ahead.append(iter(services[other].after))
    return found


def start_order(config: Config) -> list[str]:
    """Services so that each comes later than those in its `after`; otherwise in the order of the file.

    Unknown names are ignored; a circle, which `check` refuses, is broken at its first service in the file.
    """
    order: list[str] = []
    waiting = dict.fromkeys(config.services)
    while waiting:
        ready = next((name for name in waiting if not _waits(config, name, waiting)), None)
        if ready is None:
            ready = next(iter(waiting))
        order.append(ready)
        del waiting[ready]
    return order


def _waits(config: Config, name: str, waiting: dict[str, None]) -> bool:
    return any(other in waiting and other != name for other in config.services[name].after)
