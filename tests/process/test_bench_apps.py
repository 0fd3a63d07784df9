"""The apps that are measured with answer right under real servers, as `trapeze serve` starts them."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from trapeze_bench.apps import APPS, database
from trapeze_bench.apps.computing import ROUNDS, compute
from trapeze_bench.requestlist import ROOT, Asked

from tests.support.server import ROOT as ROOT_DIR
from tests.support.server import Listener, Trapeze

Tcp = Callable[..., Listener]
Serve = Callable[..., Trapeze]


@pytest.fixture
def serve(trapeze: Callable[..., Trapeze], tcp: Tcp, run_dir: Path) -> Serve:
    """An app by its name, served and ready."""

    def started(name: str, *words: str) -> Trapeze:
        app = APPS[name]
        if app.missing:
            pytest.skip(f"not installed: {', '.join(app.missing)}")
        env = {"TRAPEZE_BENCH_DATABASE": str(run_dir / "items.sqlite3")}
        return trapeze("serve", app.app, "--workers", "2", *words, listeners=[tcp()], env=env).ready()

    return started


def ask(server: Trapeze, request: Asked) -> bytes:
    """Send one, get the body of its 200."""
    listener = server.listeners[0]
    found = listener.request(request.method, request.path, content=request.body or None, headers=request.fields)
    assert found.status_code == 200, found.text
    return found.content


EXPECTED = {
    "hello": b"hello, world from ",
    "django": b"<td>rope no. 3 &lt;new&gt;</td>",
    "flask": b'"name":"item 19"',
    "fastapi": b'"with_tax":',
    "sleep": b"slept\n",
    "cpu": b"%d\n" % compute(ROUNDS),
    "body": b"0123456789" * 100_000,
    "upload": b"65536\n",
    "streaming": b"0063\n",
    "sqlite": b" was seen ",
}


@pytest.mark.parametrize("name", APPS)
def test_every_request_is_answered_right(name: str, serve: Serve) -> None:
    server = serve(name)

    for request in APPS[name].requests:
        assert EXPECTED[name.removesuffix("-asgi")] in ask(server, request)
    assert server.stop() == 0


def test_fastapi_checks_what_comes(serve: Serve) -> None:
    server = serve("fastapi")
    listener = server.listeners[0]

    assert listener.get("/items/7?limit=1").json() == [
        {"name": "item 7", "price": 7.5, "tags": ["a"], "id": 7, "with_tax": 7.5 * 1.19}
    ]
    assert listener.get("/items/-1").status_code == 422
    assert listener.get("/items/7?limit=1000").status_code == 422
    assert listener.request("POST", "/items", json={"name": "", "price": 1}).status_code == 422
    assert listener.request("POST", "/items", json={"name": "rope", "price": 2}).json()["name"] == "rope"


def test_flask_knows_what_there_is(serve: Serve) -> None:
    listener = serve("flask").listeners[0]

    assert [item["id"] for item in listener.get("/items?limit=3").json()["items"]] == [0, 1, 2]
    assert listener.get("/items/5").json()["name"] == "item 5"
    assert listener.get("/items/500").status_code == 404


@pytest.mark.parametrize("name", ["upload", "upload-asgi"])
def test_an_upload_is_counted_to_its_end(name: str, serve: Serve) -> None:
    server = serve(name)

    assert ask(server, Asked("POST", "/", b"x" * 300_001)) == b"300001\n"
    assert ask(server, Asked("POST", "/", b"x")) == b"1\n"
    assert ask(server, ROOT) == b"0\n"


@pytest.mark.parametrize("name", ["streaming", "streaming-asgi"])
def test_a_stream_has_no_length_and_all_of_its_chunks(name: str, serve: Serve) -> None:
    found = serve(name).listeners[0].get()

    assert "content-length" not in found.headers
    assert len(found.content) == 64 * 1024 and found.text.splitlines()[63].endswith("0063")


@pytest.mark.parametrize("name", ["sleep", "sleep-asgi"])
def test_how_long_to_sleep_can_be_said(name: str, serve: Serve) -> None:
    listener = serve(name).listeners[0]

    assert listener.get("/?ms=200").elapsed.total_seconds() >= 0.2
    assert listener.get("/?ms=nonsense").text == "slept\n"


def test_how_much_to_compute_can_be_said(serve: Serve) -> None:
    assert int(serve("cpu").get("/?n=10").text) == compute(10)


def test_several_processes_write_to_one_database(serve: Serve, run_dir: Path) -> None:
    server = serve("sqlite", "--threads", "2")

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(server, ROOT), range(100)))
    assert len(answers) == 100
    with sqlite3.connect(run_dir / "items.sqlite3") as connection:
        assert connection.execute("select count(*), sum(seen) from items").fetchone() == (1000, 100)
    connection.close()


def test_nobody_else_has_put_the_database_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRAPEZE_BENCH_DATABASE", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    directory = tmp_path / f"trapeze-bench-{os.getuid()}"
    assert database._path() == directory / "items.sqlite3"
    directory.chmod(0o777)
    with pytest.raises(PermissionError, match="ours alone"):
        database._path()


def test_all_that_is_there_can_be_served() -> None:
    """Names, interfaces and requests hold together."""
    for name, app in APPS.items():
        assert app.interface == ("asgi" if name.endswith("-asgi") or name == "fastapi" else "wsgi"), name
        assert app.requests and app.stands_for and app.app.startswith("trapeze_bench.")


def test_all_are_described() -> None:
    text = (ROOT_DIR / "bench" / "README.md").read_text()

    for name in APPS:
        first = name.removesuffix("-asgi")
        mark = " ²" if f"{first}-asgi" in APPS else ""
        assert f"\n| `{first}`{mark} | " in text, name
