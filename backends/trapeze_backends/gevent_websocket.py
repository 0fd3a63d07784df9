"""gevent-websocket's handler, with close frames that have their code: its own send the bare text, of which a client
takes the first two letters for a number."""

from __future__ import annotations

import contextlib
import struct
from typing import Any

from geventwebsocket import handler, websocket
from geventwebsocket.exceptions import WebSocketError

__all__ = ["WebSocketHandler"]

NEW = frozenset([1012, 1013, 1014])
"""Codes that it takes for invalid: it is older than they are."""


class WebSocket(websocket.WebSocket):
    """Says goodbye once, and so that it is understood."""

    has_said = False

    def _is_valid_close_code(self, code: int) -> bool:
        return code in NEW or bool(super()._is_valid_close_code(code))

    def say_goodbye(self, code: int, reason: Any = b"") -> None:
        """Send the close frame; the client is to answer it with its own."""
        if self.closed or self.has_said:
            return
        self.has_said = True
        text = reason.encode() if isinstance(reason, str) else bytes(reason or b"")
        with contextlib.suppress(WebSocketError):  # the client has gone
            self.send_frame(struct.pack("!H", code) + text[:123], self.OPCODE_CLOSE)

    def close(self, code: int = 1000, message: Any = b"") -> None:
        """Both sides have said goodbye, or need not any more."""
        self.say_goodbye(code, message)
        self.closed = True
        self.stream = self.raw_write = self.raw_read = self.environ = None


handler.WebSocket = WebSocket
WebSocketHandler = handler.WebSocketHandler
