"""What people read: tables, lines and durations. Plain text is aligned and complete; colour adds nothing but ease."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from trapeze.runtime import Instance
from trapeze.status import ProcessStatus, QueueTime, ServiceStatus, Snapshot, SocketStatus, StandbyStatus, Transition

__all__ = ["LogPrinter", "ago", "aligned", "clock", "instances", "live", "status_rows", "summary", "transition"]

HEAD = ("NAME", "STATUS", "READY", "PID", "GEN", "RESTARTS", "MEMORY", "SINCE", "WHY")
_STYLES = {
    "RUNNING": "green",
    "READY": "green",
    "DONE": "green",
    "STARTING": "cyan",
    "ROLLING": "cyan",
    "STOPPING": "yellow",
    "DEGRADED": "yellow",
    "FAILED": "red",
    "KILLING": "red",
}
SOCKET_HEAD = ("SOCKET", "ADDRESS", "FD", "QUEUE", "DROPPED")
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def ago(since: float, now: float) -> str:
    """Return the time from *since* to *now*, both in seconds since the epoch, in its largest unit."""
    seconds = max(0, int(now - since))
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return "now"


def memory(size: int) -> str:
    """Return a number of bytes in MiB; nothing for none."""
    return f"{size / 2**20:.0f} MiB" if size else ""


def clock(at: float) -> str:
    """Return a time of the day, in the zone of the reader."""
    return time.strftime("%H:%M:%S", time.localtime(at)) + f".{int(at % 1 * 1000):03d}"


def aligned(rows: Iterable[Sequence[str]]) -> str:
    """Return rows as lines, with columns as wide as they need to be and two spaces between."""
    table = list(rows)
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in table)
    return "\n".join(line.rstrip() for line in lines)


def summary(snapshot: Snapshot, now: float) -> str:
    """Return the first line of `status`."""
    parts = [
        f"{snapshot.name}: pid {snapshot.pid}",
        f"up {ago(snapshot.since, now)}",
        f"revision {snapshot.revision}",
        f"trapeze {snapshot.version}",
    ]
    if snapshot.image > 1:
        parts[-1] += f" since {ago(snapshot.image_since, now)} (upgraded in place)"
    if snapshot.installed not in ("", snapshot.version):
        parts.append(f"trapeze {snapshot.installed} is installed: `trapeze upgrade` runs it")
    if snapshot.config:
        parts.append(snapshot.config)
    if snapshot.upgrading:
        parts.append("a new program is about to go on with this")
    if snapshot.stopping:
        parts.append("stopping")
    return ", ".join(parts)


def status_rows(snapshot: Snapshot, now: float, names: Sequence[str] = ()) -> list[tuple[str, ...]]:
    """Return a row for each service and, below it, for each of its processes."""
    rows = []
    for service in snapshot.services:
        if not names or service.name in names:
            rows.append(_service_row(service, now))
            rows += [_process_row(process, service.generation, now) for process in service.processes]
            rows += [_standby_row(standby, service, now) for standby in service.standby]
    return rows


def _service_row(service: ServiceStatus, now: float) -> tuple[str, ...]:
    why = service.why
    if service.last_failure and service.last_failure not in why:
        why += f"; last failure: {service.last_failure}"
    if service.next_try is not None and service.next_try > now:
        why += f"; next try in {service.next_try - now:.1f} s"
    if service.pinned_why:
        why += f"; not preloaded: {service.pinned_why}"
    if service.imported_again is not None:
        why += f"; imported once more {ago(service.imported_again, now)} ago, from what was on the disk then"
    if service.queue_time is not None and service.queue_time.requests:
        why += f"; {queue_time(service.queue_time)}"
    served = " ".join(dict.fromkeys(filter(None, (service.interface, service.backend))))
    if served:
        why += f" ({served})"
    return (
        service.name,
        service.status.value,
        f"{service.ready}/{service.want}",
        "",
        str(service.generation),
        str(service.restarts),
        memory(sum(process.rss or 0 for process in service.processes)),
        ago(service.since, now),
        why,
    )


def _process_row(process: ProcessStatus, generation: int, now: float) -> tuple[str, ...]:
    # One that was not ready in time leaves because of what it said last.
    said = "" if process.status in process.why else process.status
    why = "; ".join(filter(None, (process.why, said)))
    pid = "" if process.pid is None else str(process.pid)
    old = "" if process.generation == generation else str(process.generation)
    name, since = f"  [{process.index}] #{process.id}", ago(process.since, now)
    return (name, process.state, "", pid, old, "", memory(process.rss or 0), since, why)


def _standby_row(standby: StandbyStatus, service: ServiceStatus, now: float) -> tuple[str, ...]:
    pid = "" if standby.pid is None else str(standby.pid)
    old = "" if standby.generation == service.generation else str(standby.generation)
    if standby.role == "spare":
        why = "imported, replaces the first worker that crashes"
    elif standby.role == "heir":
        why = "takes the zygote's place if that is killed"
    elif standby.generation in service.kept:
        why = "kept for rollback"
    else:
        why = "new workers are forked from it"
    if standby.state == "STARTING" and standby.role != "heir":
        why = "imports the app"
    name, since = f"  {standby.role} #{standby.id}", ago(standby.since, now)
    return (name, standby.state, "", pid, old, "", memory(standby.rss or 0), since, why)


def queue_time(found: QueueTime) -> str:
    """Return in words how long requests had waited for a worker."""
    p50, p99, longest = (f"{seconds * 1000:.3g} ms" for seconds in (found.p50, found.p99, found.longest))
    return f"of {found.requests:,} requests half had waited {p50} for a worker, 99 % {p99}, one {longest}"


def _socket_row(socket: SocketStatus) -> tuple[str, ...]:
    queue = "" if socket.waiting is None else f"{socket.waiting} of {socket.limit}"
    queue = f"{queue} closed".strip() if socket.closed else queue
    name = socket.name if socket.slot is None else f"{socket.name}[{socket.slot}]"
    return (name, socket.address, str(socket.fd), queue, "" if socket.dropped is None else str(socket.dropped))


def status_text(snapshot: Snapshot, now: float, names: Sequence[str] = ()) -> str:
    """Return `status` without colour."""
    parts = [summary(snapshot, now), "", aligned([HEAD, *status_rows(snapshot, now, names)])]
    if snapshot.sockets and not names:
        parts += ["", aligned([SOCKET_HEAD, *map(_socket_row, snapshot.sockets)])]
    return "\n".join(parts)


def status_rich(snapshot: Snapshot, now: float, names: Sequence[str] = ()) -> Any:
    """Return `status` as something for rich to print; rich is imported here, for terminals only."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in HEAD:
        table.add_column(title, no_wrap=title != "WHY", overflow="fold")
    for row in status_rows(snapshot, now, names):
        style = _STYLES.get(row[1], "")
        first = "" if row[0].startswith(" ") else "bold"
        table.add_row(Text(row[0], first), Text(row[1], style), *(Text(cell) for cell in row[2:]))
    parts: list[Any] = [Text(summary(snapshot, now), "dim"), Text(""), table]
    if snapshot.sockets and not names:
        sockets = Table(box=None, pad_edge=False, header_style="bold")
        for title in SOCKET_HEAD:
            sockets.add_column(title, overflow="fold")
        for socket in snapshot.sockets:
            full = socket.limit is not None and (socket.waiting or 0) >= socket.limit
            sockets.add_row(*(Text(cell, "red" if full else "") for cell in _socket_row(socket)))
        parts += [Text(""), sockets]
    return Group(*parts)


def live(snapshots: Iterable[Snapshot], names: Sequence[str] = ()) -> None:
    """Show each snapshot in place of the one before, until there are no more."""
    from rich.live import Live

    with Live(auto_refresh=False, screen=False) as screen:
        for snapshot in snapshots:
            screen.update(status_rich(snapshot, time.time(), names), refresh=True)


def show_status(snapshot: Snapshot, names: Sequence[str] = ()) -> None:
    """Print `status`: a coloured table on a terminal, aligned text otherwise."""
    if sys.stdout.isatty():
        from rich.console import Console

        Console(highlight=False).print(status_rich(snapshot, time.time(), names))
    else:
        print(status_text(snapshot, time.time(), names))


def transition(change: Transition) -> str:
    """Return one line of `events`, and of the progress of an order; below it, what a failed process said."""
    line = f"{clock(change.at)} {change}"
    return "\n".join([line, *(f"    {text}" for text in change.output)])


def instances(found: Sequence[Instance]) -> str:
    """Return the table of `ls`."""
    rows = [("NAME", "PID", "USER", "SOCKET")]
    for each in found:
        pid = str(each.pid) if each.pid else "?"
        rows.append((each.name, pid, _user(each.uid), each.path if each.reachable else f"{each.path} (no permission)"))
    return aligned(rows)


def _user(uid: int | None) -> str:
    if uid is None:
        return "?"
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


class LogPrinter:
    """Prints log lines with the name of their process in front; long ones that come in pieces are put together."""

    def __init__(self, out: TextIO, names: Iterable[str] = ()) -> None:
        self._out = out
        self._width = max((len(name) + 2 for name in names), default=0)
        self._open: tuple[object, ...] | None = None

    def write(self, line: dict[str, Any]) -> None:
        """Print one line as the control door sends it."""
        index = line.get("index")
        label = str(line.get("service", "")) + ("" if index is None else f".{index}")
        source = (label, line.get("pid"), line.get("stream"))
        if self._open is not None and self._open != source:
            self._out.write("\n")
            self._open = None
        if self._open is None:
            self._width = max(self._width, len(label))
            self._out.write(f"{label.ljust(self._width)} | ")
        self._out.write(str(line.get("text", "")))
        self._open = source if line.get("more") else None
        if self._open is None:
            self._out.write("\n")
        self._out.flush()
