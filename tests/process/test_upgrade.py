"""Upgrade in place: another program in the same process, and nobody notices.

`window` holds the new program at its very beginning, by a sitecustomize that waits at a gate: what happens then happens
between the two programs.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.drainload import APP, Load
from tests.support.server import ROOT, Listener, Result, Trapeze
from tests.support.site import Site
from tests.support.wait import until

PLAIN = """
import os
VERSION = "one"

def wsgi(environ, start_response):
    body = f"{VERSION} {os.getpid()}".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
"""

HOLD = """
import os
kind, _, number = os.environ.get("TRAPEZE_RESUME", "").rpartition(":")
if number and kind == {kind!r}:
    with open({wire!r}, "w") as wire:
        wire.write("here\\n")
    with open({gate!r}) as gate:
        gate.read()
"""


def descriptors(server: Trapeze) -> list[str]:
    """What the supervisor has open, by kind, but for connections at its door: more of one of them would be a leak."""
    lines = Path("/proc/net/unix").read_text().splitlines()
    bound = server.door.with_name(f".{server.door.stem}.new")  # it was renamed, but the kernel keeps the first name
    at_the_door = {f"socket:[{line.split()[6]}]" for line in lines if line.endswith(f" {bound}")}
    found = []
    for entry in Path(f"/proc/{server.pid}/fd").iterdir():
        try:
            found.append(os.readlink(entry))
        except FileNotFoundError:  # the directory itself
            continue
    return sorted(re.sub(r"\d+", "N", target) for target in found if target not in at_the_door)


def with_keeper(server: Trapeze, children: int) -> list[str]:
    """The same, once the keeper is there, which comes a moment after the control door."""
    followed = children + 1
    until(lambda: descriptors(server).count("anon_inode:[pidfd]") == followed, what="the keeper")
    return descriptors(server)


def image(server: Trapeze) -> int:
    """Of the program that goes on: for a moment a stand-in answers."""
    until(lambda: not server.status().get("upgrading", True), what="the program that goes on")
    return int(server.status()["image"])


def upgraded(server: Trapeze, *flags: str) -> Result:
    done = server.ctl("upgrade", *flags)
    assert done.code == 0, done.err + server.output
    return done


def app(site: Site, text: str = PLAIN) -> None:
    site.write("shop.py", text)


def version(server: Trapeze) -> str:
    return str(server.get().text.split()[0])


@contextmanager
def window(server: Trapeze, site: Site) -> Iterator[threading.Thread]:
    """Between the two programs; the command that asked for it is checked at the end."""
    done: list[Result] = []
    thread = threading.Thread(target=lambda: done.append(server.ctl("upgrade")))
    thread.start()
    try:
        assert site.holding.line() == "here"  # type: ignore[attr-defined]
        yield thread
    finally:
        site.gate_of_window.open()  # type: ignore[attr-defined]
        thread.join(40)
    assert [(each.code, each.err) for each in done] == [(0, "")], server.output


@pytest.fixture
def held(site: Site) -> dict[str, str]:
    """An environment in which the new program waits; see `window`."""
    return holding(site, "")


def holding(site: Site, kind: str) -> dict[str, str]:
    """An environment in which a new program waits that is started as the next one ("") or to be tried ("probe")."""
    site.holding, site.gate_of_window = site.wire(), site.gate()  # type: ignore[attr-defined]
    text = HOLD.format(kind=kind, wire=str(site.holding), gate=str(site.gate_of_window))  # type: ignore[attr-defined]
    site.write("hold/sitecustomize.py", text)
    return {"PYTHONPATH": str(site.directory / "hold")}


# -- under load -------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("interface", "keepalive"), [("wsgi", False), ("asgi", True)])
def test_ten_upgrades_lose_nothing(interface: str, keepalive: bool, site: Site, tcp: Callable[..., Listener]) -> None:
    """All kinds of connection, a hundred and more requests for each upgrade; same pids, same descriptors."""
    site.write("loaded.py", APP)
    listener = tcp()
    server = site.serve(f"loaded:{interface}", "--workers", "2", listeners=[listener], keep_listeners=True).ready()
    # At its end the client leaves in the middle of three requests that it has sent at once.
    server.expect_error("Exception in ASGI application|Traceback")
    before = server.pids()
    answered = 0

    for _ in range(10):
        load = Load([listener], keepalive=keepalive, think=0.2)

        async def upgrade() -> None:
            await asyncio.to_thread(upgraded, server)

        asyncio.run(load.run(upgrade, clients=1))
        assert load.lost == {}, server.output
        answered += load.answered.total()

    assert answered > 1000
    assert server.pids() == before
    assert (server.status()["pid"], image(server)) == (server.pid, 11)
    assert server.service()["restarts"] == 0


@pytest.mark.timeout(180)
def test_nothing_grows(site: Site, tcp: Callable[..., Listener]) -> None:
    app(site)
    listener = tcp()
    server = site.serve("shop:wsgi", listeners=[listener]).ready()
    assert server.request("POST", "/upgrade", params={"wait": 60}).status_code == 200
    until(lambda: image(server) == 2, what="the second program")
    first = with_keeper(server, 3)  # the worker, its zygote and the heir of that

    for count in range(3, 22):
        assert server.request("POST", "/upgrade", params={"wait": 60}).status_code == 200
        assert image(server) == count

    until(lambda: descriptors(server) == first, what="the same descriptors as before")
    assert len(server.status()["services"]) == 1


# -- the window -------------------------------------------------------------------------------------------------------


def test_a_worker_that_dies_meanwhile_is_replaced(
    site: Site, held: dict[str, str], tcp: Callable[..., Listener]
) -> None:
    app(site)
    server = site.serve("shop:wsgi", "--workers", "2", listeners=[tcp()], env=held).ready()
    first, second = server.pids()

    with window(server, site):
        os.kill(first, signal.SIGKILL)

    until(lambda: server.service()["ready"] == 2 and first not in server.pids(), what="its replacement")
    assert second in server.pids()
    assert server.service()["restarts"] == 1
    server.wait_output(rf"web\[0\] pid {first} killed by SIGKILL")


def test_signals_of_the_window_are_obeyed(site: Site, held: dict[str, str], tcp: Callable[..., Listener]) -> None:
    app(site)
    server = site.serve("shop:wsgi", listeners=[tcp()], env=held).ready()
    before = server.pids()

    with window(server, site):
        server.signal(signal.SIGHUP)
    until(lambda: server.service()["generation"] == 2, what="the reload")
    server.ready()
    assert server.pids() != before

    with window(server, site):
        server.signal(signal.SIGTTIN)
    until(lambda: server.service()["want"] == 2, what="one worker more")


def test_a_stop_of_the_window_is_obeyed(site: Site, held: dict[str, str], tcp: Callable[..., Listener]) -> None:
    app(site)
    server = site.serve("shop:wsgi", listeners=[tcp()], env=held).ready()

    thread = threading.Thread(target=server.ctl, args=["upgrade"])
    thread.start()
    assert site.holding.line() == "here"  # type: ignore[attr-defined]
    server.terminate()
    site.gate_of_window.open()  # type: ignore[attr-defined]

    assert server.wait() == 0
    thread.join(40)
    server.wait_output("stopping, asked by SIGTERM")


def test_a_stop_while_the_new_program_is_tried(site: Site, tcp: Callable[..., Listener]) -> None:
    """The stop is obeyed at once and ends what is tried: it waits for nothing."""
    app(site)
    server = site.serve("shop:wsgi", listeners=[tcp()], env=holding(site, "probe")).ready()
    done: list[Result] = []

    thread = threading.Thread(target=lambda: done.append(server.ctl("upgrade")))
    thread.start()
    assert site.holding.line() == "here"  # type: ignore[attr-defined]
    server.terminate()

    assert server.wait() == 0
    thread.join(40)
    assert done[0].code == 1
    assert "stopping" in done[0].err or "stopped" in done[0].err


def test_from_a_directory_that_was_deleted(site: Site, tcp: Callable[..., Listener]) -> None:
    app(site)
    start = site.directory / "release"
    start.mkdir()
    # A relative entry would be a lost one, and Python does not even start with it.
    entries = [os.path.abspath(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    env = {"PYTHONPATH": os.pathsep.join(entries)}
    server = site.up("[services.x]\ncommand = 'sleep 3600'\n", cwd=start, env=env).ready()
    start.rmdir()
    server._cwd = str(site.directory)

    upgraded(server)

    assert image(server) == 2
    assert server.ctl("reload").code == 0
    assert server.stop() == 0


def test_who_asks_meanwhile(site: Site, held: dict[str, str], tcp: Callable[..., Listener]) -> None:
    """For the status by a stand-in, at once; orders wait, and are carried out by the new program."""
    app(site)
    server = site.serve("shop:wsgi", listeners=[tcp()], env=held).ready()
    asked: list[Result] = []

    with window(server, site):
        until(lambda: server.status()["upgrading"], what="the stand-in")
        thread = threading.Thread(target=lambda: asked.append(server.ctl("scale", "web", "2")))
        thread.start()
        assert server.ctl("status", "--json").json["image"] == 1
        assert version(server) == "one"  # and the site serves on
    thread.join(40)

    assert asked[0].code == 0, asked
    assert image(server) == 2 and server.service()["want"] == 2


def test_a_half_line_stays_whole(site: Site, held: dict[str, str]) -> None:
    gate, late = site.gate(), site.gate()
    script = f"printf half-; cat {gate} >/dev/null; printf meanwhile-; cat {late} >/dev/null; echo end; sleep 3600"
    server = site.up(f"[services.x]\nshell = true\ncommand = '{script}'\n", env=held).ready()

    with window(server, site):
        gate.open()
    late.open()

    server.wait_output(r"^x\.0 +\| half-meanwhile-end$")


# -- afterwards -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preload", ["true", "false"])
def test_everything_works_as_before(preload: str, site: Site) -> None:
    """Scale, crash, reload, rollback after an upgrade: the zygotes, their sockets and all that is known are there."""
    app(site)
    listener = site.tcp()
    server = site.up(
        f"[sockets.web]\nbind = '{listener.bind}'\n"
        f"[services.web]\napp = 'shop:wsgi'\nworkers = 2\npreload = {preload}\n",
        listeners=[listener],
    ).ready()
    until(lambda: {each["state"] for each in server.service()["standby"]} == {"READY"}, what="the zygote or the spare")
    app(site, PLAIN.replace("one", "two"))
    upgraded(server)
    preloaded = preload == "true"
    assert server.service()["pinned"] is preloaded
    assert server.ctl("scale", "web", "3").code == 0
    # The zygote, or the spare, still has the code of its day.
    assert {version(server) for _ in range(20)} == {"one"}

    upgraded(server)
    victim = server.pids()[0]
    os.kill(victim, signal.SIGKILL)
    until(lambda: server.service()["ready"] == 3 and victim not in server.pids(), what="the replacement")

    assert server.ctl("reload", "web").code == 0
    assert version(server) == "two"
    upgraded(server)
    assert server.service()["generation"] == 2

    done = server.ctl("rollback", "web")
    assert (done.code, version(server)) == ((0, "one") if preloaded else (1, "two"))
    assert server.stop() == 0


def test_the_file_is_not_read(site: Site) -> None:
    """What runs goes on; the next reload reads the file as ever, also a socket that was handed down by number."""
    app(site)
    listener = site.tcp()
    text = f"[sockets.web]\nbind = '{listener.bind}'\nbacklog = BACKLOG\n[services.web]\napp = 'shop:wsgi'\n"
    server = site.up(text.replace("BACKLOG", "100"), listeners=[listener]).ready()
    site.write("trapeze.toml", text.replace("BACKLOG", "200") + "workers = 2\n")

    upgraded(server)

    assert server.service()["want"] == 1
    assert server.ctl("reload").code == 0
    assert server.service()["want"] == 2
    assert version(server) == "one"


def test_the_directory_as_it_was_written(site: Site, tcp: Callable[..., Listener]) -> None:
    """A `current` that is switched after the upgrade is followed by the reload after it."""
    for release in ("one", "two"):
        site.write(f"{release}/shop.py", PLAIN.replace("one", release))
    current = site.directory / "current"
    current.symlink_to("one")
    env = {"PWD": str(current), "PYTHONPATH": str(ROOT)}
    server = Trapeze("serve", "shop:wsgi", directory=site.directory / "d", listeners=[tcp()], cwd=current, env=env)
    try:
        server.start().ready()
        upgraded(server)
        current.unlink()
        current.symlink_to("two")

        assert server.ctl("reload").code == 0
        assert version(server) == "two"
    finally:
        server.close()


def test_nothing_of_ours_reaches_the_children(site: Site, tcp: Callable[..., Listener]) -> None:
    app(site, PLAIN.replace("VERSION} {os.getpid()", "sorted(os.environ)} {sorted(os.listdir('/proc/self/fd'))"))
    server = site.serve("shop:wsgi", listeners=[tcp()]).ready()
    before = server.get().text

    upgraded(server)
    assert server.ctl("restart").code == 0

    assert "TRAPEZE_RESUME" not in before
    assert server.get().text == before


def test_one_that_starts_is_still_asked(site: Site) -> None:
    """A probe is begun anew; `after:` counts from the start of the process."""
    gate = site.gate()
    server = site.up(
        f"[services.x]\ncommand = 'sleep 3600'\nready = 'exec:/bin/sh -c \"cat {gate}\"'\n"
        "[services.y]\ncommand = 'sleep 3600'\nready = 'after:1s'\n"
    )
    until(server.door.exists, what="the door")
    assert states(server) == ["STARTING", "STARTING"]
    upgraded(server)

    gate.stay_open()

    server.ready()
    assert image(server) == 2


def states(server: Trapeze) -> list[str]:
    return [service["status"] for service in server.status()["services"]]


def test_events_and_logs_go_on(site: Site) -> None:
    server = site.up("[services.x]\nshell = true\ncommand = 'echo said; exec sleep 3600'\n").ready()
    server.wait_output("said")
    before = server.status()
    events = server.ctl("events", "--json").out.splitlines()

    upgraded(server)

    after = server.status()
    assert after["revision"] > before["revision"]
    assert abs(after["since"] - before["since"]) < 0.001
    assert server.ctl("events", "--json").out.splitlines()[: len(events)] == events
    since = [
        json.loads(line)
        for line in server.ctl("events", "--json", "--since", str(before["revision"])).out.split("\n")
        if line
    ]
    assert [each["revision"] for each in since] == list(range(before["revision"] + 1, after["revision"] + 1))
    assert "said" in server.ctl("logs", "x").out
    assert server.output.count("said") == 1


def test_usr2(site: Site) -> None:
    server = site.up("[services.x]\ncommand = 'sleep 3600'\n").ready()
    before = server.pids("x")

    server.signal(signal.SIGUSR2)

    server.wait_output("upgraded in place: ")
    assert (image(server), server.pids("x")) == (2, before)
    assert server.stop() == 0
