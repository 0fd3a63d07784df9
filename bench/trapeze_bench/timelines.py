"""The timeline of a scenario as inline SVG: requests are dots, every lost one is a cross, every event a line. Pure.

The dots are strokes without a length in one path, which is stretched to the width of the page while its strokes are
not: ten bytes for each request, and five thousand of them are drawn at once.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from trapeze_bench.markup import Markup, tag
from trapeze_bench.results import Event, Timeline
from trapeze_bench.words import counts, duration, milliseconds

__all__ = ["Frame", "frame", "timeline"]

PLOT = 132
"""Pixels of the height of the dots."""
LANE = 16
"""Of a line of labels."""
ACROSS = 2000
"""Steps along the time."""
CHARACTER = 2.0
"""Per cent of the width that a letter of a label takes on a phone."""
CROSSES = 400
"""More lost requests than this are ticks in one path."""


class Frame:
    """What the timelines of one scenario have in common, so that they can be compared."""

    def __init__(self, timelines: Sequence[Timeline]) -> None:
        ends = [
            at for line in timelines for at in (*line.due, *(at for at, _ in line.lost), *(e.at for e in line.events))
        ]
        tooks = [took for line in timelines for took in line.took]
        self.begin = min([*ends, 0.0])
        self.end = max([*ends, self.begin + 1.0])
        self.low = max(min(tooks, default=1.0), 0.01) / 1.3
        self.high = max(max(tooks, default=10.0), self.low * 10) * 1.3
        self.lanes = max((len(_lanes(line.events, self.across)) for line in timelines), default=0)

    def across(self, seconds: float) -> float:
        """Per cent of the width."""
        return 1 + 98 * (seconds - self.begin) / (self.end - self.begin)

    @property
    def ticks(self) -> list[float]:
        """Milliseconds of the lines across."""
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        return [each for power in powers if self.low <= (each := 10.0**power) <= self.high]

    def up(self, took: float) -> float:
        """Pixels from the upper edge of the plot."""
        part = math.log(max(took, self.low) / self.low) / math.log(self.high / self.low)
        return PLOT - 3 - (PLOT - 6) * part


def frame(timelines: Sequence[Timeline]) -> Frame:
    """One for all of them."""
    return Frame(timelines)


def _lanes(events: Sequence[Event], across: Callable[[float], float]) -> list[list[Event]]:
    """Labels that do not run into each other, in as few lines as that takes."""
    lanes: list[list[Event]] = []
    ends: list[float] = []
    for event in sorted(events, key=lambda each: each.at):
        begin, end = _extent(event, across)
        lane = next((at for at, taken in enumerate(ends) if taken <= begin), len(lanes))
        if lane == len(lanes):
            lanes.append([])
            ends.append(0.0)
        lanes[lane].append(event)
        ends[lane] = end
    return lanes


def _extent(event: Event, across: Callable[[float], float]) -> tuple[float, float]:
    at, width = across(event.at), CHARACTER * (len(event.what) + 2)
    return (at - width, at) if _at_the_end(at, event.what) else (at, at + width)


def _at_the_end(at: float, what: str) -> bool:
    return at + CHARACTER * (len(what) + 1) > 100


def timeline(name: str, found: Timeline, common: Frame) -> Markup:
    """One contestant's; what it shows is said in words as well."""
    head = common.lanes * LANE
    lost = LANE if found.lost else 0
    top = head + lost
    height = top + PLOT + LANE
    parts = [*_grid(common, top), *_dots(found, common, top), *_scale(common, top), *_events(found, common, top)]
    parts += _lost(found, common, head)
    drawing = tag("svg", *parts, class_="time", height=height, role="img", aria_label=f"{name}: {_words(found)}")
    return tag("figure", tag("figcaption", tag("b", name), f" {_short(found)}"), drawing, class_="timeline")


def _short(found: Timeline) -> str:
    if not found.lost:
        return "none lost"
    return f"{len(found.lost):,} lost: {counts(Counter(why for _, why in found.lost))}"


def _words(found: Timeline) -> str:
    parts = [_short(found)]
    if found.took:
        parts.append(f"the longest took {milliseconds(max(found.took))} ms")
    parts += [f"{each.what} at {each.at:.1f} s" for each in found.events]
    return "; ".join(parts)


def _grid(common: Frame, top: int) -> Iterator[Markup]:
    yield tag("line", class_="grid", x1="0", x2="100%", y1=top + PLOT, y2=top + PLOT)
    for took in common.ticks:
        yield tag("line", class_="grid", x1="0", x2="100%", y1=top + common.up(took), y2=top + common.up(took))
    step = next(each for each in (1, 2, 5, 10, 20, 50, 100, 1_000_000) if common.end / each <= 6)
    for at_second in range(0, int(common.end + 0.1) + 1, step):
        across = common.across(at_second)
        anchor = "start" if across < 6 else "end" if across > 94 else "middle"
        yield tag("text", f"{at_second} s", x=f"{across:.2f}%", y=top + PLOT + 13, text_anchor=anchor)


def _scale(common: Frame, top: int) -> Iterator[Markup]:
    for took in common.ticks:
        yield tag("text", duration(took), x=0, y=top + common.up(took) - 3, class_="scale")


def _dots(found: Timeline, common: Frame, top: int) -> Iterator[Markup]:
    places = {
        (round(common.across(due) * ACROSS / 100), round(2 * common.up(took)))
        for due, took in zip(found.due, found.took, strict=False)
    }
    path = "".join(f"M{x} {up / 2:g}h0" for x, up in sorted(places))
    yield _stretched(tag("path", class_="dots", d=path), top, PLOT)


def _stretched(inner: Markup, y: int, height: int) -> Markup:
    box = f"0 0 {ACROSS} {height}"
    return tag("svg", inner, x=0, y=y, width="100%", height=height, viewBox=box, preserveAspectRatio="none")


def _events(found: Timeline, common: Frame, top: int) -> Iterator[Markup]:
    for lane, events in enumerate(_lanes(found.events, common.across)):
        for event in events:
            at = common.across(event.at)
            where = f"{at:.2f}%"
            yield tag("line", class_="event", x1=where, x2=where, y1=lane * LANE + 2, y2=top + PLOT)
            ends = _at_the_end(at, event.what)
            anchor, aside = ("end", -4) if ends else ("start", 4)
            below = lane * LANE + 12
            yield tag("text", event.what, class_="what", text_anchor=anchor, x=where, y=below, dx=aside)


def _lost(found: Timeline, common: Frame, top: int) -> Iterator[Markup]:
    if len(found.lost) > CROSSES:
        places = sorted({round(common.across(at) * ACROSS / 100) for at, _ in found.lost})
        path = "".join(f"M{x} 2v{LANE - 4}" for x in places)
        yield _stretched(tag("path", class_="lost", d=path), top, LANE)
        return
    for at, why in found.lost:
        where = f"{common.across(at):.2f}%"
        yield tag("line", class_="gone", x1=where, x2=where, y1=top + LANE, y2=top + LANE + PLOT)
        title = tag("title", f"{why}, due at {at:.2f} s")
        yield tag("g", title, tag("use", href="#cross", x=where, y=top + LANE / 2), class_="lost")
