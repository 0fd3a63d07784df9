"""The examples run as their files say: the real command, the real Redis, real migrations."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.nginx import program
from tests.support.server import ROOT, Listener, Trapeze
from tests.support.wait import until

Tcp = Callable[..., Listener]
Run = Callable[..., Trapeze]


def example(name: str, run_dir: Path, listener: Listener) -> Path:
    """A copy of an example, with its own address replaced by a listener of the test; the path of its file."""
    directory = run_dir / name
    shutil.copytree(ROOT / "examples" / name, directory, ignore=shutil.ignore_patterns("__pycache__", "*.sqlite3"))
    file = directory / "trapeze.toml"
    text, replaced = re.subn(r'^bind = "127\.0\.0\.1:8000"', f'bind = "{listener.bind}"', file.read_text(), flags=re.M)
    assert replaced == 1
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    ("app", "text"),
    [
        ("examples.hello:wsgi", "hello, world\n"),
        ("examples.hello:asgi", "hello, world\n"),
        ("examples.flask_app:app", "hello from Flask\n"),
        ("examples.flask_app:create_app()", "hello from Flask\n"),
        ("examples.fastapi_app:app", "hello from FastAPI\n"),
    ],
)
def test_serve(app: str, text: str, trapeze: Run, tcp: Tcp) -> None:
    server = trapeze("serve", app, listeners=[tcp()])

    assert server.get("/").text == text
    assert server.stop() == 0


def test_shop(trapeze: Run, tcp: Tcp, run_dir: Path) -> None:
    """The web app starts when Redis has said that it is ready; two workers do the jobs; all leave with exit code 0."""
    program("redis-server")
    listener = tcp()
    file = example("shop", run_dir, listener)
    server = trapeze("up", "-c", str(file), listeners=[listener], name="shop").ready()

    assert server.get("/healthz").json() == {"redis": "PONG"}
    for number in range(1, 6):
        assert listener.request("POST", "/orders", content=f"thing {number}").json() == {"order": number}
    until(lambda: len(server.get("/orders").json()) == 5, what="five orders to be done")
    done = server.get("/orders").json()
    workers = set(server.pids("jobs"))

    assert {job["order"] for job in done} == {1, 2, 3, 4, 5}
    assert {job["by"] for job in done} <= workers
    assert server.stop() == 0


def test_django(trapeze: Run, tcp: Tcp, run_dir: Path) -> None:
    """`pre_start` migrates before the first worker is there."""
    listener = tcp()
    file = example("django_site", run_dir, listener)
    server = trapeze("up", "-c", str(file), listeners=[listener], name="board").ready()

    created = listener.request("POST", "/notes", content="fasten your seat belts")

    assert created.status_code == 201, created.text
    assert "fasten your seat belts" in server.get("/").text
    assert server.get("/notes").json() == {"notes": [{"id": 1, "text": "fasten your seat belts"}]}
    assert server.stop() == 0
