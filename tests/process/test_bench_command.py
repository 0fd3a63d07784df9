"""`trapeze bench` as people run it, with little of everything. No timing is looked at, only that it is there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from trapeze_bench import procfs
from trapeze_bench.apps import APPS
from trapeze_bench.documents import loads
from trapeze_bench.results import Report, Result

from tests.support.nginx import program
from tests.support.server import ROOT
from tests.support.wait import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

APP = """
def wsgi(environ, start_response):
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    fine = environ["PATH_INFO"] in ("/good", "/post") and (environ["REQUEST_METHOD"] == "GET" or body == b'{"a": 1}')
    start_response("200 OK" if fine else "404 Not Found", [("Content-Type", "text/plain")])
    return [b"fine" if fine else b"no such page\\nand more"]

async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})

"""
LITTLE = ["--quick", "--connections", "2,4"]


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(APP)
    return tmp_path


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "trapeze", "bench", *words]


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    paths = [str(ROOT), str(ROOT / "backends"), str(ROOT / "bench")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **(more or {})}


def bench(cwd: Path, *words: str, code: int = 0, env: Mapping[str, str] | None = None) -> tuple[str, str]:
    """Run it; return what it printed."""
    done = subprocess.run(
        command(*words), cwd=cwd, capture_output=True, text=True, timeout=110, env=environment(env), check=False
    )
    assert done.returncode == code, done.stderr + done.stdout
    return done.stdout, done.stderr


def check_complete(result: Result, *, rounds: int = 1) -> None:
    """Everything that a turn measures is there, once a round."""
    assert result.failed == ""
    assert [each.connections for each in result.closed] == [2, 4]
    for closed in result.closed:
        assert closed.requests > 0 and len(closed.rates) == rounds and closed.rates[0] > 0
        assert closed.errors == {}
        assert list(closed.latencies) == ["p50", "p90", "p99", "p99.9", "max"]
        assert all(len(values) == rounds for values in closed.latencies.values())
    assert result.fixed is not None and result.fixed.requests > 0 and result.fixed.lost == {}
    for values in (result.starts, result.cpu_workers, result.pss_workers, result.pss_supervisor, result.balance):
        assert len(values) == rounds and values[0] > 0
    assert len(result.cpu_supervisor) == rounds
    assert not any(word.startswith("/") for word in result.command)


def test_all_of_a_wsgi_app(shop: Path) -> None:
    """Several requests, methods and bodies; the reference, trapeze and the server itself; text, JSON and page."""
    (shop / "urls.txt").write_text('# what it has\n/good\nPOST /post {"a": 1}\n')
    words = ["--backends", "waitress", "--native", "--requests-file", "urls.txt", "--threads", "2"]
    out, err = bench(shop, "shop:wsgi", *LITTLE, *words, "--json", "r.json", "--html", "r.html")

    report = loads((shop / "r.json").read_bytes())
    study = report.study
    assert study is not None and study.finished
    assert (study.app, study.interface, study.workers) == ("shop:wsgi", "wsgi", 2)
    assert study.requests == ["GET /good", "POST /post"]
    names = [(each.name, each.role, each.native) for each in study.results]
    assert names == [
        ("gunicorn, plain", "reference", ""),
        ("trapeze+waitress", "trapeze", "waitress"),
        ("waitress", "native", ""),
    ]
    for result in study.results:
        check_complete(result)
    check_machine(report)
    assert "trapeze+waitress" in out and "gunicorn, plain" in err and "left" in err
    assert (shop / "r.html").read_text().startswith("<!doctype html>")


def check_machine(report: Report) -> None:
    generator = report.generator
    assert generator is not None and generator.name in ("wrk", "own")
    assert (generator.ceiling is None) == ("nginx" not in report.machine.versions)
    text = json.dumps([report.machine.processor, report.machine.versions, report.machine.commit])
    assert os.uname().nodename not in text and "/" not in text.replace("3.0.2/", "")
    assert {"trapeze-server", "gunicorn", "waitress"} <= set(report.machine.versions)


def test_an_asgi_app_through_nginx(shop: Path) -> None:
    program("nginx")
    out, _ = bench(shop, "shop:asgi", *LITTLE, "--backends", "uvicorn", "--through", "nginx", "--json", "-")

    study = loads(out).study
    assert study is not None
    assert (study.interface, study.through) == ("asgi", "nginx")
    assert [each.name for each in study.results] == ["gunicorn -k asgi", "trapeze+uvicorn"]
    for result in study.results:
        check_complete(result)


def without(name: str, directory: Path) -> dict[str, str]:
    """A PATH on which there is everything but this program."""
    directory.mkdir()
    for place in reversed(os.environ["PATH"].split(os.pathsep)):
        for path in Path(place).glob("*") if place else ():
            if path.name != name:
                link = directory / path.name
                link.unlink(missing_ok=True)
                link.symlink_to(path)
    return {"PATH": str(directory)}


def test_without_wrk(shop: Path) -> None:
    env = without("wrk", shop / "bin")
    assert shutil.which("wrk", path=env["PATH"]) is None
    words = ["--backends", "waitress", "--path", "/good", "--path", "/post"]
    out, _ = bench(shop, "shop:wsgi", *LITTLE, *words, "--json", "-", env=env)

    report = loads(out)
    assert report.study is not None and report.generator is not None and report.generator.name == "own"
    for result in report.study.results:
        check_complete(result)


def test_a_factory_elsewhere(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (shop / "made.py").write_text("from shop import asgi\n\ndef make():\n    return asgi\n")
    words = ["--backends", "granian", "--native", "--app-dir", str(shop), "--json", "-", "--rate", "50"]
    out, _ = bench(tmp_path_factory.mktemp("elsewhere"), "made:make", *LITTLE, *words)

    study = loads(out).study
    assert study is not None
    for result in study.results:
        check_complete(result)
        assert result.fixed is not None and result.fixed.rate == 50


def test_an_app_of_the_bench_is_asked_what_it_has(tmp_path: Path) -> None:
    out, _ = bench(tmp_path, "--app", "upload", *LITTLE, "--backends", "waitress", "--json", "-")

    study = loads(out).study
    assert study is not None
    assert (study.app, study.requests) == ("trapeze_bench.apps.upload:wsgi", ["POST /"])
    for result in study.results:
        check_complete(result)


def test_apps_of_the_bench_are_shown_with_what_they_stand_for(tmp_path: Path) -> None:
    shown, _ = bench(tmp_path, "--app", "list")
    _, said = bench(tmp_path, "--app", "nobody", code=2)

    assert [line.split()[0] for line in shown.splitlines()] == list(APPS)
    assert all(app.stands_for in line for app, line in zip(APPS.values(), shown.splitlines(), strict=True))
    assert said.startswith(shown)


def test_ctrl_c_leaves_nothing_and_reports_what_there_is(shop: Path) -> None:
    words = ["--backends", "waitress", "--connections", "2,4", "--seconds", "1", "--path", "/good", "--json", "r.json"]
    with (
        open(shop / "err", "wb") as err,
        subprocess.Popen(
            command("shop:wsgi", *words), cwd=shop, env=environment(), stdout=subprocess.PIPE, stderr=err
        ) as popen,
    ):
        until(lambda: "round 1 of 3, gunicorn, plain" in (shop / "err").read_text(), 60, "the first turn")
        until(lambda: len(procfs.descendants(popen.pid)) > 3, 60, "the second turn")
        below = procfs.descendants(popen.pid)
        popen.send_signal(signal.SIGINT)
        out, _ = popen.communicate(timeout=60)

    assert popen.returncode == 130
    until(lambda: not any(procfs.alive(pid, started) for pid, started in below.items()), 10, "all gone")
    study = loads((shop / "r.json").read_bytes()).study
    assert study is not None and not study.finished
    check_complete(study.results[0])
    assert study.results[1].starts == []
    assert b"interrupted" in out and "interrupted" in (shop / "err").read_text()


def test_sigterm_before_anything_was_measured(shop: Path) -> None:
    with (
        open(shop / "err", "wb") as err,
        subprocess.Popen(
            command("shop:wsgi", "--path", "/good"), cwd=shop, env=environment(), stdout=subprocess.PIPE, stderr=err
        ) as popen,
    ):
        until(lambda: "contestants" in (shop / "err").read_text(), 60, "the beginning")
        popen.send_signal(signal.SIGTERM)
        popen.communicate(timeout=60)

    assert popen.returncode == 130
    assert "Traceback" not in (shop / "err").read_text()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["shop:wsgi", "--backends", "waitress"], 1, "shop:wsgi: GET / is answered with 404: no such page"),
        (["shop:nothing"], 1, "module shop has no attribute 'nothing'"),
        (["nowhere:app"], 1, "no module named 'nowhere'"),
        (["shop"], 1, "module shop has neither 'app' nor 'application'"),
        (["shop:make('x')"], 2, "not every server can pass arguments"),
        (["shop:wsgi", "--backends", "uvicorn"], 2, "uvicorn serves asgi apps, and this one is wsgi"),
        (["shop:wsgi", "--backends", "nobody"], 2, "there is no backend 'nobody'"),
        (["shop:wsgi", "--rounds", "2"], 2, "--quick is for trying it out"),
        (["shop:wsgi", "--requests-file", "none.txt"], 2, "none.txt: no such file"),
        (["shop:wsgi", "--path", "good"], 2, "a path begins with /"),
        (["shop:wsgi", "--connections", "0"], 2, "from 1 to 10000"),
        (["shop:wsgi", "--html", "none/page.html"], 2, "there is no directory"),
        (["shop:wsgi", "--app-dir", "none"], 2, "there is no such directory"),
        ([], 2, "which app?"),
        (["--scenario", "boot", "--path", "/x"], 2, "--path is for an app: with --scenario alone there is none"),
        (["--scenario", "boot", "--native"], 2, "--native is for an app"),
        (["--scenario", "nothing"], 2, "there is no scenario 'nothing'"),
        (["shop:wsgi", "--html", "-"], 2, "--html -: a page goes to a file"),
        (["shop:wsgi", "--backends", ","], 2, "it names none"),
        (["--app", "shop"], 2, "there is no app 'shop' in the bench; there are those above"),
        (["--app", "hello", "shop:wsgi"], 2, "--app hello and shop:wsgi: one app at a time"),
        (["--app", "hello", "--factory"], 2, "--factory says how to find an app of yours"),
    ],
)
def test_what_is_wrong_is_said_before_the_long_run(shop: Path, words: list[str], code: int, said: str) -> None:
    out, err = bench(shop, *words, code=code)

    assert said in err and "Traceback" not in err
    assert out == ""


def test_one_that_dies_is_given_up_and_the_others_go_on(shop: Path) -> None:
    """The app kills the master of the reference when it is under load; trapeze's supervisor is not its parent's."""
    (shop / "deadly.py").write_text(
        "import os, signal\n"
        "from shop import wsgi\n"
        "count = 0\n"
        "def app(environ, start_response):\n"
        "    global count\n"
        "    count += 1\n"
        "    if count == 20 and 'gunicorn' in environ.get('SERVER_SOFTWARE', ''):\n"
        "        os.kill(os.getppid(), signal.SIGTERM)\n"
        "    return wsgi(environ, start_response)\n"
    )
    words = ["--backends", "waitress", "--path", "/good", "--json", "-"]
    out, err = bench(shop, "deadly", *LITTLE, *words)

    study = loads(out).study
    assert study is not None and study.finished
    assert study.results[0].failed.startswith("round 1: ") and "ended with status" in study.results[0].failed
    assert study.results[0].failed in err
    check_complete(study.results[1])
