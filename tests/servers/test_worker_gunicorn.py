"""gunicorn's settings and hooks in a worker without gunicorn's master process; old and new gunicorn."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import Listener
from tests.support.workerkit import Connection, WorkerProcess

Make = Callable[..., Any]
Spawn = Callable[..., WorkerProcess]
Connect = Callable[[Listener], Connection]

CONF = """
import os
bind = "0.0.0.0:1"
workers = 17
timeout = 120
threads = 2
raw_env = ["FROM_CONF=yes"]
limit_request_line = 200
secure_scheme_headers = {"X-FORWARDED-PROTO": "https"}

def say(text):
    print("HOOK", text, os.getpid(), flush=True)

def on_starting(server): say("on_starting")
def post_fork(server, worker):
    server.log.info("in post_fork")
    say("post_fork")
def post_worker_init(worker): say("post_worker_init")
def pre_request(worker, req): say("pre_request " + req.path)
def post_request(worker, req, environ, resp): say("post_request")
def worker_int(worker): say("worker_int")
def worker_exit(server, worker): say("worker_exit")
"""


def test_conf_file_with_hooks(worker: Spawn, connect: Connect, tcp: Make, run_dir: Path) -> None:
    (run_dir / "gunicorn.conf.py").write_text(CONF)
    (run_dir / "shop.py").write_text("import os\nassert os.environ['FROM_CONF'] == 'yes'\nfrom workerapp import wsgi\n")
    listener = tcp()
    process = worker([listener], app="shop:wsgi", backend="gunicorn", options={"config": "gunicorn.conf.py"})
    process.ready()
    client = connect(listener)
    assert client.get("/environ", Connection="close")[0] == 200
    client.close()
    process.stop()
    assert process.wait() == 0
    lines = process.output.splitlines()
    assert lines[0] == ("gunicorn.conf.py: ignored, they belong to the supervisor: bind, on_starting, timeout, workers")
    hooks = [line.removeprefix("HOOK ").removesuffix(f" {process.process.pid}") for line in lines if "HOOK" in line]
    assert hooks == ["post_fork", "post_worker_init", "pre_request /environ", "post_request", "worker_exit"]


def test_the_other_workers_do_not_repeat_the_warning(worker: Spawn, tcp: Make, run_dir: Path) -> None:
    (run_dir / "conf.py").write_text("bind = 'x:1'\n")
    process = worker([tcp()], backend="gunicorn", options={"config": "conf.py"}, index=1)
    process.ready()
    assert process.output == ""


def test_options_win_over_the_file_and_fields_over_both(
    worker: Spawn, connect: Connect, tcp: Make, run_dir: Path
) -> None:
    (run_dir / "conf.py").write_text("worker_class = 'sync'\nthreads = 1\nlimit_request_line = 100\n")
    listener = tcp()
    process = worker(
        [listener], backend="gunicorn", options={"config": "conf.py", "limit_request_line": 200}, threads=3
    )
    process.ready()
    threads = len(os.listdir(f"/proc/{process.process.pid}/task"))
    first = connect(listener)
    first.send("/gate")
    process.entered()
    client = connect(listener)
    assert client.get("/" + "x" * 150)[0] == 200  # a second thread
    assert client.get("/" + "x" * 300)[0] in (400, 414)
    process.let_go()
    assert threads <= 4


def test_conf_file_that_fails(worker: Spawn, tcp: Make, run_dir: Path) -> None:
    (run_dir / "conf.py").write_text("import nosuch\n")
    said = worker([tcp()], backend="gunicorn", options={"config": "conf.py"}).error()
    assert said["message"] == "conf.py failed: ModuleNotFoundError: No module named 'nosuch'"
    assert 'conf.py", line 1' in said["traceback"]


def test_conf_file_with_a_bad_value(worker: Spawn, tcp: Make, run_dir: Path) -> None:
    (run_dir / "conf.py").write_text("threads = 'many'\n")
    said = worker([tcp()], backend="gunicorn", options={"config": "conf.py"}).error()
    assert said["message"].startswith("conf.py: threads: 'many'")


def test_max_requests_ends_the_worker_cleanly(worker: Spawn, connect: Connect, tcp: Make) -> None:
    listener = tcp()
    process = worker([listener], backend="gunicorn", options={"max_requests": 3})
    process.ready()
    for _ in range(3):
        client = connect(listener)
        assert client.get(Connection="close")[0] == 200
        client.close()
    assert process.wait() == 0


def test_gevent_patches_before_the_app_is_imported(worker: Spawn, tcp: Make, run_dir: Path) -> None:
    (run_dir / "shop.py").write_text(
        "import socket, gevent.monkey\nassert gevent.monkey.is_module_patched('socket')\nfrom workerapp import wsgi\n"
    )
    for backend, options in [("gunicorn", {"worker_class": "gevent"}), ("chaussette", {"backend": "gevent"})]:
        worker([tcp()], app="shop:wsgi", backend=backend, options=options).ready()


def test_gevent_from_a_conf_file(worker: Spawn, tcp: Make, run_dir: Path) -> None:
    (run_dir / "conf.py").write_text("worker_class = 'gevent'\n")
    (run_dir / "shop.py").write_text(
        "import gevent.monkey\nassert gevent.monkey.is_module_patched('socket')\nfrom workerapp import wsgi\n"
    )
    worker([tcp()], app="shop:wsgi", backend="gunicorn", options={"config": "conf.py"}).ready()


@pytest.mark.parametrize("worker_class", ["sync", "gthread", "gevent"])
def test_environ_on_an_abstract_socket(worker_class: str, worker: Spawn, connect: Connect) -> None:
    """Its name is bytes, of which gunicorn makes a host and a port by their numbers: "0" and "118" for \\0v..."""
    name = f"v2-{os.getpid()}-{worker_class}"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"\0{name}")
        sock.listen()
        listener = Listener(sock, f"unix:@{name}")
        worker([listener], backend="gunicorn", options={"worker_class": worker_class}).ready()

        facts = json.loads(connect(listener).get("/environ", Connection="close")[2])

    assert (facts["SERVER_NAME"], facts["SERVER_PORT"], facts["REMOTE_ADDR"]) == ("example.com", "80", "")


def test_log_has_the_public_name_of_a_unix_socket(worker: Spawn, unix: Make) -> None:
    """The kernel knows the private one that the supervisor has bound it under."""
    bound = unix("private.sock")
    path = bound.path.rename(bound.path.with_name("public.sock"))
    process = worker([Listener(bound.sock, f"unix:{path}", path)], app="workerapp:asgi", backend="gunicorn")
    process.ready()
    process.stop()
    assert process.wait() == 0

    path.unlink()
    assert "public.sock" in process.output
    assert "private.sock" not in process.output


@pytest.fixture(scope="module", params=["20.1.0", "23.0.0"])
def old(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The interpreter of a virtual environment with an older gunicorn, and nothing else."""
    where = tmp_path_factory.mktemp("old")
    subprocess.run([sys.executable, "-m", "venv", str(where)], check=True)
    python = str(where / "bin" / "python")
    wanted = [f"gunicorn=={request.param}", "setuptools<80"]
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted]
    done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode:
        shutil.rmtree(where)
        pytest.skip(f"cannot be installed: {done.stderr.strip().splitlines()[-1]}")
    yield python
    shutil.rmtree(where)


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("worker_class", ["sync", "gthread"])
def test_older_gunicorn_in_an_environment_of_its_own(
    old: str, worker_class: str, worker: Spawn, connect: Connect, tcp: Make, unix: Make, run_dir: Path
) -> None:
    (run_dir / "shop.py").write_text(
        "try:\n    import click\nexcept ModuleNotFoundError: pass\nelse: raise SystemError('click is ours')\n"
        "from workerapp import wsgi\n"
    )
    both = [tcp(), unix()]
    options = {"worker_class": worker_class}
    process = worker(both, python=old, app="shop:wsgi", backend="gunicorn", options=options, drain_grace=5.0)
    version = process.ready()["version"]
    assert version.startswith(("20.", "23."))
    for listener in both:
        client = connect(listener)
        facts = json.loads(client.get("/environ")[2])
        assert facts["SERVER_SOFTWARE"].startswith("gunicorn/")
        client.close()
    busy = connect(both[0])
    busy.send("/gate")
    process.entered()
    if worker_class == "gthread":
        # Accepted, and nothing sent yet: gunicorn before 24 closed such connections.
        early, kept = connect(both[0]), connect(both[0])
        assert kept.get()[0] == 200
    process.stop()
    if worker_class == "gthread":
        early.send()
        assert early.answer()[0] == 200
        kept.send()
        assert kept.answer()[1]["connection"] == "close"
    process.let_go()
    assert busy.answer()[0] == 200
    busy.close()
    assert process.wait() == 0, process.output


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_older_gunicorn_has_no_asgi_workers(old: str, worker: Spawn, tcp: Make) -> None:
    said = worker([tcp()], python=old, app="workerapp:asgi", backend="gunicorn").error()
    assert said["message"].startswith("gunicorn cannot load the worker class 'asgi'")
    assert "has no asgi workers" in said["hint"]
