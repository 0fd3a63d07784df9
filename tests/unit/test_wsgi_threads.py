"""WSGI apps in a pool of threads: the environ, and how an answer comes back to the loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any
from wsgiref.validate import check_environ  # type: ignore[attr-defined]

import pytest
from trapeze_backends.wsgi_threads import Pool, Sink, make_environ, respond


def environ(**more: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {"method": "GET", "raw_path": b"/", "query": "", "version": "HTTP/1.1", "headers": []}
    return make_environ(**{**fields, "body": b"", **more})


def test_environ_is_what_pep_3333_wants() -> None:
    made = environ(headers=[("Host", "x"), ("Content-Type", "text/plain"), ("Content-Length", "2")], body=b"ab")
    check_environ({**made, "SERVER_NAME": "x", "SERVER_PORT": "80"})
    assert (made["CONTENT_TYPE"], made["CONTENT_LENGTH"], made["wsgi.input"].read()) == ("text/plain", "2", b"ab")
    assert not any(key in made for key in ("HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH"))


def test_the_path_is_decoded_byte_by_byte() -> None:
    made = environ(raw_path=b"/a%20b/%ff%c3%a9", query="c=%20d")
    assert made["PATH_INFO"].encode("latin-1") == b"/a b/\xff\xc3\xa9"
    assert (made["RAW_URI"], made["QUERY_STRING"]) == ("/a%20b/%ff%c3%a9?c=%20d", "c=%20d")


def test_headers_several_times_and_with_underscores() -> None:
    headers = [("X-A", "1"), ("x-a", "2"), ("X_A", "3"), ("Cookie", "a"), ("Cookie", "b")]
    made = environ(headers=headers)
    assert (made["HTTP_X_A"], made["HTTP_COOKIE"]) == ("1,2", "a; b")


def test_a_body_in_chunks_is_whole_by_now() -> None:
    made = environ(headers=[("Transfer-Encoding", "chunked")], body=b"abc")
    assert made["CONTENT_LENGTH"] == "3" and "HTTP_TRANSFER_ENCODING" not in made


class Noted(Sink):
    """What comes."""

    def __init__(self, breaks: bool = False) -> None:
        self.breaks = breaks
        self.status = ""
        self.headers: Sequence[tuple[str, str]] = ()
        self.pieces: list[bytes] = []
        self.end = ""

    async def start(self, status: str, headers: Sequence[tuple[str, str]]) -> None:
        self.started = True
        self.status, self.headers = status, headers

    async def write(self, piece: bytes) -> None:
        if self.breaks:
            raise ConnectionResetError
        self.pieces.append(piece)

    async def finish(self) -> None:
        self.end = "finished"

    def abort(self) -> None:
        self.end = "cut"


def answer(app: Any, sink: Noted | None = None, **more: Any) -> Noted:
    sink = sink or Noted()

    async def run() -> None:
        pool = Pool(2)
        await respond(pool, app, environ(**more), sink)
        pool.close()

    asyncio.run(run())
    return sink


def answering(result: Any, status: str = "200 OK", headers: Sequence[tuple[str, str]] = ()) -> Any:
    def app(environ: Any, start_response: Any) -> Any:
        start_response(status, list(headers))
        return result

    return app


def test_a_list_is_sent_at_once_with_its_length() -> None:
    sink = answer(answering([b"he", b"llo"]))
    assert (sink.pieces, dict(sink.headers), sink.end) == ([b"hello"], {"Content-Length": "5"}, "finished")


@pytest.mark.parametrize(("status", "method"), [("204 No Content", "GET"), ("304 Not", "GET"), ("200 OK", "HEAD")])
def test_no_length_is_made_up_where_there_is_no_body(status: str, method: str) -> None:
    sink = answer(answering([], status), method=method)
    assert (sink.pieces, list(sink.headers), sink.end) == ([], [], "finished")


def test_pieces_go_one_by_one_and_the_result_is_closed() -> None:
    closed = []

    class Pieces:
        def __iter__(self) -> Any:
            return iter([b"a", b"", b"b"])

        def close(self) -> None:
            closed.append(threading.current_thread() is threading.main_thread())

    sink = answer(answering(Pieces()))
    assert (sink.pieces, sink.end, closed) == ([b"a", b"b"], "finished", [False])


def test_a_client_that_has_gone_ends_the_iteration(capsys: pytest.CaptureFixture[str]) -> None:
    closed = []

    def pieces() -> Any:
        try:
            while True:
                yield b"a"
        finally:
            closed.append(True)

    assert answer(answering(pieces()), Noted(breaks=True)).end == "cut"
    assert answer(answering([b"a"]), Noted(breaks=True)).end == "cut"
    assert closed == [True]
    assert capsys.readouterr().err == ""


def test_errors_are_shown_and_answered_while_that_can_be(capsys: pytest.CaptureFixture[str]) -> None:
    def leaves(environ: Any, start_response: Any) -> Any:
        raise SystemExit(7)

    def twice(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        start_response("200 OK", [])

    for app in (leaves, twice, answering(["text"]), answering(iter(["text"])), answering(None)):
        sink = answer(app)
        assert (sink.status, sink.end) == ("500 Internal Server Error", "finished")
    assert capsys.readouterr().err.count("Traceback") >= 5


def test_a_pool_has_no_more_threads_than_it_needs() -> None:
    async def run() -> None:
        freed: list[int] = []
        before = threading.active_count()
        pool = Pool(2, lambda: freed.append(pool.busy))
        doors = [threading.Event() for _ in range(3)]
        futures = [pool.submit(door.wait) for door in doors]
        assert not pool.has_room and pool.busy == 3
        assert threading.active_count() == before + 2
        for door in doors:
            door.set()
        await asyncio.gather(*futures)
        assert (pool.busy, pool.finished, freed) == (0, 3, [2, 1, 0])
        pool.close()

    asyncio.run(run())
