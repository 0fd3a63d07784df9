"""Services that fail again and again: what is said, what is counted, what it costs, and when it ends everything."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

from tests.support.server import Trapeze
from tests.support.site import APPS, Site, run_command
from tests.support.wait import until

EXIT_LOOP = """
[services.bad]
command = "sh -c 'echo no broker; exit 7'"
restart = { intensity = 3, backoff = 0.01 }
exit_on_failure = true
"""


def own_lines(server: Trapeze) -> list[str]:
    """What trapeze itself has said."""
    return [line.partition("| ")[2] for line in server.stderr.splitlines() if line.startswith("trapeze ")]


def status_of(server: Trapeze, name: str, status: str) -> dict[str, object]:
    """Wait for a status; the service."""
    until(server.door.exists, what="the control socket")
    return until(lambda: (it := server.service(name)) and it["status"] == status and it, what=f"{name} {status}")


# ---- exit_on_failure


def test_it_ends_everything_in_order(site: Site) -> None:
    """Exit 1, and the last line says which and why; the others are asked to leave, not shot."""
    wire = site.wire()
    side = run_command("life.py", wire, "side", "notify")
    server = site.up(f'{EXIT_LOOP}after = ["side"]\n[services.side]\ncommand = {side}\nready = "notify"\n')
    server.expect_error(".*")
    wire.line()

    assert server.wait() == 1

    assert wire.rest() == ["side stop"]
    assert server.stderr.splitlines()[-1] == (
        "error: bad FAILED, so everything was stopped: process 0 exited with status 7"
    )
    assert "stopping, asked by exit_on_failure of bad" in server.output


def test_also_with_keep_going(site: Site) -> None:
    server = site.up(EXIT_LOOP, "--keep-going")
    server.expect_error(".*")

    assert server.wait() == 1


def test_without_it_nothing_ends(site: Site) -> None:
    """The control."""
    server = site.up(EXIT_LOOP.replace("true", "false"))
    server.expect_error(".*")
    status_of(server, "bad", "FAILED")

    assert server.service("bad")["why"] == "process 0 exited with status 7"
    assert server.stop() == 0


def test_also_when_it_fails_later(site: Site) -> None:
    """It ran for a while, then what it needs went away."""
    mark = site.write("broker", "here")
    server = site.up(f"""
        [services.x]
        command = "test -e {mark} && exec sleep 3600; exit 9"
        shell = true
        restart = {{ intensity = 2, backoff = 0.01 }}
        exit_on_failure = true
        """).ready()
    server.expect_error(".*")
    mark.unlink()

    os.kill(server.pids("x")[0], signal.SIGKILL)

    assert server.wait() == 1
    assert server.stderr.splitlines()[-1].endswith("process 0 exited with status 9")


def test_a_reload_that_is_rolled_back_is_no_failure(site: Site) -> None:
    """The old generation serves: the service is not FAILED."""
    site.write("shop.py", (APPS / "web.py").read_text())
    site.write("facts.py", (APPS / "facts.py").read_text())
    server = site.up(f"""
        [sockets.web]
        bind = "127.0.0.1:0"
        [services.web]
        app = "shop:wsgi"
        app_dir = "{site.directory}"
        exit_on_failure = true
        restart = {{ intensity = 2, backoff = 0.01 }}
        """).ready()
    server.expect_error(".*")
    site.write("shop.py", "raise RuntimeError('half copied')\n")

    assert server.ctl("reload", "web").code == 1

    assert server.service("web")["status"] == "RUNNING"
    assert server.stop() == 0


# ---- what is said


def test_a_loop_says_less_and_less(site: Site) -> None:
    """One death and one output in full, then counts of 2, 4, 8...; after FAILED no line for each try."""
    server = site.up("""
        [services.x]
        command = "sh -c 'echo pid $$ cannot reach 10.0.0.1:5432 >&2; exit 4'"
        restart = { intensity = 3, backoff = 0, cap = 0.05 }
        """)
    server.expect_error(".*")
    status_of(server, "x", "FAILED")
    until(lambda: server.service("x")["restarts"] >= 20, timeout=20, what="twenty tries")
    lines = own_lines(server)

    deaths = [line for line in lines if "exited with status 4" in line and "FAILED" not in line]
    assert len(deaths) == 3, "those before it was FAILED"
    counts = [int(found[1]) for line in lines if (found := re.search(r"same error again \((\d+) times\)", line))]
    assert counts == [2, 4, 8, 16], "although the pid in it is another each time"
    assert sum("cannot reach" in line for line in lines) == 1
    assert sum("x FAILED" in line for line in lines) == 1
    events = server.ctl("events").out
    assert events.count("exited with status 4") >= 20, "the events have them all"
    assert server.stop() == 0


def test_another_error_is_said(site: Site) -> None:
    """In a loop, too: somebody has changed something, and it fails otherwise."""
    mark = site.directory / "changed"
    server = site.up(f"""
        [services.x]
        command = "test -e {mark} && {{ echo another reason; exit 5; }}; echo one reason; exit 4"
        shell = true
        restart = {{ intensity = 2, backoff = 0, cap = 0.05 }}
        """)
    server.expect_error(".*")
    status_of(server, "x", "FAILED")
    mark.touch()

    server.wait_output(r"^trapeze .*\|   another reason")

    assert server.stop() == 0


def test_status_says_why_and_when(site: Site) -> None:
    """For people and as JSON."""
    server = site.up("[services.x]\ncommand = \"sh -c 'exit 4'\"\nrestart = { intensity = 2, backoff = 0, cap = 60 }\n")
    server.expect_error(".*")
    service = status_of(server, "x", "FAILED")

    assert (service["why"], service["last_failure"]) == ("process 0 exited with status 4",) * 2
    assert 50 < float(str(service["next_try"])) - float(str(service["since"])) <= 61
    row = next(line for line in server.ctl("status").out.splitlines() if line.startswith("x "))
    assert re.search(r"FAILED .* process 0 exited with status 4; next try in [0-9.]+ s$", row), row
    assert server.stop() == 0


# ---- what it costs


def ticks(pid: int) -> int:
    """Processor time of the supervisor itself, in hundredths of a second."""
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))


def test_a_try_costs_next_to_nothing(site: Site) -> None:
    """60 tries in a few seconds; with the default cap this is what half an hour costs."""
    server = site.up("""
        [services.x]
        command = "false"
        restart = { intensity = 2, backoff = 0, cap = 0.05 }
        """)
    server.expect_error(".*")
    status_of(server, "x", "FAILED")
    tries, before, said = server.service("x")["restarts"], ticks(server.pid), len(server.output)

    until(lambda: server.service("x")["restarts"] >= tries + 60, timeout=30, what="60 tries")

    assert ticks(server.pid) - before < 60, "less than 10 ms each, our own questions included"
    assert len(server.output) - said < 500
    assert server.stop() == 0


# ---- several workers: what is a loop, and what is not


def web(site: Site, workers: int, healthy: float) -> Trapeze:
    return site.up(f"""
        [sockets.web]
        bind = "127.0.0.1:0"
        [services.web]
        app = "web:wsgi"
        app_dir = "{APPS}"
        workers = {workers}
        restart = {{ intensity = 3, backoff = 0.01, cap = 0.1, healthy = {healthy} }}
        """).ready()


def kill_newest(server: Trapeze) -> None:
    service = server.service("web")
    newest = max((p for p in service["processes"] if p["state"] == "READY"), key=lambda process: process["id"])
    os.kill(newest["pid"], signal.SIGKILL)
    until(lambda: newest["id"] not in [p["id"] for p in server.service("web")["processes"]], what="its end")
    until(lambda: server.service("web")["ready"] == service["want"], what="its replacement")


def test_kills_beside_a_proven_sibling_are_no_loop(site: Site) -> None:
    """Eight kill -9 of workers that are just there: each is replaced, the service was never FAILED."""
    server = web(site, 2, healthy=0.3)
    first = server.pids()[0]
    server.request("GET", f"/events?since={server.status()['revision']}&wait=0.4")  # now both have proved themselves

    for _ in range(8):
        kill_newest(server)

    assert first in server.pids()
    assert "FAILED" not in server.output
    assert server.service("web")["status"] == "RUNNING"
    assert server.stop() == 0


def test_kills_without_a_proven_one_are(site: Site) -> None:
    """The control: when nobody has served for long enough there is nothing that speaks for the code."""
    server = web(site, 1, healthy=60)
    server.expect_error(".*")

    for _ in range(3):
        newest = until(lambda: server.pids(), what="a worker")[-1]
        until(lambda: server.service("web")["ready"] == 1 or server.service("web")["status"] == "FAILED")
        os.kill(newest, signal.SIGKILL)
        until(lambda pid=newest: pid not in server.pids(), what="its end")  # type: ignore[misc]

    assert "web FAILED" in server.output
    assert server.stop() == 0


def test_all_killed_at_once_is_one_failure(site: Site) -> None:
    """Six young workers fall together: all come back at once."""
    server = web(site, 6, healthy=60)
    for pid in server.pids():
        os.kill(pid, signal.SIGKILL)

    until(lambda: server.service("web")["restarts"] == 6, what="six deaths")
    until(lambda: server.service("web")["ready"] == 6, what="six replacements")

    assert "FAILED" not in server.output
    assert server.stop() == 0
