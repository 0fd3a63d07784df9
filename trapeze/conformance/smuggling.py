"""Requests that two servers may read in two ways, so that one of them sees a request that the other does not.

RFC 9112 says of each what a server must do (sections 2.2, 5.1, 6.1, 6.3). A backend that serves one wrongly says so in
its `lacks`; a proxy in front that refuses such requests (nginx does) is then needed, and not only useful.
"""

from __future__ import annotations

from trapeze.conformance.stage import Stage, expect
from trapeze.conformance.worker import Door

__all__ = ["smuggling"]

SECOND = b"GET /cookies HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n"
"""What is smuggled: its answer has the status 418."""
SILENCE = 1.0
"""Seconds after which nothing more is expected."""


def smuggling(stage: Stage) -> None:
    """Each on a connection of its own."""
    door = stage.door()
    stage.start(door)
    with stage.check("Content-Length and Transfer-Encoding together", "length_and_chunked"):
        said = _say(
            door,
            b"POST /echo HTTP/1.1\r\nHost: example.com\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"0\r\n\r\n" + SECOND,
        )
        expect(b" 418 " not in said, "a second request was read behind the first")
    with stage.check("two different lengths", "two_lengths"):
        for lengths in (b"Content-Length: 0\r\nContent-Length: 60", b"Content-Length: 0, 60"):
            said = _say(door, b"POST /echo HTTP/1.1\r\nHost: example.com\r\n" + lengths + b"\r\n\r\n" + SECOND)
            expect(b" 418 " not in said, "a second request was read behind the first")
            expect(b" 200 " not in said[:20], "it was served")
    with stage.check("a space before the colon of a header", "space_before_colon"):
        said = _say(
            door,
            b"POST /echo HTTP/1.1\r\nHost: example.com\r\nContent-Length : 60\r\n\r\n" + SECOND,
        )
        expect(b" 418 " not in said and b" 200 " not in said[:20], "it was served")
    with stage.check("a line feed within a header", "bare_lf"):
        said = _say(
            door,
            b"GET /facts HTTP/1.1\r\nHost: example.com\r\nX-A: b\nX-C: d\r\nConnection: close\r\n\r\n",
        )
        expect(b"b\\nX-C" not in said, "it became a part of the header's value")
    with stage.check("a chunk whose size is no number", "length_and_chunked"):
        said = _say(
            door,
            b"POST /echo HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n" + SECOND,
        )
        expect(b" 418 " not in said, "a second request was read behind the first")
    with stage.check("the worker lives after all of them"), door.connect() as client:
        expect(client.get("/", Connection="close").status == 200, "the next request failed")


def _say(door: Door, data: bytes) -> bytes:
    """Send it, and return all that comes back."""
    with door.connect() as client:
        client.send(data)
        return client.rest(SILENCE)
