"""The full wrapper around an app: what it counts, and what it must not change."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from trapeze_backends import measured
from trapeze_backends.board import FLAGS, FULL, IN_FLIGHT, OLDEST, Board
from trapeze_backends.measured import Meter


def counts(board: Board) -> tuple[int, int, list[int]]:
    """Requests, in flight, responses by class, after a beat."""
    board.beat(1.0)
    return board.requests, board.small[IN_FLIGHT], board.numbers[6:10].tolist()


def full(app: Any, interface: str = "wsgi") -> tuple[Board, Any]:
    board = Board(None)
    return board, Meter(board).full(app, interface)


class Started:
    """A server's start_response."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __call__(self, *args: Any) -> Callable[[bytes], None]:
        self.calls.append(args)
        return lambda data: None


def answering(result: Any, status: str = "200 OK") -> Any:
    def app(environ: Any, start_response: Any) -> Any:
        start_response(status, [("X", "y")])
        return result

    return app


def test_lists_stay_lists() -> None:
    """Servers make a Content-Length of a list of one."""
    for body in ([b"one"], (b"one",)):
        board, app = full(answering(body))
        started = Started()
        result = app({}, started)
        assert (list(result), len(result)) == ([b"one"], 1)
        assert counts(board)[:2] == (1, 1)
        result.close()
        result.close()
        assert counts(board) == (1, 0, [1, 0, 0, 0])
        assert started.calls == [("200 OK", [("X", "y")])]


def test_an_iterable_counts_until_it_is_closed() -> None:
    closed = []

    def pieces() -> Iterator[bytes]:
        try:
            yield b"a"
            yield b"b"
        finally:
            closed.append(True)

    board, app = full(answering(pieces(), "404 Not Found"))
    result = app({}, Started())
    assert list(result) == [b"a", b"b"]
    assert board.times[OLDEST] > 0
    result.close()
    assert closed == [True]
    assert board.times[OLDEST] == 0
    assert counts(board) == (1, 0, [0, 0, 1, 0])
    assert not hasattr(result, "__len__")


def test_sized_iterables_keep_their_length() -> None:
    _, app = full(answering({b"x": 1}))
    assert len(app({}, Started())) == 1


def test_close_of_the_result_may_raise() -> None:
    class Body:
        def __iter__(self) -> Iterator[bytes]:
            return iter([b"x"])

        def close(self) -> None:
            raise OSError("disk")

    board, app = full(answering(Body()))
    result = app({}, Started())
    with pytest.raises(OSError, match="disk"):
        result.close()
    assert counts(board)[1] == 0


def test_a_server_that_does_not_close() -> None:
    """bjoern, for lists: what nobody holds any more has ended."""
    board, app = full(answering([b"x"]))
    result = app({}, Started())
    assert counts(board)[1] == 1
    del result
    assert counts(board) == (1, 0, [1, 0, 0, 0])
    result = app({}, Started())
    result.close()
    del result
    assert counts(board) == (2, 0, [2, 0, 0, 0])


def test_files_stay_what_the_server_knows() -> None:
    """By its type the server sees that it can use sendfile."""

    class Wrapper:
        def __init__(self) -> None:
            self.closed = 0

        def close(self) -> None:
            self.closed += 1

    file = Wrapper()
    board, app = full(answering(file))
    result = app({"wsgi.file_wrapper": Wrapper}, Started())
    assert result is file
    assert counts(board)[1] == 1
    result.close()
    assert counts(board)[1] == 0
    assert file.closed == 1


def test_a_connection_that_was_taken_over() -> None:
    """gunicorn and eventlet know by identity that somebody speaks WebSocket on it."""
    handled = object()
    board, app = full(answering(handled))
    assert app({}, Started()) is handled
    assert counts(board)[1] == 0


def test_an_app_that_raises() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        raise ValueError("no")

    board, wrapped = full(app)
    with pytest.raises(ValueError, match="no"):
        wrapped({}, Started())
    assert counts(board) == (1, 0, [0, 0, 0, 1])


def test_exc_info_is_handed_on() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        start_response("500 Oops", [], ("a", "b", "c"))
        return []

    board, wrapped = full(app)
    started = Started()
    wrapped({}, started).close()
    assert started.calls[1] == ("500 Oops", [], ("a", "b", "c"))
    assert counts(board)[2] == [0, 0, 0, 1]


@pytest.mark.parametrize("status", ["", "abc", 200])
def test_a_status_that_is_none_breaks_nothing(status: Any) -> None:
    board, app = full(answering([b"x"], status))
    app({}, Started()).close()
    assert counts(board)[2] == [0, 0, 0, 1]


def test_oldest_of_several() -> None:
    """The oldest that is left, whoever ends first."""
    board, app = full(answering([b"x"]))
    seen = []
    results = []
    for _ in range(3):
        results.append(app({}, Started()))
        seen.append(results[-1].begun)
    assert board.times[OLDEST] == seen[0]
    assert board.small[IN_FLIGHT] == 3
    results[1].close()
    assert (board.times[OLDEST], board.small[IN_FLIGHT]) == (seen[0], 2)
    results[0].close()
    assert (board.times[OLDEST], board.small[IN_FLIGHT]) == (seen[2], 1)
    results[2].close()
    assert board.times[OLDEST] == 0


def test_many_threads_lose_nothing() -> None:
    """No lock, and still right: thread switches come as often as they can. The control is a counter that does lose."""
    board, app = full(answering([b"x"]))
    control = {"n": 0}
    rounds, threads = 5000, 6

    def one() -> None:
        for _ in range(rounds):
            result = app({}, Started())
            before = control["n"]
            result.close()
            control["n"] = before + 1

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        all_threads = [threading.Thread(target=one) for _ in range(threads)]
        for thread in all_threads:
            thread.start()
        for thread in all_threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert board.times[OLDEST] == 0
    assert counts(board) == (rounds * threads, 0, [rounds * threads, 0, 0, 0])
    assert control["n"] < rounds * threads, "the threads did not get into each other's way: nothing was shown"


async def _asgi(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": scope["status"], "headers": []})
    await send({"type": "http.response.body", "body": b"a", "more_body": True})
    await send({"type": "http.response.body", "body": b"b"})
    await scope["after"]()


def test_asgi() -> None:
    """A request until its last piece: what the app does afterwards is no part of it."""
    board, app = full(_asgi, "asgi")
    sent: list[Any] = []
    during: list[float] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def after() -> None:
        during.append(board.times[OLDEST])

    for status in (200, 302, 404, 500):
        asyncio.run(app({"type": "http", "status": status, "after": after}, None, send))

    assert len(sent) == 12
    assert during == [0.0] * 4
    assert counts(board) == (4, 0, [1, 1, 1, 1])


def test_asgi_that_raises_or_is_cancelled() -> None:
    board, app = full(_asgi, "asgi")

    async def send(message: Any) -> None:
        raise asyncio.CancelledError

    async def run() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await app({"type": "http", "status": 200, "after": None}, None, send)

    asyncio.run(run())
    assert counts(board) == (1, 0, [1, 0, 0, 0])


def test_asgi_websockets_and_lifespan_are_left_alone() -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope, receive, send))

    board, wrapped = full(app, "asgi")
    marks = ({"type": "websocket"}, object(), object())
    asyncio.run(wrapped(*marks))
    assert seen == [marks]
    assert counts(board)[0] == 0


def later(monkeypatch: pytest.MonkeyPatch, board: Board, seconds: float) -> float:
    """A beat so much later; the oldest request that is timed."""
    now = time.monotonic()
    monkeypatch.setattr(measured, "monotonic", lambda: now + seconds)
    board.beat(1.0)
    return board.times[OLDEST]


ENDLESS = ["text/event-stream", "Text/Event-Stream; charset=utf-8", "multipart/x-mixed-replace; boundary=b"]


@pytest.mark.parametrize("kind", ENDLESS)
def test_what_has_no_end_is_not_timed(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """It is in flight, and counts when it ends all the same. A request before it and one after it are timed as ever."""
    board = Board(None)
    meter = Meter(board)

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("content-type", environ["kind"])])
        return iter([b"x"])

    wrapped = meter.full(app, "wsgi")
    before = wrapped({"kind": "text/html"}, Started())
    stream = wrapped({"kind": kind}, Started())
    first = board.times[OLDEST]
    assert later(monkeypatch, board, 0.1) == first
    assert later(monkeypatch, board, 10.0) == first
    before.close()
    assert later(monkeypatch, board, 10.0) == 0
    after = wrapped({"kind": "text/html"}, Started())
    assert board.times[OLDEST] > first
    assert board.small[IN_FLIGHT] == 2
    after.close()
    assert board.times[OLDEST] == 0
    assert counts(board)[:2] == (3, 1)
    stream.close()
    assert counts(board) == (3, 0, [3, 0, 0, 0])


def test_the_oldest_that_is_left_is_no_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it had an older one before it when it was looked at."""
    board = Board(None)
    wrapped = Meter(board).full(answering(iter([b"x"])), "wsgi")
    streams = Meter.full(board.meter, lambda environ, start: _stream(start), "wsgi")
    before, stream = wrapped({}, Started()), streams({}, Started())
    later(monkeypatch, board, 10.0)
    before.close()
    assert board.times[OLDEST] == 0
    stream.close()


def _stream(start_response: Any) -> Any:
    start_response("200 OK", [("Content-Type", "text/event-stream")])
    return iter([b"x"])


def test_an_answer_that_has_not_begun_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it will be."""
    board, app = full(_Never())
    answer = app({}, Started())
    assert later(monkeypatch, board, 10.0) > 0
    answer.close()


class _Never:
    """A WSGI app that has not called start_response yet."""

    def __call__(self, environ: Any, start_response: Any) -> Any:
        return iter([b"x"])


def test_headers_that_are_none_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", 7)
        return iter([b"x"])

    board, wrapped = full(app)
    answer = wrapped({}, Started())
    assert later(monkeypatch, board, 10.0) > 0
    answer.close()


def test_a_websocket_under_wsgi_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """gevent's and eventlet's live as long as their request; another kind of upgrade is a request like others."""
    board, app = full(_Never())
    app({"HTTP_UPGRADE": "h2c"}, Started()).close()
    answer = app({"HTTP_UPGRADE": "WebSocket"}, Started())
    assert board.times[OLDEST] > 0
    assert later(monkeypatch, board, 10.0) == 0
    assert counts(board)[1] == 1
    answer.close()
    assert counts(board)[1] == 0


def test_asgi_streams_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the beginning of their answer on; their end is counted."""
    board, seen = Board(None), []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(later(monkeypatch, board, 10.0) > 0)
        headers = [(b"content-type", scope["kind"])]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        seen.append(later(monkeypatch, board, 10.0) > 0)
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        seen.append(later(monkeypatch, board, 10.0) > 0)
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Any) -> None:
        return None

    wrapped = Meter(board).full(app, "asgi")
    for kind, timed in ((b"text/event-stream", False), (b"text/html", True)):
        asyncio.run(wrapped({"type": "http", "kind": kind}, None, send))
        assert seen == [True, timed, timed]
        seen.clear()
    assert counts(board) == (2, 0, [2, 0, 0, 0])


@pytest.mark.parametrize("interface", ["wsgi", "asgi"])
def test_count_only_counts(interface: str) -> None:
    """For max_requests where nothing else is wanted; the flag says that it is not the full level."""
    board = Board(None)
    app = Meter(board).count(answering([b"x"]) if interface == "wsgi" else _asgi, interface)
    if interface == "wsgi":
        assert app({}, Started()) == [b"x"]
    else:

        async def nothing(*args: Any) -> None:
            return None

        asyncio.run(app({"type": "http", "status": 200, "after": nothing}, None, nothing))
    assert counts(board)[0] == 1
    assert not board.small[FLAGS] & FULL


def test_what_it_costs() -> None:
    """In calls, which a busy machine does not change: seven more for each request than those of the app."""
    started = lambda status, headers: None  # noqa: E731
    plain: Any = answering([b"x"])
    _, app = full(plain)

    def calls(each: Any) -> int:
        seen = 0

        def count(frame: object, event: str, argument: object) -> None:
            nonlocal seen
            seen += event in ("call", "c_call")

        sys.setprofile(count)
        try:
            result = each({}, started)
            for _ in result:
                pass
            if hasattr(result, "close"):
                result.close()
        finally:
            sys.setprofile(None)
        return seen

    assert calls(app) - calls(plain) <= 7


def test_servers_whose_requests_are_no_calls() -> None:
    """They say themselves when one begins and when its answer is over."""
    board = Board(None)
    begin, end = Meter(board).timed()
    first, second = begin(), begin()
    assert board.times[OLDEST] == first and counts(board)[:2] == (2, 2)
    end(first, 200)
    assert board.times[OLDEST] == second
    end(second, 404)
    assert counts(board) == (2, 0, [1, 0, 1, 0]) and board.small[FLAGS] & FULL

    board = Board(None)
    begin, end = Meter(board).counted()
    end(begin(), 200)
    assert counts(board)[0] == 1 and not board.small[FLAGS] & FULL
