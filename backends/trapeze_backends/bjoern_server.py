"""bjoern's server: one C loop per process and listener, which can be stopped by SIGINT only.

While the loop sleeps no signal handler written in Python runs, so a thread reads signals from the wake-up descriptor.
When the worker is to leave, it calls what the loop (libev) has installed for SIGINT, which makes bjoern stop accepting,
and closes connections that stay idle, since bjoern waits for those for ever. SIGINT itself stays what it is for every
worker, the wish that it leaves at once. With several sockets there is one process per socket.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

import bjoern

from trapeze_backends.endless import unread_bytes
from trapeze_backends.process import follow_parent
from trapeze_backends.worker import Worker
from trapeze_backends.wsgi_common import adapt_app

__all__ = ["run"]

Beat = Callable[[int, int], object]
"""Told of the requests that have begun and those that are at work."""


def run(app: Any, sockets: list[socket.socket], worker: Worker) -> None:
    """Serve until the worker is asked to stop, then drain."""
    if len(sockets) > 1:
        _run_each(app, sockets, worker)
    else:
        _run_one(app, sockets[0], worker, worker.beat)


def _run_one(app: Any, sock: socket.socket, worker: Worker, beat: Beat) -> None:
    calls = [0, 0]
    watched = _watched(adapt_app(app, sock, worker, tell=True, nameless=sock.family == socket.AF_INET6), calls)
    read, write = os.pipe()
    os.set_blocking(write, False)
    for number in worker.graceful_signals | worker.fast_signals | {signal.SIGINT}:
        signal.signal(number, lambda signum, frame: None)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    interrupt = _Interrupt()
    threading.Thread(
        target=_obey, args=(read, sock, worker, calls, interrupt, beat), name="signals", daemon=True
    ).start()
    bjoern.server_run(sock, watched)


class _Interrupt:
    """SIGINT, of which Python and libev both want to be told."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None)
        self._libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
        self._pythons = self._handler()
        self._libevs = self._pythons

    def _handler(self) -> int:
        """The address of what is installed; 0 is the default. It comes first in the structure."""
        action = ctypes.create_string_buffer(512)
        self._libc.sigaction(int(signal.SIGINT), None, action)
        return int(ctypes.c_void_p.from_buffer(action).value or 0)

    def _install_pythons(self) -> None:
        self._libc.signal(int(signal.SIGINT), self._pythons)

    def wait_for_loop(self) -> None:
        """Until libev's handler is there: the loop runs. Python's is put back."""
        while self._handler() == self._pythons:
            time.sleep(0.002)
        self._libevs = self._handler()
        self._install_pythons()

    def stop_loop(self) -> None:
        """As if SIGINT had come to libev, whose handlers may be called in any thread."""
        ctypes.CFUNCTYPE(None, ctypes.c_int)(self._libevs)(int(signal.SIGINT))

    def keep(self) -> None:
        """Once the loop has noticed, it puts back the default, by which SIGINT kills."""
        if self._handler() != self._pythons:
            self._install_pythons()


def _watched(app: Any, calls: list[int]) -> Any:
    """Count the calls of the app that have begun and that have ended."""

    def watched(environ: Any, start_response: Any) -> Any:
        calls[0] += 1
        try:
            return app(environ, start_response)
        finally:
            calls[1] += 1

    return watched


def _wait(signals: int, worker: Worker, calls: list[int], beat: Beat) -> bytes:
    """Wait for signals. Meanwhile beat, since bjoern's loop cannot: as long as the app is not stuck in one call."""
    poller = select.poll()
    poller.register(signals, select.POLLIN)
    last = 0
    while True:
        begun, ended = calls
        if begun == ended or begun != last:
            beat(begun, begun - ended)
        last = begun
        if poller.poll(worker.pulse * 1000):
            return os.read(signals, 64)


def _obey(
    signals: int, sock: socket.socket, worker: Worker, calls: list[int], interrupt: _Interrupt, beat: Beat
) -> None:
    """Thread: wait for a signal to leave, then see the drain through."""
    interrupt.wait_for_loop()
    worker.ready()
    while not worker.stopping:
        for number in _wait(signals, worker, calls, beat):
            if number in worker.fast_signals:
                worker.leave_now()
            elif number in worker.graceful_signals:
                worker.stop()
    family, address = sock.family, sock.getsockname()
    interrupt.stop_loop()
    grace = time.monotonic() + worker.job.drain_grace
    end = time.monotonic() + worker.job.patience
    os.set_blocking(signals, False)
    while time.monotonic() < end:
        interrupt.keep()
        with contextlib.suppress(BlockingIOError):
            if signal.SIGQUIT in os.read(signals, 64):  # SIGINT is tripped by bjoern itself, at its end
                break
        if time.monotonic() >= grace:
            _close_idle(family, address)
        time.sleep(0.05)
    worker.leave_now()


def _close_idle(family: int, address: Any) -> None:
    """End the reading side of each accepted connection with nothing to read: bjoern closes it after its answer."""
    for entry in os.listdir("/proc/self/fd"):
        try:
            copy = os.dup(int(entry))
        except OSError:
            continue
        try:
            with socket.socket(fileno=copy) as peer:
                if peer.family == family and _is_ours(peer, address) and not _busy(peer):
                    peer.shutdown(socket.SHUT_RD)
        except OSError:
            with contextlib.suppress(OSError):
                os.close(copy)


def _is_ours(peer: socket.socket, address: Any) -> bool:
    """Accepted from our listener: it bears the listener's own address (of any interface, the port) and has a peer."""
    if peer.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return False
    peer.getpeername()
    own = peer.getsockname()
    return bool(own[1] == address[1] if isinstance(address, tuple) else own == address)


def _busy(peer: socket.socket) -> bool:
    """Bytes wait to be read, or have come since the last answer began: a request, or a part of one.

    The kernel knows that of TCP only. Half a request on a Unix socket is not seen; proxies send whole ones.
    """
    if unread_bytes(peer.fileno()):
        return True
    if peer.family == socket.AF_UNIX:
        return False
    info = peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 136)
    sent_ago, received_ago = struct.unpack_from("I4xI", info, 8 + 4 * 9)  # milliseconds
    acknowledged, received = struct.unpack_from("QQ", info, 120)
    never_answered = acknowledged <= 1  # the handshake counts as one byte
    return bool(received if never_answered else received_ago < sent_ago)


def _run_each(app: Any, sockets: list[socket.socket], worker: Worker) -> None:
    """One forked process per socket; this one passes signals on and waits for them."""
    stop = worker.graceful_signals | worker.fast_signals
    signal.pthread_sigmask(signal.SIG_BLOCK, stop | {signal.SIGCHLD})
    parent = os.getpid()
    hearts = _Hearts(len(sockets) + 1, worker)
    children = {}
    for position, sock in enumerate(sockets):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                follow_parent(parent, signal.SIGTERM)
                worker.job.parent = parent
                worker.is_ready = True  # the parent says so, once for all
                signal.pthread_sigmask(signal.SIG_UNBLOCK, stop | {signal.SIGCHLD})
                for other in sockets:
                    if other is not sock:
                        other.close()
                _run_one(app, sock, worker, hearts.of(position))
                status = 0
            finally:
                os._exit(status)
        children[pid] = position
    worker.ready()
    for sock in sockets:
        sock.close()
    failed = _wait_for(children, stop, worker, hearts)
    if failed:
        raise RuntimeError(f"the process of {failed} ended")


class _Hearts:
    """When each of several processes has last gone round, in memory that they share. They are one worker: it beats as
    long as all of them do, or one that hangs would not be found."""

    def __init__(self, number: int, worker: Worker) -> None:
        self._last: memoryview[float] = memoryview(mmap.mmap(-1, 8 * number)).cast("d")
        self._worker = worker
        for place in range(number):
            self._last[place] = time.monotonic()

    def note(self, place: int) -> bool:
        """One goes round. Returns whether the others do."""
        now = self._last[place] = time.monotonic()
        return now - min(self._last) < 2 * self._worker.pulse

    def of(self, place: int) -> Beat:
        """Return what is to be called by one of them."""

        def beat(begun: int, at_work: int) -> None:
            if self.note(place):
                self._worker.beat(begun, at_work)

        return beat


def _wait_for(children: dict[int, int], stop: frozenset[int], worker: Worker, hearts: _Hearts) -> str:
    """Pass signals on until no child is left; returns the address whose process ended unasked."""
    failed = ""
    while children:
        hearts.note(-1)
        caught = signal.sigtimedwait(stop | {signal.SIGCHLD}, worker.pulse)
        if caught is None:
            continue
        number = caught.si_signo
        if number in stop:
            worker.stop()
            forwarded = signal.SIGTERM if number in worker.graceful_signals else signal.SIGQUIT
            for pid in children:
                os.kill(pid, forwarded)
        for pid in list(children):
            if os.waitpid(pid, os.WNOHANG)[0]:
                position = children.pop(pid)
                if not worker.stopping:
                    failed = worker.job.listeners[position].address
                    worker.stop()
                    for other in children:
                        os.kill(other, signal.SIGTERM)
    return failed
