"""One run: a group of backends, load on them, operations, the end with a queue; and what is to be said of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.chaos.cases import Case, queues
from tests.chaos.driver import Driver
from tests.chaos.judge import Verdict, floor_breaches, judge, lives, mixed_generations, shot, table
from tests.chaos.settings import SECONDS, SEED
from tests.chaos.watch import Watch
from tests.chaos.world import Makers, World

__all__ = ["QUEUED", "Run"]

QUEUED = 8
"""Requests that wait at each address when a service stops; its workers are busy with the first of them."""


class Run:
    """Everything that happens to one group of backends, from the start of the supervisor to its end."""

    def __init__(
        self,
        cases: list[Case],
        makers: Makers,
        script: Callable[[Driver], None],
        *,
        seed: int = SEED,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        self.cases = cases
        self.seed = seed
        self.world = world = World(cases, makers, seed=seed, settings=settings or {})
        self.watch = Watch(world.server)
        self.driver = Driver(world, self.watch, seed)
        try:
            script(self.driver)
            world.load.order(do="pause")
            self.exit_code = self._stop()
            records = world.load.quit()
            self.client_errors = world.load.errors()
        finally:
            world.load.close()
            world.server.close()
            self.watch.close()
        alive = lives(self.watch.events, self.watch.offset)
        split = frozenset(case.name for case in cases if case.split)
        self.verdicts: list[Verdict] = judge(records, world.executed(), alive, self.driver.kills(), split)

    def _stop(self) -> int:
        """Stop with requests in the listen queue: more than the workers can take at once."""
        for shop in self.world.shops:
            self.driver.floor(shop, 0)
        for case in self.cases:
            for flow in queues(case, self.world.places[case.name], 0.2):
                self.world.load.order(do="burst", flow=flow, count=QUEUED)
        return self.world.server.stop(60)

    def lost(self) -> list[Verdict]:
        """The requests that were lost."""
        return [each for each in self.verdicts if each.lost]

    def breaches(self) -> list[str]:
        """Moments with fewer ready workers than promised."""
        return floor_breaches(self.watch.events, self.driver.floors, [pid for _, pid, _ in self.driver.killed])

    def wrong(self) -> list[str]:
        """Everything that was not as promised."""
        found = list(self.driver.wrong)
        found += [f"lost: {each.record}" for each in self.lost()]
        found += self.breaches()
        found += shot(self.watch.events, [pid for _, pid, _ in self.driver.killed])
        found += mixed_generations((each.record for each in self.verdicts), self.driver.unpinned)
        found += [self.client_errors] if self.client_errors else []
        found += [f"the supervisor exited with {self.exit_code}"] if self.exit_code else []
        return found

    def report(self, more: list[str]) -> str:
        """The table, what was done, and how to do it again."""
        wrong = self.wrong()
        done = ", ".join(f"{name} {count}" for name, count in sorted(self.driver.done.items()))
        lines = ["", *table(self.verdicts), *more, f"done: {done}"]
        recycled = sum(event["why"].startswith("recycled") for event in self.watch.events if event["to"] == "STOPPING")
        lines += [f"{self.world.load.closed_idle} idle connections closed in order, {recycled} workers recycled"]
        lines += [f"wrong: {each}" for each in wrong]
        requests, lost = len(self.verdicts), len(self.lost())
        lines.append(
            f"chaos: {', '.join(case.name for case in self.cases)}: {requests} requests, {lost} lost, "
            f"{sum(each.excepted for each in self.verdicts)} inside killed workers, {len(wrong)} wrong; "
            f"again: make chaos SECONDS={SECONDS:g} SEED={self.seed}"
        )
        return "\n".join(lines)

    def dump(self, directory: Path) -> None:
        """Write down everything that is known, for a look afterwards."""
        directory.mkdir(exist_ok=True)
        events = [json.dumps(event | {"at": event["at"] + self.watch.offset}) for event in self.watch.events]
        lost = [each.record.line() for each in self.verdicts if each.record.outcome != "ok"]
        proxies = [path.read_text() for path in sorted(self.world.directory.glob("nginx*/error.log"))]
        text = "\n".join([*self.driver.log, *events, *lost, *proxies])
        (directory / f"{self.seed}-{self.cases[0].name}").write_text(text + "\n" + self.world.server.output)
