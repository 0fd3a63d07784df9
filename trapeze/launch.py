"""Launcher: from a `Launch` to an OS process, and back to its exit status. Knows nothing of services.

How a child comes to be: `subprocess.Popen` (vfork where it can, 0.5 ms) from the main thread, never `preexec_fn`
(2.6 ms with a small parent, 6.7 ms with one of 300 MB, all of it in the event loop). What has to happen between fork
and the program is done on the other side of exec: see `prelude`.

A child is followed by its pidfd: readable means dead, and as long as we have not reaped it its pid cannot be another's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence

from trapeze.boot import boot_words
from trapeze.lend import lent
from trapeze.output import Stream
from trapeze.prelude import Launch, Listener, is_plain, job_of, open_job, plain_words, worker_package

__all__ = ["Child", "Launcher"]

_NOTIFY_LIMIT = 128 * 1024
_LAST_MESSAGES = 100
"""So many datagrams are read at the end of a child: who else knows its socket might send for ever."""


class Launcher:
    """Spawns children and reaps them. One per supervisor; use only from the main thread.

    From the main thread, because a parent-death signal is tied to the *thread* that forked: it would fire when that
    thread ends.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.children: dict[int, Child] = {}
        """By pid; only those not reaped yet."""

    def spawn(self, launch: Launch, listener: Listener) -> Child:
        """Start a process.

        Raises:
            OSError: fork or exec failed (ENOENT, EACCES, EMFILE, ENOMEM, EAGAIN...); nothing is left open.
        """
        child = Child(self._loop, launch, listener, self._forget)
        child.start()
        self.children[child.pid] = child
        return child

    def _forget(self, child: Child) -> None:
        self.children.pop(child.pid, None)

    def orphans(self) -> list[int]:
        """Pids of the living that came to us because their parent ended; they have left their process group."""
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
            return [pid for pid in map(int, file.read().split()) if pid not in self.children]

    def reap_strays(self) -> None:
        """Reap children that are not ours: orphans that came to us as subreaper or pid 1.

        WNOWAIT shows who is dead without reaping; ours are reaped by their own handle, so that no status is lost.
        """
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
            else:
                os.waitid(os.P_PID, dead.si_pid, os.WEXITED | os.WNOHANG)


class Child:
    """One OS process: its pidfd, its pipes, its notify socket."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        launch: Launch,
        listener: Listener,
        forget: Callable[[Child], None],
    ) -> None:
        self.pid = 0
        self._loop = loop
        self._launch = launch
        self._listener = listener
        self._forget = forget
        self._popen: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._streams: list[Stream] = []
        self._notify: socket.socket | None = None
        self.unreachable = False
        self._complaints: set[str] = set()

    def start(self) -> None:
        """Spawn; see `Launcher.spawn`."""
        ours: list[int] = []
        theirs: list[int] = []
        try:
            self._spawn(ours, theirs)
        except BaseException:
            for fd in ours:
                os.close(fd)
            if self._notify is not None:
                self._notify.close()
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        self._follow(ours)

    def _spawn(self, ours: list[int], theirs: list[int]) -> None:
        launch = self._launch
        env = dict(launch.env)
        stdin: int | None = None
        outputs: list[int | None] = [None, None]
        if not launch.terminal:
            outputs = [self._pipe(ours, theirs), self._pipe(ours, theirs)]
            stdin = subprocess.DEVNULL if launch.stdin is None else launch.stdin
        argv, inherit = self._prelude(env, theirs)
        with self._lent():
            self._popen = subprocess.Popen(
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
                process_group=0 if self._own_group else None,
                stdin=stdin,
                stdout=outputs[0],
                stderr=outputs[1],
            )
        self.pid = self._popen.pid
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except OSError:
            # Out of descriptors: a child that cannot be followed must not be.
            self._popen.kill()
            self._popen.wait()
            raise
        ours.append(self._pidfd)

    @property
    def _own_group(self) -> bool:
        """Who reads from our terminal has to be in its foreground group, which is ours: the kernel stops all others."""
        return not (self._launch.terminal or (self._launch.stdin == 0 and os.isatty(0)))

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
        if launch.notify:
            env["NOTIFY_SOCKET"] = self._open_datagram()
        if is_plain(launch):
            return plain_words(launch), []
        notify_fd: int | None = None
        if not launch.notify:
            # Packets, not a stream: one message is one read, and the end of the worker is an end of file.
            self._notify, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            theirs.append(notify_fd := there.detach())
        theirs.append(job := open_job(job_of(launch, notify_fd)))
        words = boot_words(launch.python, launch.label, job, worker_package())
        return words, [fd for fd in (notify_fd, job) if fd is not None]

    def _open_datagram(self) -> str:
        """A notify socket that the child's user can reach: abstract, with a name that cannot be guessed."""
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._notify.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        name = f"trapeze/{os.getpid()}/{os.urandom(16).hex()}"
        self._notify.bind("\0" + name)
        return "@" + name

    def _follow(self, ours: list[int]) -> None:
        self._loop.add_reader(self._pidfd, self.reap)
        for name, fd in zip(("stdout", "stderr"), ours[:-1], strict=False):
            self._streams.append(Stream(self._loop, fd, self._line(name), lambda: None))
        if self._notify is not None:
            self._notify.setblocking(False)
            self._loop.add_reader(self._notify.fileno(), self._read_notify)

    def _line(self, name: str) -> Callable[[str, bool], None]:
        return lambda text, more: self._listener.on_line(name, text, more)

    def _read_notify(self) -> None:
        """Take one datagram per wake: a child that talks without end must not hold the loop."""
        assert self._notify is not None
        try:
            data, control, _flags, _address = self._notify.recvmsg(_NOTIFY_LIMIT, 64)
        except BlockingIOError:
            return
        except OSError:
            data, control = b"", []
        if not data and not self._launch.notify:
            self._close_notify()
        elif not self._launch.notify or self._is_own(control):
            self._listener.on_message(data)

    def _is_own(self, control: Sequence[tuple[int, int, bytes]]) -> bool:
        """Was this sent by the child or something in its process group?

        `systemd-notify` is a process of its own and may be gone before we look; then knowing the random name and being
        the service's user has to do, as nobody else was told the name.
        """
        for level, kind, data in control:
            if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                pid, uid = (int.from_bytes(data[at : at + 4], sys.byteorder) for at in (0, 4))
                try:
                    own = os.getpgid(pid) == self.pid
                except OSError:
                    own = uid in (self._launch.user if self._launch.user is not None else os.geteuid(), 0)
                if not own:
                    self._complain(f"a notify message of pid {pid} was refused: it is not in this process group")
                return own
        return False

    def _close_notify(self) -> None:
        if self._notify is not None:
            self._loop.remove_reader(self._notify.fileno())
            self._notify.close()
            self._notify = None

    def send(self, signum: int) -> None:
        """Signal the process, by pidfd: the pid can never be somebody else's."""
        if self._pidfd >= 0:
            try:
                signal.pidfd_send_signal(self._pidfd, signum)
                if signum == self._launch.stop_signal:
                    # One that is stopped (SIGSTOP, a read from the terminal) takes no other signal until it goes on.
                    signal.pidfd_send_signal(self._pidfd, signal.SIGCONT)
            except ProcessLookupError:
                return
            except PermissionError:
                self._complain(f"pid {self.pid} runs as another user now: it may not be signalled")
                self.unreachable = signum == signal.SIGKILL or self.unreachable

    def _complain(self, text: str) -> None:
        """Say something about the child among its own lines; once."""
        if text not in self._complaints:
            self._complaints.add(text)
            self._listener.on_line("stderr", f"[trapeze] {text}", False)

    def kill(self) -> None:
        """SIGKILL to the whole group; without one of its own, to the process."""
        if self._pidfd < 0:
            return
        if not self._own_group or not self._launch.kill_group:
            self.send(signal.SIGKILL)
            return
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        except PermissionError:
            self.send(signal.SIGKILL)

    def reap(self) -> None:
        """Called when the pidfd is readable: hand on what it still said, reap it, tell the listener."""
        if self._pidfd < 0:
            return
        if os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return
        if self._launch.kill_group:
            # The zombie still holds the pid, so the group cannot be another's: the last safe moment to clear it.
            self.kill()
        for _ in range(_LAST_MESSAGES):
            if self._notify is None or not self._pending():
                break
            self._read_notify()
        self._close_notify()
        for stream in self._streams:
            stream.drain()
            stream.close()
        self._loop.remove_reader(self._pidfd)
        dead = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        os.close(self._pidfd)
        self._pidfd = -1
        assert dead is not None and self._popen is not None
        status = dead.si_status if dead.si_code == os.CLD_EXITED else -dead.si_status
        # Popen must know, or it would wait for a pid that may soon be another's.
        self._popen.returncode = status
        self._forget(self)
        self._listener.on_exit(status)

    def _pending(self) -> bool:
        assert self._notify is not None
        try:
            self._notify.recv(1, socket.MSG_PEEK)
        except OSError:
            return False
        return True
