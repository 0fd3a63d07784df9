"""Requests that may be understood in two ways."""

from __future__ import annotations

import io
from http.client import parse_headers

import pytest
from trapeze_backends.ambiguous import ambiguity


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        ("", ""),
        ("Content-Length: 5", ""),
        ("Content-Length: 5\r\nContent-Length: 5", ""),
        ("Transfer-Encoding: Chunked ", ""),
        ("Content-Type: multipart/form-data; boundary=x", ""),
        ("Content-Type: multipart/form-data", ""),
        ("X: a\r\n folded", ""),
        ("Content-Length: 5\r\nContent-Length: 6", "several lengths"),
        ("Content-Length: 5, 5", "a length that is no number"),
        ("Content-Length: +5", "a length that is no number"),
        ("Content-Length: 1_0", "a length that is no number"),
        ("Content-Length: -1", "a length that is no number"),
        ("Content-Length: \xb2", "a length that is no number"),
        ("Content-Length:", "a length that is no number"),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", "both a length and chunks"),
        ("Transfer-Encoding: gzip, chunked", "an unknown transfer encoding"),
        ("Transfer-Encoding: identity", "an unknown transfer encoding"),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "an unknown transfer encoding"),
        ("Content-Length : 5", "a line that is no header"),
        ("X: a\r\nnothing", "a line that is no header"),
        (": nameless", "a line that is no header"),
        (" X: a", "a line that is no header"),
    ],
)
def test_what_is_ambiguous(head: str, reason: str) -> None:
    text = f"Host: x\r\n{head}\r\n\r\n" if head and head[0] not in " " else f"{head}\r\nHost: x\r\n\r\n"
    assert ambiguity(parse_headers(io.BytesIO(text.encode("latin-1")))) == reason
