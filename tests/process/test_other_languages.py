"""The examples in other languages run as their files say, roll to new code, and lose no request meanwhile."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from tests.support.drainload import KINDS, Load
from tests.support.server import ROOT, Listener, Trapeze

Make = Callable[..., Listener]
Run = Callable[..., Trapeze]

RELOADS = 4
REQUESTS = 1000

NODE = """
const wait = (path, done) => setTimeout(done, path.startsWith("/slow") ? 30 : 0);
module.exports = (request, response) => {
  const pieces = [];
  request.on("data", (piece) => pieces.push(piece));
  request.on("end", () => wait(request.url, () => {
    const body = Buffer.concat([Buffer.from(request.url + "|"), ...pieces]);
    const answer = request.url.startsWith("/big") ? Buffer.from(request.url.padEnd(400000)) : body;
    response.setHeader("Content-Length", answer.length);
    response.end(answer);
  }));
};
"""

RUBY = """
App = proc do |env|
  path = env["PATH_INFO"]
  body = env["rack.input"].read
  sleep 0.03 if path.start_with?("/slow")
  answer = path.start_with?("/big") ? path.ljust(400000) : "#{path}|#{body}"
  [200, {"content-type" => "text/plain", "content-length" => answer.bytesize.to_s}, [answer]]
end
"""


class Language(NamedTuple):
    """One example."""

    name: str
    program: str
    hello: str
    app: str
    """Its file that holds the app."""
    echo: str
    """The app that answers as the load wants it."""
    broken: str
    keepalive: bool = True

    def __str__(self) -> str:
        return self.name


LANGUAGES = [
    Language("node", "node", "hello from node", "app.js", NODE, "throw new Error('no such shelf');"),
    Language("ruby", "puma", "hello from Ruby", "app.rb", RUBY, "raise 'no such shelf'"),
]
every_language = pytest.mark.parametrize("language", LANGUAGES, ids=str)


@pytest.fixture
def run_example(run_dir: Path, trapeze: Callable[..., Trapeze]) -> Callable[..., Trapeze]:
    """Run a copy of an example, with its own address replaced by the listeners of the test."""

    def run(language: Language, listeners: list[Listener], app: str = "") -> Trapeze:
        if shutil.which(language.program) is None:
            pytest.skip(f"{language.program} is not installed")
        directory = run_dir / language.name
        shutil.copytree(ROOT / "examples" / language.name, directory)
        file = directory / "trapeze.toml"
        binds = ", ".join(f'"{listener.bind}"' for listener in listeners)
        text, replaced = re.subn(r'^bind = ".*"', f"bind = [{binds}]", file.read_text(), flags=re.M)
        assert replaced == 1
        file.write_text(text)
        if app:
            (directory / language.app).write_text(app)
        return trapeze("up", "-c", str(file), listeners=listeners, keep_listeners=True).ready()

    return run


@every_language
def test_runs_as_its_file_says(language: Language, run_example: Run, tcp: Make, unix: Make) -> None:
    both = [tcp(), unix()]
    server = run_example(language, both)
    assert [listener.get("/").text.startswith(language.hello) for listener in both] == [True, True]
    assert {process["state"] for process in server.service()["processes"]} == {"READY"}
    assert len(server.pids()) == 2
    assert server.stop() == 0
    assert both[1].path is not None and both[1].path.is_socket(), "the file of the socket is the supervisor's"


def reload(server: Trapeze) -> httpx.Response:
    """Asked at the door: the command would take the processor from those whom the test is about."""
    return server.request("POST", "/services/web/reload?wait=40", timeout=50)


@every_language
def test_no_request_is_lost_in_reloads(language: Language, run_example: Run, tcp: Make, unix: Make) -> None:
    both = [tcp(), unix()]
    server = run_example(language, both, language.echo)
    load = Load(both, keepalive=language.keepalive, think=0.4)

    async def reloads() -> None:
        loop = asyncio.get_running_loop()
        done = 0
        while done < RELOADS or load.answered.total() < REQUESTS:
            answer = await loop.run_in_executor(None, reload, server)
            assert answer.status_code == 200, answer.text
            done += 1

    asyncio.run(load.run(reloads, clients=2))
    assert load.lost == {}, load.answered
    assert set(load.answered) == set(KINDS)
    assert server.stop() == 0


@every_language
def test_the_control_workers_that_are_killed_lose_requests(language: Language, run_example: Run, tcp: Make) -> None:
    listener = tcp()
    server = run_example(language, [listener], language.echo)
    load = Load([listener], keepalive=language.keepalive, think=0.4)

    async def kills() -> None:
        loop = asyncio.get_running_loop()
        while not load.lost:
            for pid in server.pids():
                os.kill(pid, signal.SIGKILL)
            await loop.run_in_executor(None, server.ready)

    server.expect_error("")
    asyncio.run(load.run(kills, clients=2))
    assert server.stop() == 0


@every_language
def test_code_that_does_not_start_changes_nothing(language: Language, run_example: Run, tcp: Make) -> None:
    """It has never said that it is ready, so the workers before it go on."""
    listener = tcp()
    server = run_example(language, [listener])
    (server.directory / language.name / language.app).write_text(language.broken)
    server.expect_error("web")
    result = server.ctl("reload", "web", timeout=60)
    assert result.code == 1
    assert "no such shelf" in server.output
    assert listener.get("/").text.startswith(language.hello)
    assert server.stop() == 0
