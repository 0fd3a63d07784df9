"""The findings: each a function of the facts, which says what is wrong, what shows it, and what to do. Pure."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from trapeze.access import Entry, allows, barred
from trapeze.doctor.facts import Facts, Passed, Pool, ServiceFacts
from trapeze.doctor.holes import older
from trapeze.stoporder import Place, follows_web

__all__ = ["CHECKS", "DISKS", "Finding", "judge"]

DISKS = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "jfs", "overlay", "nfs", "nfs4",
                   "cifs", "smb3", "fuse", "fuseblk", "9p", "virtiofs", "ceph"})  # fmt: skip
"""File systems on which a write may wait for a disk, or for another machine. (What FUSE adds behind a dot is left out:
"fuse.sshfs".)"""
_SPARE = 64
"""Descriptors that a worker needs beside its connections: listeners, log, imports, databases."""
_SERVED = {
    "gunicorn": ("gunicorn",), "uvicorn": ("uvicorn", "h11"), "hypercorn": ("hypercorn", "h11", "h2"),
    "waitress": ("waitress",), "aiohttp": ("aiohttp",), "tornado": ("tornado",), "gevent": ("gevent",),
    "daphne": ("daphne", "twisted"), "werkzeug": ("werkzeug",), "granian": ("granian",), "cheroot": ("cheroot",),
    "chaussette": ("waitress", "gevent", "eventlet"), "bjoern": ("bjoern",), "fastpysgi": ("fastpysgi",),
    "uwsgi": ("uwsgi", "pyuwsgi"),
}  # fmt: skip
"""What stands between a client and the app, by backend."""
_AUTO = ("gunicorn", "uvicorn", "h11")
"""The same where `auto` has not chosen yet."""


class Finding(NamedTuple):
    """One thing that is wrong."""

    check: str
    what: str
    evidence: str
    fix: str


def judge(facts: Facts) -> list[Finding]:
    """Return everything that is wrong."""
    return [finding for check in CHECKS for finding in check(facts)]


def _mode(entry: Entry) -> str:
    return f"{entry.path}: mode {entry.mode:04o}, uid {entry.uid}, gid {entry.gid}"


def socket_permissions(facts: Facts) -> Iterator[Finding]:
    """nginx has to be allowed to write to a Unix socket."""
    for who in facts.nginx.users if facts.nginx else ():
        for each in facts.sockets:
            if each.entry is not None and not allows(each.entry, who, 2):
                fix = f'mode = "0660" and group = "{who.name}" in [sockets.{each.name}], then `trapeze reload`'
                what = f"nginx's user {who.name} may not connect to {each.address}: 502, Permission denied"
                yield Finding("socket-permissions", what, _mode(each.entry), fix)


def socket_directories(facts: Facts) -> Iterator[Finding]:
    """nginx has to be allowed to enter every directory on the way to it."""
    for who in facts.nginx.users if facts.nginx else ():
        for each in facts.sockets:
            closed = barred(each.directories, who)
            if closed is not None:
                what = f"nginx's user {who.name} may not enter {closed.path}, on the way to {each.address}: 502"
                fix = f"chmod o+x {closed.path}, or bind the socket elsewhere, such as below /run"
                yield Finding("socket-directory", what, _mode(closed), fix)


def listen_queue(facts: Facts) -> Iterator[Finding]:
    """The kernel caps a listen queue without a word."""
    for each in facts.sockets:
        if facts.somaxconn is not None and facts.somaxconn < each.backlog:
            what = f"the listen queue of {each.address} is shorter than its backlog: a burst gets 502 or waits a second"
            evidence = f"net.core.somaxconn is {facts.somaxconn}, backlog of [sockets.{each.name}] is {each.backlog}"
            fix = f"sysctl -w net.core.somaxconn={each.backlog} (and in /etc/sysctl.d/), then start trapeze again"
            yield Finding("somaxconn", what, evidence, fix)


def _ours(facts: Facts) -> Iterator[tuple[ServiceFacts, str, Pool]]:
    """Each pool of nginx that leads to a service of ours, with its name or address."""
    for name, pool in (facts.nginx.pools if facts.nginx else {}).items():
        for service in facts.services:
            if service.behind is not None and not set(service.addresses).isdisjoint(pool.servers):
                yield service, name, pool


def idle_connections(facts: Facts) -> Iterator[Finding]:
    """nginx has to be the one that closes an idle connection."""
    for service, name, pool in _ours(facts):
        assert service.behind is not None
        least = service.behind.idle_ms / 1000
        if not pool.keepalive or pool.idle <= least:
            continue
        what = f"nginx keeps idle connections to {service.name} longer than the app does: now and then a 502 for a POST"
        evidence = f"{pool.where}: keepalive_timeout of {name} is {pool.idle:g} s; {'; '.join(service.behind.why_idle)}"
        fix = f"keepalive_timeout {service.behind.idle_ms}ms in nginx, or keepalive = 6 and drain_grace = 6"
        yield Finding("idle-connections", what, evidence, f"{fix} in [services.{service.name}] with 5s in nginx")


def kept_connections(facts: Facts) -> Iterator[Finding]:
    """A connection for each request costs ports on TCP, and so does a `keepalive` that cannot work."""
    for service, name, pool in _ours(facts):
        local = all(server.startswith("unix:") for server in pool.servers)
        if not pool.keepalive and not local:
            what = f"nginx opens a connection to {service.name} for each request"
            evidence = f"{pool.where}: {name} has no keepalive"
            fix = f"add `keepalive 16;` to upstream {name}"
            if name in pool.servers:  # it stands in proxy_pass itself
                fix = f"an upstream for {name} with `keepalive 16;`, as `trapeze nginx` writes it"
            yield Finding("no-keepalive", what, evidence, fix)
        for each in _passed_to(facts, name) if pool.keepalive else ():
            sent = "close" if each.connection is None else each.connection
            if each.version == "1.0" or sent.lower() == "close":
                what = f"the keepalive of {name} does nothing: each request closes its connection"
                evidence = f"{each.where}: proxy_http_version is {each.version}, Connection is {sent!r}"
                fix = 'proxy_http_version 1.1; and proxy_set_header Connection ""; as `trapeze nginx` writes them'
                yield Finding("no-keepalive", what, evidence, fix)


def _passed_to(facts: Facts, name: str) -> Sequence[Passed]:
    return [each for each in (facts.nginx.passed if facts.nginx else ()) if each.target == name]


def stop_timeouts(facts: Facts) -> Iterator[Finding]:
    """Who stops the supervisor has to wait as long as the supervisor waits for its services."""
    seconds, row = _longest(facts.services)
    for each in facts.stop:
        if not row or seconds < each.seconds:
            continue
        slow = max(row, key=lambda service: service.stop_timeout)
        what = f"{each.who} kills everything before {row[-1].name} has had its time to finish"
        evidence = f"stop_timeout of {slow.name} is {slow.stop_timeout:g} s, {each.who} waits {each.seconds:g} s"
        if len(row) > 1:
            parts = ", ".join(f"{service.name} {service.stop_timeout:g} s" for service in row)
            evidence = f"one after the other may take {parts}; {each.who} waits {each.seconds:g} s"
        needed = each.fix.replace("{seconds}", f"{seconds + 5:g}")
        fix = f"{needed}, or a shorter stop_timeout in [services.{slow.name}]"
        yield Finding("stop-timeout", what, evidence, fix)


def _longest(services: Sequence[ServiceFacts]) -> tuple[float, list[ServiceFacts]]:
    """Seconds that a stop of everything may take, and the services that stop one after the other in this time.

    Who comes `after` goes before; web services go before side services that are not in front (`Machine._stop_next`).
    """
    known: dict[str, tuple[float, list[ServiceFacts]]] = {}
    places = {each.name: Place(each.web, each.after) for each in services}

    def over(service: ServiceFacts) -> tuple[float, list[ServiceFacts]]:
        if service.name not in known:
            known[service.name] = (0.0, [])  # a circle would be a mistake that `check` has found
            first = [each for each in services if service.name in each.after]
            if not service.web and not follows_web(service.name, places):
                first += [each for each in services if each.web]
            seconds, row = max((over(each) for each in first), key=lambda each: each[0], default=(0.0, []))
            known[service.name] = (seconds + service.stop_timeout, [*row, service])
        return known[service.name]

    return max((over(each) for each in services), key=lambda each: each[0], default=(0.0, []))


def descriptors(facts: Facts) -> Iterator[Finding]:
    """Each connection is a descriptor, on both sides."""
    front = facts.nginx
    if front is not None and front.nofile is not None and front.nofile < (front.connections or 0):
        what = "nginx runs out of descriptors before it has the connections that it is told to take"
        evidence = f"worker_connections is {front.connections}, a worker may have {front.nofile} descriptors"
        yield Finding(
            "descriptors", what, evidence, f"worker_rlimit_nofile {2 * (front.connections or 0)}; in nginx.conf"
        )
    for service in facts.services:
        if service.connections is None or service.nofile is None:
            continue
        needed = service.connections + _SPARE
        if service.nofile < needed:
            what = (
                f"a worker of {service.name} runs out of descriptors before it has the connections it is told to take"
            )
            evidence = f"it takes {service.connections} connections and may have {service.nofile} descriptors"
            fix = f"rlimits = {{ nofile = {needed * 2} }} in [services.{service.name}]"
            yield Finding("descriptors", what, evidence, fix)


def heartbeat_files(facts: Facts) -> Iterator[Finding]:
    """gunicorn's workers touch a file once a second: on a disk that is busy they stand still."""
    for service in facts.services:
        if service.beats is not None and service.beats[1].partition(".")[0] in DISKS:
            what = (
                f"the workers of {service.name} stand still when the disk is busy: gunicorn's heartbeat files lie on it"
            )
            evidence = f"{service.beats[0]} is on {service.beats[1]}"
            fix = f'options = {{ worker_tmp_dir = "/dev/shm" }} in [services.{service.name}]'
            if not service.backend:
                fix = "--worker-tmp-dir /dev/shm on its command line"
            yield Finding("heartbeat-files", what, evidence, fix)


def memory(facts: Facts) -> Iterator[Finding]:
    """What all workers need, one more while rolling included, has to fit into the control group."""
    if facts.memory_limit is None:
        return
    needed, parts = 0, []
    for service in facts.services:
        if service.memory:
            mean = sum(service.memory) // len(service.memory)
            needed += max(service.workers + service.surge, len(service.memory)) * mean + sum(service.standby)
            parts.append(f"({service.workers} + {service.surge}) x {_mib(mean)} of {service.name}")
            if service.standby:
                parts.append(f"{_mib(sum(service.standby))} for those of {service.name} that stand by")
    if needed > facts.memory_limit:
        what = "the workers need more memory than there is while a reload rolls: the kernel kills one of them"
        evidence = (
            f"{_mib(needed)}: {', '.join(parts)}; the limit of {facts.memory_group} is {_mib(facts.memory_limit)}"
        )
        yield Finding(
            "memory", what, evidence, "fewer workers, preload = true, or a higher limit (MemoryMax=, --memory)"
        )


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"


def accelerators(facts: Facts) -> Iterator[Finding]:
    """uvicorn without them is a third to a half as fast, and says nothing."""
    for service in facts.services:
        missing = [name for name in service.accelerators if name not in service.packages]
        if missing and service.packages:
            what = f"uvicorn runs {service.name} without {' and '.join(missing)}: slower than it could be"
            evidence = f"uvicorn {service.packages.get('uvicorn', '?')} is there, {' and '.join(missing)} not"
            yield Finding("accelerators", what, evidence, f"pip install {' '.join(missing)} (or uvicorn[standard])")


def known_holes(facts: Facts) -> Iterator[Finding]:
    """A server that is known to be broken."""
    for service in facts.services:
        for package in _SERVED.get(service.backend, () if service.backend else _AUTO):
            version = service.packages.get(package, "")
            for hole in older(package, version):
                what = f"{package} {version} ({service.name}): {hole.what}"
                evidence = f"{hole.number}, fixed in {hole.fixed}; https://nvd.nist.gov/vuln/detail/{hole.number}"
                yield Finding("known-hole", what, evidence, f"pip install '{package}>={hole.fixed}'")


def runtime_directory(facts: Facts) -> Iterator[Finding]:
    """Who can write there can take the instance's place; who can read a private one sees what runs."""
    found = facts.runtime
    if found is None:
        return
    if found.entry.mode & (stat.S_IWGRP | stat.S_IWOTH):
        what = "others may write to the runtime directory: they could stand in for the control socket"
        yield Finding("runtime-directory", what, _mode(found.entry), f"chmod go-w {found.entry.path}")
    elif found.named and not found.open and found.entry.mode & stat.S_IROTH:
        what = "everybody may read TRAPEZE_RUNTIME_DIR, and nobody but its owner may use what is in it"
        yield Finding("runtime-directory", what, _mode(found.entry), f"chmod o-r {found.entry.path}")


CHECKS: Sequence[Callable[[Facts], Iterator[Finding]]] = (
    socket_permissions,
    socket_directories,
    listen_queue,
    idle_connections,
    kept_connections,
    stop_timeouts,
    descriptors,
    heartbeat_files,
    memory,
    accelerators,
    known_holes,
    runtime_directory,
)
