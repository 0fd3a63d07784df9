"""A merged tree to typed structs: at once when all is well, else field by field, so that all problems show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from trapeze.overlay import Tree, field_types
from trapeze.problems import Problems, did_you_mean, explain, got, join, members
from trapeze.spec import Config, ControlSpec, ServiceSpec, SocketSpec
from trapeze.spec_nginx import NginxSpec

__all__ = ["convert"]

_FEW = 8
"""Sections with so few keys list them when nothing is near enough for "did you mean"."""

_TABLES: dict[str, type[Struct]] = {"control": ControlSpec, "nginx": NginxSpec}
"""Sections of which there is one."""

_ELSEWHERE = {
    "autostart": "enabled",
    "chdir": "cwd",
    "concurrency": "workers",
    "cmd": "command",
    "depends_on": "after",
    "directory": "cwd",
    "environment": "env",
    "environment_file": "env_file",
    "gid": "group",
    "numprocs": "workers",
    "processes": "workers",
    "pythonpath": "app_dir",
    "requires": "after",
    "server": "backend",
    "stopsignal": "stop_signal",
    "stopwaitsecs": "stop_timeout",
    "uid": "user",
    "virtualenv": "venv",
    "working_dir": "cwd",
}
"""What other programs call our options."""


def convert(tree: Tree, problems: Problems) -> Config:
    """The whole tree; what is wrong goes to `problems` and is left at its default."""
    if not problems.found:
        try:
            return msgspec.convert(tree, Config)
        except msgspec.ValidationError:
            pass
    return _config(tree, problems)


def _config(tree: Tree, problems: Problems) -> Config:
    kinds = field_types(Config)
    given: dict[str, Any] = {}
    for key, value in tree.items():
        if key not in kinds:
            _unknown(key, "", kinds, problems)
        elif key == "name":
            _field(given, "name", value, kinds["name"], "name", problems)
        elif not isinstance(value, Mapping):
            problems.add(key, f"expected a table, got {got(value)}", _table_hint(key))
        elif key in _TABLES:
            given[key] = _struct(value, _TABLES[key], key, problems)
        else:
            struct = SocketSpec if key == "sockets" else ServiceSpec
            given[key] = _named(value, struct, key, problems)
    return Config(**{key: value for key, value in given.items() if value is not None})


def _table_hint(key: str) -> str:
    return f"write [{key}]" if key in _TABLES else f"write [{key}.NAME]"


def _named(tree: Mapping[str, Any], struct: type[Struct], path: str, problems: Problems) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in tree.items():
        here = join(path, name)
        if isinstance(value, Mapping):
            one = _struct(value, struct, here, problems)
            if one is not None:
                made[name] = one
        else:
            problems.add(here, f"expected a table, got {got(value)}", f"write [{path}.NAME] and its keys below it")
    return made


def _struct(tree: Mapping[str, Any], struct: type[Struct], path: str, problems: Problems) -> Struct | None:
    """One section; None when a key that it cannot do without is missing or wrong."""
    kinds = field_types(struct)
    given: dict[str, Any] = {}
    for key, value in tree.items():
        if key in kinds:
            _field(given, key, value, kinds[key], join(path, key), problems)
        else:
            _unknown(key, path, kinds, problems)
    for field in msgspec.structs.fields(struct):
        if field.required and field.name not in given:
            if field.name not in tree:
                problems.add(join(path, field.name), "missing", "every socket needs an address", at=path)
            return None
    return struct(**given)


def _field(given: dict[str, Any], key: str, value: Any, kind: Any, path: str, problems: Problems) -> None:
    inner = next((part for part in members(kind)[0] if isinstance(part, type) and issubclass(part, Struct)), None)
    if inner is not None and isinstance(value, Mapping):
        given[key] = _struct(value, inner, path, problems)
        return
    try:
        given[key] = msgspec.convert(value, kind)
    except msgspec.ValidationError:
        shown = "***" if key == "env" and isinstance(value, str) else value  # it may hold secrets
        for at, reason, hint in explain(shown, kind):
            problems.add(join(path, at) if at else path, reason, hint)


def _unknown(key: str, path: str, kinds: Mapping[str, Any], problems: Problems) -> None:
    here = join(path, key)
    if path.startswith("services.") and key in ("bind", "host", "port", "listen"):
        section = path.replace("services", "sockets", 1)
        problems.add(here, "unknown key", f"addresses are written as bind in [{section}]")
        return
    other = _ELSEWHERE.get(key.lower().replace("-", "_"))
    hint = f'did you mean "{other}"?' if other in kinds else did_you_mean(key, kinds)
    if not hint and len(kinds) <= _FEW:
        hint = "known are " + ", ".join(kinds)
    problems.add(here, "unknown key", hint)
