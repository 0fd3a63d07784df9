"""The conformance suite that everybody's backend can be checked with, run with ours."""

from __future__ import annotations

import sys
from functools import cache

import pytest

from tests.support.workerkit import BACKENDS, Case, check
from trapeze.conformance.stage import Subject
from trapeze.conformance.suite import SCENES, judge, play


@cache
def subject(name: str) -> Subject:
    """A backend, with what it says of itself."""
    case = next(case for case in BACKENDS if case.name == name)
    says = check(backend=case.backend, options=case.options, interface=case.interface)
    return Subject(case.backend, case.interface, sys.executable, case.options, says["speaks"], says["lacks"])


@pytest.mark.parametrize("case", [case for case in BACKENDS if case.interface in ("wsgi", "asgi")], ids=str)
@pytest.mark.parametrize("scene", SCENES)
def test_conforms(scene: str, case: Case) -> None:
    """It keeps every promise that it does not say it lacks."""
    tried = subject(case.name)
    results = play(scene, tried)
    assert results
    wrong = [f"{result.name}: {result.why}" for result in results if judge(result, tried.lacks) == "FAILED"]
    assert wrong == []
