"""Following one child from its pidfd to its exit status, whoever has forked it.

A child is followed by its pidfd: readable means dead, and as long as we have not reaped it its pid cannot be another's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence

from msgspec import Struct

from trapeze import niceness
from trapeze.output import Stream
from trapeze.prelude import Launch, Listener

__all__ = ["TO_HEAR", "Followed", "Kept"]

_NOTIFY_LIMIT = 128 * 1024
TO_HEAR = 0.05
"""Seconds in which we hear of a signal that a child in our group got together with us: a turn of the loop would do."""

_LAST_MESSAGES = 100
"""So many datagrams are read at the end of a child: who else knows its socket might send for ever."""


class Kept(Struct, omit_defaults=True, kw_only=True):
    """A child as it goes through an upgrade in place: descriptors by their numbers, and what was half said."""

    pid: int
    pidfd: int
    outputs: list[tuple[str, int, bytes]] = []
    """Name and descriptor of what is still read, and the unfinished line."""
    notify: int = -1
    line: int = -1
    """To one that forks for us, or stands by."""
    asked: int = 0
    """Number of the last request on that line."""
    unreachable: bool = False
    gives_way: bool = False
    label: str = ""
    terminal: bool = False
    stdin: int | None = None
    datagrams: bool = False
    """`notify` is a socket for datagrams, which a command opens by its name."""
    stop_signal: int = signal.SIGTERM
    stop_timeout: float = 30.0
    kill_group: bool = True
    user: int | None = None
    group: int | None = None

    @property
    def descriptors(self) -> list[int]:
        """All that have to stay open."""
        return [fd for fd in (self.pidfd, *(fd for _, fd, _ in self.outputs), self.notify, self.line) if fd >= 0]

    @property
    def launch(self) -> Launch:
        """What it was asked to do, as far as that still matters: it runs."""
        return Launch(
            label=self.label,
            terminal=self.terminal,
            stdin=self.stdin,
            notify=self.datagrams,
            stop_signal=self.stop_signal,
            stop_timeout=self.stop_timeout,
            kill_group=self.kill_group,
            user=self.user,
            group=self.group,
        )


class Followed:
    """One OS process: its pidfd, its pipes, its notify socket."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        launch: Launch,
        listener: Listener,
        forget: Callable[[Followed], None],
    ) -> None:
        self.pid = 0
        self.unreachable = False
        self._loop = loop
        self._launch = launch
        self._listener = listener
        self._forget = forget
        self._pidfd = -1
        self._streams: dict[str, Stream] = {}
        self._notify: socket.socket | None = None
        self._complaints: set[str] = set()
        self._waits = False
        self._gives_way = False

    def _follow(self, pidfd: int, outputs: Sequence[int]) -> None:
        """Begin: `outputs` are our ends of its stdout and stderr, if we have them; `_notify` is set."""
        self._attend(pidfd, [(name, fd, b"") for name, fd in zip(("stdout", "stderr"), outputs, strict=False)])

    def _attend(self, pidfd: int, outputs: Sequence[tuple[str, int, bytes]]) -> None:
        self._pidfd = pidfd
        self._loop.add_reader(pidfd, self.reap)
        for name, fd, rest in outputs:
            self._streams[name] = Stream(self._loop, fd, self._line(name), lambda: None, rest=rest)
        if self._notify is not None:
            self._notify.setblocking(False)
            self._loop.add_reader(self._notify.fileno(), self._read_notify)

    def keep(self) -> Kept:
        """What another program in our place needs in order to follow it; nothing is closed or changed."""
        launch = self._launch
        return Kept(
            pid=self.pid,
            pidfd=self._pidfd,
            outputs=[(name, s.fd, s.splitter.rest) for name, s in self._streams.items() if not s.closed],
            notify=self._notify.fileno() if self._notify is not None else -1,
            unreachable=self.unreachable,
            gives_way=self._gives_way,
            label=launch.label,
            terminal=launch.terminal,
            stdin=launch.stdin,
            datagrams=launch.notify,
            stop_signal=int(launch.stop_signal),
            stop_timeout=launch.stop_timeout,
            kill_group=launch.kill_group,
            user=launch.user,
            group=launch.group,
        )

    def hand_over(self, launch: Launch, listener: Listener) -> None:
        """It does another job from now on, and somebody else listens."""
        self._launch = launch
        self._listener = listener

    @property
    def own_group(self) -> bool:
        """Who reads from our terminal has to be in its foreground group, which is ours: the kernel stops all others."""
        return not (self._launch.terminal or (self._launch.stdin == 0 and os.isatty(0)))

    @property
    def listener(self) -> Listener:
        """Who is told."""
        return self._listener

    @property
    def launched(self) -> Launch:
        """What it was asked to do."""
        return self._launch

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

    def tell(self, text: str) -> None:
        """Say something on the socket on which it speaks to us: one packet, or nothing if it cannot take it."""
        if self._notify is not None:
            with contextlib.suppress(OSError):  # gone, or a command: it has its own kind of socket, and cannot hear
                self._notify.send(text.encode())

    def give_way(self) -> None:
        """Let others have the processor first, for some seconds; nothing happens where that cannot be undone."""
        if self._pidfd >= 0 and niceness.give_way(self.pid):
            self._gives_way = True
            self._loop.call_later(niceness.LONGEST, self.hurry)

    def hurry(self) -> None:
        """Undo that. Safe to call at any time."""
        if self._gives_way and self._pidfd >= 0:
            niceness.hurry(self.pid)
        self._gives_way = False

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
        if not self.own_group or not self._launch.kill_group:
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
        if self._pidfd < 0 or self._waits:
            return
        if os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return
        if self.own_group:
            self._reap()
            return
        # ^C went to the whole foreground group, and this may be its end: we have the signal too, and shall hear of it
        # only after this callback. Judged before that, what the user has asked for would be a failure.
        self._waits = True
        self._loop.remove_reader(self._pidfd)
        self._loop.call_later(TO_HEAR, self._reap)

    def _reap(self) -> None:
        if self._launch.kill_group:
            # The zombie still holds the pid, so the group cannot be another's: the last safe moment to clear it.
            self.kill()
        for _ in range(_LAST_MESSAGES):
            if self._notify is None or not self._pending():
                break
            self._read_notify()
        self._close_notify()
        for stream in self._streams.values():
            stream.drain()
            stream.close()
        self._loop.remove_reader(self._pidfd)
        dead = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        os.close(self._pidfd)
        self._pidfd = -1
        assert dead is not None
        status = dead.si_status if dead.si_code == os.CLD_EXITED else -dead.si_status
        self._reaped(status)
        self._forget(self)
        self._listener.on_exit(status)

    def _reaped(self, status: int) -> None:
        """Called when its pid is free again."""

    def _pending(self) -> bool:
        assert self._notify is not None
        try:
            self._notify.recv(1, socket.MSG_PEEK)
        except OSError:
            return False
        return True
