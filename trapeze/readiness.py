"""What can stand behind `ready`: text -> typed condition. Pure: nothing is asked or opened here."""

from __future__ import annotations

import re
import shlex

from msgspec import Struct

from trapeze.addresses import Abstract, Tcp, Unix, parse, split_host_port

__all__ = ["After", "Connect", "Execute", "Http", "Notify", "Ready", "parse_duration", "parse_ready"]

_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h)", re.ASCII)
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class Notify(Struct, frozen=True):
    """The process says READY=1 itself."""


class Connect(Struct, frozen=True):
    """Something accepts connections there."""

    address: Tcp | Unix | Abstract


class Http(Struct, frozen=True):
    """A GET is answered with 2xx or 3xx."""

    address: Tcp
    target: str
    """Path and query, as sent."""

    @property
    def authority(self) -> str:
        """The Host header."""
        host = f"[{self.address.host}]" if self.address.v6 else self.address.host
        return host if self.address.port == 80 else f"{host}:{self.address.port}"


class Execute(Struct, frozen=True):
    """A command exits 0."""

    command: str


class After(Struct, frozen=True):
    """That much time has passed."""

    seconds: float


Ready = Notify | Connect | Http | Execute | After


def parse_ready(text: str) -> Ready:
    """Read a condition: "notify", "tcp://HOST:PORT", "unix:PATH", "http://HOST:PORT/PATH", "exec:COMMAND", "after:2s".

    Raises:
        ValueError: with a reason that can be shown as it is.
    """
    if text == "notify":
        return Notify()
    scheme, colon, rest = text.partition(":")
    if not colon:
        raise ValueError(_unknown(text))
    if scheme == "tcp":
        return Connect(_tcp(text, rest, "tcp://HOST:PORT"))
    if scheme == "unix":
        return Connect(_unix(text))
    if scheme == "http":
        return _http(text, rest)
    if scheme == "exec":
        return _execute(rest)
    if scheme == "after":
        return After(parse_duration(rest))
    raise ValueError(_unknown(text))


def _unknown(text: str) -> str:
    if text.startswith("https:"):
        return "https is not asked for readiness: use tcp://HOST:PORT, or exec: with a program that speaks it"
    return f'"{text}" is none of notify, tcp://HOST:PORT, unix:PATH, http://HOST:PORT/PATH, exec:COMMAND, after:2s'


def _tcp(text: str, rest: str, form: str, default_port: str = "") -> Tcp:
    if not rest.startswith("//"):
        raise ValueError(f'"{text}" lacks the slashes: write {form}')
    place = rest[2:]
    if ":" not in place.rpartition("]")[2]:
        place += default_port
    host, port, v6 = split_host_port(place)
    if not host:
        raise ValueError(f'"{text}" lacks a host: write {form}')
    if port == 0:
        raise ValueError(f'"{text}": nobody can be asked on port 0')
    return Tcp(host, port, v6)


def _unix(text: str) -> Unix | Abstract:
    address = parse(text)
    if not isinstance(address, Unix | Abstract):  # pragma: no cover - "unix:" is one of these or an error
        raise ValueError(_unknown(text))
    return address


def _http(text: str, rest: str) -> Http:
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(f"{text!r} has characters in it that a URL cannot have: write them as %XX")
    if "#" in text:
        raise ValueError(f'"{text}": what follows "#" is never sent to a server')
    place, slash, path = rest.removeprefix("//").partition("/")
    place, question, query = place.partition("?")
    if "@" in place:
        raise ValueError(f'"{text}": user and password are not sent')
    start = "//" if rest.startswith("//") else ""
    address = _tcp(text, start + place, "http://HOST:PORT/PATH", default_port=":80")
    return Http(address, f"/{question}{query}{slash}{path}" if question else f"/{path}")


def _execute(command: str) -> Execute:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ValueError(f'"exec:{command}" cannot be split into words: {str(error).lower()}') from None
    if not words:
        raise ValueError('"exec:" lacks a command')
    return Execute(command)


def parse_duration(text: str) -> float:
    """Return the seconds of "2s", "500ms", "1.5m", "1h".

    Raises:
        ValueError: with a reason.
    """
    found = _DURATION.fullmatch(text)
    if found is None:
        unit = f", as {text}s" if text.isascii() and text.isdigit() else ""
        raise ValueError(f'"{text}" is no duration: write a number and ms, s, m or h{unit}')
    return float(found[1]) * _UNITS[found[2]]
