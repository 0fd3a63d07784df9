"""A reload whose new code takes long, or for ever, to come: the old one serves on, whatever happens meanwhile."""

from __future__ import annotations

import os
import signal

import pytest

from tests.support.shop import APP, BROKEN, Shop
from tests.support.site import Gate, Site
from tests.support.wait import until

CONFIG = """
[sockets.web]
bind = "{bind}"
[services.web]
app = "shop"
app_dir = "current"
workers = 2
preload = {preload}
"""


class Release:
    """A service that is deployed as people do it: `current` is a link to the release that is live."""

    def __init__(self, site: Site, preload: str = "true") -> None:
        self.site = site
        self.listener = site.tcp()
        self.deploy(1, APP.replace("{body}", "'one'"))
        config = CONFIG.format(bind=self.listener.bind, preload=preload)
        self.server = site.up(config, listeners=[self.listener]).ready()

    def deploy(self, number: int, code: str) -> None:
        self.site.write(f"releases/{number}/shop.py", code)
        link = self.site.directory / "next"
        link.symlink_to(f"releases/{number}")
        link.rename(self.site.directory / "current")

    def blocked(self, gate: Gate) -> None:
        """Deploy code whose import waits at a gate, and wait until it does."""
        arrived = self.site.wire()
        wait = f"open({str(arrived)!r}, 'w').write('here\\n')\nopen({str(gate)!r}).readline()\n"
        self.deploy(2, wait + APP.replace("{body}", "'two'"))
        assert self.server.ctl("reload", "web", "--no-wait").code == 0
        assert arrived.line() == "here"

    def ready(self, generation: int) -> list[int]:
        """The pids that serve of one generation."""
        found = self.server.service()["processes"]
        return [each["pid"] for each in found if (each["generation"], each["state"]) == (generation, "READY")]

    def get(self) -> str:
        return self.listener.get("/").text


def kill_all(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("preload", ["true", "false"])
def test_all_workers_killed_during_a_long_import(preload: str, site: Site) -> None:
    """The old code is back at once, of what was imported or from where it lies; then the new code comes as ever."""
    gate = site.gate()
    release = Release(site, preload)
    release.blocked(gate)
    before = release.ready(1)
    assert len(before) == 2

    kill_all(before)

    assert release.get() == "one"
    until(lambda: len(release.ready(1)) == 2, what="the old code to be whole again")
    after = release.ready(1)
    assert not set(after) & set(before)
    assert release.server.service()["generation"] == 2, "the reload goes on"
    gate.stay_open()
    release.server.ready()
    until(lambda: release.ready(1) == [], what="the old generation to go")
    assert {release.get() for _ in range(6)} == {"two"}
    assert release.server.stop() == 0


@pytest.mark.parametrize("preload", ["true", "false"])
def test_scale_up_during_a_long_import(preload: str, site: Site) -> None:
    gate = site.gate()
    release = Release(site, preload)
    release.blocked(gate)

    assert release.server.ctl("scale", "web", "3", "--no-wait").code == 0

    until(lambda: len(release.ready(1)) == 3, what="three of the old code")
    assert release.get() == "one"
    gate.stay_open()
    release.server.ready()
    assert release.server.service()["want"] == 3
    until(lambda: release.ready(1) == [], what="the old generation to go")
    assert len(release.ready(2)) == 3
    assert release.server.stop() == 0


def test_a_worker_is_recycled_during_a_long_import(site: Site) -> None:
    """An order to replace one worker is carried out too, with the code that serves."""
    gate = site.gate()
    release = Release(site)
    release.blocked(gate)
    first = min(release.server.service()["processes"], key=lambda each: each["index"])

    assert release.server.ctl("restart", "web", "--process", str(first["id"]), "--no-wait").code == 0

    until(lambda: first["pid"] not in release.ready(1), what="that one to go")
    until(lambda: len(release.ready(1)) == 2, what="two of the old code")
    gate.stay_open()
    release.server.ready()
    assert release.server.stop() == 0


def test_all_workers_killed_and_the_import_fails(site: Site) -> None:
    """Those that have stood in are what is wanted again."""
    gate = site.gate()
    release = Release(site)
    release.server.expect_error(".*")
    arrived = site.wire()
    wait = f"open({str(arrived)!r}, 'w').write('here\\n')\nopen({str(gate)!r}).readline()\n"
    release.deploy(2, wait + BROKEN)
    assert release.server.ctl("reload", "web", "--no-wait").code == 0
    assert arrived.line() == "here"
    kill_all(release.ready(1))
    until(lambda: len(release.ready(1)) == 2, what="the old code to be whole again")
    after = release.ready(1)

    gate.open()

    until(lambda: release.server.service()["generation"] == 1, what="the reload to fail")
    assert release.ready(1) == after
    assert release.get() == "one"
    assert release.server.service()["ready"] == 2
    assert release.server.stop() == 0


def test_all_workers_killed_during_a_long_import_after_an_upgrade(site: Site) -> None:
    """Another program took over in the middle of the reload: it knows whom to fill gaps with."""
    gate = site.gate()
    release = Release(site)
    release.blocked(gate)
    assert release.server.ctl("scale", "web", "3", "--no-wait").code == 0
    until(lambda: len(release.ready(1)) == 3, what="three of the old code")
    assert release.server.ctl("upgrade").code == 0

    kill_all(release.ready(1))

    assert release.get() == "one"
    until(lambda: len(release.ready(1)) == 3, what="the old code to be whole again")
    gate.stay_open()
    release.server.ready()
    assert release.server.service()["want"] == 3
    assert release.server.stop() == 0


@pytest.mark.parametrize("how", ["reload", "start"])
def test_a_new_service_that_is_broken(how: str, site: Site) -> None:
    """That the first start of everything fails with one service is no reason to end everything later."""
    site.write("new.py", BROKEN)
    shop = Shop(site, '[services.new]\napp = "new"\nenabled = false\nsocket = "web"' if how == "start" else "")
    shop.server.expect_error(".*")
    pids = shop.server.pids()
    if how == "reload":
        shop.configure('[services.new]\napp = "new"\nsocket = "web"')

    done = shop.server.ctl(*(["reload"] if how == "reload" else ["start", "new"]))

    assert done.code == 1, done
    assert "no database configured" in done.err
    until(lambda: shop.server.service("new")["status"] == "FAILED", what="it to be given up")
    assert shop.get() == "one"
    assert how == "reload" or shop.server.pids() == pids
    assert shop.server.stop() == 0
