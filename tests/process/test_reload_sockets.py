"""Reload with other sockets: what is new is served, what is gone is closed, what stays is the same socket."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.support.server import Trapeze
from tests.support.shop import APP, Shop
from tests.support.site import Site
from tests.support.wait import until


def test_bind_error_changes_nothing(site: Site) -> None:
    """A new address that cannot be had: the others that could be are closed again."""
    shop = Shop(site)
    taken = site.tcp()
    path = site.directory / "new.sock"
    before = shop.server.status()
    shop.configure(sockets=f'[sockets.new]\nbind = ["unix:{path}", "{taken.address}"]', web='socket = ["web", "new"]')

    done = shop.server.ctl("reload")

    assert done.code in (1, 2), done
    assert "address already in use" in done.err
    assert shop.server.status()["revision"] == before["revision"]
    assert not path.exists()
    assert shop.server.stop() == 0


def refused(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) != 0


def addresses(server: Trapeze) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for each in server.status()["sockets"]:
        found.setdefault(each["name"], []).append(each["address"])
    return found


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def test_sockets_come_and_go(site: Site) -> None:
    """A new one is served, also on a Unix path; one that is gone from the file refuses connections."""
    shop = Shop(site)
    path = site.directory / "new.sock"
    shop.configure(
        sockets=f'[sockets.tcp]\nbind = "127.0.0.1:0"\n[sockets.unix]\nbind = "unix:{path}"',
        web='socket = ["web", "tcp", "unix"]',
    )

    assert shop.server.ctl("reload").code == 0

    (address,) = addresses(shop.server)["tcp"]
    with httpx.Client(trust_env=False) as client:
        assert client.get(f"http://{address}/").text == "one"
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
        assert client.get("http://localhost/").text == "one"
    assert shop.get() == "one"

    shop.configure()
    assert shop.server.ctl("reload").code == 0

    assert addresses(shop.server).keys() == {"web"}
    until(lambda: refused(port_of(address)), what="the old port to be closed")
    until(lambda: not path.exists(), what="the old path to go")
    assert shop.get() == "one"
    assert shop.server.stop() == 0


def test_bind_changes(site: Site) -> None:
    """The new address is served before the old one is closed, and the one that stays is the same socket."""
    shop = Shop(site, sockets='[sockets.move]\nbind = "127.0.0.1:0"', web='socket = ["web", "move"]')
    (old,) = addresses(shop.server)["move"]
    with socket.create_server(("127.0.0.1", 0)) as free:
        new = f"127.0.0.1:{free.getsockname()[1]}"
    fds = {each["address"]: each["fd"] for each in shop.server.status()["sockets"]}
    shop.configure(sockets=f'[sockets.move]\nbind = "{new}"', web='socket = ["web", "move"]')

    done = shop.server.ctl("reload")

    assert done.code == 0, done
    assert addresses(shop.server)["move"] == [new]
    with httpx.Client(trust_env=False) as client:
        assert client.get(f"http://{new}/").text == "one"
    until(lambda: refused(port_of(old)), what="the old port to be closed")
    now = {each["address"]: each["fd"] for each in shop.server.status()["sockets"]}
    assert {address: fd for address, fd in now.items() if address in fds} == {
        address: fd for address, fd in fds.items() if address != old
    }
    assert shop.server.stop() == 0


def test_same_address_in_another_way(site: Site) -> None:
    """Another spelling, name, backlog or mode of an address that we hold: no conflict with ourselves."""
    path = site.directory / "x.sock"
    shop = Shop(site, sockets='[sockets.x]\nbind = "127.0.0.1:0"', web='socket = ["web", "x"]')
    (address,) = addresses(shop.server)["x"]

    def reload(name: str, bind: str, more: str = "") -> None:
        shop.configure(sockets=f"[sockets.{name}]\nbind = {bind}\n{more}", web=f'socket = ["web", "{name}"]')
        done = shop.server.ctl("reload")
        assert done.code == 0, done
        with httpx.Client(trust_env=False) as client:
            assert client.get(f"http://{address}/").text == "one"

    reload("x", f'["{address}", "unix:{path}"]')
    inode = path.stat().st_ino
    reload("x", f'["unix:{path}", "{address}"]')
    assert path.stat().st_ino == inode
    reload("x", f'["unix:{path}", "localhost:{port_of(address)}"]')
    assert path.stat().st_ino == inode
    reload("x", f'["unix:{path}", "{address}"]', 'mode = "0600"\nbacklog = 77')
    assert path.stat().st_mode & 0o777 == 0o600
    reload("y", f'["unix:{path}", "{address}"]', 'mode = "0660"')
    assert path.stat().st_mode & 0o777 == 0o660
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
        assert client.get("http://localhost/").text == "one"
    assert addresses(shop.server).keys() == {"web", "y"}
    assert shop.server.stop() == 0
    assert not path.exists()


def test_old_address_is_open_while_it_is_used(site: Site) -> None:
    """Both are, while the old generation is not relieved yet."""
    gate = site.gate()
    shop = Shop(site, sockets='[sockets.move]\nbind = "127.0.0.1:0"', web='socket = ["web", "move"]')
    (old,) = addresses(shop.server)["move"]
    site.write("shop.py", f"open({str(gate)!r}).readline()\n" + APP.replace("{body}", "'two'"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        new = f"127.0.0.1:{free.getsockname()[1]}"
    shop.configure(sockets=f'[sockets.move]\nbind = "{new}"', web='socket = ["web", "move"]')

    assert shop.server.ctl("reload", "--no-wait").code == 0

    assert not refused(port_of(new)), "its backlog is the waiting room"
    with httpx.Client(trust_env=False) as client:
        assert client.get(f"http://{old}/").text == "one"
    gate.stay_open()
    shop.server.ready()
    until(lambda: refused(port_of(old)), what="the old port to be closed")
    shop.alone()
    with httpx.Client(trust_env=False) as client:
        assert client.get(f"http://{new}/").text == "two"
    assert shop.server.stop() == 0


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_back_to_an_address_that_is_still_drained(kind: str, site: Site) -> None:
    """A long request holds the worker of the generation before last; its address is ours, and opens again."""
    gate, wire = site.gate(), site.wire()
    waiting = f"(open({str(wire)!r}, 'w').close(), open({str(gate)!r}).readline(), 'late')[-1]"
    shop = Shop(site, sockets='[sockets.move]\nbind = "127.0.0.1:0"', web='socket = ["web", "move"]')
    with socket.create_server(("127.0.0.1", 0)) as free, socket.create_server(("127.0.0.1", 0)) as other:
        ports = [each.getsockname()[1] for each in (free, other)]
    here = f"127.0.0.1:{ports[0]}" if kind == "tcp" else f"unix:{site.directory / 'here.sock'}"
    there = f"127.0.0.1:{ports[1]}" if kind == "tcp" else f"unix:{site.directory / 'there.sock'}"

    def move(address: str, body: str) -> None:
        site.write("shop.py", APP.replace("{body}", body))
        shop.configure(sockets=f'[sockets.move]\nbind = "{address}"', web='socket = ["web", "move"]')
        done = shop.server.ctl("reload")
        assert done.code == 0, done

    def ask(address: str, path: str = "/") -> str:
        transport = httpx.HTTPTransport(uds=address[5:]) if kind == "unix" else httpx.HTTPTransport()
        with httpx.Client(transport=transport, trust_env=False, timeout=20) as client:
            return client.get("http://localhost/" if kind == "unix" else f"http://{address}{path}").text

    move(here, waiting)
    with ThreadPoolExecutor() as pool:
        late = pool.submit(ask, here)
        wire.rest()
        move(there, "'there'")
        move(here, "'back'")
        assert ask(here) == "back"
        gate.stay_open()
        assert late.result(20) == "late"
    assert ask(here) == "back"
    assert shop.server.stop() == 0
