"""waitress's classes, run in a loop of ours: it accepts when a thread is free, and a stop loses no request."""

from __future__ import annotations

import queue
import socket
import time
from typing import Any

import waitress.server
from waitress import wasyncore
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.task import ThreadedTaskDispatcher, WSGITask

from trapeze_backends.accepting import Beats, Room
from trapeze_backends.endless import unread_bytes
from trapeze_backends.fairshare import Turn
from trapeze_backends.worker import Worker
from trapeze_backends.wsgi_common import adapt_app

__all__ = ["run"]

THREADS = 4

PATIENCE = 10.0
"""Seconds that a new connection may be silent, however short `keepalive` is."""


def run(app: Any, sockets: list[socket.socket], worker: Worker) -> None:
    """Serve until the worker is asked to stop, then drain."""
    settings = _settings(worker)
    threads = worker.job.threads or int(settings.pop("threads", 0)) or THREADS
    channels: dict[int, Any] = {}
    servers: list[Any] = []
    room = Room(threads, lambda: servers[0].pull_trigger())
    dispatcher = _Pool(room)
    dispatcher.set_thread_count(threads)
    channel_class = _channel_class(worker, room)
    turn = Turn(worker.share)
    # One call per socket: TCP and Unix may not be mixed in one.
    for sock in sockets:
        adapted = adapt_app(app, sock, worker)
        server = waitress.server.create_server(
            adapted, map=channels, _dispatcher=dispatcher, sockets=[sock], **settings
        )
        server.channel_class = channel_class
        server.__class__ = _server_class(type(server))
        server.room, server.turn = room, turn
        servers.append(server)
    _Wake(worker.wake_fd(), map=channels)
    worker.restore_backlog([server.socket for server in servers])
    worker.ready()
    beats, cleanup = Beats(worker, room), servers[0].adj.cleanup_interval
    while not worker.stopping:
        others_first = turn.left(sum(len(server.active_channels) for server in servers))
        timeout = min(beats.beat(), cleanup, others_first or cleanup)
        for server in servers:
            server.waits = bool(others_first)
        wasyncore.loop(timeout=timeout, map=channels, use_poll=True, count=1)
    worker.share.leave()
    for server in servers:
        server.accepting = False
        # Not server.close(): that one ends the trigger, which the threads need to have their answers sent.
        wasyncore.dispatcher.close(server)
    _drain(channels, worker)


def _settings(worker: Worker) -> dict[str, Any]:
    job = worker.job
    settings = {name: value for name, value in job.options.items() if name != "trusted_proxy"}
    settings["backlog"] = job.backlog
    settings["clear_untrusted_proxy_headers"] = False  # the apps behind all the others get to see them
    if job.keepalive is not None:
        settings["channel_timeout"] = max(int(job.keepalive + 0.5), 1)
        settings.setdefault("cleanup_interval", 1)  # waitress looks every 30 seconds which connections are idle
    return settings


class _Pool(ThreadedTaskDispatcher):
    """waitress's threads, with a queue that costs less. Whoever waits in it is in the room.

    There is no line on stderr for each request that has to wait, as waitress's own writes it.
    """

    def __init__(self, room: Room) -> None:
        super().__init__()
        self.queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.room = room

    def add_task(self, task: Any) -> None:
        """A request is there."""
        self.room.enter()
        self.queue.put(task)

    def handler_thread(self, thread_no: int) -> None:
        """Serve one after the other; these threads end with the process."""
        while True:
            task = self.queue.get()
            try:
                task.service()
            except BaseException:  # the pool must not lose a thread, as waitress's own does not
                self.logger.exception("Exception when servicing %r", task)


def _server_class(base: type[Any]) -> type[Any]:
    class Server(base):
        """Accepts when a thread is free, and siblings have no fewer connections."""

        room: Room
        turn: Turn
        waits = False
        """It is the siblings' turn."""

        def readable(self) -> bool:
            """Asked before each poll."""
            return not self.waits and bool(super().readable()) and self.room.has_place()

        def handle_accept(self) -> None:
            """Another listener may have taken the last place since the poll."""
            if self.room.has_place():
                self.room.accepted()
                before = len(self.active_channels)
                super().handle_accept()
                if len(self.active_channels) > before:
                    self.turn.accepted(before + 1)

        def maintenance(self, now: float) -> None:
            """Close idle connections, but none whose request is there already, or may still come as its first."""
            for channel in self.active_channels.values():
                is_new = not channel.served and now < channel.creation_time + PATIENCE
                if not channel.requests and (is_new or _unread(channel)):
                    channel.last_activity = now
            super().maintenance(now)

    return Server


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


class _Parser(HTTPRequestParser):
    """waitress's, which does not mind a length beside chunks: what is behind may be another's idea of a request."""

    def parse_header(self, header_plus: bytes) -> None:
        super().parse_header(header_plus)
        if self.chunked and "CONTENT_LENGTH" in self.headers:
            raise ParsingError("Both Content-Length and Transfer-Encoding are given")


def _channel_class(worker: Worker, room: Room) -> type[Any]:
    class Task(WSGITask):
        """While draining, and with keepalive = 0, answers say that the connection closes."""

        def build_response_header(self) -> bytes:
            if worker.stopping or worker.job.keepalive == 0:
                self.request.headers["CONNECTION"] = "close"
            return bytes(super().build_response_header())

    class Channel(waitress.server.HTTPChannel):
        """waitress's, with that task and our parser."""

        task_class = Task
        parser_class = _Parser
        served = False

        def __init__(self, server: Any, sock: Any, *args: Any, **kwargs: Any) -> None:
            super().__init__(server, sock, *args, **kwargs)
            if unread_bytes(sock.fileno()):
                # At once, and not in the next round: or another connection is accepted before this one counts.
                wasyncore.read(self)

        def service(self) -> None:
            """One request, in a thread of the pool."""
            self.served = True
            try:
                super().service()
            finally:
                room.leave()

    return Channel
