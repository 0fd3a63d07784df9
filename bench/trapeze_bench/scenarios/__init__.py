"""What happens in one situation to trapeze and its peers: a reload, a broken deploy, a crash. One module a scenario.

python -m trapeze_bench.scenarios reload --workers 2 --only trapeze --only uvicorn
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

from trapeze_bench.results import Scenario
from trapeze_bench.scenarios.setting import Interrupted, Setting, UnknownContestant

__all__ = ["SCENARIOS", "Interrupted", "Setting", "UnknownContestant"]

NAMES = (
    "reload",
    "broken-deploy",
    "half-copied",
    "kill-worker",
    "kill-supervisor",
    "frozen-worker",
    "queue-at-stop",
    "idle",
    "boot",
    "memory",
    "many-services",
)


def _scenario(name: str) -> Callable[[Setting], Scenario]:
    """Import it when it is run."""

    def run(setting: Setting) -> Scenario:
        found: Scenario = importlib.import_module(f"{__name__}.{name.replace('-', '_')}").run(setting)
        return found

    return run


SCENARIOS: dict[str, Callable[[Setting], Scenario]] = {name: _scenario(name) for name in NAMES}
"""By name. Each returns what it found; interrupted, it raises `Interrupted`, which has what was found until then."""
