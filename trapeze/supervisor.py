"""The supervisor: the only thing that knows the configuration and all services.

It holds the verbs, what commands, signals and the file watch may ask for, and gives readers their snapshot. A verb only
changes what is wanted; the machine does the rest.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from trapeze import report
from trapeze.back import give_back, roll_back
from trapeze.config import Resolved
from trapeze.errors import TrapezeError, UnknownName
from trapeze.events import Clock
from trapeze.fronting import Fronting
from trapeze.generation import Generation
from trapeze.limits import signal_name
from trapeze.machine import Machine
from trapeze.output import Journal
from trapeze.process import Process
from trapeze.report import Progress
from trapeze.service import Service
from trapeze.sockets import ListenSocket
from trapeze.status import Snapshot, Ticket, Transition
from trapeze.swap import Swap
from trapeze.sweep import sweep
from trapeze.watching import Watch

__all__ = ["Progress", "Supervisor"]

Upgrader = Callable[[str, str | None], Awaitable[Mapping[str, object]]]
"""Who asks, and the Python to go on with (None: the same); returns what the new program will be."""


class Supervisor:
    """See the module. All of it runs on the event loop's thread; only `reload` and `changed` are coroutines."""

    def __init__(
        self,
        resolved: Resolved,
        sockets: Mapping[str, Sequence[ListenSocket]],
        *,
        load: Callable[[], Resolved],
        version: str,
        pid: int,
        fail_fast: bool = True,
        terminal: bool = False,
        nofile: tuple[int, int] | None = None,
        clock: Clock | None = None,
    ) -> None:
        clock = clock or Clock(time.monotonic, time.time() - time.monotonic())
        self.resolved = resolved
        self.sockets: dict[str, Sequence[ListenSocket]] = dict(sockets)
        self.journal = Journal()
        self.machine = Machine(clock, self.journal, fail_fast=fail_fast, sweep=self._sweep)
        self.machine.chronicle.suggests = resolved.origins.get("services.web.app") == "argument APP"
        self.machine.give_back = lambda service, failed: give_back(self, service, failed)
        self.image, self.image_since = 1, clock.now()
        """How many programs this process has been (see `upgrade`), and since when it is this one (monotonic)."""
        self.upgrade: Upgrader | None = None
        """The verb, once the control door is open."""
        self.load = load
        self.resident: report.Resident = lambda pid: None
        """Set once the library that knows is imported, which is not before the workers are on their way."""
        self._identity = (version, pid)
        self.terminal = terminal
        self.nofile = nofile
        self._reloading = asyncio.Lock()
        self.at_reload: list[Callable[[], None]] = []
        """Called at the beginning of each reload, also of one that will be refused."""
        self._watches: dict[str, Watch] = {}
        self.machine.at_shutdown.append(self._close_watches)
        self.fronting = Fronting(self)
        """The nginx that is one of the services."""
        self.open: set[ListenSocket] = {held for group in self.sockets.values() for held in group}
        """All listening sockets we hold, also those that only an old generation uses."""

    # ---- starting and ending ----

    def begin(self) -> None:
        """Create the services of the configuration and let them start.

        Raises:
            TrapezeError: what a service is to read cannot be written.
        """
        self.fronting.begin()
        for name, spec in self.resolved.config.services.items():
            self.add(name)
            if spec.enabled:
                self.machine.first.add(name)
        self.machine.react()
        self.watch()

    def watch(self) -> None:
        """Have a file watch for each service that wants one, and for no other."""
        if self.stopping:
            return
        wanted = {name for name, spec in self.resolved.config.services.items() if spec.watch}
        for name in self._watches.keys() - wanted:
            self._watches.pop(name).close()
        for name in wanted - self._watches.keys():
            try:
                self._watches[name] = Watch(self.machine, name, self.services[name].current, self.reload)
            except OSError as error:
                self.machine.chronicle.note(f"{name}: cannot watch for changes: {error}", service=name, level="error")

    def _close_watches(self) -> None:
        while self._watches:
            self._watches.popitem()[1].close()

    def add(self, name: str) -> None:
        """Take up a service of the configuration."""
        leaving = self.services.get(name)
        if leaving is None:
            self.machine.add(Service(name, self.machine, self.make_generation(name, 1)))
            return
        # Taken out of the file and put back before it was gone: another object would not know what still runs.
        generation = self.make_generation(name, leaving.top + 1)
        leaving.adopt(generation)
        leaving.waiting_for = tuple(generation.spec.after)
        if generation.spec.enabled:
            leaving.enable()
        self.machine.add(leaving)

    def make_generation(self, name: str, number: int) -> Generation:
        """A generation of a service, from the present configuration."""
        spec = self.resolved.config.services[name]
        return Generation.make(
            number,
            name,
            spec,
            self.sockets,
            self.resolved.directory,
            listens=self.resolved.config.sockets,
            terminal=self.terminal and spec.app is not None,
            nofile=self.nofile,
            generated=self.fronting.path_for(spec),
        )

    def hold(self, resolved: Resolved, sockets: Mapping[str, Sequence[ListenSocket]]) -> None:
        """Go by another configuration; sockets that nobody uses any more are closed when the last user is gone."""
        self.resolved = resolved
        self.sockets = dict(sockets)
        self.open.update(held for group in sockets.values() for held in group)

    def _sweep(self) -> None:
        sweep(self.open, self.sockets.values(), self.services.values(), self.machine.chronicle.note)

    def close(self) -> None:
        """Close every listening socket: the last thing that happens."""
        self.fronting.close()
        for held in self.open:
            held.close()
        self.open = set()

    @property
    def services(self) -> Mapping[str, Service]:
        """All services by name."""
        return self.machine.services

    @property
    def error(self) -> TrapezeError | None:
        """Why the supervisor ends with exit 1, if it does."""
        return self.machine.error

    @property
    def stopping(self) -> bool:
        """Is everything on its way down?"""
        return self.machine.stopping

    async def wait_finished(self) -> None:
        """Return when everything has stopped and nothing is left of it."""
        await self.machine.finished.wait()
        await self.machine.end_orphans()

    @property
    def reloading(self) -> asyncio.Lock:
        """Held while a reload reads, checks and binds; the rolling itself comes after."""
        return self._reloading

    def reap_strays(self) -> None:
        """SIGCHLD: reap orphans that came to us."""
        self.machine.reap_strays()

    # ---- the verbs ----

    def _named(self, names: Sequence[str] | None) -> list[Service]:
        for name in names or ():
            if name not in self.services:
                known = ", ".join(sorted(self.services)) or "none"
                raise UnknownName(f"no service {name!r}", hint=f"services: {known}")
        return [self.services[name] for name in (names if names else self.services)]

    def _ticket(self, verb: str, services: Collection[Service], who: str, detail: str = "") -> Ticket:
        names = ", ".join(service.name for service in services)
        verb_and_names = f"{verb} {names}" if names else verb
        self.machine.chronicle.note(f"{verb_and_names}{detail}, asked by {who}")
        generations = {service.name: service.want.generation for service in services}
        running = frozenset(service.name for service in services if service.want.enabled)
        return Ticket(verb, self.machine.chronicle.log.revision, generations, running)

    async def reload(self, names: Sequence[str] | None, who: str) -> Ticket:
        """Read the configuration again and roll to it.

        Raises:
            ConfigError: it has problems; nothing has changed.
            BindError: a new socket cannot be had; nothing has changed.
            UnknownName: no such service.
            TrapezeError: everything is stopping.
        """
        async with self._reloading:
            for call in self.at_reload:
                call()
            swap = await Swap.prepare(self, self.load, names)
            if self.stopping:  # since we looked
                swap.discard()
                raise TrapezeError("everything is stopping: nothing is reloaded any more")
            touched = swap.apply()
            self.watch()
            ticket = self._ticket("reload", touched, who)
            swap.tell(ticket)
            return ticket

    def rollback(self, name: str, who: str) -> Ticket:
        """Go back to the generation that served before, whose code is still in memory; the disk is not read.

        Raises:
            UnknownName: no such service.
            NothingKept: no earlier generation is there.
        """
        service = self._named([name])[0]
        target = roll_back(self, service)
        return self._ticket("rollback", [service], who, f" to generation {target}")

    def restart(self, names: Sequence[str] | None, who: str, process: int | None = None) -> Ticket:
        """Replace processes by new ones of the same generation: all of a service's, or one by its id."""
        services = self._named(names)
        if process is not None:
            self._process(services[0], process)
        for service in services:
            service.restart(process)
        return self._ticket("restart", services, who, f" process {process}" if process is not None else "")

    def scale(self, name: str, who: str, *, count: int | None = None, delta: int = 0) -> Ticket:
        """Want `count` processes, or `delta` more than now. TrapezeError: there are not so many to take away."""
        service = self._named([name])[0]
        wanted = (service.want.count if count is None else count) + delta
        if wanted < 0:
            raise TrapezeError(f"{name} has {service.want.count}, which cannot be {-delta} less")
        service.scale(wanted)
        return self._ticket("scale", [service], who, f" to {wanted}")

    def start(self, names: Sequence[str] | None, who: str) -> Ticket:
        """Want services to run."""
        services = self._named(names)
        for service in services:
            if not service.want.enabled:
                others = [self.services[other] for other in service.current.spec.after if other in self.services]
                service.waiting_for = tuple(other.name for other in others if not report.is_up(other))
            service.enable()
        return self._ticket("start", services, who)

    def stop(self, names: Sequence[str] | None, who: str) -> Ticket:
        """Want services to stop; the supervisor itself goes on."""
        services = self._named(names)
        for service in services:
            service.disable()
        return self._ticket("stop", services, who)

    def signal(self, name: str, signum: int, who: str, process: int | None = None) -> Ticket:
        """Send a signal to a service's processes, or to one by its id. TrapezeError: there is none."""
        service = self._named([name])[0]
        targets = [self._process(service, process)] if process is not None else service.workers()
        if not any(target.handle for target in targets):
            raise TrapezeError(f"{name} has no process to send it to")
        for target in targets:
            if target.handle is not None:
                target.handle.send(signum)
        return self._ticket("signal", [service], who, f" by {signal_name(signum)}")

    def shutdown(self, who: str, *, fast: bool = False) -> None:
        """Stop everything: web services first, then the others in reverse order. `fast` kills what is left."""
        if fast or not self.stopping:
            self.machine.chronicle.note(f"stopping{' fast' if fast else ''}, asked by {who}")
        self.machine.shutdown()
        if fast:
            for service in self.services.values():
                service.disable()
                service.force()

    @staticmethod
    def _process(service: Service, id: int) -> Process:
        try:
            return service.processes[id]
        except KeyError:
            known = ", ".join(f"#{worker.id} [{worker.index}]" for worker in service.workers()) or "none"
            raise UnknownName(f"{service.name} has no process #{id}", hint=f"processes: {known}") from None

    # ---- what readers get ----

    @property
    def revision(self) -> int:
        """Of the last change."""
        return self.machine.chronicle.log.revision

    def transitions(self, since: int) -> list[Transition]:
        """What happened after a revision, as far as it is still known."""
        return self.machine.chronicle.log.since(since)

    async def changed(self, revision: int) -> None:
        """Return once something after `revision` has happened."""
        await self.machine.chronicle.log.changed(revision)

    def progress(self, ticket: Ticket) -> Progress:
        """How far an operation has come."""
        return report.progress(ticket, self.services, self.machine.rollbacks)

    def snapshot(self) -> Snapshot:
        """Everything, now."""
        version, pid = self._identity
        clock = self.machine.clock
        return Snapshot(
            revision=self.machine.chronicle.log.revision,
            pid=pid,
            name=self.resolved.config.name,
            version=version,
            since=clock.wall(self.machine.started),
            config=self.resolved.path,
            stopping=self.stopping,
            image=self.image,
            image_since=clock.wall(self.image_since),
            installed=report.installed(),
            services=[
                report.service_status(service, self._since(name), clock, self.resident)
                for name, service in self.services.items()
            ],
            sockets=[report.socket_status(held) for group in self.sockets.values() for held in group],
        )

    def _since(self, name: str) -> float:
        found = self.machine.status.get(name)
        return found[2] if found is not None else self.machine.started
