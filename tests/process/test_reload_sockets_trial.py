"""Reload with other sockets whose new code does not come, or comes late: clients find what serves, all the while."""

from __future__ import annotations

import socket
import stat
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.shop import APP, BROKEN, Shop
from tests.support.site import Gate, Site
from tests.support.wait import until


def section(path: Path, more: str = "") -> dict[str, Any]:
    return {"sockets": f'[sockets.u]\nbind = "unix:{path}"\n{more}', "web": 'socket = ["web", "u"]'}


def ask(path: Path) -> str:
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), trust_env=False, timeout=20) as client:
        return client.get("http://localhost/").text


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def addresses(shop: Shop) -> dict[str, str]:
    return {each["name"]: each["address"] for each in shop.server.status()["sockets"]}


def held_up(site: Site, gate: Gate, code: str = APP.replace("{body}", "'two'")) -> Any:
    """Code whose import waits at a gate; what is written to the wire when it does."""
    arrived = site.wire()
    site.write("shop.py", f"open({str(arrived)!r}, 'w').write('here\\n')\nopen({str(gate)!r}).readline()\n" + code)
    return arrived


def others(site: Site) -> set[str]:
    """Socket files that nobody should see."""
    return {each.name for each in site.directory.iterdir() if each.name.startswith(".") and "sock" in each.name}


@pytest.mark.parametrize("more", ['mode = "0666"', 'mode = "0666"\nbacklog = 77'], ids=["mode", "mode and backlog"])
def test_other_permissions_and_broken_code(more: str, site: Site) -> None:
    """The same socket serves on with the old ones; the next reload, which is good, gives it the new ones."""
    path = site.directory / "u.sock"
    shop = Shop(site, **section(path, 'mode = "0660"'))
    shop.server.expect_error(".*")
    inode = path.stat().st_ino
    site.write("shop.py", BROKEN)
    shop.configure(**section(path, more))

    assert shop.server.ctl("reload").code == 1

    assert ask(path) == "one"
    assert (path.stat().st_ino, mode(path)) == (inode, 0o660)
    assert shop.server.ctl("restart", "web").code == 0
    assert ask(path) == "one"
    shop.code("'two'")
    assert shop.server.ctl("reload").code == 0
    shop.alone()
    assert ask(path) == "two"
    assert (path.stat().st_ino, mode(path)) == (inode, 0o666)
    assert others(site) == set()
    assert shop.server.stop() == 0
    assert not path.exists()


def test_other_permissions_and_code_that_takes_long(site: Site) -> None:
    """Nobody waits for the import, and nobody has the new permissions before it is done."""
    path, gate = site.directory / "u.sock", site.gate()
    shop = Shop(site, **section(path, 'mode = "0600"'))
    arrived = held_up(site, gate)
    shop.configure(**section(path, 'mode = "0666"'))
    assert shop.server.ctl("reload", "--no-wait").code == 0
    assert arrived.line() == "here"

    assert ask(path) == "one"
    assert mode(path) == 0o600
    gate.stay_open()
    shop.server.ready()
    shop.alone()
    assert ask(path) == "two"
    assert mode(path) == 0o666
    assert shop.server.stop() == 0


def test_a_new_path_and_broken_code(site: Site) -> None:
    """It is never there; the old one serves on, and is what the next reload compares with."""
    old, new, gate = site.directory / "old.sock", site.directory / "new.sock", site.gate()
    shop = Shop(site, **section(old))
    shop.server.expect_error(".*")
    inode, before = old.stat().st_ino, shop.server.status()["sockets"]
    arrived = held_up(site, gate, BROKEN)
    shop.configure(**section(new))
    assert shop.server.ctl("reload", "--no-wait").code == 0
    assert arrived.line() == "here"

    assert not new.exists()
    assert ask(old) == "one"
    gate.stay_open()
    until(lambda: shop.server.service()["generation"] == 1, what="the reload to fail")
    assert not new.exists()
    assert ask(old) == "one"
    assert shop.server.status()["sockets"] == before
    until(lambda: others(site) == set(), what="nothing to be left behind")
    shop.code("'two'")
    shop.configure(**section(old))
    assert shop.server.ctl("reload").code == 0
    shop.alone()
    assert (old.stat().st_ino, ask(old)) == (inode, "two")
    shop.configure(**section(new))
    assert shop.server.ctl("reload").code == 0
    assert ask(new) == "two"
    until(lambda: not old.exists(), what="the old path to go")
    assert shop.server.stop() == 0


def test_another_port_and_broken_code(site: Site) -> None:
    """The new port is closed again, and `status` names the old one."""
    shop = Shop(site, sockets='[sockets.move]\nbind = "127.0.0.1:0"', web='socket = ["web", "move"]')
    shop.server.expect_error(".*")
    before = addresses(shop)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    site.write("shop.py", BROKEN)
    shop.configure(
        sockets=f'[sockets.move]\nbind = "127.0.0.1:{port}"\n[sockets.more]\nbind = "127.0.0.1:0"',
        web='socket = ["web", "move", "more"]',
    )

    assert shop.server.ctl("reload").code == 1

    def refused() -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", port)) != 0

    until(refused, what="the new port to be closed")
    assert addresses(shop) == before
    with httpx.Client(trust_env=False) as client:
        assert client.get(f"http://{before['move']}/").text == "one"
    assert shop.server.stop() == 0


def test_a_reload_that_is_called_off(site: Site) -> None:
    """`rollback` in the middle: what it has brought goes with it."""
    path, new, gate = site.directory / "u.sock", site.directory / "new.sock", site.gate()
    shop = Shop(site, **section(path))
    before = addresses(shop)
    arrived = held_up(site, gate)
    shop.configure(**section(new))
    assert shop.server.ctl("reload", "--no-wait").code == 0
    assert arrived.line() == "here"

    assert shop.server.ctl("rollback", "web").code == 0

    assert ask(path) == "one"
    assert addresses(shop) == before
    assert not new.exists()
    gate.stay_open()
    until(lambda: others(site) == set(), what="nothing to be left behind")
    assert shop.server.stop() == 0


def test_the_path_is_taken_while_the_new_code_is_imported(site: Site) -> None:
    """By another program: the reload fails and says so; that program and the old code serve on."""
    old, new, gate = site.directory / "old.sock", site.directory / "new.sock", site.gate()
    shop = Shop(site, **section(old))
    shop.server.expect_error(".*")
    arrived = held_up(site, gate)
    shop.configure(**section(new))
    assert shop.server.ctl("reload", "--no-wait").code == 0
    assert arrived.line() == "here"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(new))
        other.listen()
        inode = new.stat().st_ino

        gate.stay_open()

        shop.server.wait_output(r"generation 2 failed, generation 1 serves on: .*address already in use")
        assert ask(old) == "one"
        assert new.stat().st_ino == inode
        new.unlink()
    shop.server.ready()
    assert shop.server.stop() == 0


def test_an_upgrade_while_the_new_code_is_imported(site: Site) -> None:
    """The program that takes over knows which path and which permissions are still to come."""
    path, new, gate = site.directory / "u.sock", site.directory / "new.sock", site.gate()
    two = f'[sockets.n]\nbind = "unix:{new}"\nmode = "0600"'
    shop = Shop(site, **section(path, 'mode = "0600"'))
    inode = path.stat().st_ino
    arrived = held_up(site, gate)
    shop.configure(sockets=section(path, 'mode = "0666"')["sockets"] + f"\n{two}", web='socket = ["web", "u", "n"]')
    assert shop.server.ctl("reload", "--no-wait").code == 0
    assert arrived.line() == "here"

    assert shop.server.ctl("upgrade").code == 0

    assert ask(path) == "one"
    assert not new.exists()
    gate.stay_open()
    shop.server.ready()
    shop.alone()
    assert (ask(path), ask(new)) == ("two", "two")
    assert (path.stat().st_ino, mode(path), mode(new)) == (inode, 0o666, 0o600)
    assert others(site) == set()
    assert shop.server.stop() == 0
    assert not path.exists() and not new.exists()


def test_an_upgrade_before_the_new_code_fails(site: Site) -> None:
    """Nor is it forgotten what the old code had."""
    path, gate = site.directory / "u.sock", site.gate()
    shop = Shop(site, **section(path, 'mode = "0600"'))
    shop.server.expect_error(".*")
    before = addresses(shop)
    arrived = held_up(site, gate, BROKEN)
    shop.configure(sockets='[sockets.u]\nbind = "127.0.0.1:0"', web='socket = ["web", "u"]', workers=5)
    assert shop.server.ctl("reload", "--no-wait").code == 0
    assert arrived.line() == "here"
    assert shop.server.ctl("upgrade").code == 0

    gate.stay_open()

    until(lambda: shop.server.service()["generation"] == 1, what="the reload to fail")
    shop.server.ready()
    assert ask(path) == "one"
    assert addresses(shop) == before
    assert shop.server.service()["want"] == 2
    assert shop.server.stop() == 0


def test_a_side_service_whose_new_section_fails(site: Site) -> None:
    """The section goes back: the same file is tried again, and the old one bounces nobody."""
    side = '[services.side]\ncommand = "sleep {}"\nrestart = {{ intensity = 1, cap = 60 }}\npre_start = "test {} = 60"'
    shop = Shop(site, side.format(60, 60))
    shop.server.expect_error(".*")
    shop.configure(side.format(61, 61))
    assert shop.server.ctl("reload").code == 1
    assert shop.server.ctl("reload").code == 1, "it is tried again"
    shop.server.ready()
    pids = shop.server.pids("side")

    shop.configure(side.format(60, 60))
    assert shop.server.ctl("reload").code == 0

    assert shop.server.pids("side") == pids
    assert shop.server.stop() == 0
