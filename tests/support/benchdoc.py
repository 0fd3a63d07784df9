"""A report as a whole run makes it: 12 contestants, three numbers of connections, two scenarios with every request.

Nothing here was measured. The numbers come from a generator with a seed, so that the document is the same each time.
"""

from __future__ import annotations

import random
from typing import Any

from trapeze_bench.results import (
    Closed,
    Event,
    Fixed,
    Generator,
    Machine,
    Report,
    Result,
    Scenario,
    Standing,
    Study,
    Timeline,
)

__all__ = ["CONNECTIONS", "result", "sample", "study", "timeline"]

CONNECTIONS = [1, 16, 64]
PARTS = {"p50": 1.0, "p90": 1.6, "p99": 3.1, "p99.9": 7.5, "max": 16.0}

PACES = {
    ("gunicorn, plain", "reference", "gunicorn"): (1450, 3900, 4020),
    ("trapeze+gunicorn-gthread", "trapeze", "gunicorn"): (1390, 4310, 4480),
    ("trapeze+uvicorn", "trapeze", "uvicorn"): (2610, 9100, 10200),
    ("trapeze+granian", "trapeze", "granian"): (4320, 17000, 20634),
    ("trapeze+fastpysgi", "trapeze", "fastpysgi"): (4410, 17900, 21200),
    ("trapeze+waitress", "trapeze", "waitress"): (1510, 4700, 4650),
    ("trapeze+wsgiref", "trapeze", "chaussette"): (820, 1010, 990),
    ("gunicorn-gthread", "native", "gunicorn"): (1405, 4280, 4495),
    ("uvicorn", "native", "uvicorn"): (2625, 9050, 10150),
    ("granian", "native", "granian"): (4350, 18900, 23200),
    ("fastpysgi", "native", "fastpysgi"): (4400, 17850, 21150),
    ("waitress", "native", "waitress"): (1500, 4690, 4640),
}
"""(name, role, backend): requests per second by number of connections."""


def result(name: str, rates: list[list[float]], *, role: str = "trapeze", backend: str = "", **more: Any) -> Result:
    """A contestant with these rates: a list of rounds for each of `CONNECTIONS`."""
    closed = [
        Closed(number, rounds, {part: [1000 * number / each * by for each in rounds] for part, by in PARTS.items()})
        for number, rounds in zip(CONNECTIONS, rates, strict=False)
    ]
    return Result(name, role, backend or name.partition("+")[2] or name, closed=closed, **more)


def _contestant(rng: random.Random, key: tuple[str, str, str], paces: tuple[int, ...], rounds: int) -> Result:
    name, role, backend = key

    def jitter(value: float, part: float = 0.025) -> list[float]:
        return [value * rng.uniform(1 - part, 1 + part) for _ in range(rounds)]

    ours = role == "trapeze"
    made = result(name, [jitter(pace) for pace in paces], role=role, backend=backend)
    for each in made.closed:
        each.requests = round(sum(each.rates) * 5)
        each.latencies = {part: jitter(values[0], 0.06) for part, values in each.latencies.items()}
    base = 1000 / paces[0]
    late = 1.4 if name == "trapeze+uvicorn" else 1.0
    made.fixed = Fixed(600.0, {part: jitter(base * by * late, 0.05) for part, by in PARTS.items()}, requests=15_000)
    if name == "trapeze+wsgiref":
        made.fixed.saturated = True
        made.fixed.latencies = {part: jitter(300 * by) for part, by in PARTS.items()}
        made.closed[2].errors = {"timeout": 12, "read": 3}
    made.version = "23.0.0" if backend == "gunicorn" else "2.8.9"
    words = ["trapeze", "serve", "app:wsgi", "--workers", "4", "--backend", backend, "--bind", "127.0.0.1:8000"]
    made.command = words if ours else [backend, "--workers", "4", "app:wsgi"]
    if name == "trapeze+gunicorn-gthread":
        made.command += ["--option", "worker_class=gthread"]
    made.starts = jitter(0.42 if ours else 0.38, 0.08)
    made.cpu_workers = jitter(1700 / paces[2] / 2, 0.02)
    made.cpu_supervisor = jitter(0.0002 if ours else 0.0005, 0.2)
    made.pss_workers, made.pss_supervisor = jitter(96.0), jitter(24.0 if ours else 15.0)
    made.balance = jitter(1.12, 0.08)
    return made


def study(rounds: int = 5, seed: int = 1) -> Study:
    """Twelve that were measured and one that could not be."""
    rng = random.Random(seed)
    results = [_contestant(rng, key, paces, rounds) for key, paces in PACES.items()]
    results.append(Result("hypercorn", "native", "hypercorn", failed="no answer in 30 s"))
    return Study(
        "shop.wsgi:application",
        "wsgi",
        workers=4,
        rounds=rounds,
        seconds=5.0,
        connections=list(CONNECTIONS),
        requests=["GET /", "GET /items?limit=<3>"],
        native=True,
        finished=True,
        results=results,
    )


def timeline(requests: int = 5000, lost: int = 0, seconds: float = 10.0, seed: int = 1) -> Timeline:
    """Requests at a steady rate; two reloads, around the first of which some are late, or lost."""
    rng = random.Random(seed)
    due = sorted(rng.uniform(0, seconds) for _ in range(requests))
    took = [rng.lognormvariate(0.6, 0.35) + (rng.expovariate(0.04) if 3.0 < at < 3.4 else 0.0) for at in due]
    gone = [(3.05 + 0.3 * number / max(lost, 1), rng.choice(["reset", "closed, unanswered"])) for number in range(lost)]
    events = [Event(3.0, "reload"), Event(3.4, "old workers gone"), Event(7.0, "reload")]
    return Timeline(due, took, gone, events)


def _reload() -> Scenario:
    found = Scenario(
        "reload",
        "How many requests are lost when the code is replaced under load, and how long does the longest take?",
        {"asked": "", "lost": "", "p99.9": "ms", "longest": "ms"},
        finished=True,
    )
    lost = {"trapeze+gunicorn": 0, "trapeze+uvicorn": 3, "gunicorn, HUP": 0, "uvicorn, HUP": 41, "granian, HUP": 5}
    for seed, (name, number) in enumerate(lost.items()):
        line = timeline(5000, number, seed=seed)
        cells: dict[str, float | int | str | None] = {
            "asked": 5000 + number,
            "lost": number,
            "p99.9": sorted(line.took)[-5],
            "longest": max(line.took),
        }
        found.standings.append(Standing(name, cells, f"{number} lost" if number else "ok", number == 0, timeline=line))
    found.standings[0].note = "one worker took 31 s to leave"
    found.standings.append(Standing("circus, reload", missing="pip install circus chaussette"))
    return found


def _frozen() -> Scenario:
    found = Scenario(
        "frozen-worker",
        "How long until a worker that stands still is replaced, and what becomes of its requests?",
        {"replaced after": "s", "lost": "", "longest": "ms", "by": ""},
        finished=True,
    )
    rows: list[tuple[str, float | None, int, str, bool | None]] = [
        ("trapeze+gunicorn", 5.1, 0, "ok", True),
        ("gunicorn, plain", 31.1, 4, "4 lost", False),
        ("granian", None, 20, "not in 40 s", False),
        ("supervisord <waitress>", None, 0, "no such question", None),
    ]
    for seed, (name, after, lost, verdict, good) in enumerate(rows):
        line = timeline(1500, lost, seed=seed + 10)
        line.events = [Event(3.0, "SIGSTOP"), *([Event(3.0 + after, "replaced")] if after and after < 7 else [])]
        cells: dict[str, float | int | str | None] = {"replaced after": after, "lost": lost, "longest": max(line.took)}
        found.standings.append(Standing(name, {**cells, "by": "SIGKILL"}, verdict, good, timeline=line))
    return found


def sample(rounds: int = 5) -> Report:
    """The whole document."""
    versions = {"trapeze-server": "1.0.0", "gunicorn": "23.0.0", "uvicorn": "0.38.0", "wrk": "4.1.0"}
    machine = Machine("Example 3000, 2.4 GHz", 2, 24_000, "6.1.0", "3.11.7", versions, "0123abc+", 0.3, True)
    generator = Generator("wrk", "4.1.0", 26_000.0, "nginx 1.22.1, return 200")
    return Report(machine, "2026-01-02T03:04Z", 1, generator, study(rounds), [_reload(), _frozen()])
