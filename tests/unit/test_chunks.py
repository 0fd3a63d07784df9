"""Request bodies that come in chunks."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trapeze_backends.chunks import BadChunks, Dechunked, dechunked


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=8), st.integers(1, 400), st.binary(max_size=20))
def test_the_body_is_read_and_what_follows_is_left(pieces: list[bytes], size: int, rest: bytes) -> None:
    body = b"".join(b"%X;a=b\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    file = io.BufferedReader(io.BytesIO(body + b"0\r\nX-Sum: 1\r\n\r\n" + rest))
    stream = dechunked(file)
    found = []
    while data := stream.read(size):
        found.append(data)
    assert b"".join(found) == b"".join(pieces)
    assert file.read() == rest


@pytest.mark.parametrize(
    "body",
    [
        b"0x1\r\na\r\n0\r\n\r\n", b"+1\r\na\r\n0\r\n\r\n", b"1_0\r\n", b"-1\r\n", b"\r\n", b";x\r\n", b"g\r\n",
        b"1\na\r\n", b"1\r\nab\r\n0\r\n\r\n", b"5\r\nab", b"1\r\na\r\n0\r\nX: a", b"1" * 5000, b"",
        b"0\r\n" + b"X: a\r\n" * 200 + b"\r\n",
    ],
)  # fmt: skip
def test_what_is_no_body(body: bytes) -> None:
    with pytest.raises(BadChunks):
        dechunked(io.BytesIO(body)).read()


def test_one_that_is_too_long() -> None:
    with pytest.raises(BadChunks):
        io.BufferedReader(Dechunked(io.BytesIO(b"5\r\nhello\r\n5\r\nhello\r\n0\r\n\r\n"), limit=9)).read()


def test_lines() -> None:
    stream = dechunked(io.BytesIO(b"3\r\na\nb\r\n2\r\n\nc\r\n0\r\n\r\n"))
    assert list(stream) == [b"a\n", b"b\n", b"c"]
