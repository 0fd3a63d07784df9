"""A full run as one SVG, for a README: bars of throughput beside the reference, and who lost what in which situation.

Pure. It has a ground of its own, and follows the reader's light or dark: it is shown as an image on pages that do
either. No script, no font, nothing from anywhere. What is drawn is in the tables of the README in words.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from trapeze_bench.charts import Scale, linear
from trapeze_bench.compare import Comparison
from trapeze_bench.findings import reference
from trapeze_bench.markup import Markup, raw, tag
from trapeze_bench.results import Report, Standing, Study
from trapeze_bench.showing import Faults, Pace, fault, faults, paces, studied
from trapeze_bench.words import rate, ratio

__all__ = ["picture"]

WIDTH = 920
EDGE = 24
NAMES = 200
"""Pixels of the column of names."""
BARS = 440
"""Pixels of the longest bar."""
LEFT = EDGE + NAMES
ROW = 22
LINE = 14
"""Pixels from one line of a cell to the next."""
LETTER = 6.8
"""Pixels of a letter in a cell, at most."""
STYLE = """
.ground{fill:#fcfcfa;stroke:#e0e5e2}.ink{fill:#19201e}.soft{fill:#58625e}.ours{fill:#0b7066}.native{fill:#a9b1c2}
.base{fill:#7b8581}.bad{fill:#b23c08}.good{fill:#0b7066}.hair{stroke:#e0e5e2}.one{stroke:#58625e}.whisker{stroke:#19201e}
@media (prefers-color-scheme:dark){
.ground{fill:#101413;stroke:#2a322f}.ink{fill:#e7ecea}.soft{fill:#9ba7a2}.ours{fill:#3fae9e}.native{fill:#5a657d}
.base{fill:#8a9691}.bad{fill:#ff9c66}.good{fill:#56d3bf}.hair{stroke:#2a322f}.one{stroke:#9ba7a2}.whisker{stroke:#e7ecea}}
text{font:13px system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
font-variant-numeric:tabular-nums}
.title{font-size:16px;font-weight:650}.small{font-size:11.5px}line{stroke-width:1}.whisker{stroke-width:1.5}
"""


class _Placed(NamedTuple):
    """Something drawn, and how high it is."""

    parts: list[Markup]
    height: float


def picture(reports: Mapping[str, Report]) -> str:
    """The whole file."""
    parts: list[Markup] = []
    at = float(EDGE)
    panels = [_panel(report.study) for report in reports.values() if report.study is not None]
    panels += [_faults(found)] if (found := faults(reports.values())).rows else []
    for panel in panels:
        parts.append(tag("g", *panel.parts, transform=f"translate(0 {at:g})"))
        at += panel.height + EDGE
    ground = tag("rect", class_="ground", x=0.5, y=0.5, width=WIDTH - 1, height=at - 1, rx=8)
    drawn = tag(
        "svg",
        tag("title", "Requests per second beside the reference, and what became of requests in faults"),
        tag("style", raw(STYLE)),
        ground,
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {at:g}",
        width=WIDTH,
        height=at,
        role="img",
    )
    return drawn + "\n"


def _text(words: str, x: float, y: float, kind: str = "ink", anchor: str | None = None) -> Markup:
    return tag("text", words, x=x, y=y, class_=kind, text_anchor=anchor)


# -- throughput -------------------------------------------------------------------------------------------------------


def _panel(study: Study) -> _Placed:
    found, base = paces(study), reference(study)
    of = base.name if base else "the fastest"
    title = f"Requests per second, {study.interface.upper()} hello world, of {of}"
    parts = [_text(title, EDGE, 16, "ink title"), _text(studied(study), EDGE, 36, "soft small")]
    parts += _legend(LEFT + BARS, 36)
    top = 50.0
    shares = [_shares(each, found) for each in found]
    greatest = max([share.greatest for share in shares], default=1.0)
    scale = linear(max(greatest, 1.0), lambda value: f"{value:g}", most=8)
    bottom = top + ROW * len(found)
    parts += _grid(scale, top, bottom)
    for number, (each, share) in enumerate(zip(found, shares, strict=True)):
        parts += _row(each, share, scale, top + ROW * number)
    return _Placed(parts, bottom + 16)


class _Share(NamedTuple):
    """Of the reference: median, least and greatest round; and the same server by itself."""

    middle: float
    low: float
    high: float
    native: float | None

    @property
    def greatest(self) -> float:
        return max(self.high, self.native or 0.0)


def _shares(each: Pace, all_of_them: Sequence[Pace]) -> _Share:
    beside = each.of_reference
    if beside is None:  # the reference itself, or there is none
        own = each.rates.median if not each.ours else max(one.rates.median for one in all_of_them)
        middle, low, high = (value / own for value in each.rates)
        return _Share(middle, low, high, None)
    native = each.native_of_reference
    return _Share(beside.ratio, beside.low, beside.high, native.ratio if native else None)


def _legend(right: float, y: float) -> Iterator[Markup]:
    yield tag("rect", class_="ours", x=right - 250, y=y - 8, width=14, height=8)
    yield _text("under trapeze", right - 231, y, "soft small")
    yield tag("rect", class_="native", x=right - 140, y=y - 6, width=14, height=4)
    yield _text("by itself", right - 121, y, "soft small")
    yield tag("line", class_="whisker", x1=right - 58, x2=right - 44, y1=y - 4, y2=y - 4)
    yield _text("rounds", right - 39, y, "soft small")


def _across(scale: Scale, value: float) -> float:
    return LEFT + BARS * scale.place(value) / 100


def _grid(scale: Scale, top: float, bottom: float) -> Iterator[Markup]:
    for value, words in scale.ticks:
        x = _across(scale, value)
        yield tag("line", class_="hair", x1=x, x2=x, y1=top, y2=bottom)
        yield _text(words, x, bottom + 13, "soft small", "middle")
    x = _across(scale, 1.0)
    yield tag("line", class_="one", x1=x, x2=x, y1=top, y2=bottom, stroke_dasharray="2 3")


def _row(each: Pace, share: _Share, scale: Scale, y: float) -> Iterator[Markup]:
    end = _across(scale, share.middle)
    yield _text(each.name.removeprefix("trapeze+"), EDGE, y + 14)
    yield tag("rect", class_="ours" if each.ours else "base", x=LEFT, y=y + 3, width=end - LEFT, height=10)
    if share.native is not None:
        yield tag("rect", class_="native", x=LEFT, y=y + 14, width=_across(scale, share.native) - LEFT, height=4)
    low, high = _across(scale, share.low), _across(scale, share.high)
    yield tag("line", class_="whisker", x1=low, x2=high, y1=y + 8, y2=y + 8)
    yield _text(_beside(each.of_reference) if each.ours else "1", LEFT + BARS + 58, y + 14, "ink", "end")
    slower = each.of_native is not None and each.of_native.verdict == "slower"
    words = f"of itself {ratio(each.of_native.ratio)} x" if slower and each.of_native else ""
    yield _text(f"{rate(each.rates.median)}/s", LEFT + BARS + 132, y + 14, "soft small", "end")
    if words:
        yield _text(words, LEFT + BARS + 140, y + 14, "bad small")


def _beside(found: Comparison | None) -> str:
    if found is None:
        return ""
    return "same" if found.verdict == "same" else f"{ratio(found.ratio)} x"


# -- faults -----------------------------------------------------------------------------------------------------------


def _faults(found: Faults) -> _Placed:
    column = (WIDTH - LEFT - EDGE) / len(found.scenarios)
    parts = [
        _text("What becomes of requests", EDGE, 16, "ink title"),
        _text("requests lost, and what else was not as it should be", EDGE, 36, "soft small"),
    ]
    y = 62.0
    for number, name in enumerate(found.scenarios):
        parts.append(_text(name, LEFT + column * number, y, "soft small"))
    y += 8
    for name, standings in found.rows:
        cells = [_cell(each, column) for each in standings]
        height = 8 + LINE * max(map(len, cells))
        parts.append(tag("line", class_="hair", x1=EDGE, x2=WIDTH - EDGE, y1=y, y2=y))
        parts.append(_text(name, EDGE, y + 15, "ink"))
        for number, (lines, standing) in enumerate(zip(cells, standings, strict=True)):
            kind = {True: "good", False: "bad", None: "soft"}[standing.good if standing else None]
            x = LEFT + column * number
            parts += [_text(line, x, y + 15 + LINE * at, f"{kind} small") for at, line in enumerate(lines)]
        y += height
    return _Placed(parts, y)


def _cell(standing: Standing | None, column: float) -> list[str]:
    mark = {True: "✓ ", False: "✕ ", None: ""}[standing.good if standing else None]
    words = re.sub(r"(?<=\d) (?=s\b)", "\N{NO-BREAK SPACE}", mark + fault(standing))
    return textwrap.wrap(words, max(int(column / LETTER), 8)) or [""]
