"""A snapshot as metrics, in the text format of OpenMetrics 1.0, which Prometheus and its kin read. Pure.

Of services and sockets, and not of single processes: their numbers would make new series with each worker that comes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from trapeze.buckets import bucket_end
from trapeze.status import QueueTime, ServiceStatus, Snapshot, SocketStatus, Status

__all__ = ["KIND", "render"]

KIND = "application/openmetrics-text; version=1.0.0; charset=utf-8"
"""Its media type."""

Labels = Mapping[str, str]


class Sample(NamedTuple):
    """One line: what follows the family's name, labels, a number."""

    suffix: str
    labels: Labels
    value: float


class Family(NamedTuple):
    """All samples of one name; they have to stand together."""

    name: str
    kind: str
    unit: str
    doc: str
    samples: Sequence[Sample]


def render(snapshot: Snapshot) -> str:
    """Return the whole text, `# EOF` included. Families without a sample are left out."""
    return (
        "".join(line + "\n" for family in _families(snapshot) if family.samples for line in _lines(family)) + "# EOF\n"
    )


def _lines(family: Family) -> Iterator[str]:
    yield f"# TYPE {family.name} {family.kind}"
    if family.unit:
        yield f"# UNIT {family.name} {family.unit}"
    yield f"# HELP {family.name} {_escaped(family.doc)}"
    for suffix, labels, value in family.samples:
        inside = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items())
        yield f"{family.name}{suffix}{f'{{{inside}}}' if inside else ''} {_number(value)}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))


def _families(snapshot: Snapshot) -> Iterator[Family]:
    about = {"name": snapshot.name, "version": snapshot.version}
    yield Family("trapeze", "info", "", "The instance.", [Sample("_info", about, 1)])
    since = [Sample("", {}, snapshot.since)]
    yield Family("trapeze_start_time_seconds", "gauge", "seconds", "When the supervisor started (Unix time).", since)
    yield from _of_services(snapshot.services)
    yield from _of_sockets(snapshot.sockets)


def _of_services(services: Sequence[ServiceStatus]) -> Iterator[Family]:
    def each(suffix: str, values: Mapping[str, float]) -> list[Sample]:
        return [Sample(suffix, {"service": name}, value) for name, value in values.items()]

    status = "trapeze_service_status"
    states = [
        Sample("", {"service": service.name, status: state.value}, service.status is state)
        for service in services
        for state in Status
    ]
    yield Family(status, "stateset", "", "Where the service is.", states)
    wanted = each("", {service.name: service.want for service in services})
    yield Family("trapeze_processes_wanted", "gauge", "", "Processes that are to serve.", wanted)
    ready = each("", {service.name: service.ready for service in services})
    yield Family("trapeze_processes_ready", "gauge", "", "Processes that serve.", ready)
    generation = each("", {service.name: service.generation for service in services})
    yield Family("trapeze_generation", "gauge", "", "One more with each reload.", generation)
    restarts = each("_total", {service.name: service.restarts for service in services})
    doc = "Replacements of processes that ended without having been asked to."
    yield Family("trapeze_restarts", "counter", "", doc, restarts)
    memory = each("", {service.name: _memory(service) for service in services})
    doc = "Resident memory of all its processes; pages that they share are counted in each."
    yield Family("trapeze_resident_memory_bytes", "gauge", "bytes", doc, memory)
    waits = [sample for service in services for sample in _waits(service.name, service.queue_time)]
    doc = "How long requests had waited for a worker, since the proxy in front had them (X-Request-Start)."
    yield Family("trapeze_queue_time_seconds", "histogram", "seconds", doc, waits)


def _memory(service: ServiceStatus) -> int:
    known = [each.rss for each in service.processes] + [each.rss for each in service.standby]
    return sum(filter(None, known))


def _waits(service: str, found: QueueTime | None) -> Iterator[Sample]:
    if found is None or not found.counts:
        return
    *finite, _ = found.counts
    so_far = 0
    for place, number in enumerate(finite):
        so_far += number
        yield Sample("_bucket", {"service": service, "le": repr(bucket_end(place))}, so_far)
    total = sum(found.counts)
    yield Sample("_bucket", {"service": service, "le": "+Inf"}, total)
    yield Sample("_count", {"service": service}, total)
    yield Sample("_sum", {"service": service}, found.seconds)


def _of_sockets(sockets: Sequence[SocketStatus]) -> Iterator[Family]:
    def each(suffix: str, values: Sequence[int | None]) -> list[Sample]:
        """Several sockets can have one address: each worker its own, for instance. There they are added up."""
        found: dict[tuple[str, str], int] = {}
        for socket, value in zip(sockets, values, strict=True):
            if value is not None:
                found[socket.name, socket.address] = found.get((socket.name, socket.address), 0) + value
        return [Sample(suffix, {"socket": name, "address": place}, value) for (name, place), value in found.items()]

    waiting = each("", [socket.waiting for socket in sockets])
    yield Family("trapeze_listen_queue", "gauge", "", "Connections that nobody has accepted yet.", waiting)
    limit = each("", [socket.limit for socket in sockets])
    yield Family("trapeze_listen_queue_limit", "gauge", "", "How many may wait there.", limit)
    dropped = each("_total", [socket.dropped for socket in sockets])
    doc = "Connections that were turned away since the socket was made, most of them because the queue was full."
    yield Family("trapeze_listen_queue_dropped", "counter", "", doc, dropped)
