"""What a worker tells the supervisor: sd_notify text, one packet per message, on an inherited socket."""

from __future__ import annotations

import os
from posix import write  # not os.write: eventlet replaces that one, and its own cannot be called in a signal handler

from trapeze_backends.jsontext import dumps

__all__ = ["Notifier"]

LIMIT = 64 * 1024
"""Bytes of one message; a traceback that is too long for it is cut in the middle."""
MESSAGE_LIMIT = 2000
"""Characters of the one line that says what failed."""


class Notifier:
    """Sends messages; falls silent when nobody listens (any more).

    Args:
        fd: one end of a connected SOCK_SEQPACKET pair, or None for a worker that was started by hand.
    """

    def __init__(self, fd: int | None) -> None:
        self.fd = fd
        if fd is not None:
            os.set_inheritable(fd, False)

    def send(self, **fields: str) -> bool:
        """Send KEY=VALUE lines as one packet; False when nobody heard it."""
        if self.fd is None:
            return False
        text = "\n".join(f"{key}={value}" for key, value in fields.items())
        try:
            write(self.fd, text.encode("utf-8", "backslashreplace"))
        except OSError:
            # The supervisor is gone. The parent-death signal is what ends us; an error here would only hide it.
            return False
        return True

    def told(self, key: str) -> str:
        """What the supervisor has said last of `key`, "" if nothing; does not wait, and may be called once."""
        if self.fd is None:
            return ""
        import _socket  # the bare one: green threads replace what is in `socket`

        end = _socket.socket(fileno=os.dup(self.fd))
        try:
            packet = end.recv(1024, _socket.MSG_DONTWAIT)
        except OSError:
            return ""
        finally:
            end.close()
        name, _, value = packet.decode("utf-8", "replace").partition("=")
        return value if name == key else ""

    def ready(self, *, interface: str, backend: str, version: str, unsafe: str | None = None, faster: str = "") -> None:
        """Say that this worker accepts; with `unsafe` (why it cannot be forked, or ""), that the app is imported."""
        facts = {"interface": interface, "backend": backend, "version": version}
        if faster:
            facts["faster"] = faster
        if unsafe is not None:
            facts["unsafe"] = unsafe
        self.send(READY="1", X_TRAPEZE=dumps(facts))

    def close(self) -> None:
        """In a forked process: this end is its parent's."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None

    def error(self, message: str, *, traceback: str = "", hint: str = "") -> None:
        """Say why this worker cannot start; on stderr when nobody listens."""
        line = " ".join(message.split())
        if len(line) > MESSAGE_LIMIT:
            line = f"{line[:MESSAGE_LIMIT]}..."
        limit, text = LIMIT, traceback
        packet = dumps({"message": line, "traceback": text, "hint": hint})
        while len(packet.encode("utf-8", "backslashreplace")) > LIMIT:  # quoting has made it longer than it was
            limit = limit * 3 // 4
            text = cut(traceback, limit)
            packet = dumps({"message": line, "traceback": text, "hint": hint})
        if self.send(X_TRAPEZE_ERROR=packet):
            return
        shown = [part for part in (text.rstrip(), f"error: {line}", f"hint: {hint}" if hint else "") if part]
        write(2, ("\n".join(shown) + "\n").encode("utf-8", "backslashreplace"))


def cut(text: str, limit: int) -> str:
    """Return `text`, with its middle left out when it is longer than `limit` bytes."""
    raw = text.encode("utf-8", "backslashreplace")
    if len(raw) <= limit:
        return text
    half = limit // 2
    head, tail = raw[:half].decode("utf-8", "ignore"), raw[-half:].decode("utf-8", "ignore")
    return f"{head}\n... {len(raw) - 2 * half} bytes left out ...\n{tail}"
