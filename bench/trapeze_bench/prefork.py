"""Servers that run in one process only, natively with as many workers: fork, and each calls the server's own function.

    python -m trapeze_bench.prefork waitress 8000 4 app:wsgi wsgi [THREADS]

What the documentation of each recommends for a listening socket that is there already; no more is done to them than
that. One parent waits, and passes SIGTERM on.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any

from trapeze_bench.loading import load

__all__ = ["POOLS", "SERVERS", "main"]

BACKLOG = 2048
POOLS = {"waitress": 4, "cheroot": 10, "tornado": 4}
"""Threads, as trapeze's backends take; of the first two it is their own default."""


def _waitress(sock: socket.socket, app: Any, threads: int | None) -> None:
    import waitress

    waitress.serve(app, sockets=[sock], backlog=BACKLOG, threads=threads or POOLS["waitress"])


def _gevent(sock: socket.socket, app: Any, threads: int | None) -> None:
    import gevent.socket
    from gevent.pywsgi import WSGIServer

    green = gevent.socket.socket(sock.family, sock.type, sock.proto, sock.detach())
    WSGIServer(green, app, log=None, environ={"wsgi.multiprocess": True}).serve_forever()


def _bjoern(sock: socket.socket, app: Any, threads: int | None) -> None:
    import bjoern

    bjoern.server_run(sock, app)


def _cheroot(sock: socket.socket, app: Any, threads: int | None) -> None:
    from cheroot import wsgi as cheroot

    class Server(cheroot.Server):  # type: ignore[misc]
        """On a socket that is there."""

        request_queue_size = BACKLOG

        def bind(self, *args: Any) -> socket.socket:
            self.socket = sock
            return sock

    Server(("127.0.0.1", 0), app, numthreads=threads or POOLS["cheroot"]).safe_start()


def _werkzeug(sock: socket.socket, app: Any, threads: int | None) -> None:
    import logging

    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    make_server("127.0.0.1", 0, app, threaded=True, fd=sock.fileno()).serve_forever()


def _tornado(sock: socket.socket, app: Any, threads: int | None) -> None:
    import asyncio
    import logging
    from concurrent.futures import ThreadPoolExecutor

    from tornado.httpserver import HTTPServer
    from tornado.wsgi import WSGIContainer

    logging.getLogger("tornado.access").setLevel(logging.ERROR)

    async def serve() -> None:
        HTTPServer(WSGIContainer(app, ThreadPoolExecutor(threads or POOLS["tornado"]))).add_sockets([sock])
        await asyncio.Event().wait()

    asyncio.run(serve())


def _daphne(sock: socket.socket, app: Any, threads: int | None) -> None:
    from daphne.server import Server

    Server(app, endpoints=[f"fd:fileno={sock.fileno()}"]).run()


def _wsgiref(sock: socket.socket, app: Any, threads: int | None) -> None:
    from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

    class Quiet(WSGIRequestHandler):
        """No line on stderr for each request."""

        def log_message(self, *args: Any) -> None:
            pass

    server = WSGIServer(("127.0.0.1", 0), Quiet, bind_and_activate=False)
    server.socket.close()
    server.socket = sock
    server.server_name, server.server_port = "127.0.0.1", sock.getsockname()[1]
    server.setup_environ()
    server.set_app(app)
    server.serve_forever()


def _aiohttp(sock: socket.socket, app: Any, threads: int | None) -> None:
    from aiohttp import web

    web.run_app(app, sock=sock, access_log=None, print=lambda *words: None)


SERVERS: dict[str, Callable[[socket.socket, Any, int | None], None]] = {
    "aiohttp": _aiohttp,
    "bjoern": _bjoern,
    "cheroot": _cheroot,
    "daphne": _daphne,
    "gevent": _gevent,
    "tornado": _tornado,
    "waitress": _waitress,
    "werkzeug": _werkzeug,
    "wsgiref": _wsgiref,
}


def main(arguments: Sequence[str]) -> int:
    """Serve until SIGTERM."""
    name, port, workers, app = arguments[0], int(arguments[1]), int(arguments[2]), arguments[3]
    threads = int(arguments[5]) if len(arguments) > 5 else None
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.bind(("127.0.0.1", port))
    sock.listen(BACKLOG)
    sock.setblocking(False)
    children = []
    for _ in range(workers):
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
            if name == "gevent":
                from gevent import monkey

                monkey.patch_all()  # before the app is imported
            SERVERS[name](sock, load(app), threads)
            os._exit(0)
        children.append(pid)

    def stop(*_: object) -> None:
        for pid in children:
            os.kill(pid, signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    for pid in children:
        os.waitpid(pid, 0)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
