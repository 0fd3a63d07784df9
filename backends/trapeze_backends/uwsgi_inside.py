"""uWSGI as a worker: the thread that watches over the process.

uWSGI's threads wait for connections in C, each with an epoll of its own, and nothing of Python runs there. So a thread
of ours beats, says ready once they wait, and hears the signals (by Python's wakeup descriptor). It also drains: uWSGI's
own graceful stop drops, with one thread, what was accepted a moment before, and ends with status 30.

To stop accepting, the listeners are taken out of the epolls. What was accepted goes on; how much it is, the kernel
knows.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from trapeze_backends.contract import StartError
from trapeze_backends.endless import unread_bytes
from trapeze_backends.epolls import descriptors, waiting_for
from trapeze_backends.orphan import replace_sockets
from trapeze_backends.program import inheritable_descriptors
from trapeze_backends.uwsgi_request import around, place_of
from trapeze_backends.uwsgi_settings import THREADS
from trapeze_backends.worker import Worker

__all__ = ["Watch", "run", "watching"]

MOMENT = 0.001
"""Seconds between two looks at what is about to be so."""
AT_MOST = 10.0
"""Seconds until its threads wait, at most."""
PAUSE = 0.02
"""Seconds between two looks at who is still being served; two of them have to find nobody."""
BYTES_RECEIVED = 128
"""Where TCP_INFO has the number of bytes that a connection has ever brought (Linux 4.1)."""

watching: list[Watch] = []
"""The one of this process, for what uWSGI imports."""


def run(app: Any, sockets: list[socket.socket], worker: Worker, words: list[str]) -> None:
    """Serve by pyuwsgi, in this interpreter; does not return."""
    import pyuwsgi

    from trapeze_backends.uwsgi_quiet import Quiet

    quiet = Quiet(worker)
    watching.append(Watch(app, sockets, worker, quiet.over))
    pyuwsgi.run([*words, "--module", "trapeze_backends.uwsgi_app:app"])


class Watch:
    """Of one worker; made on the main thread, before uWSGI begins.

    Args:
        app: what is to be served.
        sockets: listeners; uWSGI has been told their numbers.
        worker: the worker.
        accepting: called once it accepts.
    """

    def __init__(self, app: Any, sockets: list[socket.socket], worker: Worker, accepting: Callable[[], object]) -> None:
        self._worker = worker
        self._listeners = sockets
        self._fds = {sock.fileno() for sock in sockets}
        self._places = {place_of(sock) for sock in sockets}
        self._wake = worker.wake_fd()
        self._python = (list(sys.path), list(sys.argv), sys.executable)
        self._inheritable = set(inheritable_descriptors())
        self._accepting = accepting
        self.app = around(app, sockets, worker)

    def begin(self) -> None:
        """uWSGI's `post_fork_hook`: everything is there but its threads."""
        # It has put "." first on sys.path, and made itself sys.argv and sys.executable.
        sys.path[:], sys.argv, sys.executable = self._python
        threading.Thread(target=self._run, name="trapeze", daemon=True).start()

    def _run(self) -> None:
        worker = self._worker
        try:
            self._wait_for_threads()
            self._accepting()
            worker.ready()
            while not worker.stopping:
                worker.beat()
                self._hear(worker.pulse)
            self._drain()
            worker.leave()
        except StartError as error:
            worker.fail(error)
        except Exception:  # nobody would hear the stop signal any more
            sys.excepthook(*sys.exc_info())
            worker.leave_now(1)

    def _wait_for_threads(self) -> None:
        """Until each of uWSGI's threads waits for connections."""
        end = time.monotonic() + AT_MOST
        while len(list(waiting_for(self._fds))) < (self._worker.job.threads or THREADS):
            if time.monotonic() >= end:
                raise StartError("uWSGI does not wait for connections, or /proc does not show it")
            time.sleep(MOMENT)
        for fd in inheritable_descriptors():
            with contextlib.suppress(OSError):
                if fd not in self._inheritable:
                    os.set_inheritable(fd, False)  # its epolls and pipes are no business of the app's children

    def _hear(self, timeout: float) -> None:
        """Wait so many seconds for a signal, and obey it: the main thread may be in C, or in a request."""
        waiting = select.poll()
        waiting.register(self._wake, select.POLLIN)
        if not waiting.poll(timeout * 1000):
            return
        for number in os.read(self._wake, 64):
            if number in self._worker.fast_signals:
                self._worker.leave_now()
            if number in self._worker.graceful_signals:
                self._worker.stop()

    # ---- accepting ----

    def _stop_accepting(self) -> None:
        for number in list(waiting_for(self._fds)):
            epoll = select.epoll.fromfd(os.dup(number))
            for fd in self._fds:
                with contextlib.suppress(OSError):
                    epoll.unregister(fd)
            epoll.close()
        # One may be on its way from the epoll to accept(): it finds nobody.
        replace_sockets(self._fds)

    # ---- draining ----

    def _drain(self) -> None:
        """Wait for those that were accepted, bounded by the patience of the job."""
        self._stop_accepting()
        worker = self._worker
        end = time.monotonic() + worker.job.patience
        found_nobody = 0
        while found_nobody < 2 and time.monotonic() < end:
            served = self._served()
            found_nobody = 0 if served else found_nobody + 1
            if time.monotonic() >= worker.grace_ends:
                for connection in served:
                    if _is_silent(connection):
                        with contextlib.suppress(OSError):
                            connection.shutdown(socket.SHUT_RDWR)
            for connection in served:
                connection.close()
            self._hear(PAUSE)

    def _served(self) -> list[socket.socket]:
        """Connections that came from our listeners and are open: copies."""
        found = []
        for fd in descriptors():
            with contextlib.suppress(OSError):  # closed meanwhile, or never connected
                if not stat.S_ISSOCK(os.fstat(fd).st_mode):
                    continue
                copy = socket.socket(fileno=os.dup(fd))
                if copy.type == socket.SOCK_STREAM and place_of(copy) in self._places:
                    found.append(copy)
                else:
                    copy.close()
        return found


def _is_silent(connection: socket.socket) -> bool:
    """Has nothing ever come? Only TCP tells; half a request on a Unix socket is not to be told from none."""
    if connection.family == socket.AF_UNIX or unread_bytes(connection.fileno()):
        return False
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, BYTES_RECEIVED + 8)
    return len(info) >= BYTES_RECEIVED + 8 and struct.unpack_from("Q", info, BYTES_RECEIVED)[0] == 0
