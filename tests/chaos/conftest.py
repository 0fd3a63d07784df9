"""What the chaos tests share: the fixtures of a world, and the reports at the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.settings import LONG, REPORTS
from tests.chaos.world import Makers
from tests.support.nginx import Nginx
from tests.support.server import Trapeze


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what each run did; the tables only where they were asked for."""
    for report in REPORTS:
        lines = report.splitlines()
        terminalreporter.write_line("\n".join(lines if LONG else lines[-1:]))


@pytest.fixture
def makers(trapeze: Callable[..., Trapeze], nginx: Callable[..., Nginx], run_dir: Path) -> Makers:
    """How to start a supervisor and nginx."""
    return Makers(trapeze, nginx, run_dir)
