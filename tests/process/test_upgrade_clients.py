"""Whoever asks while the supervisor is upgraded in place goes on: orders are waited for, streams are followed."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from tests.support.server import Result, Trapeze
from tests.support.site import Site

APP = """
import os
with open({gate!r}) as gate:
    gate.read()
{more}

def wsgi(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]
"""


@contextmanager
def ordered(server: Trapeze, *words: str) -> Iterator[list[Result]]:
    """Give an order while the body runs; its result is there afterwards."""
    done: list[Result] = []
    thread = threading.Thread(target=lambda: done.append(server.ctl(*words)))
    thread.start()
    yield done
    thread.join(40)


@contextmanager
def following(server: Trapeze, *words: str) -> Iterator[IO[str]]:
    """The output of a command that goes on until the supervisor is gone."""
    command = [sys.executable, "-m", "trapeze", *words]
    with subprocess.Popen(
        command, env=server.env, cwd=server._cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as popen:
        assert popen.stdout is not None
        try:
            yield popen.stdout
            assert popen.wait(20) == 0, popen.stderr and popen.stderr.read()
        finally:
            popen.kill()


@pytest.fixture
def rolling(site: Site) -> tuple[Trapeze, Any, Path]:
    """A site whose next import waits at a gate."""
    gate = site.gate()
    path = site.write("shop.py", APP.format(gate="/dev/null", more=""))
    listener = site.tcp()
    server = site.serve("shop:wsgi", listeners=[listener]).ready()
    return server, gate, path


@pytest.mark.parametrize("broken", [False, True])
def test_a_reload_is_waited_for(broken: bool, rolling: tuple[Trapeze, Any, Path]) -> None:
    """Twice upgraded on the way; the command ends as if nothing had been, and tells everything once."""
    server, gate, path = rolling
    path.write_text(APP.format(gate=str(gate), more="import nowhere_to_be_found" if broken else ""))
    if broken:
        server.expect_error("generation 2 failed|Traceback")

    with ordered(server, "reload", "web") as done:
        server.wait_output("reload web, asked by")
        for _ in range(2):
            assert server.ctl("upgrade").code == 0
        gate.open()

    (result,) = done
    assert result.code == int(broken), result.err
    if broken:
        assert "generation 2 failed, generation 1 serves on" in result.err
        assert result.err.count("No module named 'nowhere_to_be_found'") >= 1
    else:
        assert "web: generation 2" in result.out
    changes = [line for line in result.err.splitlines() if "RUNNING -> ROLLING" in line or "ROLLING: " in line]
    assert len(changes) == len(set(changes))


def test_an_order_that_is_never_done_says_why(rolling: tuple[Trapeze, Any, Path]) -> None:
    """The supervisor is upgraded, and then stopped: the command does not hang."""
    server, gate, path = rolling
    path.write_text(APP.format(gate=str(gate), more=""))

    with ordered(server, "reload", "web") as done:
        server.wait_output("reload web, asked by")
        assert server.ctl("upgrade").code == 0
        assert server.stop() == 0

    assert done[0].code == 1
    assert done[0].err.strip(), "it says something"


def test_streams_are_followed(site: Site) -> None:
    gate = site.gate()
    script = f"echo before; cat {gate} >/dev/null; echo after; exec sleep 3600"
    server = site.up(f"[services.x]\nshell = true\ncommand = '{script}'\n").ready()
    server.wait_output("before")

    with (
        following(server, "logs", "-f", "x") as logs,
        following(server, "events", "-f", "--json") as events,
        following(server, "status", "--watch", "--json") as statuses,
    ):
        assert "before" in logs.readline()
        first = json.loads(events.readline())
        assert json.loads(statuses.readline())["image"] == 1
        assert server.ctl("upgrade").code == 0
        gate.open()
        assert "after" in logs.readline()
        assert server.ctl("signal", "x", "CONT").code == 0
        revisions = [first["revision"]]
        for line in events:
            change = json.loads(line)
            revisions.append(change["revision"])
            if change["why"].startswith("signal x"):
                break
        assert revisions == list(range(revisions[0], revisions[0] + len(revisions))), "each once"
        assert any(json.loads(line)["image"] == 2 for line in statuses)
        assert server.stop() == 0
        assert logs.read() == ""
