"""Apps of aiohttp: how they are told, made, started and stopped, and their own notions of what the fields say."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import Listener
from tests.support.wait import until
from tests.support.workerkit import Connection, WorkerProcess, check
from tests.support.zygotekit import Zygote

Make = Callable[..., Any]
Spawn = Callable[..., WorkerProcess]
Connect = Callable[[Listener], Connection]

APP = """
import asyncio
from aiohttp import web

routes = web.RouteTableDef()

@routes.get("/", name="home")
async def home(request):
    return web.json_response({"path": request.path, "home": str(request.app.router["home"].url_for()),
                              "url": str(request.url), "remote": request.remote})

@routes.get("/raises")
async def raises(request):
    raise LookupError("no such shelf")

@routes.get("/gone")
async def gone(request):
    raise web.HTTPGone(text="gone")

@routes.get("/file")
async def file(request):
    return web.FileResponse(__file__)

@routes.get("/wait")
async def wait(request):
    print("waiting", flush=True)
    await request.app["ended"].wait()
    return web.Response(text="ended by on_shutdown")

async def prepare(app):
    print("on_startup", flush=True)
    app["ended"] = asyncio.Event()

async def end(app):
    print("on_shutdown", flush=True)
    app["ended"].set()

async def clean(app):
    print("on_cleanup", flush=True)

async def fails(app):
    raise ConnectionError("no redis at 127.0.0.1")

async def context(app):
    yield
    print("context is over", flush=True)

def make(*startup):
    app = web.Application()
    app.add_routes(routes)
    app.cleanup_ctx.append(context)
    app.on_startup.extend([prepare, *startup])
    app.on_shutdown.append(end)
    app.on_cleanup.append(clean)
    return app

async def later():
    return make()

def failing():
    return make(fails)

app = make()
"""


@pytest.fixture
def start(worker: Spawn, tcp: Make, run_dir: Path) -> Callable[..., tuple[WorkerProcess, Listener]]:
    """A worker with the app above."""
    (run_dir / "shop.py").write_text(APP)

    def made(app: str = "app", **fields: Any) -> tuple[WorkerProcess, Listener]:
        listener = tcp()
        return worker([listener], app=f"shop:{app}", **{"backend": "aiohttp", **fields}), listener

    return made


@pytest.mark.parametrize(
    ("app", "fields"),
    [
        ("app", {}),
        ("make()", {}),
        ("make", {"factory": True}),
        ("later", {"factory": True}),
        ("later()", {}),
        ("app", {"interface": "aiohttp"}),
    ],
)
def test_auto_serves_it_however_it_is_named(app: str, fields: dict[str, Any], start: Make) -> None:
    process, listener = start(app, backend="auto", **fields)
    said = process.ready()
    assert (said["interface"], said["backend"]) == ("aiohttp", "aiohttp")
    assert listener.get("/").json()["path"] == "/"


def test_another_interface_than_it_has(start: Make, run_dir: Path) -> None:
    (run_dir / "other.py").write_text("def app(environ, start_response): ...\nasync def make(): ...\n")
    process, _ = start(interface="tornado", backend="auto")
    assert process.error()["message"] == "shop:app is no tornado app, it is Application"
    process, _ = start("later", interface="aiohttp", backend="auto")
    assert process.error()["hint"] == "does it make the app? factory = true"


def test_check_knows_the_interface(run_dir: Path) -> None:
    (run_dir / "shop.py").write_text(APP)
    fields = {"app": "shop:app", "app_dir": str(run_dir), "import_app": True}
    assert check(backend="auto", **fields)["problems"] == []
    assert check(backend="aiohttp", interface="aiohttp", **fields)["problems"] == []
    problem = check(backend="uvicorn", **fields)["problems"][0]
    assert problem["reason"] == "uvicorn does not serve aiohttp apps"
    problem = check(backend="uvicorn", interface="aiohttp", app="")["problems"][0]
    assert (problem["field"], problem["hint"]) == ("interface", 'backend = "aiohttp" does')


def test_start_and_stop_are_called_in_aiohttps_order(start: Make, connect: Connect) -> None:
    """`on_shutdown` comes at the grace, and what it ends is waited for."""
    process, listener = start(drain_grace=0.4, stop_timeout=10.0)
    process.ready()
    client = connect(listener)
    client.send("/wait")
    until(lambda: "waiting" in process.output, what="the request")
    before = time.monotonic()
    process.stop()
    assert client.answer()[2] == b"ended by on_shutdown"
    assert 0.3 <= time.monotonic() - before < 5
    assert process.wait() == 0
    assert process.output.split("\n") == ["on_startup", "waiting", "on_shutdown", "context is over", "on_cleanup", ""]


def test_a_start_that_fails(start: Make) -> None:
    process, _ = start("failing()")
    said = process.error()
    assert said["message"] == "the app's start-up failed: ConnectionError: no redis at 127.0.0.1"
    assert "shop.py" in said["traceback"]
    assert "context is over" in process.output, "what was begun is ended"


@pytest.mark.parametrize("path", ["/shop/", "/", "/shop"])
def test_urls_that_it_makes_have_the_prefix(path: str, start: Make, connect: Connect) -> None:
    process, listener = start(root_path="/shop")
    process.ready()
    facts = listener.get(path).json()
    assert (facts["path"], facts["home"]) == ("/shop/", "/shop/")
    assert listener.get("/shop/nothing").status_code == 404


def test_an_error_is_a_500_and_a_traceback(start: Make) -> None:
    process, listener = start(access_log=True)
    process.ready()
    assert listener.get("/raises").status_code == 500
    assert listener.get("/gone").status_code == 410
    assert listener.get("/nothing").status_code == 404
    until(lambda: '"GET /nothing HTTP/1.1" 404' in process.output, what="the log")
    assert "LookupError: no such shelf" in process.output
    assert '"GET /raises HTTP/1.1" 500' in process.output and '"GET /gone HTTP/1.1" 410 4' in process.output


def test_files_that_the_kernel_sends_have_their_size_in_the_log(start: Make, run_dir: Path) -> None:
    process, listener = start(access_log=True)
    process.ready()
    size = len(listener.get("/file").content)
    until(lambda: f'"GET /file HTTP/1.1" 200 {size} ' in process.output, what="the line")


def test_several_proxies_and_lines(start: Make, connect: Connect) -> None:
    process, listener = start(trusted_proxies=["127.0.0.1", "10.0.0.0/8"])
    process.ready()
    client = connect(listener)
    client.sock.sendall(
        b"GET / HTTP/1.1\r\nHost: inside\r\nX-Forwarded-For: 192.0.2.66, 203.0.113.9\r\n"
        b"X-Forwarded-For: 10.1.2.3\r\nX-Forwarded-Proto: http, https\r\nX-Forwarded-Host: shop.example\r\n\r\n"
    )
    facts = json.loads(client.answer()[2])
    assert (facts["remote"], facts["url"]) == ("203.0.113.9", "https://shop.example/")


def test_forked_workers_start_the_app_themselves(
    zygote: Callable[..., Zygote], connect: Connect, tcp: Make, run_dir: Path
) -> None:
    (run_dir / "shop.py").write_text(APP)
    process = zygote([tcp()], app="shop:app", backend="aiohttp")
    assert process.ready()["unsafe"] == ""
    for index in range(2):
        worker = process.fork(index)
        worker.ready()
        assert connect(process.serves[0]).get("/", Connection="close")[0] == 200
        worker.stop()
        assert worker.wait() == 0
        assert worker.output == "on_startup\non_shutdown\ncontext is over\non_cleanup\n"
