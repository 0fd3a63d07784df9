"""Look at this machine, and at the instance that runs if there is one. Changes nothing."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from trapeze.access import Entry, entries
from trapeze.addresses import Address, Unix
from trapeze.doctor import surroundings
from trapeze.doctor.facts import Facts, RuntimeFacts, ServiceFacts, SocketFacts
from trapeze.doctor.front import look
from trapeze.generation import interpreter
from trapeze.limits import rlimit_pairs
from trapeze.nginx.site import Upstream, addresses_at, plan, reached_at
from trapeze.runtime import own_directory
from trapeze.slots import addresses_of
from trapeze.spec import Config, ServiceSpec
from trapeze.status import ServiceStatus, Snapshot

__all__ = ["gather"]

_LIMITS = {
    "gunicorn": "worker_connections",
    "uvicorn": "limit_concurrency",
    "waitress": "connection_limit",
    "granian": "backpressure",
}
"""Backend to its option for the connections that a worker takes."""
_LIST = """\
from importlib.metadata import distributions
for each in distributions():
    print(each.metadata["Name"], each.version)
"""


def gather(config: Config, snapshot: Snapshot | None, *, program: str | None = None, main: str | None = None) -> Facts:
    """Return all that is known.

    Args:
        config: checked and resolved.
        snapshot: of the instance that runs it; None: none does.
        program: the nginx to look at, where it is not the one on the PATH.
        main: its configuration, where it is not the one that it was built for.
    """
    limit, group = surroundings.memory_limit(snapshot.pid if snapshot else None)
    return Facts(
        services=_services(config, snapshot),
        sockets=_sockets(config),
        nginx=look(config, program, main),
        somaxconn=surroundings.somaxconn(),
        stop=surroundings.stopped_by(snapshot.pid if snapshot else None),
        memory_limit=limit,
        memory_group=group,
        runtime=_runtime(config),
    )


def _runtime(config: Config) -> RuntimeFacts | None:
    place = own_directory()
    with contextlib.suppress(OSError):
        status = os.stat(place.path)
        entry = Entry(place.path, status.st_uid, status.st_gid, status.st_mode & 0o7777)
        control = config.control
        is_open = control.group is not None or bool(int(control.mode, 8) & 0o077)
        return RuntimeFacts(entry=entry, named=place.why == "$TRAPEZE_RUNTIME_DIR", open=is_open)
    return None


def _sockets(config: Config) -> list[SocketFacts]:
    used = {socket for spec in config.services.values() for socket in spec.sockets}
    return [
        _socket(name, address, spec.backlog)
        for name, spec in config.sockets.items()
        for _, address in addresses_of(spec)
        if name in used
    ]


def _socket(name: str, address: Address, backlog: int) -> SocketFacts:
    chain: Sequence[Entry] = ()
    with contextlib.suppress(OSError):
        if isinstance(address, Unix):
            chain = entries(os.path.dirname(address.path))
            chain = entries(address.path)
    there = bool(chain) and isinstance(address, Unix) and chain[-1].path == os.path.realpath(address.path)
    return SocketFacts(
        name=name,
        address=str(address),
        backlog=backlog,
        entry=chain[-1] if there else None,
        directories=chain[:-1] if there else chain,
    )


def _services(config: Config, snapshot: Snapshot | None) -> list[ServiceFacts]:
    running = {each.name: each for each in snapshot.services} if snapshot is not None else {}
    addresses: dict[str, list[str]] = {}
    for socket in snapshot.sockets if snapshot is not None else ():
        addresses.setdefault(socket.name, []).append(socket.address)
    listed = _Packages()
    return [
        _service(name, spec, config, running.get(name), addresses, listed)
        for name, spec in config.services.items()
        if spec.enabled
    ]


def _service(
    name: str,
    spec: ServiceSpec,
    config: Config,
    status: ServiceStatus | None,
    addresses: Mapping[str, Sequence[str]],
    listed: _Packages,
) -> ServiceFacts:
    backend = spec.backend if spec.backend != "auto" else ""
    if spec.app is None:
        backend = ""
    elif status is not None and status.backend not in ("", "auto"):
        backend = status.backend
    pids = [each.pid for each in status.processes if each.pid is not None] if status is not None else []
    standing = [each.pid for each in status.standby if each.pid is not None] if status is not None else []
    return ServiceFacts(
        name=name,
        sockets=spec.sockets,
        addresses=_addresses(spec, config, addresses),
        web=spec.is_web,
        after=spec.after,
        backend=backend,
        behind=_behind(name, backend, config, addresses) if spec.is_web else None,
        stop_timeout=spec.stop_timeout,
        workers=spec.workers,
        surge=spec.max_surge if spec.is_web else 0,
        connections=_connections(backend, spec),
        nofile=_nofile(spec, pids),
        accelerators=_accelerators(backend, spec),
        packages=listed.of(interpreter(spec)) if spec.app is not None else {},
        memory=_sizes(pids),
        standby=_sizes(standing),
        beats=_beats(backend, spec),
    )


def _sizes(pids: Iterable[int]) -> list[int]:
    return [size for pid in pids if (size := surroundings.shared_memory(pid)) is not None]


def _addresses(spec: ServiceSpec, config: Config, known: Mapping[str, Sequence[str]]) -> list[str]:
    """All of them: an nginx that somebody else has written may use any."""
    found = (address for each in spec.sockets for address in addresses_at(each, config, known))
    return [place for address in found if (place := reached_at(address))]


def _accelerators(backend: str, spec: ServiceSpec) -> list[str]:
    """Those that the options have not decided against."""
    if backend != "uvicorn":
        return []
    by_option = {"loop": "uvloop", "http": "httptools"}
    return [name for option, name in by_option.items() if spec.options.get(option, "auto") in ("auto", name)]


def _behind(name: str, backend: str, config: Config, addresses: Mapping[str, Sequence[str]]) -> Upstream | None:
    """What nginx would be told, now that the server is known."""
    spec = config.services[name]
    known = msgspec.structs.replace(spec, backend=backend or spec.backend)
    alone = msgspec.structs.replace(
        config,
        services={**config.services, name: known},
        nginx=msgspec.structs.replace(config.nginx, routes={}, peers=[]),
    )
    site = plan(alone, [name], addresses)
    return None if isinstance(site, list) else site.upstreams[0]


def _connections(backend: str, spec: ServiceSpec) -> int | None:
    value = spec.options.get(_LIMITS.get(backend, ""))
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _nofile(spec: ServiceSpec, pids: Iterable[int]) -> int | None:
    import psutil

    for pid in pids:
        with contextlib.suppress(psutil.Error):
            return int(psutil.Process(pid).rlimit(psutil.RLIMIT_NOFILE)[0])
    soft = rlimit_pairs(spec).get("nofile", resource.getrlimit(resource.RLIMIT_NOFILE))[0]
    return soft if soft >= 0 else None


def _beats(backend: str, spec: ServiceSpec) -> tuple[str, str] | None:
    """Where gunicorn's workers have the files that they touch: an app's, or those of a command that is gunicorn."""
    words = [spec.command] if isinstance(spec.command, str) else list(spec.command or ())
    directory = os.fspath(spec.env.get("TMPDIR") or os.environ.get("TMPDIR") or "/tmp")  # type: ignore[arg-type]
    if backend == "gunicorn":
        directory = str(spec.options.get("worker_tmp_dir") or directory)
    elif any(os.path.basename(word) == "gunicorn" for word in words[:4]):
        directory = _after("--worker-tmp-dir", words) or directory
    else:
        return None
    return directory, surroundings.file_system(directory)


def _after(flag: str, words: Sequence[str]) -> str | None:
    for number, word in enumerate(words):
        if word == flag and number + 1 < len(words):
            return words[number + 1]
        if word.startswith(flag + "="):
            return word.removeprefix(flag + "=")
    return None


class _Packages:
    """What interpreters have; each is asked once."""

    def __init__(self) -> None:
        self._known: dict[str, dict[str, str]] = {}

    def of(self, python: str) -> dict[str, str]:
        """Versions by name, in lower case."""
        if python not in self._known:
            self._known[python] = self._ask(python)
        return self._known[python]

    @staticmethod
    def _ask(python: str) -> dict[str, str]:
        try:
            done = subprocess.run(
                [python, "-c", _LIST], capture_output=True, text=True, check=False, timeout=60, cwd="/"
            )
        except (OSError, subprocess.SubprocessError):
            return {}
        pairs = [line.split(" ", 1) for line in done.stdout.splitlines() if " " in line]
        return {name.lower(): version for name, version in pairs}
