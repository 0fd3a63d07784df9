"""What a service has imported and not put to work: the zygotes of its generations, and its spare.

A zygote imports the app once and forks the workers of its generation, now and later: a crash, a recycling or a scale-up
gets the code that was imported, whatever lies on the disk by then. It stays as long as its generation may be wanted
again (`rollback`). Beside it stands its heir, a fork of it that has done nothing: when a zygote is killed, its heir
takes its place, and the generation stays what was imported for it. Where the app cannot be forked, one process stands
by imported, and replaces the first that crashes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trapeze import restart
from trapeze.generation import Generation
from trapeze.lifecycle import Outcome, State
from trapeze.prelude import ChildHandle, ForkListener
from trapeze.process import Process
from trapeze.spec import RestartSpec, ServiceSpec

if TYPE_CHECKING:
    from trapeze.service import Service

__all__ = ["IMPORTS", "Zygotes"]

IMPORTS = frozenset({"zygote", "spare", "heir"})
"""Roles of processes that have imported the app and do not serve."""

_FAILED = "the import failed"

_AGAIN = RestartSpec(intensity=1_000_000, backoff=1.0)
"""How often a zygote or a spare that ended is made anew: it is no worker, and nobody waits for it."""


class Zygotes:
    """Of one service. Decides which are needed; the service spawns and stops them."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.reasons: dict[int, str] = {}
        """Why a generation is not preloaded, once that is known; "" where it is."""
        self.imported: set[int] = set()
        """Generations of which there was a zygote, or is one."""
        self.again: dict[int, float] = {}
        """Generations that were imported once more from what was on the disk then: when, monotonic seconds."""
        self._history = restart.FRESH
        """Of zygotes and spares that ended without having been asked to."""
        self._said = ""
        """What was said last of an import that failed: it is tried again and again, and said once."""

    # ---- what is so ----

    def all(self) -> Sequence[Process]:
        """All of them, in any state."""
        return [process for process in self._service.processes.values() if process.role in IMPORTS]

    def why_not(self, generation: Generation) -> str | None:
        """Why this generation is not preloaded; "" if it is; None as long as nobody knows."""
        spec = generation.spec
        if spec.app is None:
            return "a command"
        if spec.watch:
            return "watch = true"
        return "preload = false" if spec.preload is False else self.reasons.get(generation.number)

    def ready(self, generation: int) -> Process | None:
        """The process from which the next worker of `generation` is made, if there is one."""
        found = [p for p in self._of(generation) if p.role != "heir" and p.state is State.READY]
        return found[0] if found else None

    def heir(self, generation: int) -> Process | None:
        """The process that goes on when the zygote of `generation` is killed, if there is one."""
        return next((p for p in self._of(generation) if p.role == "heir" and p.live and p.pid), None)

    def forks(self, generation: int) -> bool:
        """Has this generation a zygote that lives?"""
        return any(p.role == "zygote" and p.state is State.READY for p in self._of(generation))

    def _of(self, generation: int) -> list[Process]:
        return [process for process in self.all() if process.generation == generation]

    def _there(self, generation: int) -> bool:
        return any(process.role != "heir" for process in self._of(generation))

    # ---- the gate: nothing is spawned before the import is done ----

    @property
    def needed(self) -> bool:
        """Must the wanted generation be imported before it can have workers?"""
        current = self._service.current
        if self.why_not(current) == "":
            return self.ready(current.number) is None
        return self.why_not(current) is None

    @property
    def importing(self) -> bool:
        """Is that under way?"""
        return self._there(self._service.want.generation)

    # ---- what happens ----

    def became_ready(self, process: Process, unsafe: str) -> None:
        """The import is done; `unsafe` says why the app should not be forked."""
        if process.role != "zygote":
            return
        service, generation = self._service, self._service.generations[process.generation]
        if unsafe and generation.spec.preload == "auto":
            process.role = "spare"
            self.reasons[generation.number] = unsafe
            service.host.note(service, f"not preloaded, each worker imports the app by itself: {unsafe}")
            return
        self.reasons[generation.number] = ""
        self.imported.add(generation.number)
        self._said = ""
        if unsafe:
            service.host.note(service, f"preload = true, although forking is not safe: {unsafe}", "warning")

    def ended(self, process: Process, now: float) -> bool:
        """It was reaped. Return whether that is a failure of its generation."""
        service = self._service
        if process.outcome is Outcome.STOPPED:
            return False
        fresh = process.generation != service.good
        if process.role == "zygote" and process.outcome is Outcome.START_FAILED and fresh:
            return True
        if restart.forgiven(process.uptime(now), _AGAIN):
            self._history = restart.FRESH
        self._history = restart.failed(self._history, now, _AGAIN, service.host.jitter())
        if process.role == "heir" or self._inherited(process):
            return False
        if process.outcome is Outcome.START_FAILED:
            what = "a spare worker" if process.role == "spare" else "the app for new workers"
            text = f"cannot import {what}: {process.why}"
            if text != self._said:
                service.host.note(service, text, "warning")
            self._said = text
            if process.role == "zygote":
                self.reasons[process.generation] = f"{_FAILED}: {process.why}"
        elif process.role == "zygote":
            self.reasons.pop(process.generation, None)
            text = f"the zygote of generation {process.generation} ended ({process.why})"
            anew = process.generation == service.want.generation
            after = "the app is imported anew from what is on the disk" if anew else "no rollback to it any more"
            service.host.note(service, f"{text}: {after}", "warning")
        return False

    def _inherited(self, process: Process) -> bool:
        """A zygote has ended: does its heir take its place?"""
        heir = self.heir(process.generation) if process.role == "zygote" else None
        if heir is None:
            return False
        heir.role = "zygote"
        text = f"the zygote of generation {process.generation} ended ({process.why}): its heir takes its place"
        self._service.host.note(self._service, f"{text}, nothing is imported anew", "warning")
        return True

    def kept(self, past: Sequence[int], before: int | None, after: int) -> list[int]:
        """The generations to go back to, when `after` has come after `before`: as far as their code is still there."""
        numbers = [number for number in past if number != after]
        if before is not None and before not in (after, *numbers):
            numbers.append(before)
        numbers = [number for number in numbers if self.forks(number)]
        return numbers[len(numbers) - min(self._service.current.spec.keep_generations, len(numbers)) :]

    # ---- what to do ----

    def make(self, process: Process, generation: Generation, listener: ForkListener) -> ChildHandle:
        """Have a process made: by exec, by its generation's zygote, or of the one that stands by.

        Raises:
            OSError: it could not be made.
        """
        handle = self._make(process, generation, listener)
        if self._may_give_way(process, generation.spec):
            handle.give_way()
        return handle

    def _may_give_way(self, process: Process, spec: ServiceSpec) -> bool:
        """Is it one that imports, while others serve? A niceness that the file names is left as it is."""
        if spec.app is None or spec.nice is not None or self._service.good is None:
            return False
        return process.role in IMPORTS or (process.role == "worker" and process.generation != self._service.good)

    def _make(self, process: Process, generation: Generation, listener: ForkListener) -> ChildHandle:
        service, host = self._service, self._service.host
        if process.role == "pre_start":
            return host.spawn(generation.launch_step(service.name, process.index), listener)
        if process.role == "heir":
            return self._beget(generation, listener)
        if process.role in IMPORTS:
            if process.role == "zygote" and generation.number in self.imported:
                self.again[generation.number] = host.now()
            return host.spawn(generation.launch_import(service.name, process.role), listener)
        process.own = generation.own_sockets()
        launch = generation.for_worker(process.index, process.own).launch(service.name, process.index)
        launch = service.vigil.equip(process, generation, launch)
        source = self.ready(generation.number)
        if source is None or source.handle is None:
            return host.spawn(launch, listener)
        if source.role == "zygote":
            return host.fork(source.handle, launch, listener)
        handle = host.employ(source.handle, launch, listener)
        # Its end is told to the worker it is now.
        del service.processes[source.id]
        return handle

    def _beget(self, generation: Generation, listener: ForkListener) -> ChildHandle:
        zygote = self.ready(generation.number)
        if zygote is None or zygote.handle is None:
            raise ProcessLookupError(0, "the zygote has ended")
        return self._service.host.fork(zygote.handle, generation.launch_import(self._service.name, "zygote"), listener)

    def unwanted(self) -> Sequence[Process]:
        """Those that nobody needs any more."""
        service = self._service
        wanted = {service.want.generation, service.good, *service.past} if service.want.enabled else set()
        numbers = set(service.generations)
        self.reasons = {number: why for number, why in self.reasons.items() if number in numbers}
        self.again = {number: at for number, at in self.again.items() if number in numbers}
        self.imported &= numbers
        # Of what is only kept for a rollback one process is enough.
        heirs = wanted & {service.want.generation, service.good}
        return [p for p in self.all() if p.live and p.generation not in (heirs if p.role == "heir" else wanted)]

    def missing(self, now: float) -> str | None:
        """The role of the process to be started in the background now; None when nothing is missing.

        Only in a service that is whole: the processor is for the workers first.
        """
        service = self._service
        want, spec = service.want, service.current.spec
        if spec.app is None or spec.watch or not want.enabled or not want.count or not service.is_settled():
            return None
        if now < self._history.not_before:
            return None
        if self._there(want.generation):
            childless = self.forks(want.generation) and not any(p.role == "heir" for p in self._of(want.generation))
            return "heir" if childless else None
        why = self.why_not(service.current)
        # An import that failed is tried again: the disk may have been in the middle of a copy.
        if not why or why.startswith(_FAILED):
            return "zygote"
        return "spare" if spec.spare else None

    def due(self, now: float) -> float | None:
        """When `missing` may say something else, monotonic seconds."""
        return self._history.not_before if now < self._history.not_before else None
