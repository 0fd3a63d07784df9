"""What a bench found: the document behind the table, the page and `--json`. Plain data, and its units.

The format is stable: fields are added, never renamed, and `format` goes up when a reader could be misled.
"""

from __future__ import annotations

import msgspec

__all__ = [
    "FORMAT",
    "Closed",
    "Event",
    "Fixed",
    "Generator",
    "Machine",
    "Report",
    "Result",
    "Scenario",
    "Standing",
    "Study",
    "Timeline",
]

FORMAT = 1


class Machine(msgspec.Struct, frozen=True):
    """Where it was measured. No host name and no paths: a report is there to be passed on."""

    processor: str
    cores: int
    """That the system has."""
    memory: int
    """MiB."""
    kernel: str
    python: str
    versions: dict[str, str] = {}
    """Of trapeze-server, the servers, wrk, nginx."""
    commit: str | None = None
    """Of the checkout that was measured, with "+" if it had changes; None outside of one."""
    load: float = 0.0
    """Load average when it began: well above 0 means that others were at work."""
    autogroup: bool = False
    """The scheduler shares the processors out between sessions first."""


class Generator(msgspec.Struct, frozen=True):
    """Who makes the load."""

    name: str
    """ "wrk" or "own"."""
    version: str = ""
    ceiling: float | None = None
    """Requests per second that it drives at most here; None: not measured."""
    against: str = ""
    """What that was measured against: "nginx 1.22.1, return 200"."""


class Closed(msgspec.Struct):
    """A closed loop: so many connections, each of which asks again once it is answered. Lists: one entry a round."""

    connections: int
    """Open at once."""
    rates: list[float] = []
    """Requests answered per second."""
    latencies: dict[str, list[float]] = {}
    """Milliseconds by "p50", "p90", "p99", "p99.9", "max"."""
    errors: dict[str, int] = {}
    """By kind ("connect", "read", "write", "timeout", "status"), of all rounds."""
    requests: int = 0
    """Of all rounds."""


class Fixed(msgspec.Struct):
    """An open loop: requests are due at a fixed rate, and each is timed from when it was due."""

    rate: float
    """Requests per second that were due."""
    latencies: dict[str, list[float]] = {}
    """As in Closed."""
    lost: dict[str, int] = {}
    """By what happened to them, of all rounds."""
    requests: int = 0
    """Of all rounds."""
    saturated: bool = False
    """It cannot keep up with this rate: its times are those of a queue that grows."""


class Result(msgspec.Struct):
    """One contestant. Lists have one entry a round."""

    name: str
    """ "trapeze+granian", "granian", "gunicorn, plain"."""
    role: str
    """ "reference", "trapeze" or "native"."""
    backend: str
    """trapeze's name of the server."""
    version: str = ""
    command: list[str] = []
    """The command line, program without its path."""
    closed: list[Closed] = []
    """One for each number of connections, in the order in which they were asked for."""
    fixed: Fixed | None = None
    starts: list[float] = []
    """Seconds from exec to the first answer."""
    cpu_workers: list[float] = []
    """Seconds of processor time per 1,000 requests, in all workers."""
    cpu_supervisor: list[float] = []
    """The same in the supervisor, master or arbiter and what else is no worker."""
    pss_workers: list[float] = []
    """MiB, all workers together, after the load."""
    pss_supervisor: list[float] = []
    """MiB, supervisor, master or arbiter, and what else is no worker."""
    balance: list[float] = []
    """Processor time of the busiest worker, of the mean of all: 1 is even."""
    failed: str = ""
    """Why it could not be measured, or why it was given up."""
    native: str = ""
    """Of role "trapeze": the name of the result that is the same server by itself; empty if it was not measured."""


class Study(msgspec.Struct):
    """Which server is fastest for an app."""

    app: str
    interface: str
    workers: int
    """Processes that answer, of each contestant."""
    rounds: int
    """That were asked for; the lists are shorter if it was interrupted."""
    seconds: float
    """Of each load."""
    connections: list[int]
    """Numbers of them for the closed loops."""
    requests: list[str]
    """What is asked for, in turn: "GET /x"."""
    through: str = ""
    """ "nginx": the load comes through one, for all contestants."""
    native: bool = False
    finished: bool = False
    """False: it was interrupted."""
    results: list[Result] = []
    """The reference first."""


class Event(msgspec.Struct, frozen=True):
    """Something that was done in a scenario."""

    at: float
    """Seconds from the beginning of the load."""
    what: str


class Timeline(msgspec.Struct):
    """Every request of a scenario, for the picture."""

    due: list[float]
    """Seconds from the beginning of the load."""
    took: list[float]
    """Milliseconds, of those answered; as long as `due`."""
    lost: list[tuple[float, str]] = []
    """When it was due, and what happened to it."""
    events: list[Event] = []


class Standing(msgspec.Struct):
    """One contestant in a scenario."""

    name: str
    cells: dict[str, float | int | str | None] = {}
    """By column. None: could not be measured."""
    verdict: str = ""
    """In a few words: "ok", "12 lost", "down", "every answer 500"."""
    good: bool | None = None
    """Did it do what a user would wish? None: no such question here."""
    note: str = ""
    missing: str = ""
    """The line that installs it, where it is not installed: it was not run."""
    timeline: Timeline | None = None


class Scenario(msgspec.Struct):
    """What happens to the requests, or to the machine, in one situation: of trapeze and its peers."""

    name: str
    """ "reload"."""
    question: str
    """What it answers, in a sentence."""
    columns: dict[str, str]
    """Column -> unit, "" if it has none; in their order."""
    standings: list[Standing] = []
    finished: bool = False


class Report(msgspec.Struct):
    """All that was measured in one run."""

    machine: Machine
    began: str
    """ISO 8601, UTC, to the minute."""
    format: int = FORMAT
    """Goes up when a reader of an older one could be misled."""
    generator: Generator | None = None
    study: Study | None = None
    scenarios: list[Scenario] = []
