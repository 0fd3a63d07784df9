"""From the document of an upgrade in place (`carry`) to a running supervisor.

Three steps: `read_from` takes the document out of its memfd, `restore` puts everything back where it was (nothing is
spawned, nobody is told anything), and `go_on` lets signals in again and the services react. What happened in between
is seen then: a child that died is readable at its pidfd, a signal that was sent waits.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence

from trapeze import __version__, carry
from trapeze.carry import Document, KeptProcess, KeptService, KeptSocket
from trapeze.config import Resolved, as_written
from trapeze.console import Console
from trapeze.ear import Ear
from trapeze.events import Clock
from trapeze.keeper import Keeper
from trapeze.lifecycle import State
from trapeze.orders import found_in
from trapeze.process import Process
from trapeze.readiness import After, parse_ready
from trapeze.runtime import Claim
from trapeze.scoreboard import Scoreboard
from trapeze.service import Service
from trapeze.socketfile import SocketFile
from trapeze.sockets import ListenSocket
from trapeze.spec import SocketSpec
from trapeze.supervisor import Supervisor
from trapeze.takeover import become

__all__ = ["claim_of", "give_up", "go_back", "go_on", "read_from", "restore", "sockets_of", "supervisor_of"]


def read_from(memfd: int) -> tuple[Document, bytes]:
    """Read the document, close its memfd, and see to it that no child inherits what is ours.

    Raises:
        CannotRead: it cannot be understood.
    """
    data = os.pread(memfd, os.fstat(memfd).st_size, 0)
    document = carry.read(data)
    os.close(memfd)
    for fd in document.descriptors:
        os.set_inheritable(fd, False)
    return document, data


def go_back(document: Document, data: bytes) -> None:
    """We cannot do it: become the program again that wrote the document. Returns if there is no other one."""
    words = document.came_from
    if words and words != [sys.executable, *sys.orig_argv[1:]]:
        traceback.print_exc()
        with contextlib.suppress(OSError):
            become(words[0], words, data, document.descriptors, kind="back")


def give_up(document: Document, claimed: Claim) -> None:
    """We cannot do it, and nobody else can: leave no file behind. What runs is ended by our end."""
    claimed.release()
    for kept in document.sockets:
        if kept.path:
            SocketFile(kept.path, kept.inode, kept.private).unlink()


def claim_of(document: Document) -> Claim:
    """The name and the control socket."""
    name = document.resolved.config.name
    return Claim(name, document.door_path, socket.socket(fileno=document.door), document.door_inode)


def sockets_of(document: Document) -> dict[int, ListenSocket]:
    """The listening sockets, by descriptor."""
    files: dict[tuple[int, int], SocketFile] = {}
    return {kept.fd: _socket(kept, files) for kept in document.sockets}


def _socket(kept: KeptSocket, files: dict[tuple[int, int], SocketFile] | None = None) -> ListenSocket:
    """`files` are those that several sockets have in common, by their inode."""
    files = {} if files is None else files
    file = None
    if kept.path and kept.inode in files:
        file = files[kept.inode].share()
    elif kept.path:
        file = files[kept.inode] = SocketFile(kept.path, kept.inode, kept.private)
    return ListenSocket(
        kept.name,
        kept.address,
        socket.socket(fileno=kept.fd),
        carry.spec_of(SocketSpec, kept.spec),
        file,
        borrowed=kept.borrowed,
        reserved=kept.reserved,
        pending=kept.pending,
        slot=kept.slot,
    )


def supervisor_of(
    document: Document,
    sockets: Mapping[int, ListenSocket],
    *,
    load: Callable[[], Resolved],
    version: str,
    fail_fast: bool,
) -> Supervisor:
    """The supervisor, with nothing in it yet."""
    as_written.update(document.as_written)
    return Supervisor(
        document.resolved,
        {name: [sockets[fd] for fd in group] for name, group in document.named.items()},
        load=load,
        version=version,
        pid=os.getpid(),
        fail_fast=fail_fast,
        terminal=document.terminal,
        nofile=document.nofile,
        clock=Clock(time.monotonic, document.offset),
    )


def restore(
    document: Document, sockets: Mapping[int, ListenSocket], supervisor: Supervisor, keeper: Keeper, console: Console
) -> None:
    """Put everything back where it was."""
    machine, chronicle = supervisor.machine, supervisor.machine.chronicle
    supervisor.image, supervisor.image_since = document.image, machine.clock.now()
    supervisor.open.update(sockets.values())
    machine.started = document.started
    machine.count_from(document.next_id)
    machine.status.update(document.status)
    machine.rollbacks.update({(name, number): why for name, number, why in document.rollbacks})
    chronicle.log.restore(document.revision, document.transitions)
    chronicle._said.update(document.said)
    chronicle._reported.update(document.reported)
    for line in document.lines:
        supervisor.journal.append(line)
    console.resume(document.console)
    for kept in document.services:
        machine.services[kept.name] = _service(kept, supervisor, sockets)
    machine.removed.update(document.removed)
    if document.keeper is not None:
        keeper.resume(document.keeper.pid, document.keeper.pidfd, document.keeper.pipe, document.keeper.queue)


def _service(kept: KeptService, supervisor: Supervisor, sockets: Mapping[int, ListenSocket]) -> Service:
    made = {each.number: carry.generation_of(each, sockets) for each in kept.generations}
    service = Service(kept.name, supervisor.machine, made[kept.want.generation])
    service.generations = made
    for field in ("want", "good", "past", "waiting_for", "steps_done", "facts", "begun", "top"):
        setattr(service, field, getattr(kept, field))
    service.trial.unbroken = kept.unbroken
    service.orders.given = kept.orders or found_in(kept.want, service.current)
    for field in ("history", "standing", "restarts", "finished", "failure", "output"):
        setattr(service.ledger, field, getattr(kept, field))
    service.zygotes.reasons = kept.reasons
    service.zygotes._history = kept.imports
    service.zygotes.imported, service.zygotes.again = kept.imported, kept.again
    if kept.board >= 0:
        service.vigil.board = Scoreboard(kept.board, set(kept.slots))
    for each in kept.processes:
        _process(each, service, supervisor, sockets)
    return service


_SAME = (
    *("state", "born", "since", "why", "pid", "ready_at", "said", "retire", "wish", "recycle", "slot", "stacks"),
    *("asked", "speaks", "heard_stop", "error", "overran", "imports"),
)


def _process(kept: KeptProcess, service: Service, supervisor: Supervisor, sockets: Mapping[int, ListenSocket]) -> None:
    process = Process(kept.id, kept.index, kept.generation, kept.timeouts, kept.born, role=kept.role)
    for field in _SAME:
        setattr(process, field, getattr(kept, field))
    process.own = [_socket(each) for each in kept.own]
    own = {held.fd: held for held in process.own}
    process.held = [own[fd] if fd in own else sockets[fd] for fd in kept.held]
    process.tail.extend(kept.tail)
    process._deadlines = {State(state): at for state, at in kept.deadlines.items()}
    process._verdict = kept.verdict
    if kept.terms is not None:
        service.vigil._terms[process.id] = kept.terms
    if kept.dumping is not None:
        service.vigil._dumping[process.id] = kept.dumping
    service.processes[process.id] = process
    ear = Ear(service, process)
    ear.inside = kept.inside
    process.handle = supervisor.machine.launcher.adopt(kept.child, ear)


def go_on(
    document: Document, supervisor: Supervisor, blocked: Sequence[signal.Signals], *, came_back: bool = False
) -> None:
    """Let signals in, and everything go on. Nothing may be spawned before: children inherit the mask."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
    for pid, leads in document.strangers:
        with contextlib.suppress(ProcessLookupError):
            # Ours to reap, and not reaped yet: the number cannot be another's.
            (os.killpg if leads else os.kill)(pid, signal.SIGKILL)
    for service in supervisor.services.values():
        _probe(service, supervisor)
        supervisor.machine.touched(service)
    supervisor.machine.react()
    supervisor.watch()
    python = ".".join(map(str, sys.version_info[:3]))
    pause = (supervisor.machine.now() - document.closed) * 1000
    before = f" after {document.by}" if document.by != __version__ else ""
    how = "answered by a stand-in" if document.doorman >= 0 else "closed"
    what = f"trapeze {__version__}{before} on Python {python}; the control socket was {how} for {pause:.0f} ms"
    if came_back:
        supervisor.machine.chronicle.note(
            f"no upgrade: the new program broke at its start; back on {what}", level="error"
        )
    else:
        supervisor.machine.chronicle.note(f"upgraded in place: {what}")


def _probe(service: Service, supervisor: Supervisor) -> None:
    """Ask again whether a command is ready that is still starting."""
    for process in service.workers():
        spec = service.generations[process.generation].spec
        if process.state is not State.STARTING or spec.app is not None or spec.ready in (None, "notify"):
            continue
        ready = spec.ready or ""
        after = parse_ready(ready)
        if isinstance(after, After):
            left = max(0.0, process.born + after.seconds - supervisor.machine.now())
            ready = f"after:{left:.3f}s"
        process.stop_probe = supervisor.machine.probe(service, process, ready)
