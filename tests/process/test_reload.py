"""Reload: new code and new configuration, or the old ones and the truth about why."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from tests.support.nginx import program
from tests.support.redis import ask
from tests.support.shop import APP, BROKEN, Shop
from tests.support.site import APPS, Site, run_command
from tests.support.wait import until


def test_new_code(site: Site) -> None:
    """One new before one old; the answer says which generation serves; nothing lost on the way."""
    shop = Shop(site)
    before = shop.server.pids()
    shop.code("'two'")
    assert shop.get() == "one", "what lies on disk does not matter yet"

    done = shop.server.ctl("reload", "web")

    assert done.code == 0, done
    assert done.out.startswith("web: generation 2, 2 of 2 ready (")
    shop.alone()
    assert {shop.get() for _ in range(10)} == {"two"}
    service = shop.server.service()
    assert (service["generation"], service["restarts"]) == (2, 0)
    assert not set(shop.server.pids()) & set(before)
    until(lambda: len(shop.server.service()["processes"]) == 2, what="the old ones to go")
    states = [line.split(maxsplit=1)[1] for line in done.err.splitlines()]
    ready = next(number for number, text in enumerate(states) if " READY" in text)
    stopping = next(number for number, text in enumerate(states) if " STOPPING" in text)
    assert ready < stopping, "make before break"
    assert shop.server.stop() == 0


def test_redis_is_not_bounced(site: Site) -> None:
    """A reload of everything rolls the web service and leaves what did not change alone."""
    path = site.directory / "redis.sock"
    redis = f"""
        [services.redis]
        command = "{program("redis-server")} --port 0 --unixsocket {path} --save '' --supervised systemd"
        ready = "notify"
        """
    shop = Shop(site, redis)
    ask(path, "SET", "kept", "yes")
    (pid,) = shop.server.pids("redis")
    shop.code("'two'")

    assert shop.server.ctl("reload").code == 0

    shop.alone()
    assert shop.get() == "two"
    assert shop.server.pids("redis") == [pid]
    assert shop.server.service("redis")["generation"] == 1
    assert ask(path, "GET", "kept") == "yes"
    assert shop.server.stop() == 0


def test_broken_code(site: Site) -> None:
    """Exit 1 with the traceback; the old generation serves on, as if nothing had been; the next reload works."""
    shop = Shop(site, web="restart = { intensity = 2, backoff = 0, cap = 60 }")
    before = shop.server.pids()
    shop.server.expect_error(".*")
    site.write("shop.py", BROKEN)

    done = shop.server.ctl("reload", "web")

    assert done.code == 1, done
    assert "no database configured" in done.err
    assert f'File "{site.directory}/shop.py", line 5, in <module>' in done.err
    assert "error: web: generation 2 failed, generation 1 serves on" in done.err
    assert shop.server.pids() == before
    assert {shop.get() for _ in range(10)} == {"one"}
    service = shop.server.service()
    assert (service["status"], service["generation"]) == ("RUNNING", 1)
    assert shop.server.output.count("Traceback (most recent call last)") == 1, "said once in the log"

    shop.code("'three'")
    again = shop.server.ctl("reload", "web")

    assert again.code == 0, again
    assert shop.server.service()["generation"] == 3, "numbers are never used twice"
    shop.alone()
    assert shop.get() == "three"
    assert shop.server.stop() == 0


def test_a_crash_after_a_failed_reload(site: Site) -> None:
    """The good generation is what is wanted again: a worker of it that dies is replaced, from what lies on disk."""
    shop = Shop(site, web="restart = { intensity = 2, backoff = 0, cap = 60 }")
    shop.server.expect_error(".*")
    site.write("shop.py", BROKEN)
    assert shop.server.ctl("reload", "web").code == 1
    shop.code("'one again'")

    victim, other = shop.server.pids()
    os.kill(victim, signal.SIGKILL)

    until(lambda: len(set(shop.server.pids()) - {victim}) == 2, what="the replacement")
    shop.server.ready()
    assert other in shop.server.pids()
    assert shop.server.service()["generation"] == 1
    assert shop.server.stop() == 0


def test_pre_start_that_fails(site: Site) -> None:
    """The migration fails: no new worker is started, the old ones serve on."""
    mark = site.write("works", "")
    restart = "restart = { intensity = 2, backoff = 0, cap = 60 }"
    shop = Shop(site, web=f'pre_start = "test -e works"\n{restart}')
    before = shop.server.pids()
    shop.server.expect_error(".*")
    mark.unlink()

    done = shop.server.ctl("reload", "web")

    assert done.code == 1, done
    assert "pre_start 1 (test -e works) exited with status 1" in done.err
    assert shop.server.pids() == before
    assert shop.server.service()["generation"] == 1
    assert shop.server.stop() == 0


def without_memory(services: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Memory changes by itself."""
    for each in (found for service in services for found in (*service["processes"], *service["standby"])):
        del each["rss"]
    return services


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[services.web\n", "line 1"),
        ("[services.web]\nworker = 4\n", 'did you mean "workers"?'),
        ('[sockets.web]\nbind = "127.0.0.1:0"\n[services.web]\napp = "nosuch:app"\n', "no module named 'nosuch'"),
        ('[sockets.web]\nbind = "127.0.0.1:0"\n[services.web]\napp = "shop"\nbackend = "x"\n', "unknown backend 'x'"),
        ("", "nothing"),
    ],
    ids=["broken TOML", "unknown key", "missing module", "unknown backend", "empty file"],
)
def test_broken_configuration(text: str, message: str, site: Site) -> None:
    """Exit 2 and nothing has changed."""
    shop = Shop(site)
    before = shop.server.status()
    site.write("trapeze.toml", text)

    done = shop.server.ctl("reload")

    assert done.code == 2, done
    assert message in done.err
    assert "error: " in done.err
    after = shop.server.status()
    assert after["revision"] == before["revision"]
    assert without_memory(after["services"]) == without_memory(before["services"])
    assert after["sockets"] == before["sockets"]
    assert shop.get() == "one"
    assert shop.server.stop() == 0


# -- what changed in the file -----------------------------------------------------------------------------------------


def test_workers_and_environment(site: Site) -> None:
    shop = Shop(site, web='env = { WORD = "a" }')
    shop.code("os.environ['WORD']")
    shop.configure(web='env = { WORD = "b" }', workers=3)

    done = shop.server.ctl("reload")

    assert done.code == 0, done
    assert (shop.server.service()["want"], shop.server.service()["ready"]) == (3, 3)
    shop.alone()
    assert {shop.get() for _ in range(9)} == {"b"}
    assert shop.server.stop() == 0


def test_scale_at_run_time_stays(site: Site) -> None:
    """Unless the file's own value is another now."""
    shop = Shop(site)
    assert shop.server.ctl("scale", "web", "3").code == 0

    assert shop.server.ctl("reload").code == 0
    assert (shop.server.service()["want"], shop.server.service()["ready"]) == (3, 3)

    shop.configure(workers=1)
    assert shop.server.ctl("reload").code == 0
    assert (shop.server.service()["want"], shop.server.service()["ready"]) == (1, 1)
    assert shop.server.stop() == 0


def test_services_come_and_go(site: Site) -> None:
    wire = site.wire()

    def side(name: str, *options: str) -> str:
        return f"[services.{name}]\ncommand = {run_command('life.py', wire, name, *options)}\n"

    shop = Shop(site, side("old") + side("same"))
    wire.lines(2)
    (same,) = shop.server.pids("same")
    shop.configure(side("same") + side("new"))

    done = shop.server.ctl("reload")

    assert done.code == 0, done
    assert {line.split()[0] + " " + line.split()[1] for line in wire.lines(2)} == {"old stop", "new start"}
    names = until(
        lambda: {"old"}.isdisjoint(found := {each["name"] for each in shop.server.status()["services"]}) and found
    )
    assert names == {"web", "same", "new"}
    assert shop.server.pids("same") == [same]
    assert shop.server.service("new")["status"] == "RUNNING"
    assert shop.server.ctl("stop", "old").code == 2
    assert shop.server.stop() == 0
    assert set(wire.rest()) == {"same stop", "new stop"}


def test_service_comes_back_before_it_has_gone(site: Site) -> None:
    """Out of the file and in again while the old one is still leaving: never two, and none is forgotten."""
    wire, gate = site.wire(), site.gate()
    side = f"[services.side]\ncommand = {run_command('life.py', wire, 'side', f'slow={gate}')}\n"
    shop = Shop(site, side)
    (old,) = shop.server.pids("side")
    wire.line()
    shop.configure()
    assert shop.server.ctl("reload").code == 0
    assert wire.line() == "side stop"
    shop.configure(side)

    assert shop.server.ctl("reload", "--no-wait").code == 0

    assert shop.server.pids("side") == [old], "known, and not two of them"
    gate.stay_open()
    assert wire.line().startswith("side start")
    shop.server.ready()
    shop.alone()
    assert shop.server.pids("side") != [old]
    assert shop.server.stop() == 0
    assert wire.rest() == ["side stop"]


def test_side_service_whose_section_changed(site: Site) -> None:
    """Stops first and starts then: two at once are wrong."""
    wire = site.wire()
    shop = Shop(site, f"[services.side]\ncommand = {run_command('life.py', wire, 'first')}")
    first = wire.line().split()[2]
    shop.configure(f"[services.side]\ncommand = {run_command('life.py', wire, 'second')}")

    assert shop.server.ctl("reload").code == 0

    assert wire.line() == "first stop"
    assert wire.line().startswith("second start")
    assert str(shop.server.pids("side")[0]) != first
    assert shop.server.service("side")["generation"] == 2
    assert shop.server.stop() == 0


def test_side_service_that_reloads_itself(site: Site) -> None:
    wire = site.wire()
    shop = Shop(
        site,
        f"""
        [services.hup]
        command = {run_command("life.py", wire, "hup", "signals=HUP")}
        reload = "signal:HUP"
        [services.again]
        command = {run_command("life.py", wire, "again")}
        reload = "restart"
        [services.stays]
        command = {run_command("life.py", wire, "stays")}
        """,
    )
    wire.lines(3)
    before = {name: shop.server.pids(name) for name in ("hup", "stays", "again")}

    assert shop.server.ctl("reload").code == 0

    lines = wire.lines(3)
    assert "hup got HUP" in lines
    assert "again stop" in lines
    assert [line.split()[0] for line in lines if "start" in line] == ["again"]
    assert shop.server.pids("hup") == before["hup"]
    assert shop.server.pids("stays") == before["stays"]
    assert shop.server.pids("again") != before["again"]
    assert shop.server.stop() == 0


def test_named_service_only(site: Site) -> None:
    """`reload web` takes web's section from the file and nothing else."""
    shop = Shop(site)
    shop.code("'two'")
    shop.configure('[services.new]\ncommand = "sleep 3600"')

    assert shop.server.ctl("reload", "web").code == 0

    shop.alone()
    assert shop.get() == "two"
    assert [each["name"] for each in shop.server.status()["services"]] == ["web"]
    unknown = shop.server.ctl("reload", "wbe")
    assert unknown.code == 2
    assert "no service 'wbe'" in unknown.err
    assert shop.server.stop() == 0


def test_two_reloads_at_once(site: Site) -> None:
    """The second is just another wish; both are told the truth."""
    shop = Shop(site)
    shop.code("'two'")
    command = [sys.executable, "-m", "trapeze", "reload", "web"]
    with (
        subprocess.Popen(command, env=shop.server.env, stdout=-1, stderr=-1, cwd=shop.server._cwd) as one,
        subprocess.Popen(command, env=shop.server.env, stdout=-1, stderr=-1, cwd=shop.server._cwd) as two,
    ):
        said = [each.communicate(timeout=30) for each in (one, two)]

    assert [one.returncode, two.returncode] == [0, 0], said
    shop.server.ready()
    assert shop.server.service()["generation"] == 3
    shop.alone()
    assert {shop.get() for _ in range(8)} == {"two"}
    assert shop.server.stop() == 0


def test_scale_and_crash_during_a_reload(site: Site) -> None:
    """While the new generation cannot become ready: a scale and a crash are taken in."""
    gate = site.gate()
    shop = Shop(site)
    site.write("shop.py", f"open({str(gate)!r}).readline()\n" + APP.replace("{body}", "'two'"))
    assert shop.server.ctl("reload", "web", "--no-wait").code == 0
    old = shop.server.pids()[0]

    os.kill(old, signal.SIGKILL)
    assert shop.server.ctl("scale", "web", "3", "--no-wait").code == 0
    assert shop.get() == "one", "the one that is left"
    gate.stay_open()

    until(lambda: (web := shop.server.service())["status"] == "RUNNING" and web["ready"] == 3, what="three new ones")
    shop.alone()
    assert {shop.get() for _ in range(9)} == {"two"}
    assert shop.server.stop() == 0


def test_a_rollback_to_the_first_generation_says_so(site: Site) -> None:
    """Where there has been a second one, "RUNNING" alone would not say which it is."""
    server = site.serve("web:wsgi", "--app-dir", str(APPS), listeners=[site.tcp()]).ready()
    server.wait_output(r"web RUNNING: 1 of 1 ready")

    assert server.ctl("reload").code == 0
    server.wait_output(r"web RUNNING: generation 2, 1 of 1 ready")
    assert server.ctl("rollback", "web").code == 0

    server.wait_output(r"web RUNNING: generation 1, 1 of 1 ready")
    assert server.stop() == 0


@pytest.mark.parametrize("workers", [1, 5])
def test_failed_reload_gives_the_number_back(workers: int, site: Site) -> None:
    """Broken code and another number in the file: as many serve as before, and the right file is right again."""
    shop = Shop(site)
    before = shop.server.pids()
    shop.server.expect_error(".*")
    site.write("shop.py", BROKEN)
    shop.configure(workers=workers)

    assert shop.server.ctl("reload").code == 1

    service = shop.server.service()
    assert (service["want"], service["ready"]) == (2, 2)
    assert shop.server.pids() == before
    shop.code("'two'")
    shop.configure()
    assert shop.server.ctl("reload").code == 0
    service = shop.server.service()
    assert (service["want"], service["ready"]) == (2, 2)
    assert shop.server.stop() == 0


def test_rollback_gives_the_number_back(site: Site) -> None:
    """Everything in the service's section goes back."""
    shop = Shop(site)
    shop.configure(workers=3)
    assert shop.server.ctl("reload").code == 0
    assert shop.server.service()["ready"] == 3

    done = shop.server.ctl("rollback", "web")

    assert done.code == 0, done
    assert "generation 1, 2 of 2 ready" in done.out
    assert shop.server.service()["want"] == 2
    assert shop.server.ctl("reload").code == 0
    assert shop.server.service()["want"] == 3
    assert shop.server.stop() == 0
