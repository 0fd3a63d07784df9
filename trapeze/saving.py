"""From a running supervisor to the document of an upgrade in place (`carry`). Looks only: nothing is changed or closed.

Whoever gives one of these classes a new field decides here and in `resume` whether it is carried over; a test holds the
list (tests/unit/test_carry.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from os import fsencode

from msgspec import to_builtins

from trapeze import __version__
from trapeze.addresses import Inherited, parse
from trapeze.carry import Document, KeptGeneration, KeptKeeper, KeptProcess, KeptService, KeptSocket, Tree
from trapeze.config import Resolved, as_written
from trapeze.console import Console
from trapeze.ear import Ear
from trapeze.following import Followed
from trapeze.generation import Generation
from trapeze.keeper import Keeper
from trapeze.process import Process
from trapeze.runtime import Claim
from trapeze.service import Service
from trapeze.sockets import ListenSocket, systemd_sockets
from trapeze.supervisor import Supervisor
from trapeze.upward import Upward

__all__ = ["handed_down", "save"]

_LINES = 1_000_000
"""More than the journal keeps."""


def save(
    supervisor: Supervisor, claimed: Claim, console: Console, keeper: Keeper, upward: Upward | None, *, image: int
) -> Document:
    """The document, as of now; `image` is the number of the program that will read it."""
    machine, chronicle = supervisor.machine, supervisor.machine.chronicle
    resolved = supervisor.resolved
    ours = {process.handle for service in supervisor.services.values() for process in service.processes.values()}
    return Document(
        by=__version__,
        image=image,
        pid=os.getpid(),
        offset=machine.clock.offset,
        started=machine.started,
        next_id=machine.next_id(),
        config=_tree(resolved.config),
        origins=dict(resolved.origins),
        path=resolved.path,
        directory=resolved.directory,
        as_written=dict(as_written),
        terminal=supervisor.terminal,
        nofile=supervisor.nofile,
        door=claimed.sock.fileno(),
        door_path=claimed.path,
        door_inode=claimed.inode,
        sockets=[_socket(held) for held in supervisor.open],
        named={name: [held.fd for held in group] for name, group in supervisor.sockets.items()},
        handed=handed_down(resolved),
        keeper=_keeper(keeper),
        services=[_service(service) for service in supervisor.services.values()],
        status=dict(machine.status),
        rollbacks=[(name, number, why) for (name, number), why in machine.rollbacks.items()],
        removed=sorted(machine.removed),
        strangers=[(c.pid, c.own_group) for c in machine.launcher.children.values() if c not in ours],
        revision=chronicle.log.revision,
        transitions=chronicle.log.since(0),
        said=dict(chronicle._said),
        reported={name: (list(lines), count) for name, (lines, count) in chronicle._reported.items()},
        lines=supervisor.journal.tail(None, _LINES),
        console=console.waiting,
        phase=upward.phase if upward is not None else "",
    )


def _tree(struct: object) -> Tree:
    """Plain data; dates and times, which an option of a server may be, stay what they are until they are written."""
    tree: Tree = to_builtins(struct)
    return tree


def handed_down(resolved: Resolved) -> list[int]:
    """Descriptors that were passed to us under numbers by which a reload may ask for them again."""
    numbers = {fd for group in systemd_sockets(os.environ, os.getpid()).values() for fd in group}
    for section in resolved.config.sockets.values():
        numbers.update(address.fd for address in map(parse, section.addresses) if isinstance(address, Inherited))

    def is_open(fd: int) -> bool:
        try:
            os.fstat(fd)
        except OSError:
            return False
        return True

    return sorted(filter(is_open, numbers))


def _socket(held: ListenSocket) -> KeptSocket:
    return KeptSocket(
        name=held.name,
        address=held.address,
        fd=held.fd,
        spec=_tree(held.spec),
        path=held.file.path if held.file is not None else "",
        inode=held.file.inode if held.file is not None else (-1, -1),
        private=held.file.private if held.file is not None else "",
        borrowed=held.borrowed,
        reserved=held.reserved,
        pending=held.pending,
        slot=held.slot,
    )


def _keeper(keeper: Keeper) -> KeptKeeper | None:
    if keeper.pidfd < 0:
        return None
    return KeptKeeper(pid=keeper.pid, pidfd=keeper.pidfd, pipe=keeper.pipe, queue=list(keeper.queue))


def _service(service: Service) -> KeptService:
    ledger, zygotes, board = service.ledger, service.zygotes, service.vigil.board
    serving = {made.number for made in service.retained()}
    return KeptService(
        name=service.name,
        want=service.want,
        generations=[_generation(each, each.number in serving) for each in service.generations.values()],
        processes=list(_processes(service)),
        good=service.good,
        past=list(service.past),
        waiting_for=service.waiting_for,
        steps_done=service.steps_done,
        facts=service.facts,
        begun=service.begun,
        top=service.top,
        orders=dict(service.orders.given),
        unbroken=service.trial.unbroken,
        history=ledger.history,
        standing=ledger.standing,
        restarts=ledger.restarts,
        finished=dict(ledger.finished),
        failure=ledger.failure,
        output=list(ledger.output),
        reasons=dict(zygotes.reasons),
        imports=zygotes._history,
        imported=set(zygotes.imported),
        again=dict(zygotes.again),
        board=board.fd if board is not None else -1,
        slots=sorted(board.taken) if board is not None else [],
    )


def _generation(made: Generation, serving: bool) -> KeptGeneration:
    """One that is only kept for a rollback gets the sockets of its day: those it names may be closed by now."""
    return KeptGeneration(
        number=made.number,
        spec=_tree(made.spec),
        sockets=[held.fd for held in made.sockets] if serving else [],
        directory=made.directory,
        backend=made.backend,
        terminal=made.terminal,
        nofile=made.nofile,
        env=[(fsencode(name), fsencode(value)) for name, value in made.env.items()],
        uid=made.uid,
        gid=made.gid,
        groups=list(made.groups) if made.groups is not None else None,
        section=_tree(made.section) if made.section is not None else None,
        listens={name: _tree(spec) for name, spec in made.listens.items()},
    )


_SAME = (
    *("id", "index", "generation", "role", "state", "born", "since", "why", "pid", "ready_at", "said", "retire"),
    *("wish", "recycle", "slot", "stacks", "asked", "speaks", "heard_stop", "error", "overran", "imports"),
)
"""Fields of a process that are carried as they are."""


def _processes(service: Service) -> Iterator[KeptProcess]:
    for process in service.processes.values():
        if isinstance(process.handle, Followed):
            yield _process(service, process, process.handle)


def _process(service: Service, process: Process, handle: Followed) -> KeptProcess:
    listener = handle.listener
    return KeptProcess(
        **{field: getattr(process, field) for field in _SAME},
        child=handle.keep(),
        timeouts=process._timeouts,
        held=[held.fd for held in process.held],
        own=[_socket(held) for held in process.own],
        tail=list(process.tail),
        inside=isinstance(listener, Ear) and listener.inside,
        deadlines={state.value: at for state, at in process._deadlines.items()},
        verdict=process._verdict,
        terms=service.vigil._terms.get(process.id),
        dumping=service.vigil._dumping.get(process.id),
    )
