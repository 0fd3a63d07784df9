"""The checked configuration made explicit: absolute paths, split commands, the defaults that depend on others."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

import msgspec

from trapeze.addresses import Unix, parse
from trapeze.checks_nginx import fronted, is_generated
from trapeze.problems import Problems, join
from trapeze.slots import count_of
from trapeze.spec import Config, ServiceSpec, SocketSpec
from trapeze.spec_nginx import NginxSpec

__all__ = ["absolute", "resolve", "split"]

_PATHS = ("app_dir", "venv")


def split(command: str) -> list[str]:
    """Words of a command line by the shell's quoting rules, without a shell. ValueError with a reason."""
    import shlex

    if not any(letter in command for letter in "'\"\\"):
        return command.split()
    try:
        return shlex.split(command)
    except ValueError as error:
        raise ValueError("a quote is not closed" if "quotation" in str(error) else "a \\ at the end") from None


def resolve(config: Config, directory: str, current: str, problems: Problems) -> Config:
    """Paths from the file and the environment are relative to `directory`, those from flags to `current`."""
    return msgspec.structs.replace(
        config,
        sockets={
            name: _socket(spec, count_of(name, config), _Base(join("sockets", name), directory, current, problems))
            for name, spec in config.sockets.items()
        },
        nginx=_nginx(config.nginx, _Base("nginx", directory, current, problems)),
        services={
            name: _service(name, spec, config, _Base(join("services", name), directory, current, problems))
            for name, spec in config.services.items()
        },
    )


class _Base:
    """What the relative paths of one section are relative to; depends on who gave the value."""

    def __init__(self, path: str, directory: str, current: str, problems: Problems) -> None:
        self.path = path
        self.directory = directory
        self._current = current
        self._problems = problems

    def given(self, field: str) -> bool:
        """Did somebody say something of it, be it what is the default anyway?"""
        return join(self.path, field) in self._problems.origins

    def __call__(self, field: str, value: str) -> str:
        flag = self._problems.origin(join(self.path, field)).startswith("flag")
        return absolute(value, self._current if flag else self.directory)


def absolute(path: str, directory: str) -> str:
    """`path` in `directory`, tidied unless that could change what it means (`..` after a symbolic link)."""
    whole = os.path.join(directory, path)
    return whole if ".." in whole.split("/") else os.path.normpath(whole)


def _socket(spec: SocketSpec, slots: int | None, base: _Base) -> SocketSpec:
    made = [_address(text, base) for text in spec.addresses]
    bind: str | list[str] = made[0] if isinstance(spec.bind, str) else made
    return msgspec.structs.replace(spec, bind=bind, slots=slots)


def _address(text: str, base: _Base) -> str:
    """Unix sockets by absolute path; anything else as it is."""
    try:
        address = parse(text)
    except ValueError:
        return text  # `checks` has said so
    return str(Unix(base("bind", address.path))) if isinstance(address, Unix) else text


def _nginx(spec: NginxSpec, base: _Base) -> NginxSpec:
    made: dict[str, Any] = {
        field: {path: base(join(field, path), directory) for path, directory in getattr(spec, field).items()}
        for field in ("static", "media")
    }
    for field in ("certificate", "certificate_key"):
        if value := getattr(spec, field):
            made[field] = base(field, value)
    made["include"] = [base("include", file) for file in spec.includes]
    return msgspec.structs.replace(spec, **made)


def _service(name: str, spec: ServiceSpec, config: Config, base: _Base) -> ServiceSpec:
    made: dict[str, Any] = {"cwd": base("cwd", spec.cwd or ".") if spec.cwd else base.directory}
    for field in _PATHS:
        value = getattr(spec, field)
        if value:
            made[field] = base(field, value)
    if spec.python:
        from shutil import which

        # A bare name is looked up now, and not in the PATH that the service will have.
        made["python"] = base("python", spec.python) if "/" in spec.python else which(spec.python) or spec.python
    if spec.env_file:
        files = [spec.env_file] if isinstance(spec.env_file, str) else spec.env_file
        made["env_file"] = [base("env_file", file) for file in files]
    if spec.app is not None:
        made.setdefault("app_dir", made["cwd"])
        if spec.socket is None and name in config.sockets:
            made["socket"] = name
    if isinstance(spec.command, str) and not spec.shell:
        with suppress(ValueError):  # `checks` has said so
            made["command"] = split(spec.command)
    if is_generated(spec):
        made |= _of_nginx(name, config, base)
    return msgspec.structs.replace(spec, **made)


def _of_nginx(name: str, config: Config, base: _Base) -> dict[str, Any]:
    """An nginx of ours comes after those whose requests it passes on and leaves before them; TERM would make it drop
    what it is doing."""
    made: dict[str, Any] = {}
    if not base.given("stop_signal"):
        made["stop_signal"] = "QUIT"
    if not base.given("after"):
        behind = {other: config.services[other] for other in fronted(config) if other in config.services}
        made["after"] = [other for other, spec in behind.items() if spec.enabled and name not in spec.after]
    return made
