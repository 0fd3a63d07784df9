"""Figures of reloads under load: what is lost, and how much longer requests take than without a reload."""

from __future__ import annotations

import time

from trapeze_bench.loads import BUSY, KEPT, Period, Processors, counted, loaded, quantile, within
from trapeze_bench.openloop import Plan, Result
from trapeze_bench.sites import BACKENDS, Extent, NotAvailable, Site, serving
from trapeze_bench.table import Figure
from trapeze_bench.targets import Failed

__all__ = ["reload"]

WARM = 2.0
"""Seconds of load before anything is measured."""


def reload(extent: Extent) -> list[Figure]:
    """Each backend, with new connections and with kept ones."""
    figures = []
    for backend in extent.backends:
        try:
            with serving(backend, BACKENDS[backend]) as site:
                for kind in extent.kinds:
                    figures += _reloads(site, f"{backend}, {kind}", KEPT if kind == "kept" else 0, extent)
        except NotAvailable as error:
            figures.append(Figure(f"reload, {backend}", None, "", note=str(error)))
        except Failed as error:  # the others are measured all the same
            extent.say(f"reload, {backend}: {error}")
            figures.append(Figure(f"reload, {backend}", None, "", note=f"FAILED: {str(error).splitlines()[0]}"))
    return figures


def _reloads(site: Site, name: str, kept: int, extent: Extent) -> list[Figure]:
    """Reload, then leave it alone for as long as that took, and again: what drifts falls on both alike."""
    rolling, quiet = [], []
    processors = Processors()
    with loaded(Plan(site.server.port, extent.rate, kept)) as load:
        time.sleep(WARM)
        for _ in range(extent.reloads):
            began = time.monotonic()
            site.order("reload")
            site.drained()
            ended = time.monotonic()
            processors.look(count=False)
            time.sleep(ended - began)
            processors.look()
            rolling.append(Period(began, ended))
            quiet.append(Period(ended, time.monotonic()))
        result = load.stop()
    seconds = sum(period.ended - period.began for period in rolling) / extent.reloads
    about = _about(result, processors.share, bool(kept)) + f"; {seconds:.2f} s each with the draining"
    figures = _figures(name, result, rolling, quiet, about)
    extent.say("; ".join(f"{figure.name} {figure.measured}" for figure in figures) + f"; {figures[0].note}")
    return figures


def _figures(name: str, result: Result, rolling: list[Period], quiet: list[Period], about: str) -> list[Figure]:
    during, without = within(result, rolling), within(result, quiet)
    one, other = quantile(during, 0.999), quantile(without, 0.999)
    of = f"of {len(result.due) + len(result.lost)} requests"
    lost = f"{of}: {counted(result.lost)}; {about}" if result.lost else f"{of}; {about}"
    tail = f"{1000 * one:.1f} ms, without {1000 * other:.1f} ms; medians {_medians(during, without)}"
    longest = (
        f"{1000 * during[-1]:.0f} ms, without {1000 * without[-1]:.0f} ms; {len(during)} and {len(without)} requests"
    )
    return [
        Figure(f"lost in {len(rolling)} reloads, {name}", len(result.lost), "requests", at_most=0, note=lost),
        Figure(
            f"p99.9 during them, {name}: of without",
            one / other,
            "ratio",
            at_most=1.5,
            note=tail,
            samples={"during": during, "without": without},
        ),
        Figure(
            f"longest during them, {name}: more than without",
            1000 * (during[-1] - without[-1]),
            "ms",
            at_most=100.0,
            note=longest,
        ),
    ]


def _medians(during: list[float], without: list[float]) -> str:
    return f"{1000 * quantile(during, 0.5):.1f} and {1000 * quantile(without, 0.5):.1f} ms"


def _about(result: Result, share: float, kept: bool) -> str:
    """Was it the load that it was to be? Kept connections that are not, and processors with no time left."""
    answered = len(result.due)
    words = [f"client {100 * result.cpu:.0f} % of a processor, {1000 * result.late:.1f} ms late (p99.9)"]
    if kept:
        words.append(f"{100 * result.reused / max(answered, 1):.0f} % on a connection used before")
    words.append(
        f"processors {share:.0f} % busy without a reload" + (", SATURATED: see --rate" if share > BUSY else "")
    )
    return ", ".join(words)
