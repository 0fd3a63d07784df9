"""One generation of a service: its spec, its sockets, and how its processes are launched.

Everything that may fail on the machine (users, environment files, programs) is resolved once, when the generation is
made: a crash at night must not read half of tomorrow's configuration.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import shlex
import sys
from collections.abc import Mapping, Sequence

from msgspec import Struct, to_builtins
from msgspec.structs import replace

from trapeze.config import rlimit_pairs, service_environment, stop_signum
from trapeze.prelude import Launch
from trapeze.process import Timeouts
from trapeze.slots import accepted_by
from trapeze.sockets import ListenSocket
from trapeze.spec import RestartSpec, ServiceSpec, SocketSpec

__all__ = ["Generation", "identity", "interpreter"]


def interpreter(spec: ServiceSpec) -> str:
    """The Python that runs the app."""
    if spec.python is not None:
        return spec.python
    return os.path.join(spec.venv, "bin", "python") if spec.venv else sys.executable


def identity(spec: ServiceSpec) -> tuple[int | None, int | None, list[int] | None]:
    """Return uid, gid and supplementary groups to run as; None where nothing is to change.

    Raises:
        KeyError: no such user or group (`preflight` has said so before).
    """
    uid: int | None = None
    gid: int | None = None
    groups: list[int] | None = None
    if spec.user is not None:
        uid, gid, groups = _user(spec.user)
        # Without root nothing can be changed, and asking for what one is already is no change.
        if os.geteuid() != 0:
            groups = None
            if uid == os.geteuid():
                uid = gid = None
    if spec.group is not None:
        gid = int(spec.group) if spec.group.isdecimal() else grp.getgrnam(spec.group).gr_gid
    return uid, gid, groups


def _user(user: str) -> tuple[int, int | None, list[int]]:
    """A number without an entry in the user database has no group of its own: `group` must say it."""
    try:
        entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except KeyError:
        if user.isdecimal():
            return int(user), None, []
        raise
    return entry.pw_uid, entry.pw_gid, os.getgrouplist(entry.pw_name, entry.pw_gid)


class Generation(Struct, frozen=True, kw_only=True):
    """What one generation was made of. Numbers are never reused."""

    number: int
    spec: ServiceSpec
    sockets: Sequence[ListenSocket]
    """Every address of every socket the service names, in the order it names them."""
    directory: str
    """The base of relative paths."""
    backend: str = ""
    """The backend that the check chose, or what the file says."""
    terminal: bool = False
    nofile: tuple[int, int] | None = None
    env: Mapping[str, str] = {}
    uid: int | None = None
    gid: int | None = None
    groups: Sequence[int] | None = None
    section: ServiceSpec | None = None
    """Its section of the file, as it was written; None where that is not known (an older version made it)."""
    listens: Mapping[str, SocketSpec] = {}
    """The sections of its sockets."""

    @classmethod
    def make(
        cls,
        number: int,
        name: str,
        spec: ServiceSpec,
        sockets: Mapping[str, Sequence[ListenSocket]],
        directory: str,
        *,
        listens: Mapping[str, SocketSpec] | None = None,
        terminal: bool = False,
        nofile: tuple[int, int] | None = None,
        generated: str = "",
    ) -> Generation:
        """Resolve what the spec names on this machine. `generated`: the path that {generated:nginx} stands for."""
        section = spec
        if spec.watch and isinstance(spec.restart, str):
            # Somebody is typing: a broken file is said at once, and tried again soon.
            spec = replace(spec, restart=RestartSpec(policy=spec.restart, intensity=1, cap=2.0))
        spec, directory = _pinned(spec, directory)
        uid, gid, groups = identity(spec)
        env = service_environment(spec, directory, os.environ)
        env |= {"TRAPEZE_SERVICE": name, "TRAPEZE_GENERATION": str(number)}
        if generated:
            env[_GENERATED] = generated
        listening = [socket for wanted in spec.sockets for socket in sockets[wanted]]
        return cls(
            number=number,
            spec=spec,
            sockets=listening,
            directory=directory,
            backend=spec.backend,
            terminal=terminal,
            nofile=nofile,
            env=env,
            uid=uid,
            gid=gid,
            groups=groups,
            section=section,
            listens={each: listens[each] for each in spec.sockets} if listens is not None else {},
        )

    def numbered(self, number: int) -> Generation:
        """The same under another number."""
        return replace(self, number=number, env={**self.env, "TRAPEZE_GENERATION": str(number)})

    @property
    def timeouts(self) -> Timeouts:
        """The clocks of a worker."""
        return Timeouts(self.spec.start_timeout, self.spec.stop_timeout, stop_signum(self.spec))

    @property
    def step_timeouts(self) -> Timeouts:
        """The clocks of a pre_start command."""
        return Timeouts(self.spec.pre_start_timeout, self.spec.stop_timeout, stop_signum(self.spec))

    @property
    def steps(self) -> Sequence[str]:
        """The pre_start commands."""
        return [self.spec.pre_start] if isinstance(self.spec.pre_start, str) else self.spec.pre_start

    def own_sockets(self) -> list[ListenSocket]:
        """Sockets for one worker alone: one beside each that is reserved. A command is told of none that is not
        listened on.

        Raises:
            OSError: they cannot be made.
        """
        made: list[ListenSocket] = []
        try:
            for held in self.sockets:
                if held.reserved:
                    made.append(held.beside(listening=self.spec.app is None))
        except BaseException:
            for each in made:
                each.close()
            raise
        return made

    def sockets_of(self, index: int) -> list[ListenSocket]:
        """Those on which the worker with this index accepts."""
        return accepted_by(self.sockets, index)

    def for_worker(self, index: int, own: Sequence[ListenSocket]) -> Generation:
        """The same for one worker, whose own sockets stand in the place of those that are reserved."""
        left = iter(own)
        return replace(self, sockets=[next(left) if held.reserved else held for held in self.sockets_of(index)])

    def launch(self, name: str, index: int, more: Mapping[str, object] | None = None) -> Launch:
        """How to start the worker of slot `index`; `more` goes into the Job of a worker of ours."""
        spec = self.spec
        if spec.app is not None:
            return self._launch(f"{name}[{index}] {spec.app}", index, job={**self.job(name, index), **(more or {})})
        argv = self._words(index)
        label = f"{name}[{index}]"
        if self.sockets or spec.rlimits:
            return self._launch(label, index, argv=argv, job=self._command_job(argv))
        return self._launch(label, index, argv=argv)

    def launch_import(self, name: str, mode: str) -> Launch:
        """How to import the app without serving it: a "zygote", or a "spare". It gets no sockets yet."""
        job = {**self.job(name, 0, mode=mode), "sockets": []}
        launch = self._launch(f"{name} {mode} {self.spec.app} generation {self.number}", 0, job=job)
        return replace(launch, forks=True, fds=(), stdin=None)

    def launch_step(self, name: str, step: int) -> Launch:
        """How to run a pre_start command: as the service's user, in its directory, without its sockets."""
        return self.launch_tool(name, "pre_start", shlex.split(self.steps[step]))

    def launch_check(self, name: str) -> Launch:
        """How to ask the worker's side what would go wrong."""
        return self._launch(f"{name} check", 0, job=self.job(name, 0, mode="check"), plain=True)

    def launch_tool(self, name: str, what: str, argv: Sequence[str]) -> Launch:
        """How to run a program beside the service (a probe, a file watch): as its user, without its sockets."""
        return self._launch(f"{name} {what}", 0, argv=argv, plain=True)

    def _launch(
        self,
        label: str,
        index: int,
        *,
        argv: Sequence[str] = (),
        job: Mapping[str, object] | None = None,
        plain: bool = False,
    ) -> Launch:
        spec = self.spec
        stdin = None
        if not plain and spec.stdin.startswith("socket:"):
            stdin = next(socket.fd for socket in self.sockets if socket.name == spec.stdin.removeprefix("socket:"))
        elif not plain and spec.stdin == "inherit":
            stdin = 0
        return Launch(
            label=label,
            argv=argv,
            job=job,
            python=interpreter(spec),
            env={**self.env, "TRAPEZE_INDEX": str(index)},
            cwd=spec.cwd or self.directory,
            user=self.uid,
            group=self.gid,
            groups=self.groups,
            umask=int(spec.umask, 8) if spec.umask is not None else -1,
            nice=spec.nice,
            fds=() if plain else [socket.fd for socket in self.sockets],
            stdin=stdin,
            terminal=self.terminal and not plain,
            notify=not plain and spec.ready == "notify" and spec.app is None,
            stop_signal=stop_signum(spec),
            stop_timeout=spec.stop_timeout,
            kill_group=spec.kill_group,
            nofile=self.nofile,
        )

    def _words(self, index: int) -> list[str]:
        """The command line with {index} and {env:NAME} filled in; {fd:NAME} is, where the numbers are known."""
        command = self.spec.command
        if self.spec.shell:
            words = ["/bin/sh", "-c", _exec(str(command))]
        else:
            words = shlex.split(command) if isinstance(command, str) else list(command or [])
        return [_filled(word, index, self.env) for word in words]

    def _listening(self) -> list[dict[str, object]]:
        return [{"name": s.name, "fd": s.fd, "address": s.address, "backlog": s.spec.backlog} for s in self.sockets]

    def _command_job(self, argv: Sequence[str]) -> dict[str, object]:
        named: dict[str, list[int]] = {}
        for socket in self.sockets:
            named.setdefault(socket.name, []).append(socket.fd)
        return {
            "mode": "exec",
            "command": list(argv),
            "sockets": self._listening(),
            "named": named,
            "rlimits": rlimit_pairs(self.spec),
        }

    def job(self, name: str, index: int, *, mode: str = "serve") -> dict[str, object]:
        """The Job of a worker of ours; see the worker contract."""
        spec = self.spec
        return {
            "mode": mode,
            "service": name,
            "index": index,
            "generation": self.number,
            "sockets": self._listening(),
            "own_sockets": any(held.slot is not None for held in self.sockets),
            "app": spec.app,
            "factory": spec.factory,
            "interface": spec.interface,
            "backend": spec.backend,
            "options": spec.options,
            "threads": spec.threads,
            "keepalive": spec.keepalive,
            "access_log": spec.access_log,
            "root_path": spec.root_path,
            "trusted_proxies": spec.trusted_proxies,
            "stop_timeout": spec.stop_timeout,
            "drain_grace": spec.drain_grace,
            "health": to_builtins(spec.health_request),
            "preload": spec.preload,
            "warm": spec.warm,
            "after_fork": spec.after_fork,
            "heartbeat_timeout": spec.heartbeat_timeout,
            "request_timeout": spec.request_timeout,
            "workers": spec.workers,
            "app_dir": spec.app_dir or spec.cwd or self.directory,
            "reload": spec.watch,
            "rlimits": rlimit_pairs(spec),
        }


def _pinned(spec: ServiceSpec, directory: str) -> tuple[ServiceSpec, str]:
    """Resolve symbolic links now: a `current` that is switched to the next release is not for this generation."""
    real = os.path.realpath(directory)
    paths = {field: getattr(spec, field) for field in ("cwd", "app_dir", "venv")}
    made = {field: os.path.realpath(path) for field, path in paths.items() if path}
    if spec.python is not None and "/" in spec.python:
        # Its directory only: a link named `python` is what makes an environment of one.
        directory, name = os.path.split(spec.python)
        made["python"] = os.path.join(os.path.realpath(directory), name)
    return replace(spec, **made), real


_SIMPLE = re.compile(r"[^;&|<>(){}`\n]*")
_PLACEHOLDER = re.compile(r"\{(?:index|env:\w+|fd:[\w.:-]+|generated:nginx)\}")
_SHELL_WORDS = frozenset({"!", ".", "[", "case", "cd", "eval", "exec", "export", "for", "if", "set", "test", "time"})
_SHELL_WORDS |= {"trap", "ulimit", "umask", "until", "while"}


def _exec(command: str) -> str:
    """Let a simple command take the place of the shell: the stop signal and LISTEN_PID are for the program.

    dash forks even for a single command and does not pass signals on. Anything with more than one command in it stays
    as it is: its author decides where `exec` belongs.
    """
    words = command.split(maxsplit=1)
    if not words or words[0] in _SHELL_WORDS or "=" in words[0]:
        return command
    if not _SIMPLE.fullmatch(_PLACEHOLDER.sub("", command)):
        return command
    return f"exec {command}"


_HOLE = re.compile(r"\{(index|generated:nginx|env:([A-Za-z_][A-Za-z0-9_]*))\}")
_GENERATED = "TRAPEZE_GENERATED_NGINX"
"""Variable with the path of the generated nginx.conf, for commands that name it."""


def _filled(word: str, index: int, env: Mapping[str, str]) -> str:
    """Replace {index}, {generated:nginx} and {env:NAME}; every other brace is the program's own."""
    known = {"index": str(index), "generated:nginx": env.get(_GENERATED, "")}
    return _HOLE.sub(lambda hole: env.get(hole[2], "") if hole[2] else known[hole[1]], word)
