"""`upgrade`: put a new version of trapeze, or another Python, in place of the supervisor that runs."""

from __future__ import annotations

import os
import time
from typing import Any

import click
import msgspec

from trapeze.cli.common import json_option, name_option, say
from trapeze.client import Client, find
from trapeze.errors import TrapezeError
from trapeze.status import Transition

__all__ = ["upgrade"]


@click.command()
@click.option(
    "--python", metavar="PATH", type=click.Path(exists=True),
    help="Go on with this interpreter, or that of this virtual environment; default: the same.",
)  # fmt: skip
@click.option(
    "--wait", type=click.FloatRange(0, 86_400), default=120.0, show_default=True, metavar="SECONDS",
    help="Wait so long until it is done.",
)  # fmt: skip
@json_option
@name_option
def upgrade(python: str | None, wait: float, as_json: bool, name: str | None) -> int:
    """Go on with a new trapeze or a new Python, losing nothing.

    The supervisor becomes another program in the same process. It keeps its pid, its sockets and all that runs; no
    worker is restarted, no request notices. The new program is tried first: if it cannot take over, the old one goes on
    and says why.
    """
    begun = time.monotonic()
    client = Client(find(name))
    query = {} if python is None else {"python": _interpreter(python)}
    coming = client.write("/upgrade", query, wait=wait)
    answer = _await(client, coming)
    if as_json:
        click.echo(msgspec.json.encode(answer))
    else:
        took = time.monotonic() - begun
        click.echo(f"trapeze {answer['version']} on Python {answer['python']}, pid {answer['pid']} ({took:.1f} s)")
    return 0


def _interpreter(path: str) -> str:
    """Absolute, but with its links: they are how Python knows a virtual environment."""
    whole = os.path.abspath(path)
    return os.path.join(whole, "bin", "python") if os.path.isdir(whole) else whole


def _await(client: Client, coming: dict[str, Any]) -> dict[str, Any]:
    """Ask who answers now: the door was closed before we heard, so it is the new program, or the old one again.

    Raises:
        TrapezeError: the old one, and why.
    """
    client.get("/")  # for the status a stand-in may answer; this waits for whoever goes on
    snapshot = client.status()
    if snapshot.image >= coming["image"]:
        return {**coming, "pid": snapshot.pid, "revision": snapshot.revision, "message": "upgraded"}
    said = [
        msgspec.json.decode(line, type=Transition) for line in client.lines("/events", {"since": coming["revision"]})
    ]
    why = [each for each in said if each.level == "error"]
    for line in why[-1].output if why else ():
        say(line)
    raise TrapezeError(why[-1].why if why else "the old program goes on, and does not say why")
