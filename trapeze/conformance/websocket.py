"""WebSockets of ASGI servers (RFC 6455): the handshake, an echo, and the close frame of a worker that leaves."""

from __future__ import annotations

import os
import struct

from trapeze.conformance.stage import Stage, expect
from trapeze.conformance.wire import Connection, head

__all__ = ["websocket"]

TEXT, CLOSE = 0x1, 0x8
RESTART = 1012
"""Service restart: clients connect again by themselves."""


def websocket(stage: Stage) -> None:
    """Only for backends that say they speak it."""
    if not stage.asgi or "websocket" not in stage.subject.speaks:
        with stage.check("it does not say that it speaks WebSocket"):
            return
    door = stage.door()
    worker = stage.start(door)
    with door.connect() as client:
        with stage.check("a WebSocket is opened"):
            _open(client)
        with stage.check("what is said in it comes back"):
            _send(client, TEXT, "café".encode())
            kind, payload = _receive(client)
            expect((kind, payload) == (TEXT, "café".encode()), f"a frame of kind {kind} came: {payload!r}")
        with stage.check("it is closed with 1012 at drain_grace", "endless"):
            worker.stop()
            kind, payload = _receive(client)
            expect(kind == CLOSE, f"a frame of kind {kind} came, not a close frame")
            code = struct.unpack("!H", payload[:2])[0] if len(payload) >= 2 else None
            expect(code == RESTART, f"the code is {code}")
            _send(client, CLOSE, payload[:2])
    with stage.check("and the worker exits with 0"):
        status = worker.wait()
        expect(status == 0, f"it exited with {status}")


def _open(client: Connection) -> None:
    key = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455, section 1.3, with the answer that belongs to it
    client.send(
        head("GET", "/", Upgrade="websocket", Connection="Upgrade", Sec_WebSocket_Key=key, Sec_WebSocket_Version="13")
    )
    answer = client.answer()
    expect(answer.status == 101, f"the handshake was answered with {answer.status}")
    accepted = answer.all("sec-websocket-accept")
    expect(accepted == ["s3pPLMBiTxaQ9kYGzzhZRbK+xOo="], f"Sec-WebSocket-Accept is {accepted}")


def _send(client: Connection, kind: int, payload: bytes) -> None:
    mask = os.urandom(4)
    masked = bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))
    client.send(bytes([0x80 | kind, 0x80 | len(payload)]) + mask + masked)


def _receive(client: Connection) -> tuple[int, bytes]:
    """One frame, of at most 125 bytes, as everything here is; pings and pongs are passed over."""
    while True:
        first, second = client.read(2)
        payload = client.read(second & 0x7F)
        if first & 0x0F not in (0x9, 0xA):
            return first & 0x0F, payload
