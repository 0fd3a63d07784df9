"""Counting requests around an app: how many, which are in flight since when, how they ended, how long they took.

`Meter.full` costs about 1.1 us a request for WSGI and 1.2 us for ASGI; `Meter.count`, for `max_requests` alone, 0.1 us:
the thread's processor time of 2,000 calls, best of 200, of an app that answers at once (0.2 and 0.6 us), CPython 3.11.
tests/unit/test_measured.py measures it in a shorter way.

Several threads may be inside (gthread, waitress) and there is no lock: CPython switches threads at calls of functions
and at the end of a loop, so where a number and what was looked at before must fit together, no call stands between.
What can still go wrong (Python 3.10 also switches at some branches) is put right by `show`, on the next beat.
"""

from __future__ import annotations

from math import frexp
from time import monotonic

from trapeze_backends.board import BUCKETS, FLAGS, FULL, IN_FLIGHT, KNOWS_IN_FLIGHT, LOOP, OLDEST, Board, bucket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["Meter", "closing"]

CLASSES = {"1": 0, "2": 0, "3": 1, "4": 2, "5": 3}
"""The place of a response by the first digit of its status."""
PLACES = (3, 0, 0, 1, 2, 3, 3, 3, 3, 3)
"""The same, by the number."""
NEVER = "500"
"""The status of a request whose app has not begun to answer."""
NOTHING = {"status": 500}
"""The same, in ASGI."""
YOUNG = 0.2
"""Seconds in which nobody asks whether an answer is one without an end: most are over by then."""


class Meter:
    """Counts for one worker. The slot gets the oldest request at once, the rest on the beat."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._starts: dict[float, Any] = {}
        """When each request in flight began, oldest first (no two begin in the same nanosecond), and where to look what
        its answer begins with: the headers in WSGI, before that the environ; its `send` in ASGI."""
        self._endless: dict[float, None] = {}
        """Those of them that were taken aside: they are in flight, and nobody waits for their end."""
        self._is_endless: Callable[[Any], bool] = lambda head: False
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
            if starts:
                self._take_aside()
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
                times[bucket(exponent)] += number
        in_flight = len(starts) + len(self._endless)
        board.show(self._begun[0] + sum(times) + in_flight, in_flight, self._classes, times)

    def _take_aside(self) -> None:
        """Time no longer what has no end. Looked at here and not as each answer begins, since that costs less; the beat
        comes twice in `request_timeout`."""
        starts, endless = self._starts, self._endless
        young = monotonic() - YOUNG
        for begun in list(starts):
            if begun > young:
                break
            if self._is_endless(starts.get(begun)):
                endless[begun] = None
                if starts.pop(begun, self) is self:  # it has ended meanwhile
                    endless.pop(begun, None)

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

    def full(self, app: Any, interface: str, *, loop: bool = False) -> Any:
        """Return `app` with its requests counted and timed. A WSGI response takes until its iterable is closed, an ASGI
        one until its last piece is handed over. WebSockets, and answers without an end, are not timed.

        Args:
            app: what is wrapped.
            interface: "wsgi" or "asgi".
            loop: all requests share one event loop, the one that beats.
        """
        self._board.small[FLAGS] |= FULL | KNOWS_IN_FLIGHT | (LOOP if loop else 0)
        self._is_endless = _endless_test(interface)
        return self._wsgi(app) if interface == "wsgi" else self._asgi(app)

    def timed(self) -> tuple[Callable[[], float], Callable[[float, int], None]]:
        """For event loops whose requests are no calls of an app: what is to be called when one begins, and, with what
        that has returned and the status, when its answer is over."""
        self._board.small[FLAGS] |= FULL | KNOWS_IN_FLIGHT | LOOP
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

        return begin, lambda begun, status: finish(begun, PLACES[status // 100 % 10])

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
        times, small, endless = self._board.times, self._board.small, self._endless

        def finish(begun: float, place: int) -> None:
            try:
                del starts[begun]
            except KeyError:
                endless.pop(begun, None)
            if starts:
                if first[0] == begun:
                    for oldest in starts:
                        first[0] = times[OLDEST] = oldest
                        break
                small[IN_FLIGHT] = len(starts) + len(endless)
            else:
                first[0] = times[OLDEST] = 0.0
            classes[place] += 1
            exponents[frexp(monotonic() - begun)[1]] += 1

        return finish

    def _wsgi(self, app: Any) -> Any:
        starts, first, times, small = self._starts, self._first, self._board.times, self._board.small
        endless = self._endless
        response_class = _response_class(self._finisher(), starts)

        def measured(environ: Any, start_response: Any) -> Any:
            response = response_class()
            response.start_response = start_response
            response.begun = begun = monotonic()
            starts[begun] = environ
            if first[0]:
                small[IN_FLIGHT] = len(starts) + len(endless)
            else:
                first[0] = times[OLDEST] = begun
                if endless:
                    small[IN_FLIGHT] = len(starts) + len(endless)
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
        finish, endless = self._finisher(), self._endless

        async def measured(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            head, begun = NOTHING, monotonic()

            def sending(message: Any) -> Any:
                nonlocal begun, head
                kind = message["type"]
                if kind == "http.response.start":
                    head = message
                elif kind == "http.response.body" and begun and not message.get("more_body"):
                    # Tasks that the app does after its answer are no part of the request.
                    finish(begun, PLACES[head["status"] // 100 % 10])
                    begun = 0.0
                return send(message)

            starts[begun] = sending
            if first[0]:
                small[IN_FLIGHT] = len(starts) + len(endless)
            else:
                first[0] = times[OLDEST] = begun
                if endless:
                    small[IN_FLIGHT] = len(starts) + len(endless)
            try:
                await app(scope, receive, sending)
            finally:
                if begun:
                    finish(begun, PLACES[head.get("status", 500) // 100 % 10])
                    begun = 0.0

        return measured


def _endless_test(interface: str) -> Callable[[Any], bool]:
    """Return what tells by the beginning of an answer, or by the request, whether it has no end."""
    from trapeze_backends.endless import is_endless, is_endless_raw

    def raw(sending: Any) -> bool:
        # To note it elsewhere would be one more step in each request; so it is looked up where it is used.
        cells = dict(zip(sending.__code__.co_freevars, sending.__closure__, strict=True))
        return is_endless_raw(cells["head"].cell_contents.get("headers") or ())

    def native(head: Any) -> bool:
        if isinstance(head, dict):  # a WebSocket under WSGI is a request that is never answered
            return bool(head.get("HTTP_UPGRADE", "").lower() == "websocket")
        return is_endless(head)

    def test(head: Any) -> bool:
        try:
            return raw(head) if interface == "asgi" else native(head)
        except Exception:  # what the app calls headers may be anything
            return False

    return test


def _response_class(finish: Callable[[float, int], None], starts: dict[float, Any]) -> Any:
    class Response(list):  # type: ignore[type-arg]
        """One WSGI request: the start_response that the app is given, and the list that the server gets back."""

        __slots__ = ("begun", "said", "start_response")
        begun: float
        said: str
        start_response: Any

        def __call__(self, status: str, headers: Any, exc_info: Any = None) -> Any:
            self.said = status
            begun = self.begun
            if begun in starts:
                starts[begun] = headers
            if exc_info is None:
                return self.start_response(status, headers)
            return self.start_response(status, headers, exc_info)

        def close(self) -> None:
            if begun := self.begun:
                self.begun = 0.0
                try:
                    place = CLASSES[self.said[0]]
                except (LookupError, TypeError, AttributeError):
                    place = 3  # it has none, or what the app calls a status is none: the server will say so
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
