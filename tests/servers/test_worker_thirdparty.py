"""A backend of somebody else: the one in backends/README.md, built, installed into its own environment, checked."""

from __future__ import annotations

import re
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import ROOT, run
from tests.support.workerkit import WorkerProcess, check

README = ROOT / "backends" / "README.md"
PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "tiny"
version = "1.0"

[project.entry-points."trapeze.backends"]
tiny = "tiny:TinyBackend"
broken = "tiny:Nothing"

[tool.hatch.build.targets.wheel]
include = ["tiny.py"]
"""

Make = Callable[..., Any]
Spawn = Callable[..., WorkerProcess]


def example() -> str:
    found = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with nothing in it but the example, as a distribution of its own; no trapeze."""
    project = tmp_path_factory.mktemp("tiny")
    (project / "tiny.py").write_text(example())
    (project / "pyproject.toml").write_text(PROJECT)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(project), str(project)],
        check=True,
        stdin=subprocess.DEVNULL,
    )
    (wheel,) = project.glob("*.whl")
    made = project / "venv"
    venv.create(made)
    python = made / "bin" / "python"
    subprocess.run(
        [*pip, "--python", str(python), "install", "--no-index", "--no-deps", str(wheel)],
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return made


def test_example_is_as_short_as_it_says() -> None:
    code = [line for line in example().splitlines() if line.strip()]
    assert len(code) <= 36


def test_it_is_found_where_it_is_installed(elsewhere: Path, run_dir: Path) -> None:
    done = run("backends", "--venv", str(elsewhere), "--json", cwd=run_dir)
    assert done.code == 0, done.err
    found = {each["name"]: each for each in done.json}
    tiny = found["tiny"]
    assert (tiny["installed"], tiny["version"], tiny["interfaces"]) == (True, "1.0", ["wsgi"])
    assert tiny["fields"]["threads"] == "no"
    assert found["gunicorn"]["installed"] is False
    assert found["broken"]["notes"][0].startswith("backend 'broken' (tiny:Nothing) cannot be loaded: AttributeError")


@pytest.mark.slow
def test_it_passes_the_suite(elsewhere: Path, run_dir: Path) -> None:
    done = run("backends", "tiny", "--venv", str(elsewhere), "--test", cwd=run_dir, timeout=55)
    assert done.code == 0, done.out + done.err
    assert re.fullmatch(r"\d+ checks, 0 failed\n", done.err)
    verdicts = {line.split()[0] for line in done.out.splitlines()}
    assert verdicts == {"ok", "lacks"}, "what it says it lacks, it lacks"


@pytest.mark.slow
def test_control_a_backend_that_breaks_a_promise_fails(elsewhere: Path, run_dir: Path) -> None:
    """Its word taken away, the same backend does not pass."""
    (module,) = elsewhere.glob("lib/python*/site-packages/tiny.py")
    honest = module.read_text()
    module.write_text(honest.replace('"chunked_request", ', ""))
    try:
        done = run("backends", "tiny", "--venv", str(elsewhere), "--test", cwd=run_dir, timeout=55)
    finally:
        module.write_text(honest)
    assert done.code == 1
    assert "FAILED  wsgi  a request body in chunks: " in done.out
    assert done.err.endswith("checks, 1 failed\n")


def test_its_fields_are_checked(elsewhere: Path, run_dir: Path) -> None:
    answer = check(backend="tiny", threads=2, python=str(elsewhere / "bin" / "python"))
    assert answer["problems"] == [{"field": "threads", "reason": "tiny has no such setting", "hint": "leave it out"}]


def test_backend_that_cannot_be_loaded(elsewhere: Path, worker: Spawn, tcp: Make) -> None:
    said = worker([tcp()], backend="broken", python=str(elsewhere / "bin" / "python")).error()
    assert said["message"].startswith("backend 'broken' (tiny:Nothing) cannot be loaded: AttributeError")


def test_unknown_backend_names_the_known_ones(elsewhere: Path) -> None:
    problem = check(backend="tinny", python=str(elsewhere / "bin" / "python"))["problems"][0]
    assert problem["hint"] == "did you mean 'tiny'?"
