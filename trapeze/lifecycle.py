"""The state table of one process. Two rules hold this file together:

1. Everything that decides which state follows which stands in `TABLE`, here and nowhere else.
2. `TABLE` is total: each (state, event) has an entry, "nothing happens" included; what must never happen is `ILLEGAL`.

A process object lives as long as one OS process: EXITED is the end, nothing is revived.
"""

from __future__ import annotations

import enum
import signal
from typing import NamedTuple

from trapeze.errors import IllegalTransition

__all__ = ["LIVE", "TABLE", "Effect", "Event", "Outcome", "State", "Step", "in_words", "outcome", "step"]


class State(enum.Enum):
    """Where one process is."""

    STARTING = "STARTING"
    """Spawned, not ready yet. Deadline: start_timeout."""
    READY = "READY"
    """It said (or its probe found) that it serves. Deadline: the heartbeat, or none."""
    STOPPING = "STOPPING"
    """It was asked to leave, or said that it leaves. Deadline: stop_timeout."""
    KILLING = "KILLING"
    """SIGKILL was sent (deadline: 5 s, then again), or will be as soon as the stacks are dumped (half a second)."""
    EXITED = "EXITED"
    """Reaped."""


class Event(enum.Enum):
    """What can happen to one process."""

    READY = "READY"
    """READY=1, or a probe that answered."""
    STOP = "STOP"
    """The planner wants it to leave."""
    LEAVING = "LEAVING"
    """STOPPING=1: the process leaves of its own accord."""
    EXTEND = "EXTEND"
    """EXTEND_TIMEOUT_USEC: the process asks for more time."""
    DEADLINE = "DEADLINE"
    """The state's deadline has passed."""
    HUNG = "HUNG"
    """The deadline of STARTING has passed, and it is a process of ours: it can be asked for its stacks."""
    FORCE = "FORCE"
    """Somebody is out of patience: second INT, QUIT, `shutdown --fast`."""
    EXIT = "EXIT"
    """The process was reaped."""
    SPAWN_FAILED = "SPAWN_FAILED"
    """There never was a process: fork or exec failed (ENOENT, EMFILE, ENOMEM...)."""


class Effect(enum.Enum):
    """What the machine does on the way from one state to the next."""

    NONE = "none"
    ACCEPTED = "accepted"
    """It counts as ready from now on."""
    BEAT = "beat"
    """Move the heartbeat deadline."""
    TERMINATE = "terminate"
    """Send the stop signal, set the stop deadline."""
    AWAIT_EXIT = "await exit"
    """It leaves by itself: set the stop deadline, send nothing."""
    KILL = "kill"
    """Send SIGKILL (to the group), set the kill deadline."""
    DUMP = "dump"
    """Have it write the stacks of its threads; set the kill deadline so that it has the time for that."""
    EXTEND = "extend"
    """Move the deadline of the present state."""
    BURY = "bury"
    """Close what belongs to it; judge how it ended with `outcome`."""


class Step(NamedTuple):
    """One entry of the table."""

    state: State
    effect: Effect


ILLEGAL = None

_S, _E = State, Event

TABLE: dict[tuple[State, Event], Step | None] = {
    (_S.STARTING, _E.READY): Step(_S.READY, Effect.ACCEPTED),
    (_S.STARTING, _E.STOP): Step(_S.STOPPING, Effect.TERMINATE),
    (_S.STARTING, _E.LEAVING): Step(_S.STOPPING, Effect.AWAIT_EXIT),
    (_S.STARTING, _E.EXTEND): Step(_S.STARTING, Effect.EXTEND),
    (_S.STARTING, _E.DEADLINE): Step(_S.STOPPING, Effect.TERMINATE),
    (_S.STARTING, _E.HUNG): Step(_S.KILLING, Effect.DUMP),
    (_S.STARTING, _E.FORCE): Step(_S.KILLING, Effect.KILL),
    (_S.STARTING, _E.EXIT): Step(_S.EXITED, Effect.BURY),
    (_S.STARTING, _E.SPAWN_FAILED): Step(_S.EXITED, Effect.BURY),
    (_S.READY, _E.READY): Step(_S.READY, Effect.BEAT),
    (_S.READY, _E.STOP): Step(_S.STOPPING, Effect.TERMINATE),
    (_S.READY, _E.LEAVING): Step(_S.STOPPING, Effect.AWAIT_EXIT),
    (_S.READY, _E.EXTEND): Step(_S.READY, Effect.NONE),
    (_S.READY, _E.DEADLINE): Step(_S.KILLING, Effect.DUMP),
    (_S.READY, _E.HUNG): Step(_S.READY, Effect.NONE),
    (_S.READY, _E.FORCE): Step(_S.KILLING, Effect.KILL),
    (_S.READY, _E.EXIT): Step(_S.EXITED, Effect.BURY),
    (_S.READY, _E.SPAWN_FAILED): ILLEGAL,
    (_S.STOPPING, _E.READY): Step(_S.STOPPING, Effect.NONE),
    (_S.STOPPING, _E.STOP): Step(_S.STOPPING, Effect.NONE),
    (_S.STOPPING, _E.LEAVING): Step(_S.STOPPING, Effect.NONE),
    (_S.STOPPING, _E.EXTEND): Step(_S.STOPPING, Effect.EXTEND),
    (_S.STOPPING, _E.DEADLINE): Step(_S.KILLING, Effect.KILL),
    (_S.STOPPING, _E.HUNG): Step(_S.STOPPING, Effect.NONE),
    (_S.STOPPING, _E.FORCE): Step(_S.KILLING, Effect.KILL),
    (_S.STOPPING, _E.EXIT): Step(_S.EXITED, Effect.BURY),
    (_S.STOPPING, _E.SPAWN_FAILED): ILLEGAL,
    (_S.KILLING, _E.READY): Step(_S.KILLING, Effect.NONE),
    (_S.KILLING, _E.STOP): Step(_S.KILLING, Effect.NONE),
    (_S.KILLING, _E.LEAVING): Step(_S.KILLING, Effect.NONE),
    (_S.KILLING, _E.EXTEND): Step(_S.KILLING, Effect.NONE),
    (_S.KILLING, _E.DEADLINE): Step(_S.KILLING, Effect.KILL),
    (_S.KILLING, _E.HUNG): Step(_S.KILLING, Effect.NONE),
    (_S.KILLING, _E.FORCE): Step(_S.KILLING, Effect.KILL),
    (_S.KILLING, _E.EXIT): Step(_S.EXITED, Effect.BURY),
    (_S.KILLING, _E.SPAWN_FAILED): ILLEGAL,
    (_S.EXITED, _E.READY): ILLEGAL,
    # A stop that crosses with the exit is no error: the wish is fulfilled.
    (_S.EXITED, _E.STOP): Step(_S.EXITED, Effect.NONE),
    (_S.EXITED, _E.LEAVING): ILLEGAL,
    (_S.EXITED, _E.EXTEND): ILLEGAL,
    (_S.EXITED, _E.DEADLINE): ILLEGAL,
    (_S.EXITED, _E.HUNG): ILLEGAL,
    (_S.EXITED, _E.FORCE): Step(_S.EXITED, Effect.NONE),
    (_S.EXITED, _E.EXIT): ILLEGAL,
    (_S.EXITED, _E.SPAWN_FAILED): ILLEGAL,
}

LIVE = frozenset({State.STARTING, State.READY})
"""States in which a process counts towards what the service wants; the others are on their way out."""


def step(state: State, event: Event) -> Step:
    """Return what follows `event` in `state`.

    Raises:
        IllegalTransition: the table forbids it; always a bug in trapeze, never the child's fault.
    """
    found = TABLE[state, event]
    if found is ILLEGAL:
        raise IllegalTransition(f"{event.name} cannot happen to a process that is {state.name}")
    return found


class Outcome(enum.Enum):
    """How a process ended, as the restart policy sees it."""

    STOPPED = "stopped"
    """It left because it was asked to (however it did so), or said that it would and exited 0."""
    DONE = "done"
    """It exited 0 of its own accord."""
    START_FAILED = "start failed"
    """It never became ready."""
    CRASHED = "crashed"
    """It was ready and ended otherwise than by exit 0."""


def outcome(state: State, *, asked: bool, was_ready: bool, status: int) -> Outcome:
    """Judge the end of a process.

    Args:
        state: the state it was in when it ended.
        asked: the planner asked it to leave (a stop signal was sent because somebody wanted it).
        was_ready: it had been READY.
        status: exit status as `os.waitstatus_to_exitcode` gives it: negative for a signal.

    A stop that was asked for is a clean end whatever the status: uvicorn dies by the signal after a clean drain, uwsgi
    exits 30. Being killed because the start deadline passed is a start failure, although a signal was sent.
    """
    if state is State.EXITED:
        raise IllegalTransition("a process that has exited cannot end again")
    if asked:
        return Outcome.STOPPED
    if not was_ready:
        return Outcome.START_FAILED
    if status == 0 and state is not State.KILLING:
        return Outcome.STOPPED if state is State.STOPPING else Outcome.DONE
    return Outcome.CRASHED


def in_words(status: int) -> str:
    """Return an exit status in words: "exited with status 3", "killed by SIGKILL"."""
    if status >= 0:
        return f"exited with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"killed by {name}"
