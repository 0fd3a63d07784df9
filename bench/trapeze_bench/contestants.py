"""Every backend, and the same server run natively with as many workers."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trapeze_bench.natives import NATIVES, PLAIN, Native
from trapeze_bench.served import HELLO
from trapeze_bench.serving import Effort, duel
from trapeze_bench.table import Figure
from trapeze_bench.targets import THREADS, WORKERS, Failed, Target, program, running

__all__ = ["CONTESTANTS", "Contestant", "best", "overhead"]


@dataclass(frozen=True)
class Contestant:
    """One backend with the hello app, beside the same server run natively."""

    name: str
    native: Native
    interface: str = "wsgi"
    flags: Sequence[str] = ()
    """More words for `trapeze serve`."""

    @property
    def ours(self) -> Target:
        """Under trapeze."""
        words = ["serve", HELLO[self.interface].app, "--workers", str(WORKERS), "--backend", self.native.backend]
        words += [word for option in self.native.options for word in ("--option", option)]
        words += [*self.flags, "--bind"]
        return Target(f"trapeze+{self.name}", lambda port: [*program("trapeze"), *words, f"127.0.0.1:{port}"])

    @property
    def other(self) -> Target:
        """Natively."""
        return Target(self.name, lambda port: self.native.words(HELLO[self.interface], port))


_THREADS = {"granian": 1, "tornado": THREADS, "uwsgi": 1}
"""Where trapeze's default number of threads is not what the server is run with natively."""


def _contestants() -> Iterator[Contestant]:
    for native in NATIVES.values():
        for interface in native.interfaces:
            flags = ("--threads", str(_THREADS[native.name])) if native.name in _THREADS and interface == "wsgi" else ()
            name = native.name if len(native.interfaces) == 1 else f"{native.name}-{interface}"
            yield Contestant(name, native, interface, flags)


CONTESTANTS = tuple(_contestants())


def overhead(chosen: Sequence[str], effort: Effort) -> list[Figure]:
    """Requests per second of each backend under trapeze, of the same server run natively with as many workers."""
    figures = []
    for each in CONTESTANTS:
        if (chosen and each.name not in chosen) or not each.native.is_installed:
            continue
        figures += _against(f"{each.name}: of native", each.ours, each.other, effort, 0.97)
    ratios = [each.value for each in figures if each.value is not None and each.name.startswith("throughput")]
    if len(ratios) > 1:
        middle = statistics.median(ratios)
        figures.append(
            Figure(f"the median of these {len(ratios)}", middle, "ratio", at_least=0.99, note="throughput, of native")
        )
    return figures


WSGI = Target(PLAIN.name, lambda port: PLAIN.words(HELLO["wsgi"], port))
ASGI = Target("uvicorn --workers", lambda port: NATIVES["uvicorn"].words(HELLO["asgi"], port))


def best(chosen: Sequence[str], effort: Effort) -> list[Figure]:
    """The fastest ones against what most people run: plain gunicorn (sync) for WSGI, `uvicorn --workers` for ASGI."""
    bounds = {
        "granian-wsgi": (WSGI, 6.0),
        "fastpysgi": (WSGI, 14.0),
        "bjoern": (WSGI, None),
        "granian-asgi": (ASGI, 1.0),
    }
    figures = []
    for each in CONTESTANTS:
        if each.name in bounds and (not chosen or each.name in chosen) and each.native.is_installed:
            other, bound = bounds[each.name]
            figures += _against(f"{each.name} of {other.name}", each.ours, other, effort, bound)
    return figures


def _against(name: str, ours: Target, other: Target, effort: Effort, bound: float | None) -> list[Figure]:
    try:
        with running(ours) as one, running(other) as native:
            return duel(name, one, native, effort, at_least=bound)
    except Failed as error:
        effort.say(f"{name}: {error}")
        return [Figure(f"throughput, {name}", None, "ratio", at_least=bound, note=str(error).splitlines()[0])]
