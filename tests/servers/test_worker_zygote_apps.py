"""Real apps, forked: the code that was imported is what serves, whatever lies on the disk by then; and unsafe ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import Listener
from tests.support.workerkit import Connection, WorkerProcess
from tests.support.zygotekit import Zygote

Make = Callable[..., Any]
Spawn = Callable[..., Zygote]
Connect = Callable[[Listener], Connection]

BROKEN = "this is no Python\n"

VIEWS = """
from django.http import HttpResponse
from django.shortcuts import render

def index(request):
    return HttpResponse("the old code")

def counted(request):
    request.session["seen"] = request.session.get("seen", 0) + 1
    return HttpResponse(f"seen {request.session['seen']}")
"""

URLS = """
from django.contrib import admin
from django.urls import include, path

urlpatterns = [path("admin/", admin.site.urls), path("shop/", include("shop.urls"))]
"""

SHOP_URLS = """
from django.urls import path
from shop import views

urlpatterns = [path("", views.index), path("counted", views.counted)]
"""


def django_site(directory: Path) -> None:
    """What `django-admin startproject` and `startapp` make, with two views."""
    for words in (["startproject", "site1", "."], ["startapp", "shop"]):
        subprocess.run([sys.executable, "-m", "django", *words], cwd=directory, check=True, capture_output=True)
    (directory / "shop/views.py").write_text(VIEWS)
    (directory / "shop/urls.py").write_text(SHOP_URLS)
    (directory / "site1/urls.py").write_text(URLS)
    with open(directory / "site1/settings.py", "a") as settings:
        settings.write("\nALLOWED_HOSTS = ['example.com', 'localhost']\nINSTALLED_APPS += ['shop']\n")
    subprocess.run([sys.executable, "manage.py", "migrate"], cwd=directory, check=True, capture_output=True)


FLASK = """
from flask import Flask
from flaskviews import pages
app = Flask(__name__)
app.register_blueprint(pages)
"""

FLASK_VIEWS = """
from flask import Blueprint, render_template_string
pages = Blueprint("pages", __name__)

@pages.route("/shop/")
def index():
    return render_template_string("the {{ 'old' }} code")
"""

FASTAPI = """
from fastapi import FastAPI
from fastapiviews import router
app = FastAPI()
app.include_router(router)
"""

FASTAPI_VIEWS = """
from fastapi import APIRouter
from fastapi.responses import PlainTextResponse
router = APIRouter()

@router.get("/shop/")
def index(q: int = 3) -> PlainTextResponse:
    return PlainTextResponse("the old code")
"""


def write_app(kind: str, directory: Path) -> None:
    """Write the app that a kind of test needs."""
    if kind == "django":
        django_site(directory)
    for name, text in {
        "flaskapp": FLASK,
        "flaskviews": FLASK_VIEWS,
        "fastapiapp": FASTAPI,
        "fastapiviews": FASTAPI_VIEWS,
    }.items():
        if name.startswith(kind):
            (directory / f"{name}.py").write_text(text)


def break_it(directory: Path) -> None:
    """A deploy that is half copied: nothing of the app on the disk can be imported any more."""
    for path in directory.rglob("*.py"):
        path.write_text(BROKEN)
    for path in directory.rglob("*.pyc"):
        path.unlink()


SERVED = [
    ("django", "site1.wsgi:application", "gunicorn", {}),
    ("django", "site1.wsgi:application", "gunicorn", {"worker_class": "gevent"}),
    ("django", "site1.wsgi:application", "chaussette", {"backend": "waitress"}),
    ("django", "site1.asgi:application", "uvicorn", {}),
    ("django", "site1.asgi:application", "gunicorn", {}),
    ("flask", "flaskapp:app", "gunicorn", {}),
    ("flask", "flaskapp:app", "chaussette", {"backend": "eventlet"}),
    ("fastapi", "fastapiapp:app", "uvicorn", {}),
    ("fastapi", "fastapiapp:app", "gunicorn", {}),
    ("flask", "flaskapp:app", "granian", {}),
    ("fastapi", "fastapiapp:app", "granian", {}),
]

every_app = pytest.mark.parametrize(("kind", "app", "backend", "options"), SERVED)


@every_app
def test_forked_workers_have_the_code_that_was_imported(
    kind: str, app: str, backend: str, options: dict[str, str],
    zygote: Spawn, tcp: Make, connect: Connect, run_dir: Path,
) -> None:  # fmt: skip
    """No request was ever made before the disk was broken: what frameworks import late has been imported."""
    write_app(kind, run_dir)
    process = zygote([tcp()], app=app, backend=backend, options=options)
    assert process.ready()["unsafe"] == ""
    break_it(run_dir)
    for _ in range(2):
        worker = process.fork()
        worker.ready()
        client = connect(process.serves[0])
        assert client.get("/shop/", Connection="close")[2] == b"the old code", worker.output
        if kind == "django":
            client = connect(process.serves[0])
            assert client.get("/shop/counted", Connection="close")[2] == b"seen 1", worker.output
            client = connect(process.serves[0])
            status, headers, _ = client.get("/admin/", Connection="close")
            assert (status, headers["location"]) == (302, "/admin/login/?next=/admin/")
            client = connect(process.serves[0])
            assert client.get("/admin/login/", Connection="close")[0] == 200
        worker.signal(signal.SIGKILL)
        worker.wait()


@pytest.mark.parametrize(("kind", "app"), [("django", "site1.wsgi:application"), ("flask", "flaskapp:app")])
def test_a_worker_that_is_not_forked_has_what_is_on_the_disk(
    kind: str, app: str, worker: Make, tcp: Make, connect: Connect, run_dir: Path
) -> None:
    """The control: Django imports its views with the first request, Flask at the start."""
    write_app(kind, run_dir)
    process: WorkerProcess = worker([tcp()], app=app, backend="gunicorn")
    process.ready()
    break_it(run_dir)
    status = connect(process.listeners[0]).get("/shop/", Connection="close")[0]
    assert status == (500 if kind == "django" else 200)
    process = worker([tcp()], app=app, backend="gunicorn")
    assert "SyntaxError" in process.error()["message"]


def test_a_broken_urlconf_is_a_failed_import(zygote: Spawn, tcp: Make, run_dir: Path) -> None:
    """The process would start all the same, and answer every request with an error."""
    django_site(run_dir)
    (run_dir / "shop/views.py").write_text("raise LookupError('no such shelf')\n")
    said = zygote([tcp()], app="site1.wsgi:application").error()
    assert said["message"] == "importing the URLconf failed: LookupError: no such shelf"
    assert "shop/views.py" in said["traceback"]


def test_nothing_connects_to_the_database(zygote: Spawn, tcp: Make, connect: Connect, run_dir: Path) -> None:
    django_site(run_dir)
    process = zygote([tcp()], app="site1.wsgi:application")
    process.ready()
    held = [os.readlink(f"/proc/{process.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{process.pid}/fd")]
    assert not [path for path in held if "sqlite" in path]
    assert process.output == ""


WARM = """
import sys
ready = []

def warm():
    ready.append("warm")

def fails():
    raise LookupError("no such shelf")

def app(environ, start_response):
    body = repr(ready).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


def test_warm_is_called_once_before_the_first_fork(zygote: Spawn, tcp: Make, connect: Connect, run_dir: Path) -> None:
    (run_dir / "warmapp.py").write_text(WARM)
    process = zygote([tcp()], app="warmapp:app", interface="wsgi", warm="warmapp:warm")
    process.ready()
    for _ in range(2):
        process.fork().ready()
        assert connect(process.serves[0]).get("/", Connection="close")[2] == b"['warm']"
        process.workers.pop().close()


def test_a_warm_that_fails_is_a_failed_import(zygote: Spawn, tcp: Make, run_dir: Path) -> None:
    (run_dir / "warmapp.py").write_text(WARM)
    said = zygote([tcp()], app="warmapp:app", interface="wsgi", warm="warmapp:fails").error()
    assert said["message"] == "warm warmapp:fails failed: LookupError: no such shelf"


def test_a_warm_that_is_none_names_the_field(zygote: Spawn, tcp: Make, run_dir: Path) -> None:
    """With the hint; otherwise it would seem to be the app that is missing."""
    (run_dir / "warmapp.py").write_text(WARM)
    said = zygote([tcp()], app="warmapp:app", interface="wsgi", warm="warmapp:fail").error()
    assert said["message"] == "warm: module warmapp has no attribute 'fail'"
    assert said["hint"] == "did you mean 'fails'?"


def test_a_warm_that_cannot_be_imported_has_its_traceback(zygote: Spawn, tcp: Make, run_dir: Path) -> None:
    (run_dir / "warmapp.py").write_text(WARM)
    (run_dir / "cold.py").write_text("raise LookupError('no such shelf')\n")
    said = zygote([tcp()], app="warmapp:app", interface="wsgi", warm="cold:x").error()
    assert said["message"] == "warm: importing cold failed: LookupError: no such shelf"
    assert "cold.py" in said["traceback"]


# ---- what is not safe to fork ----

THREAD = """
import json, os, threading, time
beats = []

def poll():
    while True:
        beats.append(1)
        time.sleep(0.005)

threading.Thread(target=poll, name="poller", daemon=True).start()

def app(environ, start_response):
    body = json.dumps([os.getpid(), [thread.name for thread in threading.enumerate()]]).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


@pytest.mark.parametrize("mode", ["zygote", "spare"])
def test_an_unsafe_app_stands_by_and_becomes_a_worker_in_place(
    mode: str, zygote: Spawn, tcp: Make, connect: Connect, run_dir: Path
) -> None:
    (run_dir / "threadapp.py").write_text(THREAD)
    process = zygote([tcp()], app="threadapp:app", interface="wsgi", backend="gunicorn", mode=mode)
    assert process.ready()["unsafe"] == "thread 'poller' (threadapp.py)"
    break_it(run_dir)
    process.employ(4)
    process.ready()
    pid, threads = json.loads(connect(process.serves[0]).get("/", Connection="close")[2])
    assert pid == process.pid
    assert "poller" in threads, "it was not forked: the thread is still there"
    assert b"\0web[4] threadapp:app\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert process.line.recv(1) == b"", "it needs the line no more"
    process.stop()
    assert process.wait() == 0


@pytest.mark.parametrize("mode", ["zygote", "spare"])
@pytest.mark.parametrize("end", ["TERM", "line"])
def test_one_that_stands_by_leaves_when_told(mode: str, end: str, zygote: Spawn, run_dir: Path) -> None:
    (run_dir / "threadapp.py").write_text(THREAD)
    process = zygote(app="threadapp:app", interface="wsgi", mode=mode)
    process.ready()
    if end == "TERM":
        process.process.send_signal(signal.SIGTERM)
    else:
        process.line.close()
    assert process.wait() == 0


def test_preload_true_forks_all_the_same(zygote: Spawn, tcp: Make, connect: Connect, run_dir: Path) -> None:
    (run_dir / "threadapp.py").write_text(THREAD)
    process = zygote([tcp()], app="threadapp:app", interface="wsgi", backend="gunicorn", preload=True)
    assert process.ready()["unsafe"] == "thread 'poller' (threadapp.py)"
    worker = process.fork()
    worker.ready()
    pid, threads = json.loads(connect(process.serves[0]).get("/", Connection="close")[2])
    assert pid == worker.pid
    assert "poller" not in threads, "threads do not come through a fork: that is why it is unsafe"


def test_a_connection_made_at_import_is_named(zygote: Spawn, tcp: Make, run_dir: Path) -> None:
    database = tcp()
    (run_dir / "connapp.py").write_text(
        f"import socket\nconnection = socket.create_connection({database.sock.getsockname()!r})\n"
        "def app(environ, start_response): pass\n"
    )
    assert zygote(app="connapp:app").ready()["unsafe"] == f"connection to {database.address}"


def test_what_is_doubtful_is_said_once(zygote: Spawn, tcp: Make, run_dir: Path) -> None:
    (run_dir / "loopapp.py").write_text(
        "import asyncio\nloop = asyncio.new_event_loop()\ndef app(environ, start_response): pass\n"
    )
    process = zygote([tcp()], app="loopapp:app")
    assert process.ready()["unsafe"] == ""
    process.fork().ready()
    assert process.output == (
        "preload: loopapp:app has opened an event loop (eventpoll): do not use it in workers, make one there\n"
    )


def test_a_default_timeout_of_the_app_is_not_for_our_sockets(
    zygote: Spawn, tcp: Make, connect: Connect, run_dir: Path
) -> None:
    (run_dir / "timeapp.py").write_text(
        "import socket\nsocket.setdefaulttimeout(0.05)\n"
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [('Content-Length', '4')]); return [b'%4.2f' % socket.getdefaulttimeout()]\n"
    )
    process = zygote([tcp()], app="timeapp:app", backend="gunicorn", options={"worker_class": "sync"})
    process.ready()
    process.fork().ready()
    assert connect(process.serves[0]).get("/", Connection="close")[2] == b"0.05"
    assert process.process.poll() is None, "it waits for requests as long as it takes"


NUMPY = """
import numpy
a = numpy.random.default_rng(1).random((300, 300))
expected = (a @ a).sum()

def app(environ, start_response):
    assert (a @ a).sum() == expected
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""


def test_numpy_is_forked_and_multiplies(zygote: Spawn, tcp: Make, connect: Connect, run_dir: Path) -> None:
    """OpenBLAS has threads, and makes them anew after a fork."""
    pytest.importorskip("numpy")
    (run_dir / "numpyapp.py").write_text(NUMPY)
    process = zygote([tcp()], app="numpyapp:app", interface="wsgi", backend="gunicorn")
    assert process.ready()["unsafe"] == ""
    for _ in range(3):
        worker = process.fork()
        worker.ready()
        assert connect(process.serves[0]).get("/", Connection="close")[2] == b"ok"
        worker.stop()
        assert worker.wait() == 0


def test_grpc_is_forked_unless_it_has_a_channel(zygote: Spawn, tcp: Make, connect: Connect, run_dir: Path) -> None:
    pytest.importorskip("grpc")
    body = (
        "def app(environ, start_response):\n    start_response('200 OK', [('Content-Length', '2')]); return [b'ok']\n"
    )
    (run_dir / "grpcapp.py").write_text(f"import grpc\n{body}")
    process = zygote([tcp()], app="grpcapp:app", backend="gunicorn")
    assert process.ready()["unsafe"] == ""
    process.fork().ready()
    assert connect(process.serves[0]).get("/", Connection="close")[2] == b"ok"
    channel = "channel = grpc.insecure_channel('127.0.0.1:1')\nchannel.subscribe(print, try_to_connect=True)\n"
    (run_dir / "grpcchannel.py").write_text(f"import grpc\n{channel}{body}")
    assert "native thread" in zygote(app="grpcchannel:app").ready()["unsafe"]


# ---- memory ----

HEAVY = """
import gc
heap = [{"number": number, "text": str(number)} for number in range(150_000)]

def app(environ, start_response):
    gc.collect()
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""


def pss(pids: list[int]) -> int:
    """The sum of what these processes hold, shared pages by their share, in KiB."""
    total = 0
    for pid in pids:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total


def test_memory_is_shared_even_after_a_collection(
    zygote: Spawn, worker: Make, tcp: Make, connect: Connect, run_dir: Path
) -> None:
    """The control has the same four workers, each with its own import."""
    (run_dir / "heavyapp.py").write_text(HEAVY)
    fields = {"app": "heavyapp:app", "interface": "wsgi", "backend": "gunicorn"}
    process = zygote([tcp()], **fields)
    process.ready()
    forked = []
    for _ in range(4):
        each = process.fork()
        each.ready()
        forked.append(each)
        # One at a time on the listener, so that the collection is in each of them.
        for other in forked[:-1]:
            other.signal(signal.SIGSTOP)
        assert connect(process.serves[0]).get("/", Connection="close")[2] == b"ok"
    for each in forked:
        each.signal(signal.SIGCONT)
    spawned = [worker([tcp()], **fields) for _ in range(4)]
    for each in spawned:
        each.ready()
        assert connect(each.listeners[0]).get("/", Connection="close")[2] == b"ok"
    shared = pss([process.pid, *(each.pid for each in forked)])
    alone = pss([each.process.pid for each in spawned])
    assert shared < alone * 0.5, (shared, alone)
