"""Each finding of `trapeze doctor`: found where it is so, and not where it is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from trapeze.access import Entry, Person, allows, barred
from trapeze.doctor import judge
from trapeze.doctor.facts import (
    Facts,
    NginxFacts,
    Passed,
    Pool,
    RuntimeFacts,
    ServiceFacts,
    SocketFacts,
    StopFacts,
)
from trapeze.doctor.holes import HOLES, numbers, older
from trapeze.doctor.judge import CHECKS, Finding
from trapeze.doctor.surroundings import span, unit_of
from trapeze.nginx.site import Upstream

WWW = Person("www-data", 33, [33])
SOCKET = "unix:/run/shop/web.sock"
MIB = 2**20


def behind(idle_ms: int = 5000, server: str = SOCKET) -> Upstream:
    why = ["idle connections are kept 2 s"] if idle_ms < 5000 else []
    return Upstream(
        name="shop_web", service="web", slots=0, servers=[server], keepalive=16, idle_ms=idle_ms, why_idle=why, read=60,
        why_read="", why_none="", doubts="",
    )  # fmt: skip


def sockets(mode: int = 0o660, gid: int = 33, directory: int = 0o755, backlog: int = 2048) -> list[SocketFacts]:
    way = [Entry("/", 0, 0, 0o755), Entry("/run/shop", 0, 0, directory)]
    return [
        SocketFacts(
            name="web",
            address=SOCKET,
            backlog=backlog,
            entry=Entry("/run/shop/web.sock", 0, gid, mode),
            directories=way,
        )
    ]


def nginx(**more: Any) -> NginxFacts:
    return NginxFacts(users=[WWW], **more)


def pool(server: str = SOCKET, **more: Any) -> NginxFacts:
    passed = more.pop("passed", Passed(target="shop", version="1.1", connection="", where="shop.conf:9"))
    return nginx(pools={"shop": Pool(servers=[server], where="shop.conf:1", **more)}, passed=[passed])


TCP = "127.0.0.1:8000"


def service(**more: Any) -> list[ServiceFacts]:
    given: dict[str, Any] = {"addresses": [SOCKET, TCP], "web": True}
    return [ServiceFacts(name="web", **{**given, **more})]


def fronted(stop_timeout: float, **more: Any) -> list[ServiceFacts]:
    """An app with an nginx in front and a database behind, which stop one after the other."""
    front = ServiceFacts(name="nginx", after=["web"], stop_timeout=30)
    return [front, *service(stop_timeout=stop_timeout), ServiceFacts(name="redis", stop_timeout=30), *more.values()]


GONE = Passed(target="shop", version="1.1", connection=None, where="shop.conf:9")
OLD = Passed(target="shop", version="1.0", connection="", where="shop.conf:9")
BOTH = ["uvloop", "httptools"]
HALF = {"uvicorn": "1", "uvloop": "1"}
KEPT: dict[str, Any] = {"keepalive": 16, "idle": 5.0}
SYSTEMD = StopFacts(who="systemd (shop.service)", seconds=90, fix="TimeoutStopSec={seconds} in shop.service")
DOCKER = StopFacts(who="docker, by default,", seconds=10, fix="docker run --stop-timeout {seconds}")


def runtime(mode: int, *, named: bool = True, is_open: bool = False) -> RuntimeFacts:
    return RuntimeFacts(entry=Entry("/run/shop", 0, 0, mode), named=named, open=is_open)


CASES: list[tuple[Callable[[Facts], Iterator[Finding]], Facts, str]] = [
    # socket permissions
    (judge.socket_permissions, Facts(sockets=sockets(), nginx=nginx()), ""),
    (judge.socket_permissions, Facts(sockets=sockets(0o666, 0), nginx=nginx()), ""),
    (judge.socket_permissions, Facts(sockets=sockets(0o600), nginx=nginx()), "www-data may not connect to unix:"),
    (judge.socket_permissions, Facts(sockets=sockets(0o755, 0), nginx=nginx()), "www-data may not connect"),
    (judge.socket_permissions, Facts(sockets=sockets(0o600), nginx=NginxFacts(users=[Person("root", 0, [0])])), ""),
    (judge.socket_permissions, Facts(sockets=sockets(0o600)), ""),
    # the way to it
    (judge.socket_directories, Facts(sockets=sockets(), nginx=nginx()), ""),
    (judge.socket_directories, Facts(sockets=sockets(directory=0o711), nginx=nginx()), ""),
    (judge.socket_directories, Facts(sockets=sockets(directory=0o700), nginx=nginx()), "may not enter /run/shop"),
    # listen queue
    (judge.listen_queue, Facts(sockets=sockets(), somaxconn=4096), ""),
    (judge.listen_queue, Facts(sockets=sockets(), somaxconn=2048), ""),
    (judge.listen_queue, Facts(sockets=sockets(), somaxconn=128), "shorter than its backlog"),
    (judge.listen_queue, Facts(sockets=sockets()), ""),
    # idle connections
    (judge.idle_connections, Facts(services=service(behind=behind()), nginx=pool(**KEPT)), ""),
    (judge.idle_connections, Facts(services=service(behind=behind()), nginx=pool(keepalive=16)), "longer than the app"),
    (judge.idle_connections, Facts(services=service(behind=behind(1000)), nginx=pool(**KEPT)), "longer than the app"),
    (judge.idle_connections, Facts(services=service(behind=behind(1000)), nginx=pool()), ""),
    (judge.idle_connections, Facts(services=service(behind=behind(1000)), nginx=pool("10.0.0.9:80", **KEPT)), ""),
    (judge.idle_connections, Facts(services=service(behind=behind(1000)), nginx=pool(TCP, **KEPT)), "than the app"),
    # kept connections
    (judge.kept_connections, Facts(services=service(behind=behind()), nginx=pool(**KEPT)), ""),
    (judge.kept_connections, Facts(services=service(behind=behind()), nginx=pool()), ""),
    (judge.kept_connections, Facts(services=service(behind=behind(server=TCP)), nginx=pool(TCP)), "for each request"),
    (judge.kept_connections, Facts(services=service(behind=behind()), nginx=pool(passed=GONE, **KEPT)), "does nothing"),
    (judge.kept_connections, Facts(services=service(behind=behind()), nginx=pool(passed=OLD, **KEPT)), "does nothing"),
    # stop timeouts
    (judge.stop_timeouts, Facts(services=service(), stop=[SYSTEMD]), ""),
    (judge.stop_timeouts, Facts(services=service(stop_timeout=90), stop=[SYSTEMD]), "kills everything before web"),
    (judge.stop_timeouts, Facts(services=service(), stop=[DOCKER]), "docker, by default, kills"),
    (judge.stop_timeouts, Facts(services=service(stop_timeout=8), stop=[DOCKER]), ""),
    (judge.stop_timeouts, Facts(services=service(stop_timeout=8)), ""),
    (judge.stop_timeouts, Facts(services=fronted(20), stop=[SYSTEMD]), ""),
    (judge.stop_timeouts, Facts(services=fronted(40), stop=[SYSTEMD]), "kills everything before redis"),
    (judge.stop_timeouts, Facts(services=[*service(stop_timeout=60), *service(stop_timeout=60)], stop=[SYSTEMD]), ""),
    # descriptors
    (judge.descriptors, Facts(nginx=nginx(connections=768, nofile=1024)), ""),
    (judge.descriptors, Facts(nginx=nginx(connections=4096, nofile=1024)), "nginx runs out of descriptors"),
    (judge.descriptors, Facts(services=service(connections=500, nofile=1024)), ""),
    (judge.descriptors, Facts(services=service(connections=1000, nofile=1024)), "a worker of web runs out"),
    (judge.descriptors, Facts(services=service(nofile=1024)), ""),
    # heartbeat files
    (judge.heartbeat_files, Facts(services=service(backend="gunicorn", beats=("/dev/shm", "tmpfs"))), ""),
    (judge.heartbeat_files, Facts(services=service(backend="gunicorn", beats=("/tmp", "ext4"))), "stand still"),
    (judge.heartbeat_files, Facts(services=service(beats=("/mnt", "fuse.sshfs"))), "stand still"),
    (judge.heartbeat_files, Facts(services=service()), ""),
    # memory
    (judge.memory, Facts(services=service(workers=2, surge=1, memory=[100 * MIB] * 2), memory_limit=400 * MIB), ""),
    (judge.memory, Facts(services=service(workers=2, surge=1, memory=[100 * MIB] * 2), memory_limit=250 * MIB), "more"),
    (judge.memory, Facts(services=service(workers=2, memory=[100 * MIB] * 2)), ""),
    (judge.memory, Facts(services=service(workers=2, memory=[100 * MIB] * 2, standby=[60 * MIB]),
                         memory_limit=250 * MIB), "more"),
    # accelerators
    (judge.accelerators, Facts(services=service(accelerators=BOTH, packages=HALF)), "httptools"),
    (judge.accelerators, Facts(services=service(accelerators=BOTH, packages={**HALF, "httptools": "1"})), ""),
    (judge.accelerators, Facts(services=service(accelerators=BOTH)), ""),
    (judge.accelerators, Facts(services=service(backend="gunicorn", packages={"uvicorn": "1"})), ""),
    # known holes
    (judge.known_holes, Facts(services=service(backend="gunicorn", packages={"gunicorn": "21.2.0"})), "smuggled"),
    (judge.known_holes, Facts(services=service(backend="gunicorn", packages={"gunicorn": "23.0.0"})), ""),
    (judge.known_holes, Facts(services=service(backend="uvicorn", packages={"h11": "0.14.0"})), "malformed chunks"),
    (judge.known_holes, Facts(services=service(backend="gunicorn", packages={"waitress": "2.0.0"})), ""),
    (judge.known_holes, Facts(services=service(packages={"gunicorn": "20.1.0"})), "smuggled"),
    (judge.known_holes, Facts(services=service(backend="bjoern", packages={"gunicorn": "20.1.0"})), ""),
    # runtime directory
    (judge.runtime_directory, Facts(runtime=runtime(0o700)), ""),
    (judge.runtime_directory, Facts(runtime=runtime(0o711)), ""),
    (judge.runtime_directory, Facts(runtime=runtime(0o755)), "everybody may read TRAPEZE_RUNTIME_DIR"),
    (judge.runtime_directory, Facts(runtime=runtime(0o755, named=False)), ""),
    (judge.runtime_directory, Facts(runtime=runtime(0o755, is_open=True)), ""),
    (judge.runtime_directory, Facts(runtime=runtime(0o777, named=False)), "others may write"),
    (judge.runtime_directory, Facts(), ""),
]  # fmt: skip


@pytest.mark.parametrize(("check", "facts", "said"), CASES)
def test_finding(check: Callable[[Facts], Iterator[Finding]], facts: Facts, said: str) -> None:
    found = list(check(facts))

    assert bool(found) == bool(said), found
    for finding in found:
        assert said in finding.what
        assert finding.evidence and finding.fix and "{" not in finding.fix.replace("{ ", "")


def test_every_check_is_tried_both_ways() -> None:
    for check in CHECKS:
        outcomes = {bool(said) for tried, _, said in CASES if tried is check}
        assert outcomes == {True, False}, check.__name__


def test_nothing_known_is_nothing_wrong() -> None:
    assert judge.judge(Facts()) == []


def test_all_findings_come_together() -> None:
    facts = Facts(sockets=sockets(0o600), nginx=nginx(), somaxconn=128, runtime=runtime(0o777))

    assert [each.check for each in judge.judge(facts)] == ["socket-permissions", "somaxconn", "runtime-directory"]


# -- who may do what --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uid", "gid", "mode", "granted"),
    [
        (33, 0, 0o600, True),
        (33, 33, 0o060, False),  # the owner's bits decide, whatever the group's say
        (0, 33, 0o060, True),
        (0, 33, 0o606, False),
        (0, 0, 0o602, True),
        (0, 0, 0o660, False),
    ],
)
def test_the_first_class_that_fits_decides(uid: int, gid: int, mode: int, granted: bool) -> None:
    assert allows(Entry("/x", uid, gid, mode), WWW, 2) is granted
    assert allows(Entry("/x", uid, gid, mode), Person("root", 0, [0]), 2)


def test_barred() -> None:
    chain = [Entry("/", 0, 0, 0o755), Entry("/a", 0, 0, 0o700), Entry("/a/b", 0, 0, 0o700)]

    assert barred(chain, WWW) == chain[1]
    assert barred(chain[:1], WWW) is None


# -- versions, times, units -------------------------------------------------------------------------------------------


def test_versions() -> None:
    assert numbers("3.0.1rc1") == (3, 0, 1)
    assert numbers("6.5.0") == numbers("6.5")
    assert numbers("") == numbers("unknown") == ()
    assert [hole.number for hole in older("gunicorn", "22.0.0")] == ["CVE-2024-6827"]
    assert older("gunicorn", "") == older("nothing", "1.0") == []
    assert [hole.number for hole in older("waitress", "1.4.4")] == ["CVE-2024-49769"], "the other came with 2.0"


def test_holes_can_be_looked_up() -> None:
    assert all(hole.number.startswith("CVE-") and numbers(hole.fixed) and hole.what for hole in HOLES)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1min 30s", 90), ("45s", 45), ("500ms", 0.5), ("1h", 3600), ("infinity", None), ("", None)],
)
def test_times_of_systemd(text: str, seconds: float | None) -> None:
    assert span(text) == seconds


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("0::/system.slice/shop.service", ("shop.service", False)),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/shop.service", ("shop.service", True)),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/x.scope", None),
        ("0::/", None),
        ("1:name=systemd:/system.slice/shop.service\n0::/", ("shop.service", False)),
    ],
)
def test_units(text: str, unit: tuple[str, bool] | None) -> None:
    assert unit_of(text) == unit
