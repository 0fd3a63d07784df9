"""Upgrade in place to other versions of trapeze and other Pythons: those that can take over, and those that cannot."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.process.test_upgrade import descriptors, image, states, upgraded, with_keeper
from tests.support.drainload import APP, KINDS, Load
from tests.support.server import ROOT, Listener
from tests.support.site import Site
from tests.support.wait import until, until_async


class Disk:
    """A copy of trapeze on the disk, run by PYTHONPATH, that can be changed under the one that runs."""

    def __init__(self, site: Site) -> None:
        self.path = site.directory / "lib"
        shutil.copytree(ROOT / "trapeze", self.path / "trapeze", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(
            ROOT / "backends/trapeze_backends", self.path / "trapeze_backends", ignore=shutil.ignore_patterns("__py*")
        )
        self.options: dict[str, Any] = {
            "cwd": site.directory,
            "env": {"PYTHONPATH": str(self.path), "PYTHONDONTWRITEBYTECODE": "1"},
        }

    def change(self, file: str, old: str, new: str) -> None:
        path = self.path / "trapeze" / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))


BREAK = ("resume.py", "    chronicle.log.restore(", "    raise RuntimeError('after all')\n    chronicle.log.restore(")
"""Fails after execve, although the probe was well."""

SLEEP = "[services.x]\ncommand = 'sleep 3600'\n"


def test_a_new_version(site: Site) -> None:
    disk = Disk(site)
    server = site.up(SLEEP, **disk.options).ready()
    disk.change("__init__.py", '__version__ = "0.1.0"', '__version__ = "9.9.9"')
    assert "trapeze 0.1.0, trapeze 9.9.9 is installed: `trapeze upgrade` runs it" in server.ctl("status").out

    done = upgraded(server)

    assert done.out.startswith("trapeze 9.9.9 on Python 3.")
    assert re.search(r"trapeze 9\.9\.9 since now \(upgraded in place\)", server.ctl("status").out)


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("carry.py", "VERSION = 1\n", "VERSION = 0\n", "the state of trapeze 0.1.0 is of version 1"),
        ("supervisor.py", "import asyncio\n", "import asyncio\nraise RuntimeError('half copied')\n", "half copied"),
        ("cli/run.py", '@click.option("--keep-going"', '@click.option("--going-on"', "No such option"),
    ],
    ids=["cannot read the state", "cannot be imported", "does not know the command line"],
)
def test_one_that_cannot_take_over_is_refused(file: str, old: str, new: str, said: str, site: Site) -> None:
    disk = Disk(site)
    server = site.up(SLEEP, "--keep-going", **disk.options).ready()
    before = with_keeper(server, 1)
    disk.change(file, old, new)
    server.expect_error("no upgrade, everything goes on as it was")
    server.expect_error("Traceback|RuntimeError|error: ")

    # Asked with the other copy: the command itself is broken as well.
    done = server.request("POST", "/upgrade", params={"wait": 60})

    assert done.status_code == 409
    assert "cannot take over" in done.json()["message"]
    assert said.lower() in "\n".join(done.json()["output"]).lower()
    assert (image(server), states(server)) == (1, ["RUNNING"])
    until(lambda: descriptors(server) == before, what="the same descriptors as before")
    assert server.stop() == 0


def test_the_command_says_why(site: Site) -> None:
    server = site.up(SLEEP).ready()
    server.expect_error("no upgrade, everything goes on as it was")

    done = server.ctl("upgrade", "--python", "/bin/false")

    assert done.code == 1
    assert "error: the new program cannot take over: it ended with status 1" in done.err
    assert image(server) == 1


def other_python(site: Site, disk: Disk) -> Path:
    """A virtual environment of its own, with the copy in it."""
    venv = site.directory / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    packages = next(venv.glob("lib/python*/site-packages"))
    there = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "all.pth").write_text("\n".join([str(disk.path), *there]))
    return venv


def test_another_python(site: Site) -> None:
    disk = Disk(site)
    server = site.up(SLEEP, cwd=site.directory, env={"PYTHONSAFEPATH": "1"}).ready()
    venv = other_python(site, disk)

    upgraded(server, "--python", str(venv))

    assert os.readlink(f"/proc/{server.pid}/exe") == os.path.realpath(sys.executable)
    assert Path(f"/proc/{server.pid}/cmdline").read_bytes().startswith(f"{venv}/bin/python\0-m\0trapeze\0".encode())
    upgraded(server)
    assert image(server) == 3


def test_one_that_breaks_after_all_gives_way_to_the_old_one(site: Site) -> None:
    disk = Disk(site)
    disk.change(*BREAK)
    server = site.up(SLEEP, cwd=site.directory, env={"PYTHONSAFEPATH": "1"}).ready()
    pids, before = server.pids("x"), with_keeper(server, 1)
    server.expect_error("no upgrade: the new program broke at its start|Traceback|after all")

    done = server.ctl("upgrade", "--python", str(other_python(site, disk)))

    assert (done.code, image(server)) == (1, 1)
    assert "error: no upgrade: the new program broke at its start" in done.err
    assert "RuntimeError: after all" in server.stderr
    assert server.pids("x") == pids
    until(lambda: descriptors(server) == before, what="the same descriptors as before")
    upgraded(server)
    assert server.stop() == 0


def test_one_that_breaks_in_place_of_the_old_one_ends_with_an_error(site: Site) -> None:
    """Nothing to go back to: everything goes, visibly, and nobody is left."""
    disk = Disk(site)
    wire = site.wire()
    config = f"[services.x]\nshell = true\ncommand = 'exec 9>{wire}; echo here >&9; exec sleep 3600'\n"
    server = site.up(config, **disk.options).ready()
    assert wire.line() == "here"
    disk.change(*BREAK)
    server.expect_error("Traceback|after all")

    assert server.request("POST", "/upgrade", params={"wait": 60}).status_code == 200

    assert server.wait() == 1
    assert "RuntimeError: after all" in server.stderr
    assert wire.rest(timeout=5) == []


def waiting(listener: Listener) -> int:
    """How many connections wait to be accepted."""
    port = f":{listener.sock.getsockname()[1]:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines():
        words = line.split()
        if words[1].endswith(port) and words[3] == "0A":  # LISTEN
            return int(words[4].partition(":")[2], 16)
    return 0


def test_the_load_sees_an_upgrade_that_goes_wrong(site: Site, tcp: Callable[..., Listener]) -> None:
    """The control of `test_ten_upgrades_lose_nothing`: with a new program that breaks requests are lost, and seen."""
    site.write("loaded.py", APP)
    disk = Disk(site)
    listener = tcp()
    server = site.serve("loaded:asgi", listeners=[listener], keep_listeners=True, **disk.options).ready()
    disk.change(*BREAK)
    server.expect_error("Traceback|after all|ERROR")
    load = Load([listener], keepalive=True, think=0.2)

    async def upgrade() -> None:
        assert (await asyncio.to_thread(server.request, "POST", "/upgrade", params={"wait": 60})).status_code == 200
        assert await asyncio.to_thread(server.wait) == 1
        await until_async(lambda: waiting(listener) >= len(KINDS) - 2, what="the clients to wait")
        listener.close()
        await until_async(lambda: any(not what.startswith("connect") for _, what in load.lost), what="a lost request")

    asyncio.run(load.run(upgrade, clients=1))
