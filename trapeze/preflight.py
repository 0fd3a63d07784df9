"""What only this machine can tell: users, groups, programs, directories, limits. Looks, and changes nothing."""

from __future__ import annotations

import os
import re
import resource
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from trapeze.addresses import Unix, parse
from trapeze.config import Resolved
from trapeze.envfile import OURS, service_environment
from trapeze.errors import ConfigError, Problem
from trapeze.limits import INFINITY, limit_names, rlimit_pairs
from trapeze.problems import join
from trapeze.resolve import split
from trapeze.spec import ControlSpec, ServiceSpec, SocketSpec

__all__ = ["Account", "account", "examine", "find_program"]

_VARIABLE = re.compile(r"\{env:([^{}]*)\}")
_NUMBER = re.compile(r"[0-9]{1,10}")
_CAP_SYS_NICE = 23
_CAP_SYS_RESOURCE = 24
_NR_OPEN = "/proc/sys/fs/nr_open"


class Account(Struct, frozen=True):
    """A user as the system knows it, or a bare number."""

    uid: int
    gid: int | None
    """Primary group; None for a number that no user has."""


class _Found(Struct, frozen=True):
    """One problem, before its origin is looked up."""

    field: str
    reason: str
    hint: str = ""


def examine(resolved: Resolved, environ: Mapping[str, str] | None = None) -> list[Problem]:
    """Everything that would fail on this machine, sockets first. `environ` is what services start from (os.environ)."""
    environ = os.environ if environ is None else environ
    found: list[tuple[str, _Found]] = []
    found += [("control", problem) for problem in _control(resolved.config.control, environ)]
    for name, socket in resolved.config.sockets.items():
        found += [(join("sockets", name), problem) for problem in _socket(socket, environ)]
    for name, service in resolved.config.services.items():
        path = join("services", name)
        found += [(path, problem) for problem in _service(service, resolved.directory, environ)]
    return [
        Problem(join(path, problem.field), problem.reason, problem.hint, _origin(resolved, join(path, problem.field)))
        for path, problem in found
    ]


def _origin(resolved: Resolved, path: str) -> str:
    """Nothing for a default: then it is the machine that is at fault."""
    origin = resolved.origins.get(path, "")
    return "" if origin == "default" else origin


def account(user: str) -> Account | None:
    """A user by name or number; None for a name that does not exist."""
    import pwd

    try:
        entry = pwd.getpwuid(int(user)) if _NUMBER.fullmatch(user) else pwd.getpwnam(user)
    except KeyError:
        return Account(int(user), None) if _NUMBER.fullmatch(user) else None
    return Account(entry.pw_uid, entry.pw_gid)


def _gid(group: str) -> int | None:
    import grp

    if _NUMBER.fullmatch(group):
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        return None


def _user(field: str, user: str) -> Iterator[_Found]:
    who = account(user)
    if who is None:
        yield _Found(field, f'there is no user "{user}" on this machine', f"useradd --system {user}, or name another")
    elif os.geteuid() not in (0, who.uid):
        yield _Found(field, f'only root can use user "{user}"', f"start trapeze as root or as {user}, or leave it out")


def _group(field: str, group: str) -> Iterator[_Found]:
    gid = _gid(group)
    if gid is None:
        yield _Found(field, f'there is no group "{group}" on this machine', f"groupadd {group}, or name another")
    elif os.geteuid() != 0 and gid not in (os.getegid(), *os.getgroups()):
        hint = f"add the user to {group}, or start trapeze as root"
        yield _Found(field, f'this user is not in group "{group}" and cannot give it away', hint)


def _control(spec: ControlSpec, environ: Mapping[str, str]) -> Iterator[_Found]:
    """Whom the control socket is opened to has to get at it: `runtime` makes some directories for us alone."""
    field = "group" if spec.group is not None else "mode"
    if spec.group is not None:
        yield from _group("group", spec.group)
    elif not int(spec.mode, 8) & 0o077:
        return
    directory = environ.get("TRAPEZE_RUNTIME_DIR")
    if not directory and os.geteuid() != 0:
        reason = "does nothing here: the runtime directory of a user who is not root is private"
        yield _Found(field, reason, "set TRAPEZE_RUNTIME_DIR to a directory that both may enter, for clients as well")
    elif directory and os.path.isdir(directory):
        found = os.stat(directory)
        entered = 0o011 if spec.group is not None and found.st_gid == _gid(spec.group) else 0o001
        if not found.st_mode & entered:
            hint = f"chmod o+x {directory}"
            yield _Found(field, f"does nothing here: others may not enter the runtime directory {directory}", hint)


def _socket(spec: SocketSpec, environ: Mapping[str, str]) -> Iterator[_Found]:
    if spec.owner is not None:
        yield from _user("owner", spec.owner)
    if spec.group is not None:
        yield from _group("group", spec.group)
    for text in spec.addresses:
        try:
            address = parse(text)
        except ValueError as error:  # a relative path that is too long only as an absolute one
            yield _Found("bind", f"{text}: {error}", "choose a shorter directory, such as /run/NAME")
            continue
        if isinstance(address, Unix):
            yield from _socket_directory(address.path)
            yield from _not_an_instance(address.path, environ)


def _not_an_instance(path: str, environ: Mapping[str, str]) -> Iterator[_Found]:
    """What is called NAME.sock in a runtime directory is an instance to all clients; see `runtime`."""
    places = {os.path.realpath(place) for place in ("/run/trapeze", environ.get("TRAPEZE_RUNTIME_DIR")) if place}
    name, ending = os.path.splitext(os.path.basename(path))
    if ending == ".sock" and os.path.realpath(os.path.dirname(path)) in places:
        reason = f'unix:{path}: in that directory it would be taken for the control socket of an instance "{name}"'
        yield _Found("bind", reason, "choose another directory")


def _socket_directory(path: str) -> Iterator[_Found]:
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        yield _Found("bind", f"unix:{path}: there is no directory {directory}", f"mkdir -p {directory}")
    elif not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
        yield _Found("bind", f"unix:{path}: no permission to make files in {directory}")
    elif os.path.isdir(path):
        yield _Found("bind", f"unix:{path}: is a directory")


def _service(spec: ServiceSpec, directory: str, environ: Mapping[str, str]) -> Iterator[_Found]:
    yield from _credentials(spec)
    yield from _directories(spec, directory)
    try:
        env = service_environment(spec, directory, environ)
    except ConfigError as error:
        yield from (_Found("env_file", str(problem)) for problem in error.problems)
        # The programs all the same, so that all problems show at once; of variables the files may have had any.
        env = service_environment(replace(spec, env_file=[]), directory, environ)
        yield from (found for found in _programs(spec, spec.cwd or directory, env) if "{env:" not in found.hint)
    else:
        yield from _programs(spec, spec.cwd or directory, env)
    yield from _limits(spec)
    yield from _prelude(spec)


def _credentials(spec: ServiceSpec) -> Iterator[_Found]:
    if spec.user is not None:
        yield from _user("user", spec.user)
        who = account(spec.user)
        if who is not None and who.gid is None and spec.group is None:
            yield _Found("user", f"no user has the number {spec.user}, so it has no group", 'add group = "..."')
    if spec.group is not None:
        yield from _group("group", spec.group)


def _directories(spec: ServiceSpec, directory: str) -> Iterator[_Found]:
    cwd = spec.cwd or directory
    for field, path in (("cwd", cwd), ("app_dir", spec.app_dir)):
        if path is None or (field == "app_dir" and path == cwd):
            continue
        if not os.path.isdir(path):
            what = "is not a directory" if os.path.exists(path) else "there is no such directory"
            yield _Found(field, f"{path}: {what}")
        elif not os.access(path, os.X_OK, effective_ids=True):
            yield _Found(field, f"{path}: no permission to enter it")
    if spec.venv is not None:
        yield from _venv(spec.venv)
    if spec.python is not None and not _runs(spec.python):
        yield _Found("python", *_no_python(spec.python))


def _venv(venv: str) -> Iterator[_Found]:
    python = f"{venv}/bin/python"
    if not os.path.isdir(venv):
        yield _Found("venv", f"{venv}: there is no such directory", f"python3 -m venv {venv}")
    elif not _runs(python):
        yield _Found("venv", f"{python}: there is no such program", "name the directory that has bin/python in it")


def _no_python(python: str) -> tuple[str, str]:
    """Reason and hint. A name without a slash was looked for on the PATH that we have been started with."""
    if "/" not in python:
        return f'the program "{python}" is not on the PATH', "install it, or give its whole path"
    if os.path.isdir(python):
        return f"{python}: is a directory, not a program", f'{python}/bin/python? or venv = "{python}"'
    if os.path.exists(python):
        return f"{python}: may not be executed", f"chmod +x {python}"
    return f"{python}: there is no such program", ""


def _programs(spec: ServiceSpec, cwd: str, env: Mapping[str, str]) -> Iterator[_Found]:
    """Every program that will be started, looked up as exec will: PATH of the service, relative to its directory."""
    for field, words in _commands(spec):
        missing = [name for word in words for name in _VARIABLE.findall(word) if name not in env and name not in OURS]
        if missing:
            yield _Found(field, f"the environment has no {missing[0]}", f"add it to env, or drop {{env:{missing[0]}}}")
            continue
        program = _VARIABLE.sub(lambda match: env.get(match[1], ""), words[0])
        if "{" not in program:
            yield from _program(field, program, cwd, env)


def _prelude(spec: ServiceSpec) -> Iterator[_Found]:
    """Sockets, limits and niceness are set up by our own Python, which the service's user has to be able to run."""
    if spec.command is None or spec.user is None or not (spec.sockets or spec.rlimits or spec.nice is not None):
        return
    who = account(spec.user)
    if os.geteuid() != 0 or who is None or who.uid == 0:
        return
    import subprocess

    how: dict[str, Any] = {"user": who.uid, "group": who.gid, "extra_groups": []}
    try:
        subprocess.run([sys.executable, "-I", "-S", "-c", ""], stdin=subprocess.DEVNULL, cwd="/", check=False, **how)
    except OSError as error:
        reason = f"user {spec.user!r} cannot run {sys.executable}: {os.strerror(error.errno or 0).lower()}"
        yield _Found("user", reason, "sockets, rlimits and nice need it: install trapeze where that user may read it")


def _program(field: str, program: str, cwd: str, env: Mapping[str, str]) -> Iterator[_Found]:
    if find_program(program, cwd, env.get("PATH", os.defpath)):
        return
    if "/" not in program:
        hint = "install it, give its whole path, or set PATH in env"
        yield _Found(field, f'the program "{program}" is not on the PATH', hint)
        return
    whole = os.path.join(cwd, program)
    if os.path.isdir(whole):
        yield _Found(field, f"{whole}: is a directory, not a program")
    elif os.path.exists(whole):
        yield _Found(field, f"{whole}: may not be executed", f"chmod +x {whole}")
    else:
        yield _Found(field, f"{whole}: there is no such program")


def _commands(spec: ServiceSpec) -> Iterator[tuple[str, list[str]]]:
    """(field, words) of everything that the service runs."""
    if spec.shell:
        yield "command", ["/bin/sh"]
    elif spec.command:
        yield "command", list(spec.command) if isinstance(spec.command, list) else split(spec.command)
    for command in [spec.pre_start] if isinstance(spec.pre_start, str) else spec.pre_start:
        yield "pre_start", split(command)
    if spec.ready is not None and spec.ready.startswith("exec:"):
        yield "ready", split(spec.ready.removeprefix("exec:"))


def find_program(program: str, cwd: str, path: str) -> str | None:
    """Where exec would find it, or None. Relative entries of the search path count from `cwd`."""
    if "/" in program:
        candidates = [os.path.join(cwd, program)]
    else:
        candidates = [os.path.join(cwd, part, program) for part in path.split(os.pathsep)]
    return next((candidate for candidate in candidates if _runs(candidate)), None)


def _runs(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK, effective_ids=True)


def _limits(spec: ServiceSpec) -> Iterator[_Found]:
    """Who may raise limits and lower niceness also lends them to the children of other users (see `lend`)."""
    privileged = capable(_CAP_SYS_RESOURCE)
    for name, (_soft, hard) in rlimit_pairs(spec).items():
        number = limit_names().get(name)
        if number is None:
            continue  # `config` has said so
        most = resource.getrlimit(number)[1]
        if privileged:
            most = _most_files() if name == "nofile" else INFINITY
        if most not in (INFINITY, resource.RLIM_INFINITY) and (hard == INFINITY or hard > most):
            hint = "lower it" if privileged else "lower it, or raise the hard limit that trapeze itself is started with"
            yield _Found(join("rlimits", name), f"{_limit(hard)} is above the hard limit of {most}", hint)
    if spec.nice is not None and not capable(_CAP_SYS_NICE):
        least = min(20 - resource.getrlimit(resource.RLIMIT_NICE)[0], os.getpriority(os.PRIO_PROCESS, 0))
        if spec.nice < least:
            yield _Found("nice", f"only root can go below {least}, not to {spec.nice}")


def capable(capability: int) -> bool:
    """Have we this capability? Root in a container often lacks some, so the user's number says little."""
    with open("/proc/self/status", encoding="ascii") as file:
        effective = next((line.split()[1] for line in file if line.startswith("CapEff:")), "0")
    return bool(int(effective, 16) >> capability & 1)


def _limit(value: int) -> str:
    return "unlimited" if value == INFINITY else str(value)


def _most_files() -> int:
    """Even root cannot raise nofile above this."""
    try:
        with open(_NR_OPEN, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return INFINITY
