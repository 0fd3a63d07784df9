"""The helpers that run other programs do what they say: real nginx in front of a listener, a real Redis."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from tests.support.nginx import Nginx
from tests.support.redis import Redis
from tests.support.server import Listener, Trapeze


def answer_once(listener: Listener, body: bytes) -> threading.Thread:
    """Accept one connection and answer it, in a thread."""

    def run() -> None:
        connection, _ = listener.sock.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_nginx_stands_in_front_of_a_unix_socket(unix: Callable[..., Listener], nginx: Callable[..., Nginx]) -> None:
    upstream = unix("app.sock")
    thread = answer_once(upstream, b"from the app")

    server = nginx(upstream.address)

    assert server.get("/").text == "from the app"
    thread.join()
    assert server.errors == ""


def test_redis_answers(redis: Redis) -> None:
    assert redis.ask("SET", "k", "v") == "OK"
    assert redis.ask("GET", "k") == "v"


def test_a_request_waits_in_the_backlog(tcp: Callable[..., Listener]) -> None:
    listener = tcp()
    thread = answer_once(listener, b"late")

    assert listener.get("/").text == "late"
    thread.join()


def test_errors_must_be_announced(run_dir: Path) -> None:
    server = Trapeze("up", directory=run_dir)
    (run_dir / "stdout").write_text("web.0 | fine\n")
    (run_dir / "stderr").write_text("ERROR web[0]: exited with 3\nINFO web: fine\nERROR jobs[0]: lost\n")

    server.expect_error(r"web\[0\]: exited")

    assert server.unannounced_errors() == ["ERROR jobs[0]: lost"]
