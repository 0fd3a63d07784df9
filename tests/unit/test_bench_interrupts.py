"""Ctrl-C breaks off what waits, and nothing else; it does so once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest
from trapeze_bench.interrupts import held, interruptible, output, released


def interrupt(number: int = signal.SIGINT) -> None:
    """The handler runs in here: between two bytecodes of the main thread."""
    os.kill(os.getpid(), number)


def broken_off(act: Callable[[], object]) -> bool:
    """Do it, and say whether it was broken off."""
    try:
        with interruptible():
            act()
    except KeyboardInterrupt:
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_both_signals_break_it_off(number: int) -> None:
    assert broken_off(lambda: interrupt(number))
    assert not broken_off(lambda: None), "the next one begins anew"


def test_what_is_held_is_finished_first() -> None:
    done = []

    def act() -> None:
        with held():
            interrupt()
            done.append("the rest")
        done.append("what follows")

    assert broken_off(act)
    assert done == ["the rest"]


def test_a_wait_within_is_broken_off_at_once_and_what_holds_it_cleans_up() -> None:
    done = []

    def act() -> None:
        with held():
            try:
                with released():
                    interrupt()
                    done.append("not reached")
            finally:
                done.append("cleaned up")

    assert broken_off(act)
    assert done == ["cleaned up"]


def test_one_that_came_before_breaks_off_the_next_wait() -> None:
    done = []

    def act() -> None:
        with held():
            interrupt()
            with released():
                done.append("it waits, although it was told to end")

    assert broken_off(act)
    assert done == []


def test_later_ones_do_not_disturb_the_end() -> None:
    done = []

    def act() -> None:
        try:
            interrupt()
        finally:
            interrupt(signal.SIGTERM)
            done.append("cleaned up")

    assert broken_off(act)
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
