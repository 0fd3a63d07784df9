"""How much of a scenario is run, and of whom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trapeze_bench.results import Scenario

__all__ = ["Interrupted", "Setting", "UnknownContestant", "wanted"]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C. All that was started has been ended."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__("interrupted")
        self.scenario = scenario
        """Those that were done; `finished` is False."""


class UnknownContestant(ValueError):
    """Nobody in this scenario is called so."""


@dataclass(frozen=True)
class Setting:
    """The same for all contestants of a scenario."""

    workers: int = 2
    say: Callable[[str], None] = lambda text: None
    """Progress: a line when a contestant is done."""
    only: Sequence[str] | None = None
    """Names of contestants, or what comes before their "+", "-" or ","; None: all."""
    seconds: float = 10.0
    """Of each period that is watched; less when `quick`."""
    quick: bool = False
    """Little of all: to see that it works."""
    seed: int = 1
    """Of the times at which requests are due."""
    rate: float = 200.0
    """Requests per second, half of them on new connections, half on kept ones."""

    @property
    def watched(self) -> float:
        """Seconds."""
        return min(self.seconds, 2.0) if self.quick else self.seconds


def wanted(names: Sequence[str], only: Sequence[str] | None) -> list[str]:
    """Which of these contestants are meant.

    Raises:
        UnknownContestant: a name that means none of them.
    """
    if only is None:
        return list(names)
    for word in only:
        if not any(_means(word, name) for name in names):
            raise UnknownContestant(f"nobody is called {word!r} here; there are: {', '.join(names)}")
    return [name for name in names if any(_means(word, name) for word in only)]


def _means(word: str, name: str) -> bool:
    return name == word or name.startswith(tuple(word + mark for mark in "+-,"))
