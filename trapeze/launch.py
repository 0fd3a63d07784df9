"""Launcher: from a `Launch` to an OS process, and back to its exit status. Knows nothing of services.

How a child comes to be: `subprocess.Popen` (vfork where it can, 0.5 ms) from the main thread, never `preexec_fn`
(2.6 ms with a small parent, 6.7 ms with one of 300 MB, all of it in the event loop). What has to happen between fork
and the program is done on the other side of exec: see `prelude`. Or a zygote forks it for us: see `forks`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator

from trapeze import niceness
from trapeze.boot import boot_words
from trapeze.following import TO_HEAR, Followed, Kept
from trapeze.forks import Fork, Forking, Line
from trapeze.lend import lent
from trapeze.prelude import ForkListener, Launch, Listener, is_plain, job_of, open_job, plain_words, worker_package

__all__ = ["Child", "Launcher"]


class Launcher:
    """Spawns children and reaps them. One per supervisor; use only from the main thread.

    From the main thread, because a parent-death signal is tied to the *thread* that forked: it would fire when that
    thread ends.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.children: dict[int, Followed] = {}
        """By pid; only those not reaped yet."""
        self.helpers: dict[int, Callable[[], None]] = {}
        """Processes of our own that nobody waits for and that are no orphans: by pid, how to reap them."""
        self.came: Callable[[Followed], None] = lambda child: None
        self.went: Callable[[Followed], None] = lambda child: None
        """Called for each child, when it is there and when it has been reaped."""

    def spawn(self, launch: Launch, listener: Listener) -> Child:
        """Start a process.

        Raises:
            OSError: fork or exec failed (ENOENT, EACCES, EMFILE, ENOMEM, EAGAIN...); nothing is left open.
        """
        child = Child(self._loop, launch, listener, self._forget)
        child.start()
        self._follow(child)
        return child

    def fork(self, zygote: Forking, launch: Launch, listener: ForkListener) -> Fork:
        """Have a zygote fork a process. Its pid comes later, by `listener.on_pid`, or a reason by `on_failed`.

        Raises:
            OSError: the zygote is gone or takes no request; nothing is left open.
        """
        line = zygote.line
        if line is None:
            raise ProcessLookupError(0, "the zygote has ended")

        def announce(child: Followed) -> None:
            niceness.level(child.pid, like=zygote.pid)
            self._follow(child)

        fork = Fork(self._loop, launch, listener, self._forget, announce)
        fork.start(line)
        return fork

    def employ(self, spare: Child, launch: Launch, listener: ForkListener) -> Child:
        """Have a process that has imported its app and stands by do `launch`; it is `listener`'s from now on.

        Raises:
            OSError: it is gone or takes no request.
        """
        if spare.line is None:
            raise ProcessLookupError(0, "it has ended")
        spare.line.employ(launch, lambda reason: listener.on_failed(reason))
        spare.hand_over(launch, listener)
        return spare

    def adopt(self, kept: Kept, listener: Listener) -> Child:
        """Follow a child that another program in our place has started (an upgrade in place)."""
        child = Child(self._loop, kept.launch, listener, self._forget)
        child.resume(kept)
        self._follow(child)
        return child

    @property
    def owed(self) -> list[Line]:
        """The lines to zygotes and spares that are on their way to an answer."""
        lines = [child.line for child in self.children.values() if isinstance(child, Forking)]
        return [line for line in lines if line is not None and line.owes]

    def _follow(self, child: Followed) -> None:
        self.children[child.pid] = child
        self.came(child)

    def _forget(self, child: Followed) -> None:
        self.children.pop(child.pid, None)
        self.went(child)

    def orphans(self) -> list[int]:
        """Pids of the living that came to us because their parent ended; they have left their process group."""
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
            return [pid for pid in map(int, file.read().split()) if pid not in {**self.children, **self.helpers}]

    def reap_strays(self) -> None:
        """Reap children that are not ours: orphans that came to us as subreaper or pid 1.

        WNOWAIT shows who is dead without reaping; ours are reaped by their own handle, so that no status is lost. While
        a zygote owes us the pid of a fork, an unknown one may be that: its zombie has to wait for its name.
        """
        if owed := self.owed:
            for line in owed:
                line.when_paid = self.reap_strays
            return
        while True:
            try:
                dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if dead is None:
                return
            child = self.children.get(dead.si_pid)
            if child is not None:
                child.reap()
                if dead.si_pid in self.children:  # it is judged a moment later, and hides all others until then
                    self._loop.call_later(TO_HEAR, self.reap_strays)
                    return
            elif dead.si_pid in self.helpers:
                self.helpers[dead.si_pid]()
            else:
                os.waitid(os.P_PID, dead.si_pid, os.WEXITED | os.WNOHANG)


@contextlib.contextmanager
def _uninterrupted(wanted: bool) -> Iterator[None]:
    """Spawn with SIGINT blocked: ^C would be a traceback of Python's own start on the screen. `boot` unblocks it."""
    if not wanted:
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Child(Forking):
    """A process that we have spawned ourselves."""

    _popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Spawn; see `Launcher.spawn`."""
        ours: list[int] = []
        theirs: list[int] = []
        try:
            pidfd = self._spawn(ours, theirs)
        except BaseException:
            for fd in ours:
                os.close(fd)
            for end in (self._notify, self.line):
                if end is not None:
                    end.close()
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        self._follow(pidfd, ours)

    def resume(self, kept: Kept) -> None:
        """Begin to follow it; see `Launcher.adopt`."""
        self.pid, self.unreachable = kept.pid, kept.unreachable
        if kept.notify >= 0:
            self._notify = socket.socket(fileno=kept.notify)
        if kept.line >= 0:
            self.line = Line(self._loop, socket.socket(fileno=kept.line), self._give_up, last=kept.asked)
        self._attend(kept.pidfd, kept.outputs)
        self._gives_way = kept.gives_way
        self.hurry()  # the time that it had for this went by in another program

    def _spawn(self, ours: list[int], theirs: list[int]) -> int:
        launch = self._launch
        env = dict(launch.env)
        stdin: int | None = None
        outputs: list[int | None] = [None, None]
        if not launch.terminal:
            outputs = [self._pipe(ours, theirs), self._pipe(ours, theirs)]
            stdin = subprocess.DEVNULL if launch.stdin is None else launch.stdin
        argv, inherit = self._prelude(env, theirs)
        with self._lent(), _uninterrupted(launch.terminal):
            popen = subprocess.Popen(
                argv,
                env=env,
                cwd=launch.cwd,
                user=launch.user,
                group=launch.group,
                extra_groups=launch.groups,
                umask=launch.umask,
                pass_fds=(*launch.fds, *inherit),
                # A group of its own, for `kill`, but not a session: each session is a scheduling group of its own where
                # autogroup is on, and four workers that compete as groups lose a third of gunicorn's throughput.
                process_group=0 if self.own_group else None,
                stdin=stdin,
                stdout=outputs[0],
                stderr=outputs[1],
            )
        self.pid = popen.pid
        self._popen = popen
        try:
            return os.pidfd_open(self.pid)
        except OSError:
            # Out of descriptors: a child that cannot be followed must not be.
            popen.kill()
            popen.wait()
            raise

    def _lent(self) -> contextlib.AbstractContextManager[None]:
        """Root lends a child of another user the limits that it cannot give itself."""
        launch = self._launch
        if launch.user in (None, 0) or os.geteuid() != 0:
            return contextlib.nullcontext()
        limits = (launch.job or {}).get("rlimits")
        return lent(limits if isinstance(limits, dict) else {}, launch.nice)

    @staticmethod
    def _pipe(ours: list[int], theirs: list[int]) -> int:
        """Make a pipe for output; return the child's end."""
        read, write = os.pipe2(os.O_CLOEXEC)
        ours.append(read)
        theirs.append(write)
        os.set_blocking(read, False)
        return write

    def _prelude(self, env: dict[str, str], theirs: list[int]) -> tuple[list[str], list[int]]:
        """Return the command line and the descriptors it needs beside the sockets."""
        launch = self._launch
        notify_fd = fork_fd = None
        if launch.notify:
            env["NOTIFY_SOCKET"] = self._open_datagram()
            theirs.append(notify_fd := self._connected_datagram())
            env["TRAPEZE_NOTIFY_FD"] = str(notify_fd)
        if is_plain(launch):
            return plain_words(launch), [] if notify_fd is None else [notify_fd]
        if not launch.notify:
            # Packets, not a stream: one message is one read, and the end of the worker is an end of file.
            self._notify, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            theirs.append(notify_fd := there.detach())
        if launch.forks:
            theirs.append(fork_fd := self._open_line())
        theirs.append(job := open_job(job_of(launch, notify_fd, fork_fd)))
        words = boot_words(launch.python, launch.label, job, worker_package())
        board = (launch.job or {}).get("board")
        board_fd = board["fd"] if isinstance(board, dict) else None
        return words, [fd for fd in (notify_fd, fork_fd, job, board_fd) if fd is not None]

    def _open_datagram(self) -> str:
        """A notify socket that the child's user can reach: abstract, with a name that cannot be guessed."""
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._notify.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        name = f"trapeze/{os.getpid()}/{os.urandom(16).hex()}"
        self._notify.bind("\0" + name)
        return "@" + name

    def _connected_datagram(self) -> int:
        """The other end as a descriptor: not every language has Unix sockets of datagrams, but all can write."""
        assert self._notify is not None
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as there:
            there.connect(self._notify.getsockname())
            return there.detach()

    def _reaped(self, status: int) -> None:
        # Popen must know, or it would wait for a pid that may soon be another's.
        if self._popen is not None:
            self._popen.returncode = status
        super()._reaped(status)
