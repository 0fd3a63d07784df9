"""What is imported on the way to `app.run`: `trapeze serve` must not pay for what other verbs need."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

CONFIG = {
    "addresses", "checks", "checks_nginx", "checks_process", "checks_service", "checks_worker", "config", "convert",
    "envfile", "errors", "limits", "overlay", "problems", "readiness", "resolve", "schema", "slots", "spec",
    "spec_nginx",
}  # fmt: skip
ALLOWED = {"cli", "cli.common", "cli.run", "app", *CONFIG}
LIBRARIES = {"click", "msgspec", "trapeze", "typing_extensions"}  # the last by msgspec, where it is installed
HEAVY = {"asyncio", "concurrent", "difflib", "email", "http", "logging", "ssl", "subprocess", "tomllib"}

SCRIPT = """
import json, sys, types
before = set(sys.modules)
stub = types.ModuleType("trapeze.app")
def run(load, **how):
    load()
    with open(sys.argv[1], "w") as file:
        json.dump(sorted(set(sys.modules) - before), file)
    return 0
stub.run = run
import trapeze
sys.modules["trapeze.app"] = trapeze.app = stub
from trapeze.cli import cli
cli.main(sys.argv[2:])
"""


def findings(tmp_path: Path, before: str = "") -> set[str]:
    """Modules that `trapeze serve` has imported and should not have."""
    out = tmp_path / "modules"
    command = [sys.executable, "-c", SCRIPT.replace("import trapeze\n", f"import trapeze\n{before}\n"), str(out)]
    subprocess.run(
        [*command, "serve", "shop:app", "--workers", "4"], cwd=tmp_path, check=True, env={"PYTHONPATH": str(ROOT)}
    )
    found = set(json.loads(out.read_text()))
    ours = {name for name in found if name.startswith("trapeze.")}
    others = {name.partition(".")[0] for name in found if name.partition(".")[0] not in sys.stdlib_module_names}
    wrong = {name for name in ours if name.removeprefix("trapeze.") not in ALLOWED}
    wrong |= {name for name in others if not name.startswith("_")} - LIBRARIES
    return wrong | (found & HEAVY)


def test_serve_imports_nothing_else(tmp_path: Path) -> None:
    assert findings(tmp_path) == set()


@pytest.mark.parametrize("module", ["trapeze.client", "h11", "asyncio"])
def test_more_would_be_found(tmp_path: Path, module: str) -> None:
    assert module in findings(tmp_path, f"import {module}")


def modules_after(code: str, tmp_path: Path) -> set[str]:
    """What is imported when this code has run."""
    script = f"import sys\n{code}\nprint(*sorted(sys.modules), file=sys.stderr)"
    words = [sys.executable, "-c", script]
    run = subprocess.run(words, cwd=tmp_path, check=True, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    return set(run.stderr.split())


def test_a_start_does_not_wait_for_what_comes_later(tmp_path: Path) -> None:
    """Neither for what only some need, nor for what is imported when the workers are on their way."""
    code = """
from trapeze import app, outset
from trapeze.addresses import parse
from trapeze.tcpsockets import resolve
resolve(parse("127.0.0.1:0"))
with outset.no_ssl():
    from trapeze import foreground
"""
    found = modules_after(code, tmp_path)
    assert "trapeze.supervisor" in found
    assert not found & {"trapeze.nginx.generated", "trapeze.control", "shutil", "random", "encodings.idna", "h11"}


def test_the_command_does_without_typing_extensions(tmp_path: Path) -> None:
    code = "from trapeze.__main__ import main\nsys.argv[1:] = ['serve', '--help']\ntry: main()\nexcept SystemExit: pass"
    found = modules_after(code, tmp_path)
    assert "msgspec" in found
    assert "typing_extensions" not in found


SUCCESSOR = """
import sys
from trapeze import successor
successor.fill_standard_descriptors()
with successor.no_ssl():
    from trapeze import carry, control, foreground, resume
print(*sorted(sys.modules))
later = successor._Later()
assert later.keep_going() is True
assert later.load().config.name == "other"
"""


def test_an_upgrade_reads_its_command_line_later(tmp_path: Path) -> None:
    """Nobody is answered before all this is imported: no click, no verbs, and not what only the next upgrade needs."""
    (tmp_path / "it.toml").write_text('[services.x]\ncommand = "true"\n')
    words = ["--name", "other", "up", "--config", "it.toml", "--keep-going"]
    run = subprocess.run(
        [sys.executable, "-c", SUCCESSOR, *words],
        cwd=tmp_path, check=True, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    found = set(run.stdout.split())
    assert "trapeze.supervisor" in found
    assert not {name for name in found if name.split(".")[0] in ("click", "typing_extensions", "ssl")}
    assert not found & {"trapeze.app", "trapeze.cli", "trapeze.upgrade", "trapeze.saving", "psutil", "tomllib"}
