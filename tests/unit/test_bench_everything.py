"""A full run: what is asked of `trapeze bench`, what an earlier run has left, and that Ctrl-C changes no result."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from trapeze_bench import documents, everything, machine
from trapeze_bench.everything import BrokenOff, Extent, PartFailed, measure, settle, staging, words
from trapeze_bench.published import PARTS
from trapeze_bench.results import Machine, Report
from trapeze_bench.scenarios import SCENARIOS

from tests.support.benchdoc import sample
from trapeze.cli.bench import bench

HERE = Machine("Example 3000", 2, 1000, "6.1", "3.11", commit="0123abc", load=0.4)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("quick", [False, True])
def test_each_part_is_a_command_that_there_is(part: str, quick: bool) -> None:
    found = words(part, Extent(quick=quick))

    context = bench.make_context("bench", list(found))
    assert context.params["json_file"] == "-" and context.params["quick"] == quick
    if part in SCENARIOS:
        assert context.params["scenarios"] == (part,)
    else:
        assert context.params["native"] and context.params["connections"] == (32,)
        assert context.params["rounds"] == (None if quick else 3)


USUAL = Extent()


def kept(directory: Path, commit: str | None, extent: Extent = USUAL) -> list[str]:
    return sorted(path.name for path in staging(directory, extent, commit).iterdir())


def test_only_parts_of_the_same_commit_and_extent_are_gone_on_with(tmp_path: Path) -> None:
    (staging(tmp_path, Extent(), "0123abc") / "wsgi.json").write_text("x")

    assert kept(tmp_path, "0123abc") == ["wsgi.json"]
    assert kept(tmp_path, "0123abc", Extent(rounds=9)) == []
    (staging(tmp_path, Extent(), "0123abc") / "wsgi.json").write_text("x")
    assert kept(tmp_path, "fedc987") == []
    assert kept(tmp_path, "0123abc") == []


@pytest.mark.parametrize("commit", ["0123abc+", None])
def test_of_a_tree_with_changes_nothing_is_gone_on_with(tmp_path: Path, commit: str | None) -> None:
    (staging(tmp_path, Extent(), commit) / "wsgi.json").write_text("x")

    assert kept(tmp_path, commit) == []


class Ran(list[str]):
    """Parts that were run; the one named in `ends` ends with its code."""

    def __init__(self) -> None:
        self.ends: dict[str, int] = {}

    def run(self, argv: Sequence[str], cwd: Path, path: Path) -> int:
        assert argv[1:4] == ["-m", "trapeze", "bench"]
        if code := self.ends.get(path.stem):
            return code
        self.append(path.stem)
        path.write_bytes(documents.dumps(sample(1)))
        return 0


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Ran:
    found = Ran()
    monkeypatch.setattr(everything, "_run", found.run)
    monkeypatch.setattr(machine, "look", lambda versions: HERE)
    return found


def test_a_run_that_was_broken_off_is_gone_on_with_and_changes_nothing_before(tmp_path: Path, ran: Ran) -> None:
    (tmp_path / "wsgi.json").write_text("earlier")
    said: list[str] = []
    ran.ends["reload"] = 130
    with pytest.raises(BrokenOff):
        measure(tmp_path, ["wsgi", "reload"], Extent(), said.append)
    assert (tmp_path / "wsgi.json").read_text() == "earlier" and ran == ["wsgi"]

    ran.ends.clear()
    found = measure(tmp_path, ["reload", "wsgi"], Extent(), said.append)
    assert ran == ["wsgi", "reload"] and list(found) == ["wsgi", "reload"]
    assert said[2:] == ["wsgi: was measured before (1 of 2)", "reload (2 of 2)"]
    assert (tmp_path / "wsgi.json").read_text() == "earlier"
    settle(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["wsgi.json"]


def test_the_load_is_that_of_the_beginning(tmp_path: Path, ran: Ran) -> None:
    assert sample(1).machine.load != HERE.load

    found: dict[str, Report] = measure(tmp_path, ["wsgi", "idle"], Extent(), lambda text: None)
    assert {each.machine.load for each in found.values()} == {HERE.load}


def test_a_part_that_cannot_be_measured_ends_it(tmp_path: Path, ran: Ran) -> None:
    ran.ends["asgi"] = 1

    with pytest.raises(PartFailed, match="asgi: trapeze bench ended with exit code 1"):
        measure(tmp_path, ["wsgi", "asgi", "reload"], Extent(), lambda text: None)
    assert ran == ["wsgi"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_passed_on_and_the_end_is_awaited(tmp_path: Path, number: signal.Signals) -> None:
    """The child says that it is there by a signal of its own making: it sends us what a terminal would."""
    child = (
        "import os, signal, sys\n"
        "def end(*_): sys.exit(130)\n"
        "signal.signal(signal.SIGINT, end); signal.signal(signal.SIGTERM, end)\n"
        f"os.kill(os.getppid(), {int(number)})\n"
        "signal.pause()\n"
    )
    before = signal.getsignal(number)

    assert everything._run([sys.executable, "-c", child], tmp_path, tmp_path / "out") == 130
    assert signal.getsignal(number) is before
