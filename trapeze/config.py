"""From file, environment and flags to one resolved configuration, or to all of its problems at once.

    load      defaults < file < environment < flags  ->  Resolved, or ConfigError
    diff      what two configurations do differently, for a reload
    masked    what `trapeze config` shows: secrets hidden, the origin of each value

The steps are `overlay` (merge), `convert` (types), `checks` (what hangs together) and `resolve` (absolute paths, split
commands). Nothing here looks at the machine apart from reading the file: that is `preflight`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import msgspec

from trapeze.checks import check, start_order
from trapeze.convert import convert
from trapeze.envfile import read_env_file, readable_by_us, service_environment, unreadable
from trapeze.errors import ConfigError, Problem, TrapezeError
from trapeze.limits import rlimit_pairs, stop_signum
from trapeze.overlay import Tree, environment, lay
from trapeze.problems import Problems
from trapeze.resolve import resolve
from trapeze.schema import schema
from trapeze.spec import Config

__all__ = [
    "Changes",
    "Resolved",
    "as_written",
    "diff",
    "load",
    "masked",
    "read_env_file",
    "rlimit_pairs",
    "schema",
    "service_environment",
    "start_order",
    "stop_signum",
]

MASK = "***"
_SECRET = re.compile("password|passwd|secret|token|key", re.IGNORECASE)
_NOWHERE: Mapping[str, Any] = {}


class Resolved(NamedTuple):
    """A configuration that was checked: every path absolute, every command split, every default in place."""

    config: Config
    origins: dict[str, str]
    """Dotted path of every value to where it is from: `default`, `trapeze.toml`, `environment X`, `flag --workers`."""
    path: str | None
    """The file, absolute; None without one."""
    directory: str
    """What relative paths were relative to: the file's directory, or the current one."""


class Changes(NamedTuple):
    """Names that a new configuration adds, drops or changes."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    sockets_added: tuple[str, ...]
    sockets_removed: tuple[str, ...]
    sockets_changed: tuple[str, ...]


def load(
    path: str | None,
    *,
    overlay: Mapping[str, Any] = _NOWHERE,
    overlay_origins: Mapping[str, str] = _NOWHERE,
    default_bind: Mapping[str, str] = _NOWHERE,
    environ: Mapping[str, str],
) -> Resolved:
    """Read and check everything. ConfigError bears all problems found.

    `overlay` is a tree like the file's, made from flags; `overlay_origins` gives dotted paths of it their names
    (`flag --workers`). `default_bind` has an address for each app (by name) that may go without a socket: it is used if
    nothing else says where that app listens.
    """
    directory = _working_directory(needed=path is None or not os.path.isabs(path))
    origins: dict[str, str] = {}
    tree: Tree = {}
    shown = ""
    if path is not None:
        path = os.path.normpath(os.path.join(directory, path))
        shown = _shown(path, directory)
        lay(tree, _read(path, shown, environ.get("SUDO_UID")), origins, shown)
    problems = Problems(origins, shown)
    known = {key: {*_names(tree, key), *_names(overlay, key)} for key in ("services", "sockets")}
    known["sockets"].update(default_bind)
    for origin, small in environment(environ, known, problems):
        lay(tree, small, origins, origin)
    lay(tree, overlay, origins, overlay_origins)
    _default_bind(tree, default_bind, origins)
    config = convert(tree, problems)
    check(config, problems)
    base = directory if path is None else os.path.dirname(path)
    config = resolve(config, base, directory, problems)
    resolved = Resolved(config, dict(_origins(msgspec.to_builtins(config), origins)), path, base)
    if problems.found:
        raise ConfigError(_in_order(problems.found, tree), partial=resolved)
    return resolved


def _working_directory(*, needed: bool) -> str:
    """As it was written. It may have been deleted since we were started: no matter, if the file is elsewhere."""
    try:
        return _as_written(os.getcwd())
    except FileNotFoundError:
        if needed:
            hint = "start it in a directory that stays, or name the file by its whole path"
            raise TrapezeError("the working directory was deleted", hint=hint) from None
        return "/"


def _names(tree: Mapping[str, Any], section: str) -> set[str]:
    found = tree.get(section)
    return {name for name in found if isinstance(name, str)} if isinstance(found, Mapping) else set()


def _default_bind(tree: Tree, addresses: Mapping[str, str], origins: dict[str, str]) -> None:
    services, sockets = tree.get("services"), tree.setdefault("sockets", {}) if addresses else {}
    for name, address in addresses.items():
        service = services.get(name) if isinstance(services, dict) else None
        needed = isinstance(service, dict) and "app" in service and "socket" not in service
        if needed and isinstance(sockets, dict):
            socket = sockets.setdefault(name, {})
            if isinstance(socket, dict) and "bind" not in socket:
                lay(tree, {"sockets": {name: {"bind": address}}}, origins, "default")


def _in_order(found: list[Problem], tree: Tree) -> list[Problem]:
    """Section by section as the file has them; what belongs to none comes first."""
    heads = [""]
    for key, value in tree.items():
        heads += [key, *(f"{key}.{name}" for name in (value if isinstance(value, dict) else ()))]
    places = {head: place for place, head in enumerate(heads)}

    def place(problem: Problem) -> int:
        parts = problem.path
        while parts not in places:
            parts = parts.rpartition(".")[0]
        return places[parts]

    return sorted(found, key=place)


as_written: dict[str, str] = {}
"""The current directory, as the kernel names it, to its name as the user wrote it."""


def _as_written(directory: str) -> str:
    """The current directory as the user named it: through `current`, not through the release it points to today.

    Asked once: a reload has to follow the link when it has been switched, and then $PWD is no longer where we are.
    """
    if directory not in as_written:
        as_written[directory] = _logical(directory)
    return as_written[directory]


def _logical(directory: str) -> str:
    logical = os.environ.get("PWD", "")
    try:
        return logical if os.path.isabs(logical) and os.path.samefile(logical, directory) else directory
    except OSError:
        return directory


def _shown(path: str, directory: str) -> str:
    """The file's name as people write it: relative below the current directory, else absolute."""
    inside = directory.rstrip("/") + "/"
    return path[len(inside) :] if path.startswith(inside) else path


def _read(path: str, shown: str, sudo_uid: str | None) -> Tree:
    """The file as a tree. ConfigError if it cannot be read, is refused, or is no TOML."""
    import tomllib

    try:
        with open(path, "rb") as file:
            refused = readable_by_us(file.fileno(), os.geteuid(), sudo_uid)
            data = b"" if refused else file.read()
    except OSError as error:
        raise ConfigError([unreadable(error, shown)]) from None
    if refused:
        raise ConfigError([Problem("", *refused, shown)])
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([_syntax(str(error), data, shown)]) from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - (data.rfind(b"\n", 0, error.start) + 1) + 1
        raise ConfigError([Problem(f"line {line}, column {column}", "not UTF-8 text", "", shown)]) from None
    except RecursionError:
        raise ConfigError([Problem("", "lists or tables are nested too deeply", "", shown)]) from None


def _syntax(message: str, data: bytes, shown: str) -> Problem:
    """tomllib's "Invalid value (at line 3, column 9)" with the place in front."""
    reason, _, place = message.removesuffix(")").rpartition(" (at ")
    if not place.startswith("line "):
        last = data.rstrip(b"\n").split(b"\n")
        place = f"line {len(last)}, column {len(last[-1]) + 1}"
        reason += ", the file ends here"
    return Problem(place, f"broken TOML: {reason[0].lower() + reason[1:]}", "", shown)


def _origins(value: Any, given: Mapping[str, str], path: str = "", above: str = "default") -> Iterator[tuple[str, str]]:
    """Every leaf with its origin. What nobody gave is a default, also within a section that was given."""
    if not isinstance(value, dict) or not value:
        if path:
            yield path, above
        return
    for key, inner in value.items():
        here = f"{path}.{key}" if path else key
        yield from _origins(inner, given, here, given.get(here, "default"))


_Spec = TypeVar("_Spec")


def _differences(old: Mapping[str, _Spec], new: Mapping[str, _Spec]) -> tuple[tuple[str, ...], ...]:
    return (
        tuple(name for name in new if name not in old),
        tuple(name for name in old if name not in new),
        tuple(name for name in new if name in old and new[name] != old[name]),
    )


def diff(old: Config, new: Config) -> Changes:
    """What is different in `new`. A service whose socket alone changed is not listed as changed itself."""
    return Changes(
        *_differences(old.services, new.services),
        *_differences(old.sockets, new.sockets),
    )


def masked(resolved: Resolved) -> dict[str, Any]:
    """The configuration as plain data; values of `env`, and of options that sound like secrets, are `***`."""
    config: dict[str, Any] = msgspec.to_builtins(resolved.config)
    for service in config["services"].values():
        service["env"] = dict.fromkeys(service["env"], MASK)
        service["options"] = _mask(service["options"])
    return config


def _mask(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: MASK if _SECRET.search(key) else _mask(inner) for key, inner in value.items()}
    return [_mask(inner) for inner in value] if isinstance(value, list) else value
