"""What the tests with real processes have beside the rest: a site."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.server import Trapeze
from tests.support.site import Closable, Site


@pytest.fixture
def _opened() -> Iterator[list[Closable]]:
    opened: list[Closable] = []
    yield opened
    for each in opened:
        each.close()


@pytest.fixture
def site(run_dir: Path, _opened: list[Closable], trapeze: Callable[..., Trapeze]) -> Site:
    """A directory for a configuration and programs. Let a test not ask for `trapeze` before it.

    Its wires are closed after `trapeze` has stopped what still runs: writing to a wire that nobody reads raises.
    """
    return Site(run_dir, trapeze, _opened)
