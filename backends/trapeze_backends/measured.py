"""Counting requests around an app: how many, which are in flight since when, how they ended, how long they took.

`Meter.full` costs 1.1 us a request for WSGI and 1.2 us for ASGI; `Meter.count`, for `max_requests` alone, 0.1 us: the
thread's processor time of 2,000 calls, best of 200, of an app that answers at once (0.2 and 0.6 us), on CPython 3.11.
tests/unit/test_measured.py measures it in a shorter way.

Several threads may be inside (gthread, waitress) and there is no lock: CPython switches threads at calls of functions
and at the end of a loop, so where a number and what was looked at before must fit together, no call stands between.
What can still go wrong (Python 3.10 also switches at some branches) is put right by `show`, on the next beat.
"""

from __future__ import annotations

from math import frexp
from time import monotonic

from trapeze_backends.board import FLAGS, FULL, IN_FLIGHT, KNOWS_IN_FLIGHT, OLDEST, Board

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["Meter", "closing"]

BUCKETS = 22
FIRST = -15
"""The first bucket is for less than 2 ** FIRST seconds."""
CLASSES = {"1": 0, "2": 0, "3": 1, "4": 2, "5": 3}
"""The place of a response by the first digit of its status."""
NEVER = "500"
"""The status of a request whose app has not begun to answer."""


class Meter:
    """Counts for one worker. The slot gets the oldest request at once, for the main loop may be what hangs; the rest
    on the beat."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._starts: dict[float, None] = {}
        """When each request in flight began, oldest first: no two begin in the same nanosecond."""
        self._first = [0.0]
        """The oldest as it stands in the slot: in a list, which is quicker to look at."""
        self._classes = [0] * 4
        self._exponents = [0] * 128
        """Finished requests by the binary exponent of their seconds; negative ones count from the end."""
        self._begun = [0]
        """Requests that were counted and not timed."""
        board.meter = self

    def show(self) -> None:
        """Write everything into the slot."""
        board, starts = self._board, self._starts
        if board.small[FLAGS] & FULL:
            first, slot = self._first, board.times
            for oldest in starts:
                first[0] = slot[OLDEST] = oldest
                break
            else:
                first[0] = slot[OLDEST] = 0.0
        times = [0] * BUCKETS
        for place, number in enumerate(self._exponents):
            if number:
                exponent = place if place < 64 else place - 128
                times[min(max(exponent - FIRST, 0), BUCKETS - 1)] += number
        board.show(self._begun[0] + sum(times) + len(starts), len(starts), self._classes, times)

    def count(self, app: Any, interface: str) -> Any:
        """Return `app` with its requests counted."""
        begun = self._begun

        def wsgi(environ: Any, start_response: Any) -> Any:
            begun[0] += 1
            return app(environ, start_response)

        def asgi(scope: Any, receive: Any, send: Any) -> Any:
            if scope["type"] == "http":
                begun[0] += 1
            return app(scope, receive, send)

        return wsgi if interface == "wsgi" else asgi

    def full(self, app: Any, interface: str) -> Any:
        """Return `app` with its requests counted and timed. A WSGI response takes until its iterable is closed, an ASGI
        one until its last piece is handed over; WebSockets are left alone."""
        self._board.small[FLAGS] |= FULL | KNOWS_IN_FLIGHT
        return self._wsgi(app) if interface == "wsgi" else self._asgi(app)

    def timed(self) -> tuple[Callable[[], float], Callable[[float, int], None]]:
        """For servers whose requests are no calls of an app: what is to be called when one begins, and, with what that
        has returned and the status, when its answer is over."""
        self._board.small[FLAGS] |= FULL | KNOWS_IN_FLIGHT
        starts, first, times, small = self._starts, self._first, self._board.times, self._board.small
        finish = self._finisher()

        def begin() -> float:
            begun = monotonic()
            starts[begun] = None
            if first[0]:
                small[IN_FLIGHT] = len(starts)
            else:
                first[0] = times[OLDEST] = begun
            return begun

        return begin, lambda begun, status: finish(begun, _place(status))

    def counted(self) -> tuple[Callable[[], float], Callable[[float, int], None]]:
        """The same, for counting alone."""
        begun = self._begun

        def begin() -> float:
            begun[0] += 1
            return 0.0

        return begin, lambda begun, status: None

    def _finisher(self) -> Callable[[float, int], None]:
        """Return what is called at the end of each request; a closure finds its things faster than a method."""
        starts, classes, exponents, first = self._starts, self._classes, self._exponents, self._first
        times, small = self._board.times, self._board.small

        def finish(begun: float, place: int) -> None:
            del starts[begun]
            if starts:
                if first[0] == begun:
                    for oldest in starts:
                        first[0] = times[OLDEST] = oldest
                        break
                small[IN_FLIGHT] = len(starts)
            else:
                first[0] = times[OLDEST] = 0.0
            classes[place] += 1
            exponents[frexp(monotonic() - begun)[1]] += 1

        return finish

    def _wsgi(self, app: Any) -> Any:
        starts, first, times, small = self._starts, self._first, self._board.times, self._board.small
        response_class = _response_class(self._finisher())

        def measured(environ: Any, start_response: Any) -> Any:
            response = response_class()
            response.start_response = start_response
            response.said = NEVER
            response.begun = begun = monotonic()
            starts[begun] = None
            if first[0]:
                small[IN_FLIGHT] = len(starts)
            else:
                first[0] = times[OLDEST] = begun
            try:
                result = app(environ, response)
            except BaseException:
                response.said = NEVER
                response.close()
                raise
            if type(result) is list or type(result) is tuple:
                response += result
                return response
            return closing(result, environ, response.close)

        return measured

    def _asgi(self, app: Any) -> Any:
        starts, first, times, small = self._starts, self._first, self._board.times, self._board.small
        finish = self._finisher()

        async def measured(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            status = 500
            begun = monotonic()
            starts[begun] = None
            if first[0]:
                small[IN_FLIGHT] = len(starts)
            else:
                first[0] = times[OLDEST] = begun

            def sending(message: Any) -> Any:
                nonlocal begun, status
                kind = message["type"]
                if kind == "http.response.start":
                    status = message["status"]
                elif kind == "http.response.body" and begun and not message.get("more_body"):
                    # Tasks that the app does after its answer are no part of the request.
                    finish(begun, _place(status))
                    begun = 0.0
                return send(message)

            try:
                await app(scope, receive, sending)
            finally:
                if begun:
                    finish(begun, _place(status))

        return measured


def _place(status: int) -> int:
    return 0 if status < 300 else 1 if status < 400 else 2 if status < 500 else 3


def _response_class(finish: Callable[[float, int], None]) -> Any:
    class Response(list):  # type: ignore[type-arg]
        """One WSGI request: the start_response that the app is given, and the list that the server gets back."""

        __slots__ = ("begun", "said", "start_response")
        begun: float
        said: str
        start_response: Any

        def __call__(self, status: str, headers: Any, exc_info: Any = None) -> Any:
            self.said = status
            if exc_info is None:
                return self.start_response(status, headers)
            return self.start_response(status, headers, exc_info)

        def close(self) -> None:
            if begun := self.begun:
                self.begun = 0.0
                try:
                    place = CLASSES[self.said[0]]
                except (LookupError, TypeError):
                    place = 3  # what the app calls a status is none: the server will say so
                finish(begun, place)

        def __del__(self) -> None:
            # bjoern takes the one piece out of a list and never closes it.
            if self.begun:
                self.close()

    return Response


def closing(result: Any, environ: Any, close: Callable[[], None]) -> Any:
    """Return the result of a WSGI app, `close` called with its own; what servers know by its type stays what it is."""
    wrapper = environ.get("wsgi.file_wrapper")
    if wrapper is not None and isinstance(wrapper, type) and isinstance(result, wrapper):
        own = getattr(result, "close", None)

        def both() -> None:
            try:
                if own is not None:
                    own()
            finally:
                close()

        try:
            setattr(result, "close", both)  # noqa: B010  (an attribute that mypy does not know of)
        except AttributeError:
            close()  # written in C, and sent by C: the server does not call back
        return result
    if not hasattr(result, "__iter__"):
        close()  # no body: a server's sign that somebody has taken over the connection
        return result
    return (_Sized if hasattr(result, "__len__") else _Stream)(result, close)


class _Stream:
    """An iterable whose end is told."""

    __slots__ = ("_close", "_result")

    def __init__(self, result: Any, close: Callable[[], None]) -> None:
        self._result = result
        self._close = close

    def __iter__(self) -> Any:
        return iter(self._result)

    def close(self) -> None:
        """As PEP 3333: called by the server however the request ended."""
        try:
            own = getattr(self._result, "close", None)
            if own is not None:
                own()
        finally:
            self._close()


class _Sized(_Stream):
    """Servers make a Content-Length of the length 1."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self._result)
