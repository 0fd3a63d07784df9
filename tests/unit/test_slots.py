"""listen = "per-worker": which addresses there are, and who accepts where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from trapeze.config import Resolved, load
from trapeze.errors import ConfigError, Problem
from trapeze.generation import Generation
from trapeze.nginx.site import plan
from trapeze.slots import accepted_by, addresses_of, count_of, is_served
from trapeze.spec import ServiceSpec, SocketSpec


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def resolved_of(text: str) -> Resolved:
    file = Path("trapeze.toml")
    file.write_text(text)
    file.chmod(0o644)
    return load(str(file), environ={})


def problems_of(text: str) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        resolved_of(text)
    return list(caught.value.problems)


class Sock:
    """What the functions look at."""

    def __init__(self, name: str, slot: int | None) -> None:
        self.name = name
        self.slot = slot


def own(bind: str | list[str], slots: int | None = None) -> SocketSpec:
    return SocketSpec(bind=bind, listen="per-worker", slots=slots)


@pytest.mark.parametrize(
    ("bind", "expected"),
    [
        ("127.0.0.1:8000", ["127.0.0.1:8000", "127.0.0.1:8001", "127.0.0.1:8002"]),
        ("[::1]:8000", ["[::1]:8000", "[::1]:8001", "[::1]:8002"]),
        ("127.0.0.1:0", ["127.0.0.1:0"] * 3),
        ("unix:/run/web.sock", [f"unix:/run/web.{n}.sock" for n in range(3)]),
        ("unix:/run/v1.2/web", [f"unix:/run/v1.2/web.{n}" for n in range(3)]),
        ("unix:/run/.web", [f"unix:/run/.web.{n}" for n in range(3)]),
        ("unix:@shop", [f"unix:@shop.{n}" for n in range(3)]),
    ],
)
def test_addresses(bind: str, expected: list[str]) -> None:
    found = addresses_of(own(bind, 3))
    assert [str(address) for _, address in found] == expected
    assert [slot for slot, _ in found] == [0, 1, 2]


def test_shared_has_no_slots() -> None:
    assert [slot for slot, _ in addresses_of(SocketSpec(bind=[":80", "unix:/a"], listen="shared"))] == [None, None]


def test_who_accepts_where() -> None:
    sockets = [Sock("web", None), *(Sock("own", slot) for slot in (0, 1, 0, 1))]
    assert [sock.slot for sock in accepted_by(sockets, 0)] == [None, 0, 0]
    assert [sock.slot for sock in accepted_by(sockets, 1)] == [None, 1, 1]
    assert [sock.slot for sock in accepted_by(sockets, 2)] == [None, 0, 0], "more workers than slots: they share"


def test_which_are_served() -> None:
    shared, second = Sock("web", None), Sock("own", 1)
    assert [is_served(shared, workers) for workers in (0, 1, 2)] == [False, True, True]
    assert [is_served(second, workers) for workers in (0, 1, 2)] == [False, False, True]


def test_as_many_as_workers() -> None:
    text = '[sockets.web]\nbind = ":8000"\nlisten = "per-worker"\n[services.web]\napp = "shop:app"\nworkers = 3\n'
    config = resolved_of(text).config
    assert config.sockets["web"].slots == count_of("web", config) == 3
    more = resolved_of(text.replace('"per-worker"', '"per-worker"\nslots = 5')).config
    assert more.sockets["web"].slots == 5
    shared = resolved_of(text.replace("per-worker", "shared")).config
    assert shared.sockets["web"].slots is None


SHOP = '[services.web]\napp = "shop:app"\nworkers = 3\n'


@pytest.mark.parametrize(
    ("sockets", "field", "reason"),
    [
        ('[sockets.web]\nbind = "fd://3"\nlisten = "per-worker"', "sockets.web", "goes with addresses that trapeze"),
        ('[sockets.web]\nbind = ":65534"\nlisten = "per-worker"', "sockets.web", "port 65536 of the last slot is too"),
        ('[sockets.web]\nbind = ":80"\nslots = 2', "sockets.web", 'slots goes with listen = "per-worker"'),
        (
            '[sockets.web]\nbind = ":8000"\nlisten = "per-worker"\n[sockets.b]\nbind = "127.0.0.1:8002"',
            "sockets.b.bind",
            "127.0.0.1:8002 is taken by sockets.web",
        ),
        (
            '[sockets.web]\nbind = ":8000"\nlisten = "per-worker"\n[services.b]\ncommand = "cat"\nsocket = "web"',
            "sockets.web.listen",
            '"per-worker" is for one service, and web and b accept there',
        ),
        (f'[sockets.web]\nbind = "unix:/{"a" * 106}"\nlisten = "per-worker"', "sockets.web", "too long"),
    ],
)
def test_what_cannot_be(sockets: str, field: str, reason: str) -> None:
    found = [(each.path, each.reason) for each in problems_of(f"{SHOP}{sockets}\n")]
    assert any(path == field and reason in text for path, text in found), found


def test_job_of_a_worker_has_its_sockets_only() -> None:
    sockets: list[Any] = [_Held("web", slot, 10 + slot) for slot in range(2)]
    made = Generation.make(1, "web", ServiceSpec(app="shop:app", socket="web", workers=2), {"web": sockets}, "/")
    for index, fd in ((0, 10), (1, 11), (2, 10)):
        launch = made.for_worker(index, ()).launch("web", index)
        assert list(launch.fds) == [fd]
        assert launch.job is not None
        listed = launch.job["sockets"]
        assert isinstance(listed, list)
        assert [each["fd"] for each in listed] == [fd]
        assert launch.job["own_sockets"] is True, "nobody else accepts there: there is nobody to wait for"


class _Held(Sock):
    """A socket as a generation sees it."""

    def __init__(self, name: str, slot: int, fd: int) -> None:
        super().__init__(name, slot)
        self.fd = fd
        self.address = f"127.0.0.1:{8000 + slot}"
        self.spec = own("127.0.0.1:8000", 2)
        self.reserved = False


def test_nginx_gets_them_all() -> None:
    text = f'[sockets.web]\nbind = ["127.0.0.1:8000", "unix:/run/web.sock"]\nlisten = "per-worker"\n{SHOP}'
    config = resolved_of(text).config
    site = plan(config)
    assert not isinstance(site, list)
    (upstream,) = site.upstreams
    assert upstream.servers == [f"unix:/run/web.{slot}.sock" for slot in range(3)]
    assert upstream.slots == 3
    known = {"web": ["127.0.0.1:4001", "127.0.0.1:4002", "127.0.0.1:4003"]}
    only = replace(config, sockets={"web": replace(config.sockets["web"], bind="127.0.0.1:0")})
    there = plan(only, (), known)
    assert not isinstance(there, list)
    assert there.upstreams[0].servers == known["web"]
