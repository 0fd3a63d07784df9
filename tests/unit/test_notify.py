"""The notify protocol's parser."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trapeze.notify import Facts, Message, StartError, parse


@pytest.mark.parametrize(
    ("datagram", "expected"),
    [
        (b"READY=1", Message(ready=True)),
        (b"READY=0", Message()),
        (b"READY=1\nSTATUS=Ready to accept connections\n", Message(ready=True, status="Ready to accept connections")),
        (b"STATUS=a=b", Message(status="a=b")),
        (b"STATUS=", Message(status="")),
        (b"STOPPING=1", Message(stopping=True)),
        (b"WATCHDOG=1", Message(watchdog=True)),
        (b"EXTEND_TIMEOUT_USEC=2500000", Message(extend=2.5)),
        (b"EXTEND_TIMEOUT_USEC=-1", Message()),
        (b"EXTEND_TIMEOUT_USEC=soon", Message()),
        ("EXTEND_TIMEOUT_USEC=٣".encode(), Message()),
        (b"MAINPID=1\nFDSTORE=1\nnonsense", Message()),
        (b"", Message()),
        (b"STATUS=caf\xe9", Message(status="caf�")),
        (b'X_TRAPEZE={"interface":"asgi","backend":"uvicorn"}', Message(facts=Facts("asgi", "uvicorn"))),
        (b"X_TRAPEZE=not json", Message()),
        (b'X_TRAPEZE={"interface":1}', Message()),
    ],
)
def test_parse(datagram: bytes, expected: Message) -> None:
    """What each datagram says."""
    assert parse(datagram) == expected


def test_error_keeps_its_lines() -> None:
    """A traceback has newlines; JSON keeps them inside one line of the protocol."""
    text = "Traceback:\n  line = 1\nREADY=1\n"
    datagram = b"X_TRAPEZE_ERROR=" + json.dumps({"message": "boom", "traceback": text}).encode()

    assert parse(datagram) == Message(error=StartError("boom", text))


@given(st.binary(max_size=300))
def test_never_raises(datagram: bytes) -> None:
    """A child can send anything."""
    assert isinstance(parse(datagram), Message)


@given(st.text(alphabet=st.characters(exclude_characters="\n", exclude_categories=["Cs"])))
def test_status_comes_back(text: str) -> None:
    """Any line is a status."""
    assert parse(f"READY=1\nSTATUS={text}".encode()) == Message(ready=True, status=text)
