"""A snapshot as OpenMetrics text: what it says, and that it keeps to the rules of the format."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from trapeze.metrics import render
from trapeze.status import ProcessStatus, QueueTime, ServiceStatus, Snapshot, SocketStatus, StandbyStatus, Status

SAMPLE = re.compile(
    r'(?P<name>[a-z_]+)(?:\{(?P<labels>(?:[a-z_]+="(?:[^"\\\n]|\\[\\"n])*",?)*)\})? (?P<value>-?[0-9.]+(?:e[+-]?\d+)?)'
)
LABEL = re.compile(r'([a-z_]+)="((?:[^"\\\n]|\\[\\"n])*)"')
SUFFIXES = {
    "info": {"_info"},
    "gauge": {""},
    "stateset": {""},
    "counter": {"_total"},
    "histogram": {"_bucket", "_count", "_sum"},
}
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(text: str) -> Series:
    """Read a text by the rules of OpenMetrics 1.0, as far as they concern us; AssertionError where it breaks one."""
    assert text.endswith("# EOF\n") and text.count("# EOF") == 1
    found: Series = {}
    seen: list[str] = []
    kind = ""
    for line in text.removesuffix("# EOF\n").splitlines():
        if line.startswith("# "):
            _, word, name, rest = line.split(" ", 3)
            if word == "TYPE":
                assert name not in seen, "a family stands in one piece"
                seen.append(name)
                kind = rest
            assert name == seen[-1]
            assert word in ("TYPE", "HELP") or (word == "UNIT" and name.endswith("_" + rest)), line
            continue
        sample = SAMPLE.fullmatch(line)
        assert sample, line
        assert sample["name"].removeprefix(seen[-1]) in SUFFIXES[kind], line
        pairs = LABEL.findall(sample["labels"] or "")
        assert len(dict(pairs)) == len(pairs), "each label once"
        key = sample["name"], frozenset(pairs)
        assert key not in found, "each series once"
        found[key] = float(sample["value"])
    return found


def value(series: Series, name: str, /, **labels: str) -> float:
    return series[name, frozenset(labels.items())]


def service(name: str = "web", **more: Any) -> ServiceStatus:
    given: dict[str, Any] = {
        "kind": "web", "status": Status.RUNNING, "why": "", "since": 1.0, "want": 4, "ready": 3, "generation": 2,
        "restarts": 5,
    }  # fmt: skip
    return ServiceStatus(name=name, **{**given, **more})


def snapshot(services: list[ServiceStatus] | None = None, sockets: list[SocketStatus] | None = None) -> Snapshot:
    return Snapshot(
        revision=7, pid=1, name="shop", version="1.2", since=1700000000.5, config=None,
        services=services if services is not None else [service()], sockets=sockets or [],
    )  # fmt: skip


def test_what_is_wanted_and_what_is() -> None:
    process = ProcessStatus(id=1, index=0, pid=9, generation=2, state="READY", since=1, why="", rss=100)
    zygote = StandbyStatus(id=2, role="zygote", pid=8, generation=2, state="READY", since=1, rss=50)
    found = parsed(render(snapshot([service(processes=[process], standby=[zygote]), service("jobs", want=0)])))

    assert value(found, "trapeze_info", name="shop", version="1.2") == 1
    assert value(found, "trapeze_start_time_seconds") == 1700000000.5
    assert value(found, "trapeze_processes_wanted", service="web") == 4
    assert value(found, "trapeze_processes_wanted", service="jobs") == 0
    assert value(found, "trapeze_processes_ready", service="web") == 3
    assert value(found, "trapeze_generation", service="web") == 2
    assert value(found, "trapeze_restarts_total", service="web") == 5
    assert value(found, "trapeze_resident_memory_bytes", service="web") == 150
    states = {state: value(found, "trapeze_service_status", service="web", trapeze_service_status=state.value)
              for state in Status}  # fmt: skip
    assert states == {state: float(state is Status.RUNNING) for state in Status}


def test_queue_time() -> None:
    """Buckets add up to the last, which is the count."""
    counts = [0] * 22
    counts[5], counts[14], counts[21] = 3, 2, 1
    waits = QueueTime(requests=6, mean=0.1, p50=0.1, p99=1, longest=40, counts=counts, seconds=41.25)

    found = parsed(render(snapshot([service(queue_time=waits)])))

    def bucket(le: str) -> float:
        return value(found, "trapeze_queue_time_seconds_bucket", service="web", le=le)

    edges = [float(dict(labels)["le"]) for name, labels in found if name == "trapeze_queue_time_seconds_bucket"]
    assert edges == sorted(edges) and len(set(edges)) == 22 and edges[0] == 2**-15 and edges[-1] == float("inf")
    assert [bucket(le) for le in ("0.00048828125", "0.0009765625", "0.25", "0.5", "32.0", "+Inf")] == [0, 3, 3, 5, 5, 6]
    assert value(found, "trapeze_queue_time_seconds_count", service="web") == 6
    assert value(found, "trapeze_queue_time_seconds_sum", service="web") == 41.25


def test_a_bucket_ends_where_the_scoreboard_says() -> None:
    """A request that has waited one millisecond stands below the edge of two."""
    from math import frexp

    from trapeze_backends.board import bucket

    counts = [0] * 22
    counts[bucket(frexp(0.001)[1])] = 1
    waits = QueueTime(requests=1, mean=0.001, p50=0.001, p99=0.001, longest=0.001, counts=counts, seconds=0.001)
    found = parsed(render(snapshot([service(queue_time=waits)])))
    full = [float(dict(labels)["le"]) for (name, labels), number in found.items() if name.endswith("bucket") and number]

    assert min(full) / 2 <= 0.001 < min(full)


def test_nothing_is_said_of_what_nobody_knows() -> None:
    """No proxy has said anything; the kernel tells nothing of a queue; an older supervisor has no buckets."""
    bare = SocketStatus(name="web", address="x", fd=3)
    old = QueueTime(requests=6, mean=0.1, p50=0.1, p99=1, longest=40)
    text = render(snapshot([service(), service("b", queue_time=old)], [bare]))

    assert "queue" not in text
    assert parsed(text)


def test_sockets_on_one_address_are_one_series() -> None:
    """Each worker its own, by SO_REUSEPORT."""
    sockets = [
        SocketStatus(name="web", address="127.0.0.1:80", fd=fd, waiting=fd, limit=128, dropped=1) for fd in (3, 4)
    ]
    found = parsed(render(snapshot(sockets=sockets)))

    where = {"socket": "web", "address": "127.0.0.1:80"}
    assert value(found, "trapeze_listen_queue", **where) == 7
    assert value(found, "trapeze_listen_queue_limit", **where) == 256
    assert value(found, "trapeze_listen_queue_dropped_total", **where) == 2


@given(st.text())
def test_whatever_the_names(name: str) -> None:
    """Quotes, backslashes and line ends in a path are no end of the label."""
    socket = SocketStatus(name="web", address=name, fd=3, waiting=1, limit=2)
    text = render(msgspec.structs.replace(snapshot(sockets=[socket]), name=name))

    lines = [line for line in text.split("\n") if line.startswith("trapeze_listen_queue{")]
    assert len(lines) == 1
    [(_, raw)] = [pair for pair in LABEL.findall(lines[0]) if pair[0] == "address"]
    assert re.sub(r"\\(.)", lambda found: {"n": "\n"}.get(found[1], found[1]), raw) == name
