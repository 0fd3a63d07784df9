"""Where an answer ends, by both readers, however the bytes are cut."""

from __future__ import annotations

import pytest
from trapeze_bench.answers import Malformed, Plain, Quick, reader

LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nA;x=y\r\n0123456789\r\n0\r\nX: y\r\n\r\n"
)
ANSWERS = {
    "length": (LENGTH, 200, False),
    "chunks": (CHUNKED, 201, False),
    "no body": (b"HTTP/1.1 204 No Content\r\nServer: x\r\n\r\n", 204, False),
    "empty": (b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n", 503, False),
    "closed after it": (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx", 200, True),
    "old": (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", 200, True),
    "old, kept": (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 1\r\n\r\nx", 200, False),
}
READERS = pytest.mark.parametrize("kind", [Plain, Quick])


@READERS
@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_it_ends_where_it_ends(kind: type[Plain], name: str, size: int) -> None:
    data, status, closes = ANSWERS[name]
    found = kind()
    pieces = [data[begin : begin + size] for begin in range(0, len(data), size)]
    for piece in pieces[:-1]:
        assert not found.feed(piece)
    assert found.feed(pieces[-1])
    assert (found.status, found.closes, found.extra, found.open_ended) == (status, closes, False, False)


@READERS
def test_it_ends_with_the_connection(kind: type[Plain]) -> None:
    found = kind()
    assert not found.feed(b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\nwhat")
    assert not found.feed(b"ever")
    assert (found.status, found.closes, found.open_ended) == (200, True, True)


@READERS
@pytest.mark.parametrize("behind", [LENGTH, b"x"])
@pytest.mark.parametrize("name", ["length", "chunks"])
def test_bytes_behind_it_are_seen(kind: type[Plain], name: str, behind: bytes) -> None:
    found = kind()
    assert found.feed(ANSWERS[name][0] + behind)
    assert found.extra


@READERS
@pytest.mark.parametrize("data", [b"nonsense", b"HTTP/1.1 nonsense\r\n\r\n", CHUNKED.replace(b"A;", b"Z;")])
def test_what_is_no_answer(kind: type[Plain], data: bytes) -> None:
    with pytest.raises(Malformed):
        kind().feed(data)


def test_the_quick_one_is_taken_where_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reader() is Quick
    monkeypatch.setitem(__import__("sys").modules, "httptools", None)
    assert reader() is Plain
