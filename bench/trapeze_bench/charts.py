"""Charts as inline SVG: rows of dots and whiskers on a scale, and the timeline of a scenario. Pure.

Positions along the page are per cent and everything else is in pixels: a chart is as wide as it can be, and its text
and its dots have the same size on a phone and on a desk. What is drawn is said in words, too, for who does not see it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from trapeze_bench.markup import Markup, join, raw, tag

__all__ = ["Mark", "Row", "Scale", "linear", "logarithmic", "rows"]

HEIGHT = 22
"""Pixels of a row."""
MIDDLE = HEIGHT / 2
ROUND_RATIOS = (1.05, 1.1, 1.25, 2.0, 4.0, 10.0, 100.0)
"""Marks of a scale around 1, which has them below it, too, as one of these."""
ROUND_PARTS = (0.95, 0.9, 0.8, 0.5, 0.25, 0.1, 0.01)
APART = 9.0
"""Per cent of the width from one mark to the next, at least: their words need so much in half a page."""
LEAST = 0.01
"""On a logarithmic scale: what is less, or nothing at all, is drawn there."""
EDGE = 2.0
"""Per cent that stay free at either end."""


class Scale(NamedTuple):
    """From values to per cent of the width."""

    place: Callable[[float], float]
    ticks: Sequence[tuple[float, str]]
    """Values, and how they are written."""


class Mark(NamedTuple):
    """Something at a value."""

    kind: str
    """ "dot", "tick", "ring", "cross"."""
    value: float


class Row(NamedTuple):
    """One contestant."""

    name: str
    kind: str
    """ "trapeze", "native", "reference": how it is coloured."""
    value: str
    """The number that counts, written out."""
    beside: str
    """What it is beside others."""
    words: str
    """What is drawn, in words."""
    marks: Sequence[Mark]
    whisker: tuple[float, float] | None = None
    bar: float | None = None
    """From the beginning of the scale to here."""


def linear(greatest: float, write: Callable[[float], str], most: int = 4) -> Scale:
    """From 0."""
    step = _step(greatest / most) if greatest > 0 else 1.0
    top = max(greatest, step)
    ticks = [step * number for number in range(int(top / step + 1e-9) + 1)]
    return Scale(lambda value: (100 - EDGE) * value / top, [(each, write(each)) for each in ticks])


def _step(least: float) -> float:
    decade = 10.0 ** math.floor(math.log10(least))
    return next(decade * by for by in (1, 2, 5, 10) if decade * by >= least * 0.999)


def logarithmic(values: Sequence[float], write: Callable[[float], str], around: float | None = None) -> Scale:
    """From the least to the greatest; symmetrical where there is a middle to be around."""
    found = [max(each, LEAST) for each in values if math.isfinite(each)] or [1.0]
    low, high = min(found), max(found)
    if around is not None:
        far = max(high / around, around / low, 1.06)
        low, high = around / far, around * far
        ticks = _ratios(high, 100 / math.log(high / low))
    else:
        low, high = low / 1.15, max(high, low * 3) * 1.15
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [each for power in decades if low <= (each := 10.0**power) <= high]
        if len(ticks) < 2:
            ticks = [each for power in decades for by in (1, 2, 5) if low <= (each := by * 10.0**power) <= high]
    width = math.log(high / low)

    def place(value: float) -> float:
        return EDGE + (100 - 2 * EDGE) * math.log(min(max(value, low), high) / low) / width

    return Scale(place, [(each, write(each)) for each in ticks])


def _ratios(greatest: float, width: float) -> list[float]:
    """1 and round ratios above and below it, no nearer to each other than words are wide."""
    found = [1.0]
    for above, below in zip(ROUND_RATIOS, ROUND_PARTS, strict=True):
        if above <= greatest and width * math.log(above / found[-1]) >= APART:
            found = [below, *found, above]
    return [each for each in found if each >= 1 / greatest]


def rows(
    title: str, found: Sequence[Row], scale: Scale, *, line: float | None = None, band: Sequence[float] = ()
) -> Markup:
    """A chart: a line of words and a track for each contestant, and the scale below.

    Args:
        title: what it is about.
        found: the contestants, in their order.
        scale: where values are.
        line: a value that all are to be compared with.
        band: two values between which a difference is none.
    """
    drawn = [_row(each, scale, line, band) for each in found]
    axis = tag("svg", *_axis(scale), class_="axis", height=18, aria_hidden="true")
    return tag("figure", tag("figcaption", title), *drawn, axis, class_="rows")


def _row(row: Row, scale: Scale, line: float | None, band: Sequence[float]) -> Markup:
    parts = [_vertical(scale.place(value), "grid") for value, _ in scale.ticks]
    if band:
        low, high = (scale.place(value) for value in band)
        parts.append(tag("rect", class_="band", x=f"{low:.2f}%", width=f"{high - low:.2f}%", y=0, height=HEIGHT))
    if row.bar is not None:
        parts.append(tag("rect", class_="bar", x=0, width=f"{scale.place(row.bar):.2f}%", y=4, height=HEIGHT - 8))
    if line is not None:
        parts.append(_vertical(scale.place(line), "line"))
    if row.whisker is not None:
        begin, end = (f"{scale.place(value):.2f}%" for value in row.whisker)
        parts.append(tag("line", class_="whisker", x1=begin, x2=end, y1=MIDDLE, y2=MIDDLE))
    parts += [_mark(each.kind, scale.place(each.value)) for each in row.marks]
    track = tag("svg", *parts, class_="track", height=HEIGHT, role="img", aria_label=f"{row.name}: {row.words}")
    beside = tag("small", row.beside) if row.beside else ""
    head = tag("div", tag("span", row.name, class_="name"), tag("span", row.value, " ", beside, class_="value"))
    return tag("div", head, track, class_=f"row {row.kind}")


def _vertical(at: float, kind: str) -> Markup:
    return tag("line", class_=kind, x1=f"{at:.2f}%", x2=f"{at:.2f}%", y1=0, y2=HEIGHT)


def _mark(kind: str, at: float) -> Markup:
    where = f"{at:.2f}%"
    if kind == "tick":
        return tag("line", class_="tick", x1=where, x2=where, y1=2, y2=HEIGHT - 2)
    if kind == "cross":
        return tag("use", href="#cross", class_="cross", x=where, y=MIDDLE)
    return tag("circle", class_=kind, cx=where, cy=MIDDLE, r=3.4 if kind == "ring" else 3.0)


def _axis(scale: Scale) -> Iterator[Markup]:
    for value, words in scale.ticks:
        at = scale.place(value)
        anchor = "start" if at < 6 else "end" if at > 94 else "middle"
        yield tag("text", words, x=f"{at:.2f}%", y=13, text_anchor=anchor)


SYMBOLS = join(
    raw('<svg width="0" height="0" class="symbols" aria-hidden="true"><defs>'),
    raw('<path id="cross" d="M-3.5-3.5 3.5 3.5M-3.5 3.5 3.5-3.5"/>'),
    raw("</defs></svg>"),
)
"""What charts refer to: to stand once in the page."""
