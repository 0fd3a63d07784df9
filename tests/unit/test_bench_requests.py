"""What `trapeze bench` asks for: a list in a file, and how it is sent."""

from __future__ import annotations

from pathlib import Path

import pytest
from trapeze_bench.requestlist import ROOT, Asked, BadRequests, parse, read, request


def content(name: str) -> bytes:
    return f"<{name}>".encode()


def test_a_list() -> None:
    text = '# all\n\n/\n  /a?b=c \nPOST /items {"name": "x y"}\nPUT /file @big.bin\nDELETE /items/1\n'

    assert parse(text, "urls.txt", content) == [
        ROOT,
        Asked("GET", "/a?b=c"),
        Asked("POST", "/items", b'{"name": "x y"}'),
        Asked("PUT", "/file", b"<big.bin>"),
        Asked("DELETE", "/items/1"),
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("GET", "of what"),
        ("HEAD /", "cannot be told apart"),
        ("FETCH /", "nor a method"),
        ("get /", "nor a method"),
        ("GET items", "begins with /"),
        ("/a b", "no blanks"),
        ("/café", "%XX"),
        ("items", "neither a path"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(line: str, words: str) -> None:
    with pytest.raises(BadRequests, match=words) as error:
        parse(f"/fine\n# no\n{line}\n", "urls.txt", content)

    assert str(error.value).startswith("urls.txt:3: ")


def test_an_empty_list() -> None:
    with pytest.raises(BadRequests, match=r"urls\.txt: there is no request"):
        parse("# nothing\n", "urls.txt", content)


def test_files(tmp_path: Path) -> None:
    (tmp_path / "urls.txt").write_text("POST /upload @body\n")
    (tmp_path / "body").write_bytes(b"\0\1")

    assert read(tmp_path / "urls.txt") == [Asked("POST", "/upload", b"\0\1")]

    (tmp_path / "body").unlink()
    with pytest.raises(BadRequests, match=r"urls\.txt:1: body: no such file"):
        read(tmp_path / "urls.txt")
    with pytest.raises(BadRequests, match="nowhere: no such file"):
        read(tmp_path / "nowhere")
    (tmp_path / "urls.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(BadRequests, match="no text"):
        read(tmp_path / "urls.txt")


def test_how_it_is_sent() -> None:
    assert ROOT.raw() == b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert ROOT.raw(keep=False).endswith(b"Connection: close\r\n\r\n")
    sent = request('POST /x {"a": 1}', content).raw()
    assert sent.endswith(b'\r\n\r\n{"a": 1}')
    assert b"Content-Length: 8\r\n" in sent and b"Content-Type: application/json\r\n" in sent
    assert b"Content-Length: 0\r\n" in Asked("POST", "/x").raw(), "or the server waits for a body"
    assert b"form-urlencoded" in Asked("POST", "/x", b"a=b").raw()
    assert b"octet-stream" in Asked("POST", "/x", b"\0\1").raw()
