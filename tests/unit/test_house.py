"""House rules that a linter does not know: sizes, docstrings, `__all__`, no sleeping tests."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = [ROOT / "trapeze", ROOT / "backends" / "trapeze_backends", ROOT / "bench" / "trapeze_bench"]
SOURCES = sorted(path for package in PACKAGES for path in package.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
SUPPORT = sorted((ROOT / "tests" / "support").rglob("*.py"))

SOURCE_LINES = 350
TEST_LINES = 500

MAY_SLEEP = {"tests/support/wait.py"}
"""The one poll helper. A worker that is slow on purpose is a program of its own: text in a test, or in tests/apps."""


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def test_there_is_something_to_look_at() -> None:
    assert ROOT / "trapeze" / "spec.py" in SOURCES
    assert ROOT / "tests" / "unit" / "test_house.py" in TESTS


def test_files_are_short() -> None:
    long = [f"{name(path)}: {lines(path)}" for path in SOURCES if lines(path) > SOURCE_LINES]
    long += [f"{name(path)}: {lines(path)}" for path in TESTS if lines(path) > TEST_LINES]

    assert long == []


@pytest.mark.parametrize("path", [*SOURCES, *SUPPORT], ids=name)
def test_module_says_what_it_is_and_what_it_offers(path: Path) -> None:
    tree = ast.parse(path.read_text())

    assert ast.get_docstring(tree), "no docstring"
    if path.name not in ("__init__.py", "__main__.py") and "apps" not in path.parts:
        assert assigned(tree, "__all__"), "no __all__"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_what_is_offered_has_a_docstring(path: Path) -> None:
    tree = ast.parse(path.read_text())
    offered = assigned(tree, "__all__")
    bare = [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and node.name in offered
        and not ast.get_docstring(node)
    ]

    assert bare == []


def assigned(tree: ast.Module, variable: str) -> list[str]:
    """The strings in a list that is assigned at the top of a module."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == variable for t in node.targets):
            return [element.value for element in ast.walk(node.value) if isinstance(element, ast.Constant)]  # type: ignore[misc]
    return []


@pytest.mark.parametrize("path", [path for path in TESTS if name(path) not in MAY_SLEEP], ids=name)
def test_tests_do_not_sleep(path: Path) -> None:
    if "apps" in path.parts:
        pytest.skip("a program that tests run")

    assert sleeps(ast.parse(path.read_text())) == []


def sleeps(tree: ast.AST) -> list[int]:
    """Lines that call something named sleep with more than 0 (`asyncio.sleep(0)` only yields)."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and (getattr(node.func, "attr", "") == "sleep" or getattr(node.func, "id", "") == "sleep")
        and not (node.args and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0)
    ]


def test_a_sleep_would_be_found() -> None:
    assert sleeps(ast.parse("import time\ntime.sleep(1)")) == [2]
    assert sleeps(ast.parse("from time import sleep\nsleep(n)")) == [2]
    assert sleeps(ast.parse("await_ = asyncio.sleep(0)")) == []


def wall_clocks(tree: ast.AST) -> list[int]:
    """Lines that ask for the time of day."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and (node.value.id, node.attr) in {("time", "time"), ("datetime", "now"), ("datetime", "utcnow")}
    ]


@pytest.mark.parametrize("module", ["lifecycle", "restart", "planner", "status", "notify", "process", "service"])
def test_decisions_do_not_ask_the_wall_clock(module: str) -> None:
    path = ROOT / "trapeze" / f"{module}.py"
    if not path.exists():
        pytest.skip("not there")

    assert wall_clocks(ast.parse(path.read_text())) == []


def test_a_wall_clock_would_be_found() -> None:
    assert wall_clocks(ast.parse("import time\nnow = time.time()")) == [2]
