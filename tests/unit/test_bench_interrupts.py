"""Ctrl-C breaks off what waits, and nothing else; it does so once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from trapeze_bench.interrupts import held, interruptible, output, released


def interrupt(number: int = signal.SIGINT) -> None:
    """The handler runs in here: between two bytecodes of the main thread."""
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_both_signals_break_it_off(number: int) -> None:
    with pytest.raises(KeyboardInterrupt), interruptible():
        interrupt(number)


def test_what_is_held_is_finished_first() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), interruptible(), held():
        interrupt()
        done.append("the rest")
    assert done == ["the rest"]


def test_a_wait_within_is_broken_off_at_once_and_what_holds_it_cleans_up() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), interruptible(), held():
        try:
            with released():
                interrupt()
                done.append("not reached")
        finally:
            done.append("cleaned up")
    assert done == ["cleaned up"]


def test_one_that_came_before_breaks_off_the_next_wait() -> None:
    with pytest.raises(KeyboardInterrupt), interruptible(), held():
        interrupt()
        with released():
            pytest.fail("it waits, although it was told to end")


def test_later_ones_do_not_disturb_the_end() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), interruptible():
        try:
            interrupt()
        finally:
            interrupt(signal.SIGTERM)
            done.append("cleaned up")
    assert done == ["cleaned up"]


def test_the_handlers_before_are_there_again() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with interruptible():
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] != before
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_the_output_of_a_program() -> None:
    done = output([sys.executable, "-c", "import sys; print(input()); sys.exit(3)"], 20, data="hello\n")

    assert (done.stdout, done.returncode) == ("hello\n", 3)


def test_a_program_that_does_not_end_is_killed() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        output(["sleep", "60"], 0.1)
