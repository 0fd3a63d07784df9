"""Servers that run in one process only, natively with as many workers: fork, and each calls the server's own function.

    python -m trapeze_bench.prefork waitress 8000 4

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

from trapeze_bench.hello import asgi, wsgi

__all__ = ["SERVERS", "main"]

BACKLOG = 2048


def _waitress(sock: socket.socket) -> None:
    import waitress

    waitress.serve(wsgi, sockets=[sock], backlog=BACKLOG)


def _gevent(sock: socket.socket) -> None:
    from gevent import monkey

    monkey.patch_all()
    import gevent.socket
    from gevent.pywsgi import WSGIServer

    green = gevent.socket.socket(sock.family, sock.type, sock.proto, sock.detach())
    WSGIServer(green, wsgi, log=None, environ={"wsgi.multiprocess": True}).serve_forever()


def _bjoern(sock: socket.socket) -> None:
    import bjoern

    bjoern.server_run(sock, wsgi)


def _cheroot(sock: socket.socket) -> None:
    from cheroot import wsgi as cheroot

    class Server(cheroot.Server):  # type: ignore[misc]
        """On a socket that is there."""

        request_queue_size = BACKLOG

        def bind(self, *args: Any) -> socket.socket:
            self.socket = sock
            return sock

    Server(("127.0.0.1", 0), wsgi).safe_start()


def _werkzeug(sock: socket.socket) -> None:
    import logging

    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    make_server("127.0.0.1", 0, wsgi, threaded=True, fd=sock.fileno()).serve_forever()


def _tornado(sock: socket.socket) -> None:
    import asyncio
    import logging
    from concurrent.futures import ThreadPoolExecutor

    from tornado.httpserver import HTTPServer
    from tornado.wsgi import WSGIContainer

    logging.getLogger("tornado.access").setLevel(logging.ERROR)

    async def serve() -> None:
        HTTPServer(WSGIContainer(wsgi, ThreadPoolExecutor(4))).add_sockets([sock])
        await asyncio.Event().wait()

    asyncio.run(serve())


def _daphne(sock: socket.socket) -> None:
    from daphne.server import Server

    Server(asgi, endpoints=[f"fd:fileno={sock.fileno()}"]).run()


def _wsgiref(sock: socket.socket) -> None:
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
    server.set_app(wsgi)
    server.serve_forever()


def _aiohttp(sock: socket.socket) -> None:
    from aiohttp import web

    from trapeze_bench.hello_aiohttp import app

    web.run_app(app, sock=sock, access_log=None, print=lambda *words: None)


SERVERS: dict[str, Callable[[socket.socket], None]] = {
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
    name, port, workers = arguments[0], int(arguments[1]), int(arguments[2])
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
            SERVERS[name](sock)
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
