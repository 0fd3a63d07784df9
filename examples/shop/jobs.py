"""A worker loop like Celery's or RQ's: take an order, do it, say so; at SIGTERM finish the one in hand and go.

The order in hand lies in a list of its own (BLMOVE), so that none is lost if the worker is killed: the next worker in
this place takes it up again.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys

from resp import Redis

HAND = f"hand:{os.environ.get('TRAPEZE_INDEX', '0')}"

leaving = False


def leave(signum: int, frame: object) -> None:
    """Ask the loop to end after the job in hand."""
    global leaving
    leaving = True


def notify(text: str) -> None:
    """Speak to whoever supervises (the protocol of systemd's sd_notify); without one, say nothing."""
    path = os.environ.get("NOTIFY_SOCKET")
    if path:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(text.encode(), "\0" + path[1:] if path.startswith("@") else path)


def work(redis: Redis, entry: str) -> None:
    """Do one job: here, write down who did it."""
    job = json.loads(entry)
    job["by"] = os.getpid()
    redis("RPUSH", "done", json.dumps(job))
    redis("DEL", HAND)
    print(f"order {job['order']}: {job['what']}", flush=True)


def main() -> int:
    """Loop until told to leave."""
    signal.signal(signal.SIGTERM, leave)
    with Redis.from_environment() as redis:
        unfinished = redis("LINDEX", HAND, 0)
        if isinstance(unfinished, str):
            work(redis, unfinished)
        notify("READY=1\nSTATUS=waiting for orders")
        while not leaving:
            # Waits in Redis, half a second at most, then looks whether to leave.
            entry = redis("BLMOVE", "queue", HAND, "RIGHT", "LEFT", "0.5")
            if isinstance(entry, str):
                work(redis, entry)
    notify("STOPPING=1")
    return 0


if __name__ == "__main__":
    sys.exit(main())
