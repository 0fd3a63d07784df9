"""waitress, as chaussette's backend of that name: its own class passes `fd://` as a host, which waitress 2 and newer
refuse, so waitress's classes are used."""

from __future__ import annotations

import socket
import time
from typing import Any

import waitress.server
from waitress import wasyncore
from waitress.task import ThreadedTaskDispatcher, WSGITask

from trapeze_backends.endless import unread_bytes
from trapeze_backends.worker import Worker
from trapeze_backends.wsgi_common import adapt_app

__all__ = ["run"]

THREADS = 4


def run(app: Any, sockets: list[socket.socket], worker: Worker, name: str) -> None:
    """Serve until the worker is asked to stop, then drain."""
    job = worker.job
    adjustments = {key: value for key, value in job.options.items() if key != "backend"}
    threads = job.threads or int(adjustments.pop("threads", 0)) or THREADS
    adjustments["backlog"] = job.backlog
    if "trusted_proxy" not in adjustments:
        # Or it removes X-Forwarded-For, which the apps behind all the others get to see.
        adjustments.setdefault("clear_untrusted_proxy_headers", False)
    if job.keepalive is not None:
        adjustments["channel_timeout"] = max(int(job.keepalive + 0.5), 1)
    channels: dict[int, Any] = {}
    dispatcher = ThreadedTaskDispatcher()
    dispatcher.set_thread_count(threads)
    channel_class = _channel_class(worker)
    servers = []
    # One call per socket: TCP and Unix may not be mixed in one.
    for sock in sockets:
        server = waitress.server.create_server(
            adapt_app(app, sock, worker), map=channels, _dispatcher=dispatcher, sockets=[sock], **adjustments
        )
        server.channel_class = channel_class
        servers.append(server)
    _Wake(worker.wake_fd(), map=channels)
    worker.restore_backlog([server.socket for server in servers])
    worker.ready()
    while not worker.stopping:
        worker.beat()
        wasyncore.loop(timeout=worker.pulse, map=channels, use_poll=True, count=1)
    for server in servers:
        server.accepting = False
        # Not server.close(): that one ends the trigger, which the threads need to have their answers sent.
        wasyncore.dispatcher.close(server)
    _drain(channels, worker)
    dispatcher.shutdown(timeout=0.1)


class _Wake(wasyncore.file_dispatcher):
    """Has poll() return when a signal has come."""

    def writable(self) -> bool:
        """Only read from."""
        return False

    def handle_read(self) -> None:
        """Empty it."""
        self.recv(64)


def _drain(channels: dict[int, Any], worker: Worker) -> None:
    """Go on until no connection is left; idle ones are closed after the grace."""
    start = time.monotonic()
    while time.monotonic() < start + worker.job.patience:
        live = [channel for channel in channels.values() if isinstance(channel, waitress.server.HTTPChannel)]
        if not live:
            return
        if time.monotonic() >= start + worker.job.drain_grace:
            for channel in live:
                if not (channel.requests or channel.request or channel.total_outbufs_len or _unread(channel)):
                    channel.handle_close()
        wasyncore.loop(timeout=0.05, map=channels, use_poll=True, count=1)


def _unread(channel: Any) -> int:
    return unread_bytes(channel.socket.fileno()) if channel.socket is not None else 0


def _channel_class(worker: Worker) -> type[Any]:
    class Task(WSGITask):
        """While draining, answers say that the connection closes."""

        def build_response_header(self) -> bytes:
            if worker.stopping:
                self.request.headers["CONNECTION"] = "close"
            return bytes(super().build_response_header())

    class Channel(waitress.server.HTTPChannel):
        """waitress's, with that task."""

        task_class = Task

    return Channel
