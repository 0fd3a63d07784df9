"""One supervisor with several web services, nginx before each, and the load client: what the driver acts upon."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests.chaos.cases import Case, Places, flows
from tests.chaos.records import Flow, Record
from tests.support.nginx import Nginx
from tests.support.server import ROOT, Trapeze, clean_environment

__all__ = ["GRACE", "HEARTBEAT", "Load", "Shop", "World"]

GRACE = 0.5
"""drain_grace of the services, seconds."""
HEARTBEAT = 2.0
"""heartbeat_timeout of the services, seconds."""
CLIENT_TIMEOUT = 20.0

COUNTED = (ROOT / "tests" / "support" / "apps" / "counted.py").read_text()

SERVICE = """
[sockets.{name}]
bind = ["127.0.0.1:0", "unix:{unix}"]

[sockets.{name}-moving]
bind = {moving}
mode = "{mode}"

[services.{name}]
app = "counted:{interface}"
app_dir = "{directory}"
socket = ["{name}", "{name}-moving"]
backend = "{backend}"
options = {options}
workers = 2
health = "/health"
env = {{ CHAOS_RECORD = "{record}" }}
restart = {{ intensity = 2, period = 30, healthy = 0.2, backoff = 0.05, cap = 1 }}
{settings}
"""


class Shop:
    """One service as its file describes it; the driver changes it."""

    def __init__(self, case: Case, directory: Path) -> None:
        self.case = case
        self.name = case.name
        self.directory = directory / case.name
        self.directory.mkdir()
        self.record = self.directory / "record"
        self.record.touch()
        self.unix = f"{directory}/{case.name}.s"
        self.moving = (f"{directory}/{case.name}.a", f"{directory}/{case.name}.b")
        self.version = 0
        self.backend, self.options = case.backend, case.options
        self.settings: dict[str, object] = {
            "drain_grace": GRACE, "stop_timeout": 20, "heartbeat_timeout": HEARTBEAT, "start_timeout": 60,
        }  # fmt: skip
        self.bound = [self.moving[0]]
        self.mode = "0600"
        shutil.copy(ROOT / "tests" / "support" / "apps" / "nativeapp.py", self.directory)
        self.write()

    def write(self, *, health: int = 200, broken: str = "") -> None:
        """Put the next version of the code on the disk, at once."""
        self.version += 1
        text = COUNTED.replace('CODE = "1"', f'CODE = "{self.version}"').replace("HEALTH = 200", f"HEALTH = {health}")
        fresh = self.directory / "counted.new"
        fresh.write_text(text + broken)
        fresh.rename(self.directory / "counted.py")

    @property
    def changed(self) -> bool:
        """Does another server than its own run it?"""
        return (self.backend, self.options) != (self.case.backend, self.case.options)

    def text(self) -> str:
        """Its part of the configuration."""
        settings = dict(self.settings)
        if self.case.keeps or self.changed:
            # Longer than nginx keeps its own: else each idle connection is a race that no server can win.
            settings["keepalive"] = 75
        return SERVICE.format(
            name=self.name,
            unix=self.unix,
            moving=json.dumps([f"unix:{path}" for path in self.bound]),
            mode=self.mode,
            interface=self.case.interface,
            directory=self.directory,
            backend=self.backend,
            options=self.options,
            record=self.record,
            settings="\n".join(f"{key} = {json.dumps(value)}" for key, value in settings.items()),
        )

    def executed(self) -> dict[str, list[int]]:
        """Which pids have executed each request."""
        found = defaultdict(list)
        for line in self.record.read_text().splitlines():
            ident, _, pid = line.partition(" ")
            found[ident].append(int(pid))
        return found


class Load:
    """The client, in its process."""

    def __init__(self, directory: Path, flows: list[Flow], *, seed: int, timeout: float = CLIENT_TIMEOUT) -> None:
        self._records = directory / "records"
        plan = directory / "plan"
        plan.write_text(json.dumps([seed, timeout, flows]))
        self.closed_idle = 0
        with open(directory / "load.err", "wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.load", str(plan), str(self._records)],
                cwd=ROOT, env=clean_environment() | {"PYTHONPATH": str(ROOT)}, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=err, start_new_session=True,
            )  # fmt: skip
        self._errors = directory / "load.err"

    def order(self, timeout: float = CLIENT_TIMEOUT + 20, **what: Any) -> None:
        """Tell it something, and wait until it is done."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(what).encode() + b"\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], timeout)
        answer = self.process.stdout.readline() if ready else b""
        assert answer, f"the client did not {what['do']}: {self._errors.read_text()}"
        self.closed_idle = json.loads(answer)["closed_idle"]

    def quit(self) -> list[Record]:
        """Let it end; what it has seen."""
        self.order(do="quit")
        self.close()
        return [Record.read(line) for line in self._records.read_text().splitlines()]

    def close(self) -> None:
        """Wait for its end, or make it end."""
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def errors(self) -> str:
        """What it has said on stderr; nothing is right."""
        return self._errors.read_text()


class Makers(NamedTuple):
    """Fixtures of the tests."""

    trapeze: Callable[..., Trapeze]
    nginx: Callable[..., Nginx]
    directory: Path


class World:
    """Everything that runs."""

    def __init__(
        self, cases: list[Case], makers: Makers, *, seed: int, factor: float = 1.0, settings: Mapping[str, object] = {}
    ) -> None:
        self.directory = makers.directory
        self.shops = [Shop(case, makers.directory) for case in cases]
        for shop in self.shops:
            shop.settings |= settings
        self.file = self.directory / "trapeze.toml"
        self.configure()
        # The supervisor binds all sockets itself: those of somebody else it does not see to their end.
        self.server = makers.trapeze("up", "-c", str(self.file), cwd=makers.directory)
        self.server.expect_error(".*")  # broken code is part of it; what may not happen is looked at in the events
        self.server.ready(60)
        self.places = {}
        bound = {
            each["name"]: each["address"] for each in self.server.status()["sockets"] if ":/" not in each["address"]
        }
        for shop in self.shops:
            kept = makers.nginx(f"unix:{shop.unix}", keepalive=8)
            plain = makers.nginx(bound[shop.name])
            self.places[shop.name] = Places(
                bound[shop.name],
                f"unix:{shop.unix}",
                tuple(f"unix:{path}" for path in shop.moving),
                kept.listener.address,
                plain.listener.address,
            )
        all_flows = [flow for shop in self.shops for flow in flows(shop.case, self.places[shop.name], factor)]
        self.load = Load(self.directory, all_flows, seed=seed)

    def configure(self) -> None:
        """Write the file anew."""
        fresh = self.file.with_suffix(".new")
        fresh.write_text("".join(shop.text() for shop in self.shops))
        os.replace(fresh, self.file)

    def executed(self) -> dict[str, list[int]]:
        """Which pids have executed each request, of all services."""
        found: dict[str, list[int]] = {}
        for shop in self.shops:
            found |= shop.executed()
        return found
