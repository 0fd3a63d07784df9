"""Upgrade in place: another program takes our place in this process, and everything that runs goes on.

A new version of trapeze or of Python, without a new pid: `execve` keeps the process, its children and its descriptors.
The order, and what each step prevents:

1. The new program is run as a child first, on a copy of the state: after execve there is no way back. If it cannot
   import, does not know our command line or cannot read the state, nothing has happened.
2. Wait for a moment in which nothing is half done: no reload that reads and binds, no fork that a zygote owes.
3. The control door closes. Who connects from now on waits in the queue of its socket; who asked is answered. A stand-in
   (`doorman`) then answers those who ask for the status.
4. Signals go to a pipe of ours. What was caught by then is obeyed; what comes later is sent to ourselves again while
   all are blocked, so that the new program finds it waiting.
5. The state goes into a memfd, everything that is carried is made inheritable, execve. If that fails, all is undone.

The new program (`resume`) makes everything close-on-exec again before it does anything else, and lets signals in only
when it can obey them, before it starts anything: children inherit the mask.

If it breaks all the same while it takes up the state, it becomes the old program again, where that is another one
(`--python`). Otherwise, and if it breaks before that (an import that the probe has survived), it ends with exit 1:
workers answer what they have and go, as when a supervisor is killed, and whoever has started it (systemd) starts it
anew. Going on without a supervisor would be worse: nobody would see it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from trapeze import carry, door, doorman, saving
from trapeze.calls import error_body
from trapeze.carry import Document
from trapeze.console import Console
from trapeze.control import Door
from trapeze.errors import TrapezeError
from trapeze.keeper import Keeper
from trapeze.prelude import Launch
from trapeze.runtime import Claim
from trapeze.signals import HANDLED
from trapeze.supervisor import Supervisor
from trapeze.takeover import RESUME, Told, become, memfd_of
from trapeze.upward import Upward

__all__ = ["Parts", "Upgrade", "UpgradeRefused", "command"]

UPGRADING = "the supervisor is replaced by a new program: ask again"
_PROBE = 60.0
"""Seconds that the new program has to read the state; imports from a cold disk are slow."""
_POLITE = 0.5
"""Seconds for others who wait at the control door for an order of theirs, before they are told to ask the new one."""
_QUIET = 15.0
"""Seconds in which a moment must come when nothing is half done."""
_LOOK = 0.003
_TURNS = 5
"""Turns of the loop in which all that was heard before is obeyed: a signal takes three, a lock passed on two."""
_OUTPUT = 200
"""Lines of the probe that are kept."""


class UpgradeRefused(TrapezeError):
    """Nothing has changed; the old program goes on."""

    def __init__(self, message: str, *, hint: str = "", output: Sequence[str] = ()) -> None:
        super().__init__(message, hint=hint)
        self.output = list(output)


class Parts(NamedTuple):
    """What there is beside the supervisor."""

    claimed: Claim
    console: Console
    keeper: Keeper
    upward: Upward | None
    open_door: Callable[[], Awaitable[Door]]
    keep_going: bool = False


def command(python: str | None) -> tuple[str, list[str]]:
    """The program and its words that start this command line again, by another Python if one is named.

    A console script of the old environment is no good for a new one: the module takes its place. -P, so that it finds
    what the script would have found, and nothing in the current directory.
    """
    program = python or sys.executable
    words = list(sys.orig_argv)
    at = len(words) - len(sys.argv)  # where the script is; after -m and -c there are two words for one
    if python is not None and at > 0 and _is_script(words[at]):
        words[at : at + 1] = ["-P", "-m", "trapeze"]
    return program, [program, *words[1:]]


def _is_script(word: str) -> bool:
    return os.path.dirname(os.path.abspath(word)) == os.path.dirname(sys.executable)


class Upgrade:
    """The verb. Called with who asks and the Python to go on with; see `Supervisor.upgrade`."""

    def __init__(self, supervisor: Supervisor, parts: Parts, door: Door) -> None:
        self.door = door
        self._supervisor = supervisor
        self._parts = parts
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, who: str, python: str | None = None) -> Mapping[str, object]:
        """Return when it is certain that the new program will be tried: what follows is seen from outside.

        Raises:
            UpgradeRefused: it would not work, or not now.
        """
        if self._task is not None:
            raise UpgradeRefused("another upgrade is under way")
        answer: asyncio.Future[Mapping[str, object]] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())  # seen, also if nobody waits
        self._task = asyncio.get_running_loop().create_task(self._run(who, python, answer))
        return await asyncio.shield(answer)

    async def _run(self, who: str, python: str | None, answer: asyncio.Future[Mapping[str, object]]) -> None:
        note = self._supervisor.machine.chronicle.note
        closed = False
        try:
            program, words = command(python)
            told = await self._probe(program, words)
            own = 1 if "(control)" in who else 0
            await self._quiet(own)
            note(f"upgrade to trapeze {told.version} on Python {told.python}, asked by {who}")
            closed, at = True, time.monotonic()
            others = self.door.writing - own  # they ask the new program for the rest
            await self.door.stop_accepting()
            coming = {"version": told.version, "python": told.python, "image": self._supervisor.image + 1}
            answer.set_result({**coming, "revision": self._supervisor.revision, "message": "on its way"})
            await self._until(lambda: self.door.writing <= others, 1.0)
            await self.door.close("upgrading", UPGRADING)
            await self._replace(program, words, at, dismisses=told.dismisses)
        except Exception as error:
            known = isinstance(error, TrapezeError)
            if not known:
                error = UpgradeRefused(f"{type(error).__name__}: {error}")
            output = getattr(error, "output", ())
            if self._supervisor.stopping:
                note(f"no upgrade: {error}")
            else:
                note(f"no upgrade, everything goes on as it was: {error}", level="error", output=output)
            if not answer.done():
                answer.set_exception(error)
        finally:
            self._task = None
            if closed:
                self.door = await self._parts.open_door()

    # ---- before ----

    async def _probe(self, program: str, words: Sequence[str]) -> Told:
        """Run the new program on a copy of the state.

        Raises:
            UpgradeRefused: with what it printed.
        """
        loop = asyncio.get_running_loop()
        memfd = memfd_of(carry.write(self._document(0.0)))
        listener = _ProbeListener(loop.create_future(), self._supervisor.machine.schedule)
        try:
            # Whoever is started from here gets its own copy of our environment; only this one has the variable.
            env = {**os.environ, RESUME: f"probe:{memfd}"}
            launch = Launch(label="trapeze upgrade", argv=words, env=env, cwd=".", fds=[memfd])  # "." may be deleted
            child = self._supervisor.machine.spawn(launch, listener)
            at_shutdown = self._supervisor.machine.at_shutdown
            at_shutdown.append(child.kill)  # a stop waits for all children, and would wait for this one
            try:
                await asyncio.wait([listener.status], timeout=_PROBE)
            finally:
                at_shutdown.remove(child.kill)
                child.kill()
        except OSError as error:
            raise UpgradeRefused(f"{program} cannot be run: {error.strerror or error}") from None
        finally:
            os.close(memfd)
        if self._supervisor.stopping:
            raise UpgradeRefused(f"not now: {self._half_done()}")
        told = listener.told
        if listener.status.done() and listener.status.result() == 0 and told is not None:
            return told
        how = f"ended with status {listener.status.result()}" if listener.status.done() else f"took {_PROBE:g} s"
        hint = "the old program goes on; what the new one said stands above"
        raise UpgradeRefused(f"the new program cannot take over: it {how}", hint=hint, output=listener.lines)

    async def _quiet(self, own: int) -> None:
        """Wait for a moment in which nothing is half done. `own`: whether one of the orders at the door is this one.

        Raises:
            UpgradeRefused: it does not come.
        """
        await self._until(lambda: self.door.writing <= own, _POLITE)
        if not await self._until(lambda: not self._half_done(), _QUIET):
            raise UpgradeRefused(f"not now: {self._half_done()}", hint="try again later")

    def _half_done(self) -> str:
        """What cannot be carried over, in words."""
        if self._supervisor.stopping:
            return "everything is stopping"
        if self._supervisor.reloading.locked():
            return "a reload reads and checks the configuration"
        return "a zygote is asked for a worker" if self._supervisor.machine.launcher.owed else ""

    @staticmethod
    async def _until(condition: Callable[[], bool], patience: float) -> bool:
        deadline = asyncio.get_running_loop().time() + patience
        while not condition():
            if asyncio.get_running_loop().time() > deadline:
                return False
            await asyncio.sleep(_LOOK)
        return True

    # ---- the step ----

    async def _replace(self, program: str, words: Sequence[str], closed: float, *, dismisses: bool) -> None:
        """Go. Returns only by raising."""
        with _diverted() as caught:
            calm = 0
            deadline = time.monotonic() + _QUIET
            while calm < _TURNS:
                await asyncio.sleep(0)
                calm = 0 if self._half_done() else calm + 1
                if time.monotonic() > deadline:
                    raise UpgradeRefused(f"not now: {self._half_done()}", hint="try again later")
            # No await from here on: what is written down stays true.
            signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
            self._parts.console.flush(0.05)
            document = self._document(closed)
            if dismisses:
                document.doorman = self._stand_in()
            try:
                become(program, words, carry.write(document), document.descriptors, signals=caught())
            finally:
                if document.doorman >= 0:
                    os.close(document.doorman)

    def _stand_in(self) -> int:
        """Have somebody answer at the control door; returns what dismisses him. -1: then clients wait."""
        status = msgspec.structs.replace(self._supervisor.snapshot(), upgrading=True)
        again = error_body(503, "standing_in", f"{UPGRADING}; nothing was done")
        try:
            return doorman.post(
                self._parts.claimed.sock, door.whole(200, status), door.whole(503, again.value), self.door.admits
            )
        except OSError:
            return -1

    def _document(self, closed: float) -> Document:
        parts = self._parts
        image = self._supervisor.image + 1
        document = saving.save(self._supervisor, parts.claimed, parts.console, parts.keeper, parts.upward, image=image)
        document.closed = closed
        document.came_from = command(None)[1]
        document.keep_going = parts.keep_going
        return document


@contextlib.contextmanager
def _diverted() -> Iterator[Callable[[], list[int]]]:
    """Have signals written to a pipe of ours instead of the loop's; gives what came, once all are blocked.

    At the end the loop gets them again, and all that came meanwhile.
    """
    here, there = socket.socketpair()
    here.setblocking(False)
    there.setblocking(False)
    before = signal.set_wakeup_fd(there.fileno(), warn_on_full_buffer=False)

    def caught() -> list[int]:
        with contextlib.suppress(BlockingIOError):
            return sorted(set(here.recv(4096)))
        return []

    try:
        yield caught
    finally:
        signal.set_wakeup_fd(before, warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
        for signum in caught():
            os.kill(os.getpid(), signum)
        here.close()
        there.close()


class _ProbeListener:
    """Hears the probe."""

    def __init__(self, status: asyncio.Future[int], gone: Callable[[], None]) -> None:
        self.status = status
        self._gone = gone
        """A stop waits for all children, and the probe may be the last of them."""
        self.told: Told | None = None
        self.lines: list[str] = []

    def on_line(self, stream: str, text: str, more: bool) -> None:
        if stream == "stdout" and text.startswith('{"trapeze"'):
            with contextlib.suppress(msgspec.MsgspecError):
                self.told = msgspec.json.decode(text, type=Told)
                return
        self.lines = [*self.lines, text][-_OUTPUT:]

    def on_message(self, datagram: bytes) -> None:
        """It has nothing to notify."""

    def on_exit(self, status: int) -> None:
        if not self.status.done():
            self.status.set_result(status)
        self._gone()
