"""What only this machine can tell: users, groups, programs, directories, limits. Looks, and changes nothing."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec.structs import replace

from trapeze.access import Person
from trapeze.addresses import Unix, parse
from trapeze.config import Resolved
from trapeze.envfile import service_environment
from trapeze.errors import ConfigError, Problem
from trapeze.limits import INFINITY, limit_names, rlimit_pairs
from trapeze.problems import join
from trapeze.programs import examine_programs, runs
from trapeze.reach import ENTER, READ, Found, account, group_number, handed_to, refusal
from trapeze.spec import ControlSpec, ServiceSpec, SocketSpec

__all__ = ["examine"]

_CAP_SYS_NICE = 23
_CAP_SYS_RESOURCE = 24
_NR_OPEN = "/proc/sys/fs/nr_open"


def examine(resolved: Resolved, environ: Mapping[str, str] | None = None) -> list[Problem]:
    """Everything that would fail on this machine, sockets first. `environ` is what services start from (os.environ)."""
    environ = os.environ if environ is None else environ
    found: list[tuple[str, Found]] = []
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


def _user(field: str, user: str) -> Iterator[Found]:
    who = account(user)
    if who is None:
        yield Found(field, f'there is no user "{user}" on this machine', f"useradd --system {user}, or name another")
    elif os.geteuid() not in (0, who.uid):
        yield Found(field, f'only root can use user "{user}"', f"start trapeze as root or as {user}, or leave it out")


def _group(field: str, group: str) -> Iterator[Found]:
    gid = group_number(group)
    if gid is None:
        yield Found(field, f'there is no group "{group}" on this machine', f"groupadd {group}, or name another")
    elif os.geteuid() != 0 and gid not in (os.getegid(), *os.getgroups()):
        hint = f"add the user to {group}, or start trapeze as root"
        yield Found(field, f'this user is not in group "{group}" and cannot give it away', hint)


def _control(spec: ControlSpec, environ: Mapping[str, str]) -> Iterator[Found]:
    """Whom the control socket is opened to has to get at it: `runtime` makes some directories for us alone."""
    field = "group" if spec.group is not None else "mode"
    if spec.group is not None:
        yield from _group("group", spec.group)
    elif not int(spec.mode, 8) & 0o077:
        return
    directory = environ.get("TRAPEZE_RUNTIME_DIR")
    if not directory and os.geteuid() != 0:
        reason = "does nothing here: the runtime directory of a user who is not root is private"
        yield Found(field, reason, "set TRAPEZE_RUNTIME_DIR to a directory that both may enter, for clients as well")
    elif directory and os.path.isdir(directory):
        found = os.stat(directory)
        entered = 0o011 if spec.group is not None and found.st_gid == group_number(spec.group) else 0o001
        if not found.st_mode & entered:
            hint = f"chmod o+x {directory}"
            yield Found(field, f"does nothing here: others may not enter the runtime directory {directory}", hint)


def _socket(spec: SocketSpec, environ: Mapping[str, str]) -> Iterator[Found]:
    if spec.owner is not None:
        yield from _user("owner", spec.owner)
    if spec.group is not None:
        yield from _group("group", spec.group)
    for text in spec.addresses:
        try:
            address = parse(text)
        except ValueError as error:  # a relative path that is too long only as an absolute one
            yield Found("bind", f"{text}: {error}", "choose a shorter directory, such as /run/NAME")
            continue
        if isinstance(address, Unix):
            yield from _socket_directory(address.path)
            yield from _not_an_instance(address.path, environ)


def _not_an_instance(path: str, environ: Mapping[str, str]) -> Iterator[Found]:
    """What is called NAME.sock in a runtime directory is an instance to all clients; see `runtime`."""
    places = {os.path.realpath(place) for place in ("/run/trapeze", environ.get("TRAPEZE_RUNTIME_DIR")) if place}
    name, ending = os.path.splitext(os.path.basename(path))
    if ending == ".sock" and os.path.realpath(os.path.dirname(path)) in places:
        reason = f'unix:{path}: in that directory it would be taken for the control socket of an instance "{name}"'
        yield Found("bind", reason, "choose another directory")


def _socket_directory(path: str) -> Iterator[Found]:
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        yield Found("bind", f"unix:{path}: there is no directory {directory}", f"mkdir -p {directory}")
    elif not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
        yield Found("bind", f"unix:{path}: no permission to make files in {directory}")
    elif os.path.isdir(path):
        yield Found("bind", f"unix:{path}: is a directory")


def _service(spec: ServiceSpec, directory: str, environ: Mapping[str, str]) -> Iterator[Found]:
    """Everything of one service; what keeps its user out is said once, for the first that lies behind it."""
    said: set[str] = set()
    for found in _all_of(spec, directory, environ):
        if found.closed not in said:
            yield found
        if found.closed:
            said.add(found.closed)


def _all_of(spec: ServiceSpec, directory: str, environ: Mapping[str, str]) -> Iterator[Found]:
    who = handed_to(spec)
    spec = replace(spec, cwd=spec.cwd or directory)
    yield from _credentials(spec)
    yield from _directories(spec)
    if who is not None:
        yield from _closed_to(who, spec, directory)
    try:
        env = service_environment(spec, directory, environ)
    except ConfigError as error:
        yield from (Found("env_file", str(problem)) for problem in error.problems)
        # The programs all the same, so that all problems show at once; of variables the files may have had any.
        env = service_environment(replace(spec, env_file=[]), directory, environ)
        yield from (found for found in examine_programs(spec, env, who) if "{env:" not in found.hint)
    else:
        yield from examine_programs(spec, env, who)
    yield from _limits(spec)
    yield from _prelude(spec)


def _credentials(spec: ServiceSpec) -> Iterator[Found]:
    if spec.user is not None:
        yield from _user("user", spec.user)
        who = account(spec.user)
        if who is not None and who.gid is None and spec.group is None:
            yield Found("user", f"no user has the number {spec.user}, so it has no group", 'add group = "..."')
    if spec.group is not None:
        yield from _group("group", spec.group)


def _closed_to(who: Person, spec: ServiceSpec, directory: str) -> Iterator[Found]:
    """Directories that the service's user may not enter, and the app if it may not read it: import would not find it.

    The directory of the file goes unjudged, unless something is looked for in it: nobody has chosen it, and a program
    that is named by its whole path runs in any directory.
    """
    if spec.cwd is not None and spec.cwd != directory:
        yield from _refused("cwd", spec.cwd, who, ENTER, "enter")
    if spec.app is None or spec.app_dir is None:
        return
    place = spec.app_dir
    for part in spec.app.partition(":")[0].split("."):
        inside = next((path for end in ("", ".py") if os.path.exists(path := f"{place}/{part}{end}")), None)
        if inside is None:  # the check in its interpreter says so, or finds it elsewhere
            return
        yield from _refused("app_dir", place, who, READ | ENTER, "read")
        place = inside
    yield from _refused("app", place, who, READ | ENTER if os.path.isdir(place) else READ, "read")


def _refused(field: str, path: str, who: Person, wanted: int, verb: str) -> Iterator[Found]:
    found = refusal(field, path, who, wanted, verb)
    if found is not None:
        yield found


def _directories(spec: ServiceSpec) -> Iterator[Found]:
    for field, path in (("cwd", spec.cwd), ("app_dir", spec.app_dir)):
        if path is None or (field == "app_dir" and path == spec.cwd):
            continue
        if not os.path.isdir(path):
            what = "is not a directory" if os.path.exists(path) else "there is no such directory"
            yield Found(field, f"{path}: {what}")
        elif not os.access(path, os.X_OK, effective_ids=True):
            yield Found(field, f"{path}: no permission to enter it")
    if spec.venv is not None:
        yield from _venv(spec.venv)
    if spec.python is not None and not runs(spec.python):
        yield Found("python", *_no_python(spec.python))


def _venv(venv: str) -> Iterator[Found]:
    python = f"{venv}/bin/python"
    if not os.path.isdir(venv):
        yield Found("venv", f"{venv}: there is no such directory", f"python3 -m venv {venv}")
    elif not runs(python):
        yield Found("venv", f"{python}: there is no such program", "name the directory that has bin/python in it")


def _no_python(python: str) -> tuple[str, str]:
    """Reason and hint. A name without a slash was looked for on the PATH that we have been started with."""
    if "/" not in python:
        return f'the program "{python}" is not on the PATH', "install it, or give its whole path"
    if os.path.isdir(python):
        return f"{python}: is a directory, not a program", f'{python}/bin/python? or venv = "{python}"'
    if os.path.exists(python):
        return f"{python}: may not be executed", f"chmod +x {python}"
    return f"{python}: there is no such program", ""


def _prelude(spec: ServiceSpec) -> Iterator[Found]:
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
        yield Found("user", reason, "sockets, rlimits and nice need it: install trapeze where that user may read it")


def _limits(spec: ServiceSpec) -> Iterator[Found]:
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
            yield Found(join("rlimits", name), f"{_limit(hard)} is above the hard limit of {most}", hint)
    if spec.nice is not None and not capable(_CAP_SYS_NICE):
        least = min(20 - resource.getrlimit(resource.RLIMIT_NICE)[0], os.getpriority(os.PRIO_PROCESS, 0))
        if spec.nice < least:
            yield Found("nice", f"only root can go below {least}, not to {spec.nice}")


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
