"""What to run, from what was measured: backend, workers, threads, and how sure that is. Pure.

The rules, in short. Nothing that had an error is recommended. Who is clearly ahead at every number of connections, and
not behind with late answers, is recommended with confidence. Where several are the same, the one that most people run
is (gunicorn, uvicorn): what is known best is worth more than a difference that nobody can measure. The number of
workers follows from the cores and from how much of a request's time is processor time.
"""

from __future__ import annotations

import math

import msgspec

from trapeze_bench.certainty import BORING, UNKNOWN, Sure, Surroundings, certainty, later, verdicts
from trapeze_bench.findings import at, clean, crowded, errors, leaders, near_ceiling, reference, versus
from trapeze_bench.results import Report, Result, Study
from trapeze_bench.words import listed, median, number, ratio, several

__all__ = ["THREADED", "Advice", "advise", "share_of_processor", "surroundings"]

THREADED = frozenset(
    {"chaussette", "cheroot", "granian", "gunicorn", "hypercorn", "tornado", "uwsgi", "waitress", "werkzeug"}
)
"""Backends with a number of threads to choose, for WSGI apps."""
UNTHREADED = ("sync", "gevent", "eventlet", "wsgiref", "bjoern", "asgi")
"""In the name of a contestant: a kind of its backend without."""
BOUND = 0.5
"""Share of a request's time that is processor time, from which on an app is bound by the processor."""
ROUND_TRIP = 1.0
"""Milliseconds of a request that are no waiting of the app: its way over loopback, the client, the scheduler."""
MOST_THREADS = 32


class Advice(msgspec.Struct, frozen=True):
    """What to run, and why."""

    backend: str
    """trapeze's name of the server; "" if none can be recommended."""
    contestant: str
    """As it is called in the study."""
    workers: int
    threads: int | None
    """None: there is no number of threads to choose."""
    sure: Sure
    certainty: str
    """How sure, in a sentence: with the reason."""
    words: str
    """The recommendation in a sentence or two."""
    command: str
    """The command line that follows from it."""
    reasons: list[str]
    """From the numbers."""
    changes: list[str]
    """What would make it another one."""


def surroundings(report: Report) -> Surroundings:
    """What a report says of them."""
    return Surroundings(report.machine.cores, report.machine.load, report.generator)


def advise(study: Study, around: Surroundings = UNKNOWN) -> Advice:
    """Recommend a backend, workers and threads.

    Args:
        study: what was measured.
        around: the machine and the generator. The number of workers is that of the study where the cores are not
            known; what was measured beside others at work, or came near to the limit of the generator, is less sure.
    """
    found = leaders(study)
    if not found:
        return _nothing(study)
    first = found[0]
    same = [each for each in found if each is first or _level(study, first, each)]
    prompt = [each for each in same if not any(later(each, other) for other in same)] or same
    first, same = prompt[0], prompt
    chosen = next((each for name in BORING for each in same if each.backend == name), first) if same[1:] else first
    sure, why, remedies = certainty(study, first, same, around)
    workers, threads, counted = _sizes(study, chosen, around)
    with_threads = f" and {several(threads, 'thread')} each" if threads else ""
    sentence = f"How sure: {sure}, since {why}."
    words = f"{chosen.backend}, {several(workers, 'worker')}{with_threads}. {sentence}"
    return Advice(
        chosen.backend,
        chosen.name,
        workers,
        threads,
        sure,
        sentence,
        words,
        _command(study, chosen, workers, threads),
        [*_reasons(study, chosen, first, same), *counted],
        [*remedies, *_changes(study, chosen, workers, around)],
    )


def _nothing(study: Study) -> Advice:
    why = [f"{each.name}: {each.failed or _why_not(each)}" for each in study.results if not clean(each)]
    words = "Nothing can be recommended: no server under trapeze was measured and answered every request."
    return Advice("", "", study.workers, None, "low", words, words, "", why, [])


def _why_not(result: Result) -> str:
    return "did not answer every request" if errors(result) else "was not measured"


# -- which ------------------------------------------------------------------------------------------------------------


def _level(study: Study, first: Result, other: Result) -> bool:
    """Not clearly slower at any number of connections: to take it instead costs nothing that was measured."""
    found = verdicts(study, other, first)
    return bool(found) and "slower" not in found and not later(other, first)


def _reasons(study: Study, chosen: Result, first: Result, same: list[Result]) -> list[str]:
    base = reference(study)
    reasons = []
    beside = [(at_once, it) for at_once in study.connections if (it := versus(chosen, base, at_once))]
    if base is not None and beside:
        places = [
            f"{'the same' if it.verdict == 'same' else ratio(it.ratio) + ' x'} at {several(at_once, 'connection')}"
            for at_once, it in beside
        ]
        reasons.append(f"requests per second of {chosen.name}, of {base.name}: {listed(places, 5)}")
    if chosen is not first:
        reasons.append(f"{first.name} has the greatest median, but by less than the noise")
    elif len(same) > 1 and chosen.backend not in BORING:
        reasons.append("none of those that are the same is gunicorn or uvicorn: it is the one with the greatest median")
    refused = [each.name for each in study.results if each.role == "trapeze" and (each.failed or errors(each))]
    if refused:
        reasons.append(f"not considered, since it failed or had errors: {listed(refused, 9)}")
    return reasons


# -- how many ---------------------------------------------------------------------------------------------------------


def share_of_processor(study: Study, result: Result) -> float | None:
    """Which part of a request's time is processor time (0 to 1); None: unknown.

    By the least number of connections: with more of them a request waits for others, which says nothing about the app.
    1 where the rest is so short that it is the way there and back and the client's own time.
    """
    run = next((found for at_once in sorted(study.connections) if (found := at(result, at_once))), None)
    cpu, latencies = median(result.cpu_workers), run.latencies.get("p50", []) if run else []
    if run is None or cpu is None or not latencies:
        return None
    ahead = max(1.0, run.connections / max(study.workers, 1))
    latency = min(latencies) / ahead  # of the round in which it waited least for others on this machine
    return 1.0 if latency - cpu < ROUND_TRIP else min(1.0, cpu / latency)


def _sizes(study: Study, chosen: Result, around: Surroundings) -> tuple[int, int | None, list[str]]:
    share, cores = share_of_processor(study, chosen), around.cores
    workers = cores or study.workers
    if share is None:
        return workers, None, [_as_cores(workers, cores, "nothing is known of the processor time of a request")]
    if share < BOUND and _others(around):
        why = "others had the processor, too: nobody knows whether a request waited for that or for what the app asks"
        return workers, None, [_as_cores(workers, cores, why)]
    threaded = study.interface == "wsgi" and chosen.backend in THREADED
    threaded = threaded and not any(word in chosen.name.partition("+")[2] for word in UNTHREADED)
    part = f"{100 * share:.0f} % of a request's time is processor time"
    if share >= BOUND:
        why = "next to all" if share == 1 else f"{100 * share:.0f} %"
        why += " of a request's time is processor time: more workers than cores would only take turns"
        return workers, (2 if threaded else None), [_as_cores(workers, cores, why)]
    if study.interface != "wsgi":
        why = f"{part}, the rest is waiting, during which an event loop serves others"
        return workers, None, [_as_cores(workers, cores, why)]
    at_once = math.ceil(1 / share) if share > 0 else MOST_THREADS
    if threaded:
        threads = max(2, min(MOST_THREADS, at_once))
        why = f"{part}, the rest is waiting: {several(threads, 'thread')} in each keep a core busy"
        return workers, threads, [_as_cores(workers, cores, why)]
    more = workers * max(1, min(8, at_once))
    why = f"{part}, the rest is waiting, and this server has no threads: more workers than cores, as memory allows"
    return more, None, [f"{several(more, 'worker')}: {why}"]


def _others(around: Surroundings) -> bool:
    return around.cores is not None and crowded(around.load, around.cores)


def _as_cores(workers: int, cores: int | None, why: str) -> str:
    of = "one for each core" if cores else "as many as were measured, the cores are not known"
    return f"{several(workers, 'worker')}, {of}: {why}"


def _command(study: Study, chosen: Result, workers: int, threads: int | None) -> str:
    words = ["trapeze", "serve", study.app, "--backend", chosen.backend, "--workers", str(workers)]
    words += ["--threads", str(threads)] if threads else []
    pairs = zip(chosen.command, chosen.command[1:], strict=False)
    words += [word for flag, value in pairs if flag == "--option" for word in (flag, value)]
    return " ".join(words)


# -- what else could be -----------------------------------------------------------------------------------------------


def _changes(study: Study, chosen: Result, workers: int, around: Surroundings) -> list[str]:
    changes = []
    if workers != study.workers:
        changes.append(
            f"measured was {several(study.workers, 'worker')}, not {workers}: run it again with --workers {workers}"
        )
    changes.append("the generator took its share of the cores; with the load from elsewhere, fast servers gain most")
    share = share_of_processor(study, chosen)
    if study.interface == "wsgi" and share is not None and share >= BOUND:
        changes.append("an app that waits, for a database or for other services, needs a server with threads")
    if share is not None and share < BOUND and not _others(around):
        changes.append(
            f"where the app waits less ({number(100 * share, 2)} % is processor time here), fewer threads or workers do"
        )
    if near_ceiling(study, around.generator):
        changes.append("a generator on a machine of its own could tell the fastest ones apart")
    if len(study.requests) == 1:
        changes.append(f"only {study.requests[0]} was asked for: give the mix of your app by --requests-file")
    return changes
