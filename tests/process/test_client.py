"""The client, and the verbs that talk: whole outputs against a door with a made-up supervisor."""

from __future__ import annotations

import glob
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.support.fakedoor import FakeDoor, Outcome, fake_door
from tests.support.server import clean_environment
from tests.support.wait import until
from trapeze import client, runtime
from trapeze.cli import cli, look
from trapeze.client import Client, find
from trapeze.errors import ConfigError, NotRunning, Problem, TrapezeError, WaitTimeout
from trapeze.runtime import claim
from trapeze.spec import ControlSpec

Environ = dict[str, str]


@pytest.fixture(name="environ")
def _environ(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Environ:
    """A machine with nothing but one runtime directory."""
    environ = {"TRAPEZE_RUNTIME_DIR": str(run_dir / "run")}
    monkeypatch.setenv("TRAPEZE_RUNTIME_DIR", environ["TRAPEZE_RUNTIME_DIR"])
    own = [runtime.Directory(environ["TRAPEZE_RUNTIME_DIR"], "$TRAPEZE_RUNTIME_DIR")]
    monkeypatch.setattr(runtime, "directories", lambda environ=None: own)
    monkeypatch.setattr(client, "directories", lambda environ=None: own)
    monkeypatch.setattr(look, "directories", lambda environ=None: own)
    monkeypatch.setattr(glob, "glob", lambda pattern: [])  # where root looks for those of others
    return environ


@pytest.fixture(name="fake")
def _fake(run_dir: Path, environ: Environ) -> Iterator[FakeDoor]:
    with fake_door(run_dir / "run") as made:
        yield made


# -- the client -------------------------------------------------------------------------------------------------------


def test_one_that_does_not_answer(environ: Environ, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PATIENCE", 0.05)
    claimed = claim("shop", ControlSpec(), environ=environ)
    with pytest.raises(WaitTimeout, match=rf"shop \(pid {os.getpid()}\) does not answer"):
        Client(find(None)).status()
    claimed.release()


def test_one_that_is_gone(environ: Environ) -> None:
    claimed = claim("shop", ControlSpec(), environ=environ)
    found = find(None)
    claimed.release()
    with pytest.raises(NotRunning, match="shop is not running any more"):
        Client(found).status()


def test_one_that_is_no_trapeze(environ: Environ) -> None:
    claimed = claim("shop", ControlSpec(), environ=environ)

    def answer() -> None:
        claimed.sock.setblocking(True)
        with claimed.sock.accept()[0] as sock:
            sock.recv(65536)
            sock.sendall(b"HTTP/1.1 500 Oops\r\nContent-Length: 5\r\n\r\nhello")

    thread = threading.Thread(target=answer)
    found = find(None)
    claimed.sock.setblocking(True)
    claimed.sock.accept()[0].close()  # of `find`
    thread.start()
    with pytest.raises(TrapezeError, match="what answers at the control socket is no trapeze"):
        Client(found).status()
    thread.join()
    claimed.release()


def test_shutdown_waits_for_the_process(fake: FakeDoor) -> None:
    """The connection ends, but the process (here: ours) does not."""
    found = find(None)
    errors: list[BaseException] = []

    def shut() -> None:
        try:
            Client(found).shutdown(wait=0.5, fast=False)
        except WaitTimeout as error:
            errors.append(error)

    thread = threading.Thread(target=shut)
    thread.start()
    until(lambda: fake.waiting == 1)
    fake.close()
    thread.join()

    assert [str(error) for error in errors] == ["not done after 0.5 s: still stopping"]


def test_a_full_door_says_so(fake: FakeDoor) -> None:
    clients = [fake.connect() for _ in range(64)]
    until(lambda: fake.clients == 64)
    with pytest.raises(TrapezeError, match="too many clients at the control socket"):
        Client(runtime.Instance("trapeze", str(fake.path), 1, 0)).status()
    for sock in clients:
        sock.close()


# -- the verbs: exit code, stdout, stderr -----------------------------------------------------------------------------


def run(*args: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli, list(args), prog_name="trapeze")
    return result.exit_code, plain(result.stdout), plain(result.stderr)


def plain(text: str) -> str:
    """Without what differs from run to run."""
    text = re.sub(r"\d\d:\d\d:\d\d\.\d{3}", "TIME", text)
    text = re.sub(r"\(\d+\.\d s\)", "(TOOK)", text)
    text = re.sub(r"\b\d+ d\b", "AGO", text)
    return text.replace(str(os.getpid()), "PID")


def test_status(fake: FakeDoor) -> None:
    assert run("status") == (
        0,
        """\
trapeze: pid 4711, up AGO, revision 7, trapeze 0.1.0, /srv/shop/trapeze.toml

NAME      STATUS   READY  PID   GEN  RESTARTS  MEMORY  SINCE    WHY
web       RUNNING  1/1          2    0         30 MiB  AGO  1 of 1 ready
  [0] #1  READY           4720                 30 MiB  AGO  ready
redis     RUNNING  1/1          2    0         30 MiB  AGO  1 of 1 ready
  [0] #2  READY           4721                 30 MiB  AGO  ready

SOCKET  ADDRESS         FD  QUEUE      DROPPED
web     127.0.0.1:8000  7   3 of 2048  5
""",
        "",
    )


def test_status_as_json(fake: FakeDoor) -> None:
    code, out, err = run("status", "--json")
    selected = json.loads(run("status", "redis", "--json")[1])

    assert (code, err) == (0, "")
    assert json.loads(out)["services"][0]["processes"][0]["state"] == "READY"
    assert [service["name"] for service in selected["services"]] == ["redis"]


def test_status_of_what_does_not_exist(fake: FakeDoor) -> None:
    assert run("status", "api") == (2, "", 'error: there is no service named "api"\nhint: services: web, redis\n')
    code, out, err = run("status", "--json", "api")
    assert (code, err) == (2, "")
    assert json.loads(out) == {
        "code": "unknown",
        "message": 'there is no service named "api"',
        "hint": "services: web, redis",
        "problems": [],
    }


def test_nobody_there(environ: Environ) -> None:
    place = environ["TRAPEZE_RUNTIME_DIR"]
    where = f"looked in {place} ($TRAPEZE_RUNTIME_DIR)"

    assert run("status") == (3, "", f"error: no instance is running; {where}\n")
    assert run("reload", "--name", "x") == (3, "", f"error: no instance named x is running; {where}\n")
    assert run("ls", "--json") == (0, "[]\n", "")


def test_ls(fake: FakeDoor) -> None:
    user = "root" if os.getuid() == 0 else ""
    code, out, err = run("ls")

    assert (code, err) == (0, "")
    assert out.splitlines()[0].split() == ["NAME", "PID", "USER", "SOCKET"]
    assert out.splitlines()[1].split()[:2] == ["trapeze", "PID"]
    assert user in out.splitlines()[1]


def test_reload(fake: FakeDoor) -> None:
    fake.supervisor.outcome = Outcome()

    def script() -> None:
        fake.supervisor.happens("web", "ROLLING", "0 of 4 replaced")
        fake.supervisor.outcome = Outcome(done=True, message="web: generation 2, 4 of 4 ready")
        fake.supervisor.happens("web", "READY", "ready", index=0, pid=4730)

    fake.supervisor.script = script
    expected = "TIME web ROLLING: 0 of 4 replaced\nTIME web[0] pid 4730 READY: ready\n"

    assert run("reload", "web") == (0, "web: generation 2, 4 of 4 ready (TOOK)\n", expected)


def test_reload_that_rolls_back(fake: FakeDoor) -> None:
    fake.supervisor.outcome = Outcome(
        failed=True, code="rolled_back", message="web: generation 2 failed, 1 serves on", output=["Traceback", " Boom"]
    )

    assert run("reload", "web") == (1, "", "Traceback\n Boom\nerror: web: generation 2 failed, 1 serves on\n")
    code, out, err = run("reload", "web", "--json")
    assert (code, json.loads(out)["code"], err) == (1, "rolled_back", "")


def test_a_traceback_is_shown_once(fake: FakeDoor) -> None:
    fake.supervisor.outcome = Outcome()

    def script() -> None:
        fake.supervisor.happens("web", "EXITED", "exited with status 3", output=["Traceback", " Boom"])
        fake.supervisor.happens("web", "RUNNING", "generation 1 serves on", output=["Traceback", " Boom"])
        fake.supervisor.outcome = Outcome(failed=True, message="rolled back", output=["Traceback", " Boom"])

    fake.supervisor.script = script
    told = """\
TIME web exited with status 3
    Traceback
     Boom
TIME web RUNNING: generation 1 serves on
error: rolled back
"""

    assert run("reload", "web") == (1, "", told)
    assert run("reload", "web", "--quiet") == (1, "", "Traceback\n Boom\nerror: rolled back\n")


def test_reload_with_a_broken_file(fake: FakeDoor) -> None:
    problem = Problem("services.web.worker", "unknown key", 'did you mean "workers"?', "trapeze.toml")
    fake.supervisor.error = ConfigError([problem, problem._replace(path="services.x", hint="")])

    assert run("reload") == (
        2,
        "",
        (
            'error: trapeze.toml: services.web.worker: unknown key, did you mean "workers"?\n'
            "error: trapeze.toml: services.x: unknown key\n"
        ),
    )


def test_reload_that_takes_too_long(fake: FakeDoor) -> None:
    fake.supervisor.outcome = Outcome(message="web: 1 of 4 ready")

    assert run("reload", "--wait", "0.05") == (
        4,
        "",
        (
            "error: not done after 0.05 s: web: 1 of 4 ready\n"
            "hint: it goes on all the same; `trapeze status` shows how far it is\n"
        ),
    )


def test_no_wait(fake: FakeDoor) -> None:
    assert run("reload", "web", "--no-wait") == (0, "web: generation 2, 4 of 4 ready, not waited for\n", "")


@pytest.mark.parametrize(
    ("args", "asked"),
    [
        (["reload"], [("reload", None)]),
        (["reload", "web", "redis"], [("reload", ["web"]), ("reload", ["redis"])]),
        (["restart", "web", "--process", "9"], [("restart", ["web"], 9)]),
        (["restart"], [("restart", None, None)]),
        (["scale", "web", "4"], [("scale", "web", 4, 0)]),
        (["scale", "web", "+1"], [("scale", "web", None, 1)]),
        (["scale", "web", "-1"], [("scale", "web", None, -1)]),
        (["scale", "--wait", "3", "web", "-2"], [("scale", "web", None, -2)]),
        (["start", "redis"], [("start", ["redis"])]),
        (["stop", "redis"], [("stop", ["redis"])]),
        (["signal", "web", "USR1"], [("signal", "web", 10, None)]),
        (["signal", "web", "1", "--process", "2"], [("signal", "web", 1, 2)]),
        (["shutdown", "--fast", "--no-wait"], [("shutdown", True)]),
    ],
)
def test_orders(fake: FakeDoor, args: list[str], asked: list[tuple[object, ...]]) -> None:
    code, _, err = run(*args)

    assert (code, err) == (0, "")
    assert fake.supervisor.asked == asked


def test_an_unknown_service(fake: FakeDoor) -> None:
    assert run("stop", "api") == (2, "", "error: no service 'api'\nhint: services: web, redis\n")
    assert run("signal", "web", "NOPE")[::2] == (
        2,
        'error: there is no signal "NOPE"\nhint: a name or a number, as USR1, SIGHUP, RTMIN+3, 10\n',
    )


def test_logs(fake: FakeDoor) -> None:
    def script() -> None:
        fake.supervisor.prints("web", "begin ", more=True)
        fake.supervisor.prints("web", "end")
        fake.supervisor.prints("redis", "ready", index=1)

    fake.do(script)

    assert run("logs") == (0, "web.0 | begin end\nredis.1 | ready\n", "")
    assert run("logs", "redis", "-n", "5") == (0, "redis.1 | ready\n", "")
    assert json.loads(run("logs", "redis", "--json")[1])["text"] == "ready"


def test_events(fake: FakeDoor) -> None:
    def script() -> None:
        fake.supervisor.happens("web", "EXITED", "exited with status 1", index=0, pid=12, output=["Boom", "x"])
        fake.supervisor.happens("", "", "reload web, asked by somebody")

    fake.do(script)

    assert run("events") == (
        0,
        "TIME web[0] pid 12 exited with status 1\n    Boom\n    x\nTIME reload web, asked by somebody\n",
        "",
    )
    assert run("events", "--since", "9") == (0, "", "")


def test_config_of_the_one_that_runs(fake: FakeDoor) -> None:
    code, out, err = run("config", "--running")

    assert (code, err) == (0, "")
    assert "services.web.workers = 4" in out
    assert "# flag --workers" in out


def test_following_ends_with_the_supervisor(fake: FakeDoor) -> None:
    popen = trapeze(fake, "events", "--follow")
    until(lambda: fake.waiting == 1)
    fake.do(lambda: fake.supervisor.happens("web", "READY", "ready"))
    assert popen.stdout is not None
    first = popen.stdout.readline()
    fake.close()
    rest, err = popen.communicate(timeout=10)

    assert first.endswith("web READY: ready\n")
    assert (popen.returncode, rest, err) == (0, "", "")


def test_a_reader_that_leaves_ends_it_quietly(fake: FakeDoor) -> None:
    """As in `trapeze logs -f | head -1`."""
    popen = trapeze(fake, "logs", "--follow")
    until(lambda: fake.do(lambda: len(fake.supervisor.journal._subscriptions)) == 1)
    fake.do(lambda: fake.supervisor.prints("web", "one"))
    assert popen.stdout is not None
    assert popen.stdout.readline() == "web.0 | one\n"
    popen.stdout.close()
    fake.do(lambda: fake.supervisor.prints("web", "two"))
    assert popen.stderr is not None
    with popen.stderr:
        assert popen.stderr.read() == ""
    assert popen.wait(10) == 141


def test_control_c_ends_it_quietly(fake: FakeDoor) -> None:
    popen = trapeze(fake, "events", "--follow")
    until(lambda: fake.waiting == 1)
    popen.send_signal(2)
    out, err = popen.communicate(timeout=10)

    assert (popen.returncode, out, err) == (130, "", "")


def trapeze(fake: FakeDoor, *args: str) -> subprocess.Popen[str]:
    """A client of its own process."""
    return subprocess.Popen(
        [sys.executable, "-m", "trapeze", *args],
        env=clean_environment() | {"TRAPEZE_RUNTIME_DIR": str(fake.path.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
