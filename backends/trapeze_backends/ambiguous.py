"""Requests that a proxy in front may have understood otherwise than the server does: the one sees one request where the
other sees two, and the second was chosen by somebody else (request smuggling; RFC 9112, section 11.2).

For servers that have the standard library parse their headers, which takes almost anything.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from email.message import Message

__all__ = ["ambiguity", "framing"]

DEFECTS = frozenset(
    [
        "MissingHeaderBodySeparatorDefect",  # a space before a colon, for one: what follows is not read as headers
        "FirstHeaderLineIsContinuationDefect",
        "MisplacedEnvelopeHeaderDefect",
        "InvalidHeaderDefect",
    ]
)
"""Of what the parser of mails finds, that which is about headers and not about a body."""


def ambiguity(headers: Message) -> str:
    """Return what is ambiguous about the headers of a request, "" if nothing."""
    for defect in headers.defects:
        if type(defect).__name__ in DEFECTS:
            return "a line that is no header"
    return framing(headers.get_all("content-length", ()), headers.get_all("transfer-encoding", ()))


def framing(lengths: Iterable[str], codings: Iterable[str]) -> str:
    """Return what is ambiguous about the values of Content-Length and Transfer-Encoding, "" if nothing."""
    said = {length.strip() for length in lengths}
    if len(said) > 1:
        return "several lengths"
    if any(not (length.isascii() and length.isdecimal()) for length in said):
        return "a length that is no number"
    chunked = [coding.strip().lower() for coding in codings]
    if chunked and said:
        return "both a length and chunks"
    if chunked and chunked != ["chunked"]:
        return "an unknown transfer encoding"
    return ""
