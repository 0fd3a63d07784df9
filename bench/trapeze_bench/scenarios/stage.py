"""The stage on which each contestant of a scenario stands alone: started, asked, and left with nothing behind it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

from trapeze_bench import procfs, wire
from trapeze_bench.ending import adopting
from trapeze_bench.peers import Actor, Peer
from trapeze_bench.results import Scenario, Standing
from trapeze_bench.scenarios.code import Code
from trapeze_bench.scenarios.setting import Interrupted, Setting, wanted
from trapeze_bench.served import Served
from trapeze_bench.targets import Failed, free_port, until

__all__ = ["Entry", "Stage", "contest", "entries", "on_stage"]

SETTLE = 10.0
"""Seconds for all workers to have answered once they should."""
BLOCK = 0.02
"""Seconds for which a worker does nothing else while we look who else answers."""
MOST = 64
"""Clients at once that ask who is there."""
APART = 0.003
"""Seconds between such requests: long enough for a worker to accept one, so that the next finds another worker."""


class Entry(NamedTuple):
    """A contestant of a scenario."""

    name: str
    missing: str
    """The line that installs it; "" if it is."""
    act: Callable[[], Standing]


def contest(scenario: Scenario, setting: Setting, contestants: Sequence[Entry]) -> Scenario:
    """Run one after the other; what is wrong with one is told in its row, and the others are run all the same.

    Raises:
        UnknownContestant: `setting.only` has a name that nobody has.
        Interrupted: Ctrl-C; with what there is.
    """
    names = wanted([each.name for each in contestants], setting.only)
    try:
        for each in contestants:
            if each.name in names:
                standing = _standing(each)
                scenario.standings.append(standing)
                setting.say(f"{scenario.name}: {_line(standing, scenario)}")
    except KeyboardInterrupt:
        raise Interrupted(scenario) from None
    scenario.finished = True
    return scenario


def entries(peers: Sequence[Peer], act: Callable[[Peer], Standing]) -> list[Entry]:
    """All of them, each to do the same."""
    return [Entry(peer.name, peer.missing, lambda peer=peer: act(peer)) for peer in peers]  # type: ignore[misc]


def _standing(entry: Entry) -> Standing:
    if entry.missing:
        return Standing(entry.name, verdict="not installed", missing=entry.missing)
    try:
        with adopting():
            return entry.act()
    except Exception as error:  # whatever it is: one contestant never ends the scenario
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
        kind = "" if isinstance(error, Failed) else f"{type(error).__name__}: "
        last = f"; it printed: {lines[-1][:160]}" if len(lines) > 1 else ""  # what a server printed stands below
        return Standing(entry.name, verdict="not measured", note=f"{kind}{lines[0]}{last}")


def _line(standing: Standing, scenario: Scenario) -> str:
    cells = [
        f"{column} {cell:g}" if isinstance(cell, int | float) else f"{column} {cell}"
        for column in scenario.columns
        if (cell := standing.cells.get(column)) is not None
    ]
    details = "; ".join(filter(None, [", ".join(cells), standing.note, standing.missing]))
    return f"{standing.name}: {standing.verdict}" + (f" ({details})" if details else "")


class Stage:
    """A contestant that runs, the code that it serves, and how we look at both."""

    def __init__(self, peer: Peer, actor: Actor, code: Code, home: str) -> None:
        self.peer = peer
        self.actor = actor
        self.code = code
        self.home = home

    @property
    def port(self) -> int:
        """Of 127.0.0.1."""
        return self.actor.server.port

    @property
    def wanted(self) -> int:
        """How many workers there are to be."""
        return self.actor.served.workers

    def answers(
        self, patience: float = 3.0, *, enough: Callable[[dict[int, str]], bool] | None = None
    ) -> dict[int, str]:
        """Who answers with a 200? Asks several at once: each is busy for a moment, so that an idle one takes the next.

        Each time more: one that counts connections (granian) takes none as long as a sibling may take more, although
        it is idle.

        Args:
            patience: seconds; until then it asks again if there is not `enough`.
            enough: default, that so many as there are to be have answered.

        Returns:
            pid -> version of the code, of the last answer of each.
        """
        found: dict[int, str] = {}
        deadline = time.monotonic() + patience
        clients = 2 * self.wanted
        while time.monotonic() < deadline:
            found.update(self._round(clients, deadline))
            clients = min(2 * clients, MOST)
            if enough(found) if enough else len(found) >= self.wanted:
                break
        return found

    def _round(self, clients: int, deadline: float) -> Iterator[tuple[int, str]]:
        sockets = []
        for _ in range(clients):
            with suppress(OSError):
                sockets.append(wire.asked(("127.0.0.1", self.port), f"/block?{BLOCK}", 1.0))
            time.sleep(APART)
        for sock in sockets:
            try:
                answer = wire.answer(sock, max(deadline - time.monotonic(), 0.05))
            except OSError:
                continue
            if answer.status == 200:
                words = answer.body.decode().split()
                yield int(words[-1]), words[0]

    def settled(self, old: Sequence[int] = ()) -> bool:
        """Are there as many workers as there are to be, and none of the old ones?"""
        now = self.actor.workers()
        return len(now) == self.wanted and not set(now) & set(old)

    def new_only(self, old: Sequence[int], patience: float) -> bool:
        """Wait until all of the old workers have ended, and as many new ones are there."""
        ages = {pid: procfs.born(pid) for pid in old}

        def over() -> bool:
            gone = not any(at is not None and procfs.runs(pid, at) for pid, at in ages.items())
            return (gone and self.settled(old)) or not self.actor.lives

        return until(over, "", patience=patience, must=False, pause=0.02) and self.actor.lives


@contextmanager
def on_stage(peer: Peer, setting: Setting, *modules: str) -> Iterator[Stage]:
    """Start one and wait until all of its workers have answered; stop it at the end.

    Args:
        peer: who.
        setting: how many workers.
        modules: of the app, the first has the app itself; default: the shop.

    Raises:
        Failed: it did not come up.
    """
    modules = modules or ("shop", "shop_views")
    with (
        tempfile.TemporaryDirectory(prefix="trapeze-code-") as directory,
        tempfile.TemporaryDirectory(prefix="trapeze-run-") as home,
    ):
        code = Code(directory, *modules)
        served = Served(f"{modules[0]}:{peer.interface}", peer.interface, setting.workers, app_dir=code.directory)
        with peer.launch(served, free_port(), home) as actor:
            actor.server.first_answer()
            stage = Stage(peer, actor, code, home)
            until(stage.settled, f"{peer.name}: {stage.wanted} workers", patience=SETTLE, must=False, pause=0.02)
            if modules[0] == "shop":
                stage.answers(SETTLE)
            yield stage
