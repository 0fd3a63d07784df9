"""What can stand behind `bind`: text -> typed address. Pure: nothing is looked up or opened here."""

from __future__ import annotations

import re
import socket

from msgspec import Struct

from trapeze.spec import SocketSpec

__all__ = [
    "SUN_PATH_MAX",
    "Abstract",
    "Address",
    "Inherited",
    "Systemd",
    "Tcp",
    "Unix",
    "fits",
    "parse",
    "problems",
    "split_host_port",
]

SUN_PATH_MAX = 107
"""Bytes that a Unix socket's path may have on Linux: sun_path less the final NUL."""

_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?")
_NUMBERS = re.compile(r"[0-9.]+")


class Tcp(Struct, frozen=True):
    """A TCP port on an interface."""

    host: str
    """Numeric, or a name that is resolved when the socket is opened."""
    port: int
    """0: the kernel chooses."""
    v6: bool
    """The host was given in brackets: an IPv6 address."""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if self.v6 else f"{self.host}:{self.port}"


class Unix(Struct, frozen=True):
    """A Unix socket with a path."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


class Abstract(Struct, frozen=True):
    """A Unix socket in Linux's abstract namespace: no file, hence no permissions."""

    name: str

    def __str__(self) -> str:
        return f"unix:@{self.name}"


class Inherited(Struct, frozen=True):
    """A descriptor that trapeze was started with."""

    fd: int

    def __str__(self) -> str:
        return f"fd://{self.fd}"


class Systemd(Struct, frozen=True):
    """The sockets that systemd (or another trapeze) passed on under this name."""

    name: str

    def __str__(self) -> str:
        return f"systemd:{self.name}"


Address = Tcp | Unix | Abstract | Inherited | Systemd


def parse(text: str) -> Address:
    """Read an address.

    "127.0.0.1:8000"; ":8000" is all IPv4 interfaces, 0.0.0.0; "[::1]:8000"; "example.org:80"; "unix:/run/app.sock";
    "unix:@abstract"; "fd://3"; "systemd:NAME".

    Raises:
        ValueError: with a reason that can be shown as it is.
    """
    if not text:
        raise ValueError("the address is empty")
    if "\0" in text or not text.isprintable():
        raise ValueError(f"{text!r} has characters in it that no address can have")
    scheme, colon, rest = text.partition(":")
    if scheme == "unix" and colon:
        return _unix(rest)
    if scheme == "fd" and colon:
        return _inherited(text, rest)
    if scheme == "systemd" and colon:
        if not rest or ":" in rest:
            raise ValueError(f'"{text}" names no socket: write systemd:NAME, NAME as in LISTEN_FDNAMES')
        return Systemd(rest)
    if "//" in text:
        raise ValueError(f'unknown kind of address "{scheme}": write HOST:PORT, unix:PATH, fd://N or systemd:NAME')
    host, port, v6 = split_host_port(text)
    return Tcp(host or "0.0.0.0", port, v6)


def _unix(rest: str) -> Unix | Abstract:
    if rest.startswith("@"):
        name = rest[1:]
        if not name:
            raise ValueError("an abstract socket needs a name: unix:@NAME")
        fits("abstract name", name)
        return Abstract(name)
    if rest.startswith("//"):
        # unix:///run/app.sock, as curl and others write it
        if not rest.startswith("///"):
            raise ValueError(f'"unix:{rest}" is ambiguous: write unix:/PATH with one slash')
        rest = "/" + rest.lstrip("/")
    if not rest or rest.endswith("/") or rest.rpartition("/")[2] in (".", ".."):
        raise ValueError(f'"unix:{rest}" names no file')
    fits("path", rest)
    return Unix(rest)


def fits(what: str, text: str) -> None:
    """Raise ValueError if it is too long for a Unix socket's path, or name."""
    length = len(text.encode("utf-8", "surrogateescape"))
    if length > SUN_PATH_MAX:
        raise ValueError(f"the {what} is too long for a Unix socket: {length} bytes, the limit is {SUN_PATH_MAX}")


def _inherited(text: str, rest: str) -> Inherited:
    number = rest.removeprefix("//")
    if not rest.startswith("//") or not _is_number(number):
        raise ValueError(f'"{text}" is no descriptor: write fd://N')
    if int(number) > 0x7FFFFFFF:
        raise ValueError(f'"{text}": no descriptor has such a number')
    return Inherited(int(number))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10


def split_host_port(text: str) -> tuple[str, int, bool]:
    """Read "HOST:PORT" or "[V6]:PORT"; return host (empty for ":PORT"), port, and whether it is an IPv6 address.

    Raises:
        ValueError: with a reason.
    """
    host, colon, port_text = text.rpartition(":")
    if text.startswith("["):
        if not host.endswith("]"):
            raise ValueError(f'"{text}" lacks a port: write [ADDRESS]:PORT')
        return _v6(text, host[1:-1]), _port(text, port_text), True
    if not colon:
        raise ValueError(_no_port(text))
    if ":" in host:
        raise ValueError(f'an IPv6 address stands in brackets: write [ADDRESS]:PORT instead of "{text}"')
    port = _port(text, port_text)
    if host:
        _v4_or_name(host)
    return host, port, False


def _no_port(text: str) -> str:
    if text.startswith(("/", "./", "../")):
        return f'a path is written unix:PATH: "unix:{text}"'
    if text.isascii() and text.isdigit():
        return f'"{text}" lacks a host: write 127.0.0.1:{text}, or :{text} for all IPv4 interfaces'
    return f'"{text}" lacks a port: write HOST:PORT, or unix:PATH for a Unix socket'


def _v6(text: str, host: str) -> str:
    address, percent, scope = host.partition("%")
    try:
        socket.inet_pton(socket.AF_INET6, address)
    except OSError:
        raise ValueError(f'"{address}" in "{text}" is not an IPv6 address') from None
    if percent and not scope:
        raise ValueError(f'"{text}" lacks the interface after "%"')
    return host


def _v4_or_name(host: str) -> None:
    if host == "*":
        raise ValueError('"*" is no host: leave it out (":PORT" is all IPv4 interfaces) or write [::] for IPv6')
    if _NUMBERS.fullmatch(host):
        try:
            socket.inet_pton(socket.AF_INET, host)
        except OSError:
            raise ValueError(f'"{host}" is not an IPv4 address') from None
    elif len(host) > 253 or not _HOST_NAME.fullmatch(host):
        raise ValueError(f'"{host}" is not a host name')


def _port(text: str, port: str) -> int:
    if not _is_number(port):
        raise ValueError(f'"{port}" in "{text}" is not a port number')
    if int(port) > 65535:
        raise ValueError(f"port {port} is too high: the limit is 65535")
    return int(port)


def problems(spec: SocketSpec) -> list[str]:
    """Return the reasons why this section cannot work, as far as its text tells; empty when it is fine."""
    found: list[str] = []
    addresses: list[Address] = []
    if not spec.addresses:
        found.append("no address is given")
    for text in spec.addresses:
        try:
            address = parse(text)
        except ValueError as error:
            found.append(str(error))
            continue
        if address in addresses and getattr(address, "port", 1) != 0:
            found.append(f"{address} is listed twice")
        addresses.append(address)
    if len(addresses) == len(spec.addresses):
        found += _permission_problems(spec, addresses) + _dual_stack_problems(spec, addresses)
        found += _reuse_port_problems(spec, addresses)
    return found


def _permission_problems(spec: SocketSpec, addresses: list[Address]) -> list[str]:
    given = [key for key in ("mode", "owner", "group") if getattr(spec, key) is not None]
    if not given:
        return []
    keys = " and ".join(given)
    found = [
        f"{address}: abstract sockets have no {keys}: any process in the same network namespace may connect"
        for address in addresses
        if isinstance(address, Abstract)
    ]
    found += [
        f"{address}: {keys} cannot be set on a socket that was bound by somebody else"
        for address in addresses
        if isinstance(address, Inherited | Systemd)
    ]
    if all(isinstance(address, Tcp) for address in addresses) and addresses:
        found.append(f"{keys} can only be set on a Unix socket")
    return found


def _reuse_port_problems(spec: SocketSpec, addresses: list[Address]) -> list[str]:
    if not spec.reuses_port:
        return []
    why = {
        Unix: "a Unix socket has one queue, for all who accept on it",
        Abstract: "a Unix socket has one queue, for all who accept on it",
        Inherited: "it was bound by somebody else",
        Systemd: "it was bound by somebody else",
    }
    words = 'listen = "reuseport" goes with TCP addresses'
    return [f"{address}: {words}: {why[type(address)]}" for address in addresses if not isinstance(address, Tcp)]


def _dual_stack_problems(spec: SocketSpec, addresses: list[Address]) -> list[str]:
    if not spec.dual_stack:
        return []
    found = [
        f"{address}: dual_stack needs an IPv6 address, as [::]:{address.port}"
        for address in addresses
        if isinstance(address, Tcp) and not address.v6
    ]
    if not any(isinstance(address, Tcp) for address in addresses) and addresses:
        found.append("dual_stack needs an IPv6 address that trapeze binds")
    return found
