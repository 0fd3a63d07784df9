"""What is seen while it runs, on stderr: a table with bars and the time left; plain lines where it is no terminal."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from trapeze_bench.grid import bar
from trapeze_bench.plan import duration
from trapeze_bench.results import Result, Study
from trapeze_bench.study import Watcher

__all__ = ["Lines", "Screen", "best_rate", "watching"]

WIDTH = 30
"""Cells of the longest bar."""


def best_rate(result: Result) -> tuple[float, int] | None:
    """Requests per second so far, the median of its rounds, at the number of connections where it is best."""
    found = [(statistics.median(closed.rates), closed.connections) for closed in result.closed if closed.rates]
    return max(found) if found else None


class Lines:
    """A line for each turn that is over."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def says(self, text: str) -> None:
        """As of `Watcher`."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def trying(self, name: str) -> None:
        """As of `Watcher`."""

    def doing(self, name: str, round_: int, what: str, left: float) -> None:
        """As of `Watcher`."""

    def measured(self, study: Study, name: str, round_: int, left: float) -> None:
        """As of `Watcher`."""
        result = next(each for each in study.results if each.name == name)
        if result.failed:
            return  # that was said when it failed
        rates = ", ".join(f"{each.rates[-1]:,.0f}/s at {each.connections}" for each in result.closed)
        self.says(f"round {round_} of {study.rounds}, {name}: {rates}; {duration(left)} left")


class Screen:
    """A table that is drawn anew."""

    def __init__(self, console: Console, study: Study, live: Live) -> None:
        self.console = console
        self.study = study
        self.live = live
        self.now = "calibrating"
        self.name = ""
        self.left = 0.0
        self.at = time.monotonic()

    def says(self, text: str) -> None:
        """As of `Watcher`."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def trying(self, name: str) -> None:
        """As of `Watcher`."""
        self.name, self.now = name, f"starting {name} once, to see whether it serves the app"
        self.live.refresh()

    def doing(self, name: str, round_: int, what: str, left: float) -> None:
        """As of `Watcher`."""
        self.name, self.now = name, f"round {round_} of {self.study.rounds}: {name}, {what}"
        self._left(left)

    def measured(self, study: Study, name: str, round_: int, left: float) -> None:
        """As of `Watcher`."""
        self.name = ""
        self._left(left)

    def _left(self, left: float) -> None:
        self.left, self.at = left, time.monotonic()
        self.live.refresh()

    def __rich__(self) -> Group:
        """Called by rich, some times a second: the time left runs down in between."""
        table = Table(box=None, pad_edge=False, show_header=False)
        for column in ("left", "right", "right", "left"):
            table.add_column(justify="right" if column == "right" else "left", no_wrap=True)
        rates = [best_rate(result) for result in self.study.results]
        most = max((found[0] for found in rates if found), default=0.0)
        for result, found in zip(self.study.results, rates, strict=True):
            name = Text(result.name, style="bold" if result.name == self.name else "")
            if result.failed:
                table.add_row(name, Text("failed", style="red"), "", "")
            elif found is None:
                table.add_row(name, "", "", "")
            else:
                rounds = f"{len(result.starts)}/{self.study.rounds}"
                drawn = Text(bar(found[0], most, WIDTH), style="green")
                table.add_row(name, f"{found[0]:,.0f}/s", Text(rounds, style="dim"), drawn)
        left = max(self.left - (time.monotonic() - self.at), 0.0)
        status = f"{self.now}; {duration(left)} left" if self.left else self.now
        return Group(table, Text(status, style="cyan"))


@contextmanager
def watching(study: Study) -> Iterator[Watcher]:
    """Show it as long as it lasts."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines(console)
        return
    with Live(console=console, refresh_per_second=1, transient=True) as live:
        screen = Screen(console, study, live)
        live.update(screen)
        yield screen
