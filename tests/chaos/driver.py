"""Does things to a world in an order that a seed decides, by the real command line, and notes what was not right."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import httpx

from tests.chaos.judge import Kill
from tests.chaos.watch import Watch
from tests.chaos.world import HEARTBEAT, Shop, World
from tests.support.server import Result

__all__ = ["OPERATIONS", "Driver"]

AGE = 0.6
"""Seconds that a worker has been ready before it is killed: `healthy` of the services and some more, so that it is
replaced at once and is not the fault of its generation."""

BREAKS = {
    "syntax error": "\ndef (\n",
    "import error": "\nimport no_such_module_at_all\n",
    "exits": "\nraise SystemExit(7)\n",
    "unhealthy": "",
}


class Driver:
    """Deals operations to the services of a world."""

    def __init__(self, world: World, watch: Watch, seed: int) -> None:
        self.world = world
        self.watch = watch
        self.random = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.again: list[str] = []
        """Operations that were not possible when their turn came."""
        self.wrong: list[str] = []
        self.floors: list[tuple[float, str, int]] = []
        self.counts = {shop.name: 2 for shop in world.shops}
        self.killed: list[tuple[str, int, float]] = []
        self.frozen: dict[str, tuple[int, float]] = {}
        """Pid and deadline of the worker of a service that was stopped by SIGSTOP."""
        self.unpinned: set[tuple[str, str]] = set()
        """Services and generations that take what lies on the disk when a worker is replaced."""
        self.log: list[str] = []
        for shop in world.shops:
            self.floor(shop, 2)

    # -- the deck

    def run(self, seconds: float, operations: Sequence[str]) -> None:
        """Deal these for so many seconds; the first round is dealt to its end: all is done, and each service rolled."""
        end = time.monotonic() + seconds
        deck: list[tuple[str, Shop]] = []
        first = True
        while first or time.monotonic() < end:
            if not deck:
                deck = self._shuffled(operations)
            name, shop = deck.pop()
            first = first and bool(deck)
            self.deal(name, shop)
            threading.Event().wait(self.random.uniform(0.05, 0.5))  # not for something: time in which load comes
        for _ in range(20):  # what was never possible is tried until it is
            if not (left := sorted(set(self.again) - set(self.done))):
                break
            self.deal(left[0], self.random.choice(self.world.shops))
            threading.Event().wait(0.2)
        self.wrong += [f"never done: {name}" for name in operations if not self.done[name]]
        for shop in self.world.shops:
            self._thawed(shop)

    def _shuffled(self, operations: Sequence[str]) -> list[tuple[str, Shop]]:
        """Every operation once, and a reload of every service."""
        shops = self.world.shops
        deck = [("reload", shop) for shop in shops]
        deck += [(name, self.random.choice(shops)) for name in operations if name != "reload"]
        self.random.shuffle(deck)
        return deck

    def deal(self, name: str, shop: Shop) -> None:
        """One operation on one service."""
        self._thawed(shop)
        self.log.append(f"{time.monotonic():.3f} {name} {shop.name}")
        before = len(self.wrong)
        try:
            done = OPERATIONS[name](self, shop)
        except (TimeoutError, httpx.TransportError) as error:
            self.wrong.append(f"{name} {shop.name}: {error}")
            server = self.world.server
            assert server.process.poll() is None, f"the supervisor ended: {self.wrong}\n{server.output[-3000:]}"
            return
        self._pins()
        if done is False:
            self.again.append(name)
        else:
            self.done[name] += 1
        self.log.append(f"{time.monotonic():.3f}   " + (" | ".join(self.wrong[before:]) or "as expected"))

    # -- helpers

    def _pins(self) -> None:
        """Note which generations are not pinned: only those that are told not to be."""
        for service in self.world.server.status()["services"]:
            if not service["pinned"]:
                self.unpinned.add((service["name"], str(service["generation"])))
                if "preload = false" not in service["pinned_why"]:
                    self.wrong.append(f"{service['name']}: not preloaded: {service['pinned_why']}")

    def ctl(self, *args: str, code: int = 0) -> Result:
        """Run a command that must end with this exit code."""
        result = self.world.server.ctl(*args, timeout=150)
        if result.code != code:
            said = "\n    ".join(result.err.splitlines()[-12:])
            self.wrong.append(f"trapeze {' '.join(args)}: exit {result.code}, not {code}:\n    {said}")
        return result

    def floor(self, shop: Shop, count: int) -> None:
        """From now on at least so many are ready."""
        self.floors.append((time.time(), shop.name, count))

    def service(self, shop: Shop) -> dict[str, Any]:
        """What `status` says of it."""
        return self.world.server.service(shop.name)

    def victim(self, shop: Shop) -> dict[str, Any] | None:
        """A worker that has been ready for a while."""
        now = time.time()
        found = [p for p in self.service(shop)["processes"] if p["state"] == "READY" and now - p["since"] > AGE]
        return self.random.choice(found) if found else None

    def _thawed(self, shop: Shop) -> None:
        """Wait until the one that was stopped has been found and replaced."""
        if shop.name not in self.frozen:
            return
        pid, deadline = self.frozen.pop(shop.name)
        try:
            self.watch.ended(pid, max(0.1, deadline - time.monotonic()))
        except TimeoutError:
            os.kill(pid, signal.SIGCONT)
            self.wrong.append(f"{shop.name}: pid {pid} was stopped by SIGSTOP and not replaced")

    # -- operations; False: it could not be done, and does not count

    def reload(self, shop: Shop) -> None:
        """New code."""
        shop.write()
        self.ctl("reload", shop.name)

    def reload_all(self, shop: Shop) -> None:
        """New code for everybody."""
        for each in self.world.shops:
            self._thawed(each)
            each.write()
        self.ctl("reload")

    def broken(self, shop: Shop) -> None:
        """New code that cannot work: exit 1, nothing changes."""
        how = self.random.choice(list(BREAKS))
        before = self.service(shop)["generation"]
        shop.write(health=500 if how == "unhealthy" else 200, broken=BREAKS[how])
        self.ctl("reload", shop.name, code=1)
        after = self.service(shop)
        if after["generation"] != before or after["ready"] < self.counts[shop.name]:
            self.wrong.append(f"{shop.name}: {how}: {after['ready']} ready of generation {after['generation']}")
        shop.write()
        if after["generation"] != before:
            self.ctl("reload", shop.name)

    def broken_file(self, shop: Shop) -> None:
        """A configuration that cannot be read: exit 2, nothing changes."""
        text = self.world.file.read_text()
        self.world.file.write_text(text + "\n[services.web\n")
        self.ctl("reload", code=2)
        self.world.file.write_text(text)

    def rollback(self, shop: Shop) -> None:
        """Back to what was before, where that was kept; else exit 1."""
        service = self.service(shop)
        self.ctl("rollback", shop.name, code=0 if service["kept"] else 1)
        if service["kept"] and self.service(shop)["generation"] == service["generation"]:
            self.wrong.append(f"{shop.name}: generation {service['generation']} as before the rollback")

    def scale(self, shop: Shop) -> None:
        """More or fewer."""
        old = self.counts[shop.name]
        new = self.random.choice([count for count in (1, 2, 3, 4) if count != old])
        self.floor(shop, min(old, new))
        self.ctl("scale", shop.name, str(new))
        self.counts[shop.name] = new
        self.floor(shop, new)

    def restart(self, shop: Shop) -> bool:
        """A new process in the place of one."""
        if victim := self.victim(shop):
            self.ctl("restart", shop.name, "--process", str(victim["id"]))
        return victim is not None

    def kill(self, shop: Shop) -> bool:
        """SIGKILL for a worker."""
        if victim := self.victim(shop):
            self.killed.append((shop.name, victim["pid"], time.monotonic()))
            os.kill(victim["pid"], signal.SIGKILL)
        return victim is not None

    def kill_half_copied(self, shop: Shop) -> bool:
        """SIGKILL while the code on the disk is broken: the generation that serves is pinned."""
        victim = self.victim(shop)
        if victim is None or not self.service(shop)["pinned"]:
            return False
        shop.write(broken=BREAKS["syntax error"])
        self.killed.append((shop.name, victim["pid"], time.monotonic()))
        os.kill(victim["pid"], signal.SIGKILL)
        self.watch.ended(victim["pid"])
        self.world.server.ready(30)
        shop.write()
        return True

    def kill_in_reload(self, shop: Shop) -> None:
        """SIGKILL for an old worker while new ones come: the reload succeeds all the same."""
        self._during(shop, self.kill)

    def scale_in_reload(self, shop: Shop) -> None:
        """A scale while new workers come."""
        self._during(shop, self.scale)

    def _during(self, shop: Shop, operation: Callable[[Shop], bool | None]) -> None:
        thread = threading.Thread(target=self.reload, args=(shop,), name="reload")
        thread.start()
        threading.Event().wait(self.random.uniform(0.1, 0.8))
        operation(shop)
        thread.join()

    def freeze(self, shop: Shop) -> bool:
        """SIGSTOP for a worker: its heart is found not to beat, and it is replaced."""
        if victim := self.victim(shop):
            os.kill(victim["pid"], signal.SIGSTOP)
            self.frozen[shop.name] = (victim["pid"], time.monotonic() + 3 * HEARTBEAT + 10)
            self.killed.append((shop.name, victim["pid"], -1.0))
        return victim is not None

    def recycle(self, shop: Shop) -> None:
        """Workers that leave after some requests, from now on until the next time."""
        shop.settings["max_requests"] = 0 if shop.settings.get("max_requests") else 40
        start = len(self.watch.events)
        self._configured(shop)
        if shop.settings["max_requests"]:
            self.watch.wait(
                lambda event: event["service"] == shop.name and event["why"].startswith("recycled"),
                f"a worker of {shop.name} to be recycled",
                start=start,
            )

    def preload(self, shop: Shop) -> None:
        """One import for all workers, or one for each."""
        shop.settings["preload"] = self.random.choice([True, False, "auto"])
        self._configured(shop)

    def backend(self, shop: Shop) -> None:
        """Another server, or other options of the only one for such an app; or back to its own."""
        if shop.changed:
            shop.backend, shop.options = shop.case.backend, shop.case.options
        elif shop.case.interface == "asgi":
            shop.backend, shop.options = ("gunicorn" if shop.backend == "uvicorn" else "uvicorn"), "{}"
        elif shop.case.interface == "aiohttp":
            shop.options = "{ loop = 'asyncio' }"
        elif shop.case.interface == "tornado":
            shop.options = "{ chunk_size = 32768 }"
        else:
            shop.backend, shop.options = "gunicorn", "{ worker_class = 'gthread', threads = 3 }"
        self._configured(shop)

    def socket(self, shop: Shop) -> None:
        """A socket is added, moved, or gets another mode."""
        first, second = shop.moving
        ways = [[first], [second], [first, second]]
        shop.bound = self.random.choice([way for way in ways if way != shop.bound])
        self._configured(shop)

    def mode(self, shop: Shop) -> None:
        """A socket gets another mode."""
        shop.mode = "0660" if shop.mode == "0600" else "0600"
        self._configured(shop)
        for path in shop.bound:
            if (found := os.stat(path).st_mode & 0o777) != int(shop.mode, 8):
                self.wrong.append(f"{path} has mode {found:04o}, not {shop.mode}")

    def _configured(self, shop: Shop) -> None:
        self.world.configure()
        self.ctl("reload", shop.name)

    def upgrade(self, shop: Shop) -> None:
        """The supervisor becomes another program: same pid, same workers."""
        for each in self.world.shops:
            self._thawed(each)
        before = self.world.server.status()
        self.ctl("upgrade")
        after = self.world.server.status()
        if after["pid"] != before["pid"]:
            self.wrong.append(f"upgrade: pid {after['pid']}, was {before['pid']}")

    # -- afterwards

    def kills(self) -> list[Kill]:
        """Each with the time in which it can have cost requests."""
        found = []
        for name, pid, at in self.killed:
            events = [event for event in self.watch.events if event["service"] == name and event["pid"] == pid]
            ends = [event["at"] for event in events if event["to"] == "EXITED"]
            shots = [event["at"] for event in events if event["to"] == "KILLING"]
            if ends:
                start = at if at >= 0 else min(shots or ends) + self.watch.offset - 0.1
                found.append(Kill(name, pid, start, ends[0] + self.watch.offset))
        return found


OPERATIONS: dict[str, Callable[[Driver, Shop], bool | None]] = {
    "reload": Driver.reload,
    "reload all": Driver.reload_all,
    "broken reload": Driver.broken,
    "broken file": Driver.broken_file,
    "rollback": Driver.rollback,
    "scale": Driver.scale,
    "restart": Driver.restart,
    "kill -9": Driver.kill,
    "kill -9, half copied": Driver.kill_half_copied,
    "kill -9 in a reload": Driver.kill_in_reload,
    "scale in a reload": Driver.scale_in_reload,
    "SIGSTOP": Driver.freeze,
    "recycle": Driver.recycle,
    "preload": Driver.preload,
    "backend": Driver.backend,
    "socket": Driver.socket,
    "mode": Driver.mode,
    "upgrade": Driver.upgrade,
}
