"""What is kept of what a child says. No operating system."""

from __future__ import annotations

from tests.support.fakehost import FakeHost
from trapeze.spec import ServiceSpec


def test_last_words_are_bounded() -> None:
    """Lines of a megabyte are kept by their beginning; the pieces of a longer one count once."""
    host = FakeHost(ServiceSpec(command="noisy"))
    child = host.newest()
    child.listener.on_line("stdout", "x" * 1_000_000, True)
    child.listener.on_line("stdout", "x" * 1_000_000, False)
    child.listener.on_line("stderr", "last", False)
    (process,) = host.service.workers()

    assert [len(line) for line in process.tail] == [1006, 4]
