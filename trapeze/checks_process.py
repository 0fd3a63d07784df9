"""Checks of one service as a process: readiness, signals, limits, stdin, environment."""

from __future__ import annotations

import math
import re
from contextlib import suppress
from functools import cache
from typing import Any

import msgspec

from trapeze.addresses import Address, parse
from trapeze.envfile import OURS
from trapeze.limits import limit_names, parse_rlimit, parse_signal, stop_signum
from trapeze.problems import Problems, did_you_mean, got, join
from trapeze.readiness import Connect, Http, Notify, parse_ready
from trapeze.resolve import split
from trapeze.spec import Config, RestartSpec, ServiceSpec

__all__ = ["Service", "check_process"]

_STOP_SIGNALS = ("TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "WINCH", "KILL")
_VARIABLE = re.compile(r"[^=\0]+")
_LARGEST = 2**63


class Service:
    """One service under inspection."""

    def __init__(self, name: str, spec: ServiceSpec, config: Config, problems: Problems) -> None:
        self.name = name
        self.spec = spec
        self.config = config
        self.path = join("services", name)
        self.problems = problems

    def wrong(self, field: str, reason: str, hint: str = "") -> None:
        """Add a problem of this field, or of the service as a whole."""
        self.problems.add(join(self.path, field) if field else self.path, reason, hint)

    def given(self, field: str) -> bool:
        """Did somebody set this field?"""
        return bool(getattr(self.spec, field) != _defaults()[field])

    def fine(self, field: str) -> bool:
        """Nothing is known to be wrong with this field."""
        return not self.problems.spoiled(join(self.path, field))

    @property
    def words(self) -> list[str]:
        """The command as words; empty if there is none or it cannot be split."""
        command = self.spec.command
        if isinstance(command, list) or command is None:
            return command or []
        try:
            return [command] if self.spec.shell else split(command)
        except ValueError:
            return []


@cache
def _defaults() -> dict[str, Any]:
    return msgspec.structs.asdict(ServiceSpec())


def check_process(service: Service) -> None:
    """Add everything that is wrong with it, apart from what makes it an app or a command."""
    _text(service)
    _ready(service)
    _process(service)
    _environment(service)


def _text(service: Service) -> None:
    """Text that no process can be given; numbers that no clock reaches."""
    for field, value in msgspec.structs.asdict(service.spec).items():
        if isinstance(value, RestartSpec):
            for inner, number in msgspec.structs.asdict(value).items():
                _finite(service, f"{field}.{inner}", number)
        _finite(service, field, value)
        if field in ("env", "options", "rlimits"):
            continue
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and (reason := _unfit(text)):
                service.wrong(field, reason)
        if value == "" and field not in ("root_path", "app", "command", "pre_start"):
            service.wrong(field, "is empty", "leave it out instead")


def _finite(service: Service, field: str, value: object) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        service.wrong(field, f"expected a number of seconds, got {value}")


def _unfit(text: str) -> str:
    if "\0" in text:
        return "contains a NUL character"
    return "" if text.isascii() or _encodes(text) else "contains bytes that are not UTF-8"


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _ready(service: Service) -> None:
    spec = service.spec
    if spec.ready is None or not service.fine("ready"):
        return
    try:
        ready = parse_ready(spec.ready)
    except ValueError as error:
        service.wrong("ready", str(error))
        return
    if spec.app is not None and isinstance(ready, Notify):
        service.wrong("ready", "a web app says by itself when it is ready", "leave it out")
    elif isinstance(ready, Connect) and ready.address in _own_addresses(service):
        service.wrong("ready", "the supervisor itself listens there, so this always succeeds at once", _instead(spec))
    elif isinstance(ready, Connect | Http) and spec.is_web and spec.workers > 1:
        # R9: a probe through a shared listener proves only that some worker answers
        reason = f"a probe cannot tell which of {spec.workers} workers on one socket answered"
        service.wrong("ready", reason, _instead(spec))


def _instead(spec: ServiceSpec) -> str:
    return "leave it out: a web app says it by itself" if spec.app is not None else 'use "notify" or "exec:COMMAND"'


def _own_addresses(service: Service) -> list[Address]:
    found = []
    for name in service.spec.sockets or ([service.name] if service.spec.app is not None else []):
        spec = service.config.sockets.get(name)
        for text in spec.addresses if spec is not None else []:
            with suppress(ValueError):  # `checks` says what is wrong with it
                found.append(parse(text))
    return found


def _process(service: Service) -> None:
    spec = service.spec
    try:
        stop_signum(spec)
    except ValueError as error:
        hint = did_you_mean(spec.stop_signal, _STOP_SIGNALS) or f"such as {', '.join(_STOP_SIGNALS)}"
        service.wrong("stop_signal", f'"{spec.stop_signal}": {error}', hint)
    known = limit_names()
    for name, value in spec.rlimits.items():
        if name not in known:
            hint = did_you_mean(name.lower().removeprefix("rlimit_"), known) or f"known are {', '.join(known)}"
            service.wrong(join("rlimits", name), "there is no such limit", hint)
            continue
        try:
            parse_rlimit(value)
        except ValueError as error:
            service.wrong(join("rlimits", name), str(error))
    _stdin(service)
    _reload(service)
    _pre_start(service)


def _stdin(service: Service) -> None:
    spec = service.spec
    kind, _, name = spec.stdin.partition(":")
    if spec.stdin in ("null", "inherit"):
        return
    if kind != "socket" or not name:
        service.wrong("stdin", f'expected "null", "inherit" or "socket:NAME", got {got(spec.stdin)}')
    elif spec.app is not None:
        service.wrong("stdin", "an app accepts on its socket; a socket as stdin is for commands")
    elif name not in spec.sockets:
        service.wrong("stdin", f'the service does not list a socket "{name}"', f'add socket = "{name}"')


def _reload(service: Service) -> None:
    reload = service.spec.reload
    if reload is None or not service.fine("reload"):
        return
    if service.spec.is_web:
        service.wrong("reload", "a service on a socket always rolls to a new generation", "leave it out")
        return
    kind, colon, name = reload.partition(":")
    if kind == "signal" and colon:
        try:
            parse_signal(name)
        except ValueError as error:
            service.wrong("reload", f'"{name}": {error}', did_you_mean(name, _STOP_SIGNALS))
    elif reload != "restart":
        service.wrong("reload", f'expected "restart" or "signal:NAME", got {got(reload)}')


def _pre_start(service: Service) -> None:
    listed = service.spec.pre_start
    for number, command in enumerate([listed] if isinstance(listed, str) else listed, 1):
        try:
            empty = not split(command)
        except ValueError as error:
            service.wrong("pre_start", f"command {number}: {error}")
        else:
            if empty:
                service.wrong("pre_start", f"command {number} is empty", "leave it out instead")


def _environment(service: Service) -> None:
    for name, value in service.spec.env.items():
        path = join("env", name)
        if not _VARIABLE.fullmatch(name) or _unfit(name):
            service.wrong(path, "not a name for an environment variable")
        elif name in OURS:
            service.wrong(path, "is set by the supervisor for each process")
        if isinstance(value, str) and (reason := _unfit(value)):
            service.wrong(path, reason)
    _options(service, service.spec.options, "options")


def _options(service: Service, value: object, path: str) -> None:
    """Options travel as JSON: no dates, no infinities, no endless numbers."""
    if isinstance(value, dict):
        for key, inner in value.items():
            _options(service, inner, join(path, str(key)))
    elif isinstance(value, list):
        for inner in value:
            _options(service, inner, path)
    elif isinstance(value, str):
        if reason := _unfit(value):
            service.wrong(path, reason)
    elif not isinstance(value, bool | int | float | None):
        service.wrong(path, f"{got(value)} cannot be handed to a server", "write it as text")
    elif isinstance(value, int | float) and (not math.isfinite(value) or abs(value) >= _LARGEST):
        service.wrong(path, f"{value} is too large a number" if isinstance(value, int) else f"{value} is no number")
