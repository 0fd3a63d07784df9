"""A side service that says on a wire what happens to it: `life.py WIRE NAME [option...]`.

It writes "NAME start PID", on SIGTERM "NAME stop", and leaves with 0. Options:

    wait=PATH       before it is ready, wait at this gate
    notify          say READY=1 (after `wait`)
    exit=N          leave with N instead of staying
    ignore          ignore SIGTERM (says "NAME term" instead)
    slow=PATH       after SIGTERM wait at this gate before it leaves
    child           have a child in its process group that ignores SIGTERM and holds the wire ("NAME child PID")
    orphan          the same, but the child's parent is gone when it speaks
    signals=A,B     say "NAME got A" on these signals
    print=TEXT      print this on stdout first
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from types import FrameType

__all__: list[str] = []

wire = os.open(sys.argv[1], os.O_WRONLY)
name = sys.argv[2]
options = dict(word.partition("=")[::2] for word in sys.argv[3:])


def say(text: str) -> None:
    os.write(wire, f"{name} {text}\n".encode())


def notify(text: str) -> None:
    address = os.environ["NOTIFY_SOCKET"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(text.encode(), "\0" + address[1:] if address[0] == "@" else address)


def wait_at(path: str) -> None:
    with open(path) as gate:
        gate.readline()


def stay() -> None:
    while True:
        signal.pause()


def beget(orphan: bool) -> None:
    if os.fork() == 0:
        if orphan and os.fork():
            os._exit(0)
        while orphan and os.getppid() == parent:
            pass
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        say(f"child {os.getpid()}")
        stay()


parent = os.getpid()


def leave(signum: int, frame: FrameType | None) -> None:
    say("stop")
    if "slow" in options:
        wait_at(options["slow"])
    os._exit(0)


if "ignore" in options:
    signal.signal(signal.SIGTERM, lambda signum, frame: say("term"))
else:
    signal.signal(signal.SIGTERM, leave)
for word in filter(None, options.get("signals", "").split(",")):
    signal.signal(signal.Signals[f"SIG{word}"], lambda signum, frame: say(f"got {signal.Signals(signum).name[3:]}"))
if "print" in options:
    os.write(1, f"{options['print']}\n".encode())
if "child" in options or "orphan" in options:
    beget("orphan" in options)
say(f"start {os.getpid()}")
if "wait" in options:
    wait_at(options["wait"])
    say("through")
if "notify" in options:
    notify("READY=1")
if "exit" in options:
    sys.exit(int(options["exit"]))
stay()
