"""Trees laid over one another, with the origin of every leaf: file, then environment, then flags.

The environment: `TRAPEZE_NAME`, `TRAPEZE_CONTROL__MODE`, `TRAPEZE_SOCKETS__WEB__BIND`,
`TRAPEZE_SERVICES__WEB__WORKERS`. A double underscore separates; names of services and sockets match whatever their
case and whether `-`, `.` or `_` is written; the last part is a field in lower case, and for tables (`env`, `options`,
`rlimits`, `restart`) one more part is a key in them. Other variables that begin with TRAPEZE_ are no configuration.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import cache
from typing import Any, get_args, get_origin

import msgspec
from msgspec import Struct

from trapeze.errors import Problem
from trapeze.problems import Problems, did_you_mean, join, members
from trapeze.spec import ControlSpec, ServiceSpec, SocketSpec
from trapeze.spec_nginx import NginxSpec

__all__ = ["PREFIXES", "Tree", "environment", "field_types", "lay"]

Tree = dict[str, Any]

PREFIXES = ("TRAPEZE_SERVICES__", "TRAPEZE_SOCKETS__", "TRAPEZE_CONTROL__", "TRAPEZE_NGINX__")
"""Variables that begin so configure the supervisor; services do not get them."""

_SECTIONS: dict[str, type[Struct]] = {"services": ServiceSpec, "sockets": SocketSpec}
_SINGLE: dict[str, type[Struct]] = {"control": ControlSpec, "nginx": NginxSpec}
_DEFINING = {"services": ("app", "command"), "sockets": ("bind",)}
"""Fields that make a new service or socket; the environment may add one by giving one of these."""


@cache
def field_types(struct: type[Struct]) -> dict[str, Any]:
    """Name to type of each field."""
    return {field.name: field.type for field in msgspec.structs.fields(struct)}


def lay(base: Tree, over: Mapping[str, Any], origins: dict[str, str], who: Mapping[str, str] | str) -> None:
    """Lay `over` on `base`: tables key by key, everything else as a whole. None means "not given".

    `who` is the origin of all of it, or a table of dotted paths to origins (the nearest parent counts).
    """
    _lay(base, over, origins, who, "", who if isinstance(who, str) else "flag")


def _lay(
    base: Tree, over: Mapping[str, Any], origins: dict[str, str], who: Mapping[str, str] | str, path: str, above: str
) -> None:
    for key, value in over.items():
        here = join(path, key)
        origin = above if isinstance(who, str) else who.get(here, above)
        if value is None and not isinstance(who, str):
            continue
        if key == "restart":
            value = _restart(base, value)
        if isinstance(value, Mapping):
            if not isinstance(base.get(key), dict):
                base[key] = {}
                origins[here] = origin
            _lay(base[key], value, origins, who, here, origin)
        else:
            base[key] = value
            _forget(origins, here)
            origins[here] = origin


def _restart(base: Tree, value: Any) -> Any:
    """`restart` may be a word or a table: a word over a table, or under one, is its `policy`."""
    below = base.get("restart")
    if isinstance(value, str) and isinstance(below, dict):
        return {"policy": value}
    if isinstance(value, Mapping) and isinstance(below, str):
        return {"policy": below, **value}
    return value


def _forget(origins: dict[str, str], path: str) -> None:
    """A whole value replaced a table: what was said about the table's leaves no longer counts."""
    inside = path + "."
    for leaf in [leaf for leaf in origins if leaf.startswith(inside)]:
        del origins[leaf]


def environment(
    environ: Mapping[str, str], known: Mapping[str, Collection[str]], problems: Problems
) -> Iterator[tuple[str, Tree]]:
    """Each variable that configures something, as (origin, small tree). `known`: names of services and sockets.

    Variables under our prefixes that fit nothing become problems.
    """
    wanted = sorted(name for name in environ if name == "TRAPEZE_NAME" or name.startswith(PREFIXES))
    new = _defined(wanted)
    for variable in wanted:
        origin = f"environment {variable}"
        if variable == "TRAPEZE_NAME":
            yield origin, {"name": environ[variable]}
            continue
        section, *parts = variable.removeprefix("TRAPEZE_").split("__")
        section = section.lower()
        reader = _Variable(origin, environ[variable], problems)
        if section in _SINGLE:
            small = reader.field(section, _SINGLE[section], parts)
        else:
            small = reader.named(section, parts, known[section], new[section])
        if small:
            yield origin, {section: small}


def _defined(variables: list[str]) -> dict[str, set[str]]:
    """Names of services and sockets that the environment itself defines."""
    new: dict[str, set[str]] = {"services": set(), "sockets": set()}
    for variable in variables:
        section, *parts = variable.removeprefix("TRAPEZE_").lower().split("__")
        if section in new and len(parts) == 2 and parts[1] in _DEFINING[section]:
            new[section].add(parts[0])
    return new


def _plain(name: str) -> str:
    return name.lower().replace("-", "_").replace(".", "_")


class _Variable:
    """One variable on its way to a small tree."""

    def __init__(self, origin: str, text: str, problems: Problems) -> None:
        self.origin = origin
        self.text = text
        self.problems = problems

    def wrong(self, path: str, reason: str, hint: str = "") -> None:
        """A problem of this variable."""
        self.problems.found.append(Problem(path, reason, hint, self.origin))

    def named(self, section: str, parts: list[str], known: Collection[str], new: Collection[str]) -> Tree:
        """A field of one service or socket."""
        if len(parts) < 2 or not parts[0]:
            self.wrong("", "names no field", f"write {self._prefix(section)}NAME__FIELD")
            return {}
        word = parts[0].lower()
        matches = sorted(name for name in known if _plain(name) == _plain(word))
        if len(matches) > 1:
            matches = [name for name in matches if name.lower() == word] or matches
        if len(matches) > 1:
            self.wrong(f"{section}.{word}", f"could be any of {', '.join(matches)}", "rename one of them")
            return {}
        if not matches and word not in new:
            what = section.removesuffix("s")
            hint = did_you_mean(word, known) or (f"there are {', '.join(sorted(known))}" if known else "")
            self.wrong(f"{section}.{word}", f"there is no such {what}", hint)
            return {}
        name = matches[0] if matches else word
        small = self.field(f"{section}.{name}", _SECTIONS[section], parts[1:])
        return {name: small} if small else {}

    @staticmethod
    def _prefix(section: str) -> str:
        return f"TRAPEZE_{section.upper()}__"

    def field(self, path: str, struct: type[Struct], parts: list[str]) -> Tree:
        """A field of a section, or one key of a table in it."""
        name, rest = parts[0].lower(), parts[1:]
        kinds = field_types(struct)
        if name not in kinds:
            self.wrong(join(path, name), "unknown key", did_you_mean(name, kinds))
            return {}
        if not rest:
            return {name: self.value(kinds[name])}
        inner = next((kind for kind in members(kinds[name])[0] if _is_table(kind)), None)
        if inner is None:
            self.wrong(join(path, ".".join([name, *rest]).lower()), "unknown key", f'"{name}" is no table')
            return {}
        # names of environment variables keep their case, all other keys are lower case
        key = "__".join(rest) if name == "env" else "__".join(rest).lower()
        kind = field_types(inner).get(key, str) if get_origin(inner) is None else get_args(inner)[1]
        return {name: {key: self.value(kind)}}

    def value(self, kind: Any) -> Any:
        """The text as the field's type: numbers and booleans as such, lists and tables from TOML or JSON."""
        plain = members(kind)[0]
        origins = [get_origin(part) or part for part in plain]
        opens = self.text.lstrip()[:1]
        if (opens == "[" and list in origins) or (opens == "{" and any(map(_is_table, plain))):
            return _structured(self.text)
        if Any in plain:
            return _scalar(self.text)
        # most exact type first; text takes whatever is left
        if str in plain:
            return self.text
        for exact in (bool, int, float):
            if exact in plain:
                try:
                    return msgspec.convert(self.text, exact, strict=False)
                except msgspec.ValidationError:
                    continue
        return self.text


def _is_table(kind: Any) -> bool:
    return get_origin(kind) is dict or (isinstance(kind, type) and issubclass(kind, Struct))


def _structured(text: str) -> Any:
    """JSON or a TOML value; the text itself when it is neither (the type check then says what was expected)."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        pass
    import tomllib

    try:
        return tomllib.loads(f"value = {text}").get("value", text)
    except (tomllib.TOMLDecodeError, RecursionError):
        return text


def _scalar(text: str) -> Any:
    """For values of any type (server options): true, 8 and 2.5 mean what they mean in TOML; the rest is text."""
    value = _structured(text)
    return value if isinstance(value, bool | int | float | list | dict) else text
