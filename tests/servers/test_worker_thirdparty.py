"""A backend of somebody else: the one in backends/README.md, registered by an entry point."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.workerkit import WorkerProcess, check

README = Path(__file__).parents[2] / "backends" / "README.md"

Make = Callable[..., Any]
Spawn = Callable[..., WorkerProcess]


@pytest.fixture
def installed(run_dir: Path) -> Path:
    """The example of the README, as if it were installed in the app's directory."""
    found = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert found is not None
    (run_dir / "tiny.py").write_text(found[1])
    about = run_dir / "tiny-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[trapeze.backends]\ntiny = tiny:TinyBackend\nbroken = tiny:Nothing\n")
    return run_dir


def test_example_is_as_short_as_it_says(installed: Path) -> None:
    assert len((installed / "tiny.py").read_text().strip().splitlines()) <= 36


def test_example_serves_and_drains(installed: Path, worker: Spawn, tcp: Make) -> None:
    listener = tcp()
    process = worker([listener], backend="tiny")
    assert process.ready() == {"interface": "wsgi", "backend": "tiny", "version": "1.0"}
    assert listener.get().text == "hello"
    process.stop()
    assert process.wait() == 0, process.output


def test_its_check_is_asked(installed: Path) -> None:
    answer = check(backend="tiny", threads=2, app="tiny", app_dir=str(installed))
    assert answer["problems"] == [{"field": "threads", "reason": "tiny has no threads", "hint": "leave it out"}]


def test_backend_that_cannot_be_loaded(installed: Path, worker: Spawn, tcp: Make) -> None:
    said = worker([tcp()], backend="broken").error()
    assert said["message"].startswith("backend 'broken' (tiny:Nothing) cannot be loaded: AttributeError")


def test_unknown_backend_names_the_known_ones(installed: Path) -> None:
    problem = check(backend="tinny", app_dir=str(installed))["problems"][0]
    assert problem["hint"] == "did you mean 'tiny'?"
