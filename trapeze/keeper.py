"""The keeper, seen from the supervisor: one small process that is there for the case that we are killed.

Parent-death signals reach direct children only, and only those that kept their user; the keeper sees to the rest. It
learns who is there by a pipe, whose end of file is our death. What it does then is in `keeping`.

It sleeps in read(2) as long as nobody comes or goes, is nobody's service, and is no child that anybody waits for.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable

from trapeze import keeping
from trapeze.following import Followed
from trapeze.launch import Launcher
from trapeze.lifecycle import in_words

__all__ = ["MARK", "Keeper", "mark"]

MARK = "TRAPEZE_SUPERVISOR"
"""The variable by which descendants are known, also when they have left their process group and lost their parent."""

_SOON = 1.0
"""A keeper that lived for fewer seconds gets its successor only after so many: it must not become a loop."""
_WAITING = 20_000
"""So many lines wait for a keeper that does not read; then it is stuck, and another one is told everything anew."""
_FAREWELL = 1.0
"""Seconds a keeper has to leave when it is not needed any more; it takes a millisecond."""


def mark() -> str:
    """What distinguishes this supervisor from any other, before and after it: pid and start time."""
    seen = keeping.stat(os.getpid())
    return f"{os.getpid()}.{seen.start if seen is not None else 0}"


class Keeper:
    """Keeps one keeper process running and informed. Use from the event loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, launcher: Launcher, note: Callable[[str], None]) -> None:
        """`note` is told, in words, what happens to it."""
        self.pid = 0
        self._loop = loop
        self._launcher = launcher
        self._note = note
        self._text = _source()
        self._popen: subprocess.Popen[bytes] | None = None
        self.pidfd = self.pipe = -1
        self.queue: deque[bytes] = deque()
        self._born = 0.0
        self._again: asyncio.TimerHandle | None = None
        self._complained = False

    def start(self) -> None:
        """Start it, and tell it of all children that there are; from now on of each that comes and goes."""
        self._again = None
        self._born = self._loop.time()
        try:
            self._spawn()
        except OSError as error:
            if not self._complained:
                self._note(f"the keeper cannot be started: {error}; it is tried again")
            self._complained = True
            self._again = self._loop.call_later(_SOON, self.start)
            return
        self._launcher.helpers[self.pid] = self.reap
        self._launcher.came, self._launcher.went = self._came, self._went
        self._loop.add_reader(self.pidfd, self.reap)
        for child in self._launcher.children.values():
            self._came(child)

    def resume(self, pid: int, pidfd: int, pipe: int, queue: Iterable[bytes]) -> None:
        """Go on with the keeper of another program in our place, which knows all that lives; `queue` waits for it."""
        self.pid, self.pidfd, self.pipe = pid, pidfd, pipe
        self._born = self._loop.time()
        self._launcher.helpers[pid] = self.reap
        self._launcher.came, self._launcher.went = self._came, self._went
        self._loop.add_reader(pidfd, self.reap)
        for line in queue:
            self._say(line)

    def _spawn(self) -> None:
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            read, write = os.pipe2(os.O_CLOEXEC)
            theirs.callback(os.close, read)
            ours.callback(os.close, write)
            os.set_blocking(write, False)
            text = os.memfd_create("trapeze-keeper")
            theirs.callback(os.close, text)
            os.write(text, self._text)
            code = f"import os; exec(os.pread({text}, {len(self._text)}, 0))"
            # Out of our session: what goes to our terminal or our group is not meant for it. -I -S: nothing of the
            # environment and of site-packages is imported.
            popen = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", code, f"{MARK}={mark()}", "trapeze", "keeper"],
                env={},
                cwd="/",
                stdin=read,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(text,),
                start_new_session=True,
            )
            try:
                self.pidfd = os.pidfd_open(popen.pid)
            except OSError:
                popen.kill()
                popen.wait()
                raise
            ours.pop_all()
            self._popen, self.pipe, self.pid = popen, write, popen.pid

    # ---- telling it ----

    def _came(self, child: Followed) -> None:
        launch = child.launched
        seen = keeping.stat(child.pid)
        if seen is None:
            return
        whole = child.own_group and launch.kill_group
        uid = os.geteuid() if launch.user is None else launch.user
        gid = os.getegid() if launch.group is None else launch.group
        words = (child.pid, seen.start, int(launch.stop_signal), launch.stop_timeout, int(whole), uid, gid)
        self._say(f"+ {' '.join(map(str, words))}\n".encode())

    def _went(self, child: Followed) -> None:
        self._say(f"- {child.pid}\n".encode())

    def _say(self, line: bytes) -> None:
        if self.pipe < 0:
            return
        if self.queue or not self._write(line):
            if not self.queue:
                self._loop.add_writer(self.pipe, self._flush)
            self.queue.append(line)
            if len(self.queue) > _WAITING:
                self._kill()

    def _write(self, line: bytes) -> bool:
        """Write one line, which the pipe takes whole or not at all; False if it is full."""
        try:
            os.write(self.pipe, line)
        except BlockingIOError:
            return False
        except BrokenPipeError:
            return True  # it has died; its successor is told everything
        return True

    def _flush(self) -> None:
        while self.queue and self._write(self.queue[0]):
            self.queue.popleft()
        if not self.queue:
            self._loop.remove_writer(self.pipe)

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    # ---- its end, and ours ----

    def reap(self) -> None:
        """Called when it has died; another one takes its place."""
        status = self._bury()
        if status is None:
            return
        soon = self._loop.time() - self._born < _SOON
        when = f" in {_SOON:g} s" if soon else ""
        self._note(f"keeper pid {self.pid} {in_words(status)}; another one takes its place{when}")
        if soon:
            self._again = self._loop.call_later(_SOON, self.start)
        else:
            self.start()

    def _bury(self) -> int | None:
        """Reap it and close what belongs to it; its exit status, or None if it lives."""
        if self.pidfd < 0:
            return None
        dead = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
        if dead is None:
            return None
        status = dead.si_status if dead.si_code == os.CLD_EXITED else -dead.si_status
        if self._popen is not None:  # else another program in our place has started it
            self._popen.returncode = status
        self._loop.remove_reader(self.pidfd)
        self._loop.remove_writer(self.pipe)
        os.close(self.pidfd)
        os.close(self.pipe)
        self.pidfd = self.pipe = -1
        self.queue.clear()
        self._launcher.helpers.pop(self.pid, None)
        return status

    def close(self) -> None:
        """We leave. If everything has stopped it has nothing to do any more; else our end is its beginning."""
        self._launcher.came = self._launcher.went = lambda child: None
        if self._again is not None:
            self._again.cancel()
        if self.pidfd < 0 or self._launcher.children:
            return
        self.queue.clear()
        if not self._write(b"bye\n"):
            self._kill()
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        if not poll.poll(_FAREWELL * 1000):
            self._kill()
            poll.poll()
        self._bury()


def _source() -> bytes:
    """The program, as it is now: an upgrade of the package on disk changes nothing for the one that runs."""
    with open(keeping.__file__, "rb") as file:
        return file.read()
