"""The breaks of `make mutants` fit the files they break: else a change there stops all of them, and nobody sees it."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
MUTANTS: list[Any] = runpy.run_path(str(ROOT / "scripts" / "mutants.py"))["MUTANTS"]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.module}-{mutant.name.replace(' ', '-')}")
def test_a_break_has_its_place(mutant: Any) -> None:
    text = (ROOT / "trapeze" / f"{mutant.module}.py").read_text()

    assert text.count(mutant.old) == 1
    assert mutant.new != mutant.old


def test_each_pure_module_is_broken_often_enough() -> None:
    counts = [sum(each.module == module for each in MUTANTS) for module in ("planner", "lifecycle", "restart")]

    assert min(counts) >= 5
    assert sum(counts) >= 15
