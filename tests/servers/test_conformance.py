"""The conformance suite that everybody's backend can be checked with, run with ours."""

from __future__ import annotations

import sys
from functools import cache

import pytest

from tests.support.workerkit import BACKENDS, Case, check
from trapeze.conformance.stage import Subject
from trapeze.conformance.suite import SCENES, judge, play


@cache
def lacks(backend: str, options: str, interface: str) -> dict[str, str]:
    """What a backend says that it cannot do."""
    case = next(
        case for case in BACKENDS if (case.backend, str(case.options), case.interface) == (backend, options, interface)
    )
    answer = check(backend=backend, options=case.options, interface=interface)
    found: dict[str, str] = answer["lacks"]
    return found


@pytest.mark.parametrize("case", [case for case in BACKENDS if case.interface in ("wsgi", "asgi")], ids=str)
@pytest.mark.parametrize("scene", SCENES)
def test_conforms(scene: str, case: Case) -> None:
    """It keeps every promise that it does not say it lacks; and what it says it lacks, it lacks."""
    missing = lacks(case.backend, str(case.options), case.interface)
    results = play(scene, Subject(case.backend, case.interface, sys.executable, case.options, missing))
    assert results
    wrong = [f"{result.name}: {result.why}" for result in results if judge(result, missing) == "FAILED"]
    assert wrong == []
