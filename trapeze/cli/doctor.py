"""`doctor`: what on this machine makes a 502 or a stall, and what to do about it."""

from __future__ import annotations

import os

import click
import msgspec

from trapeze import config as configuration
from trapeze.cli.common import config_option, json_option, name_option, say
from trapeze.cli.run import DEFAULT_FILE, config_path
from trapeze.client import Client, find
from trapeze.doctor.facts import Facts
from trapeze.doctor.gather import gather
from trapeze.doctor.judge import CHECKS, Finding, judge
from trapeze.errors import NotRunning
from trapeze.spec import Config
from trapeze.status import Snapshot

__all__ = ["doctor"]


@click.command()
@config_option
@click.option("--nginx", "program", metavar="PROGRAM", help="The nginx to look at; default: on the PATH or in sbin.")
@click.option("--main", metavar="FILE", help="Its configuration; default: what it was built for, or the generated one.")
@json_option
@name_option
def doctor(path: str | None, program: str | None, main: str | None, as_json: bool, name: str | None) -> int:
    """Find the usual causes of a 502 or a stall.

    Looks at the configuration, at the instance that runs it, at nginx and at the kernel, changes nothing, and exits
    with 1 if anything is wrong. As root it sees most.
    """
    config, snapshot = _subject(path, name)
    facts = gather(config, snapshot, program=program, main=main)
    findings = judge(facts)
    if as_json:
        shown = {
            "ok": not findings,
            "findings": [each._asdict() for each in findings],
            "notes": _notes(facts, snapshot),
        }
        click.echo(msgspec.json.encode(shown))
        return 1 if findings else 0
    for note in _notes(facts, snapshot):
        say(f"note: {note}")
    for finding in findings:
        click.echo(_shown(finding))
    if not findings:
        click.echo(f"nothing wrong ({len(CHECKS)} checks)")
    return 1 if findings else 0


def _shown(finding: Finding) -> str:
    return f"{finding.check}: {finding.what}\n    because: {finding.evidence}\n    fix: {finding.fix}"


def _subject(path: str | None, name: str | None) -> tuple[Config, Snapshot | None]:
    """What is configured, by the file that is named or lies here or else by what runs; and the instance, if it runs."""
    if path is None and not os.path.exists(DEFAULT_FILE):
        try:
            client = Client(find(name))
            answer = msgspec.json.decode(client.get("/config"))
            return msgspec.convert(answer["config"], Config), client.status()
        except NotRunning:
            pass  # the next line says which file was looked for
    config = configuration.load(config_path(path), environ=os.environ).config
    try:
        return config, Client(find(name or config.name)).status()
    except NotRunning:
        return config, None


def _notes(facts: Facts, snapshot: Snapshot | None) -> list[str]:
    """What could not be looked at."""
    found = []
    if snapshot is None:
        found.append("it does not run: its memory, its limits and who stops it were not looked at")
    if facts.nginx is None:
        found.append("there is no nginx on this machine")
    elif facts.nginx.unread:
        found.append(f"nginx's configuration could not be read: {facts.nginx.unread}")
    return found
