"""The page as text: whole, escaped, nothing from elsewhere, and all numbers in tables. How it looks: tests/process."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from trapeze_bench.charts import Row, linear, logarithmic, rows
from trapeze_bench.markup import Markup, join, raw, table, tag
from trapeze_bench.page import page
from trapeze_bench.results import Event, Report, Result, Scenario, Standing, Timeline
from trapeze_bench.tables import render
from trapeze_bench.timelines import CROSSES, frame, timeline
from trapeze_bench.words import milliseconds, rate

from tests.support.benchdoc import sample, study
from tests.support.benchdoc import timeline as made

VOID = {"meta", "use", "line", "rect", "circle", "path"}


class Elements(HTMLParser):
    """Holds that everything that opens is closed, in order; keeps what there is."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def text() -> str:
    return page(sample())


@pytest.fixture(scope="module")
def elements(text: str) -> Elements:
    return Elements(text)


def test_it_needs_nothing_else(text: str, elements: Elements) -> None:
    names = {name for name, _ in elements.found}

    assert not names & {"script", "link", "img", "iframe", "object", "image"}
    assert not re.search(r"https?:|//|url\(|@import|@font-face", text)
    assert {attributes["href"] for _, attributes in elements.found if "href" in attributes} == {"#cross"}
    assert not [key for _, attributes in elements.found for key in attributes if key.startswith("on")]


def test_the_worst_comes_first(elements: Elements) -> None:
    kinds = [attributes.get("class") for name, attributes in elements.found if name == "li"]

    assert kinds[0] == "bad" and "reload: trapeze+uvicorn: 3 lost" in elements.texts
    assert elements.texts.index("reload: trapeze+uvicorn: 3 lost") < elements.texts.index("Recommended")


def test_every_picture_is_said_in_words(elements: Elements) -> None:
    pictures = [attributes for name, attributes in elements.found if name == "svg" and "role" in attributes]

    assert len(pictures) > 50
    assert all(attributes["aria-label"] for attributes in pictures)
    [label] = [
        each["aria-label"] for each in pictures if (each["aria-label"] or "").startswith("trapeze+uvicorn: 3 lost")
    ]
    assert label is not None and "3 lost: " in label and "the longest took" in label and "reload at 3.0 s" in label


def test_all_numbers_are_in_tables(text: str) -> None:
    cells = set(re.findall(r"<td[^>]*>([^<]*)</td>", text))

    for each in study().results:
        for run in each.closed:
            assert rate(sorted(run.rates)[2]) in cells
            assert {milliseconds(sorted(times)[2]) for times in run.latencies.values()} <= cells


def test_every_lost_request_is_marked_and_every_round_is_a_dot(elements: Elements) -> None:
    kinds = Counter(attributes.get("class") for _, attributes in elements.found)

    lost = [
        line for one in sample().scenarios for each in one.standings if each.timeline for line in each.timeline.lost
    ]
    assert kinds["lost"] == len(lost) == 3 + 41 + 5 + 4 + 20
    assert kinds["dot"] == 12 * 3 * 5 + 12 * 4 * 2, "rounds; p50 and p90"
    assert kinds["event"] == 5 * 3 + 5


def test_what_comes_in_is_text() -> None:
    report = sample(3)
    evil = "</style><script>alert(1)</script>\"'&amp;"
    assert report.study is not None
    report.study.app = report.study.results[0].name = report.study.results[2].failed = evil
    report.study.results[1].command = [evil]
    standing = report.scenarios[0].standings[0]
    standing.name = standing.verdict = standing.note = report.scenarios[0].name = evil
    assert standing.timeline is not None
    standing.timeline.events = [Event(1.0, evil)]
    standing.timeline.lost = [(1.0, evil)]
    found = Elements(page(report))

    assert "script" not in {name for name, _ in found.found}
    assert found.texts.count(evil) > 5


def test_scenarios_alone_and_nothing_at_all() -> None:
    machine = sample(1).machine
    found = [
        Scenario("boot", "How long?", {"s": "s"}, [Standing("x", {"s": 1.5}), Standing("y", missing="pip install y")])
    ]

    alone = page(Report(machine, "2026-01-02T03:04Z", scenarios=found))
    assert "<h1>boot</h1>" in alone and "y is not installed, and was not run: pip install y" in alone
    assert "interrupted" in alone and "Requests per second" not in alone
    assert "nothing measured" in page(Report(machine, "2026-01-02T03:04Z"))


def _nothing_in_the_first(report: Report) -> None:
    assert report.study is not None
    report.study.results[0] = Result("gunicorn, plain", "reference", "gunicorn", failed="no answer")


def _no_answer_at_all(report: Report) -> None:
    assert report.study is not None
    for each in report.study.results[:9]:
        for run in each.closed[:2]:
            run.rates, run.latencies = [0.0] * len(run.rates), {}


def _cut_short(report: Report) -> None:
    assert report.study is not None
    report.study.finished = False
    for number, each in enumerate(report.study.results):
        each.closed = each.closed[: number % 3]
        each.fixed, each.starts, each.cpu_workers, each.pss_workers, each.balance = None, [], [], [], []


def _at_different_rates(report: Report) -> None:
    assert report.study is not None
    for number, each in enumerate(report.study.results):
        if each.fixed:
            each.fixed.rate, each.fixed.latencies["max"] = 100.0 + number, [0.0] * 5


@pytest.mark.parametrize("change", [_nothing_in_the_first, _no_answer_at_all, _cut_short, _at_different_rates])
@pytest.mark.parametrize("rounds", [1, 3])
def test_a_run_that_did_not_go_well_is_shown_all_the_same(change: Callable[[Report], None], rounds: int) -> None:
    report = sample(rounds)
    report.scenarios = []
    change(report)
    found, text = page(report), render(report, 80)

    Elements(found)
    assert not re.search(r"\bnan\b|[\"-]inf|None", found)
    assert not re.search(r"\bnan\b|None", text)
    assert "Recommended" in found and "Recommended" in text


# -- its parts --------------------------------------------------------------------------------------------------------


def test_markup_is_escaped_once() -> None:
    assert tag("p", "a < b", raw("<br>"), class_='x"y', hidden=True, title=None) == (
        '<p class="x&quot;y" hidden>a &lt; b<br></p>'
    )
    assert tag("circle", cx=1.0, r=2.126, stroke_width=1) == '<circle cx="1" r="2.13" stroke-width="1"/>'
    assert join("&", tag("b", "&")) == "&amp;<b>&amp;</b>" and isinstance(join("x"), Markup)
    assert '<th scope="row">a</th><td>1</td><td class="w">x</td>' in table("t", ["", "n", "w"], [["a", "1", "x"]], [2])


def test_scales_go_from_edge_to_edge() -> None:
    line = linear(21_000, str)
    assert [value for value, _ in line.ticks] == [0, 10_000, 20_000]
    assert line.place(0) == 0 and line.place(21_000) == 98
    steps = logarithmic([0.3, 900.0], str)
    assert [value for value, _ in steps.ticks] == [1, 10, 100, 1000]
    assert 0 < steps.place(0.3) < steps.place(900) < 100
    middle = logarithmic([0.9, 1.2], str, around=1.0)
    assert middle.place(1.0) == pytest.approx(50) and middle.place(1.2) == pytest.approx(98)
    assert logarithmic([], str).ticks and linear(0, str).ticks


def test_a_row_without_marks_is_a_row() -> None:
    found = rows("t", [Row("x", "trapeze", "-", "", "nothing", [])], linear(10, str))

    assert 'aria-label="x: nothing"' in found and "circle" not in found


def test_labels_of_events_do_not_run_into_each_other() -> None:
    line = made(10)
    line.events = [Event(at, f"event {number}") for number, at in enumerate([1.0, 1.1, 1.2, 5.0, 9.9])]
    found = timeline("x", line, frame([line]))
    places = re.findall(r'text-anchor="(\w+)" x="([\d.]+)%" y="(\d+)"', found.replace('class="what" ', ""))

    assert [y for _, _, y in places if int(y) < 60][:5] != ["12"] * 5
    assert found.count('class="what"') == 5 and 'text-anchor="end"' in found


def test_thousands_of_lost_requests_are_one_path() -> None:
    lost = [(number / 1000, "reset") for number in range(CROSSES + 1)]
    line = Timeline([0.5], [1.0], lost)

    assert timeline("x", line, frame([line])).count('class="lost"') == 1
    empty = Timeline([], [])
    assert "</b> none lost" in timeline("x", empty, frame([empty]))


@pytest.mark.parametrize("values", [[0.99], [0.9, 1.1], [0.8], [0.36, 2.94], [0.02, 3.0], [0.5, 200.0]])
def test_marks_around_one_never_overlap(values: list[float]) -> None:
    scale = logarithmic(values, str, around=1.0)
    places = [scale.place(value) for value, _ in scale.ticks]

    assert len(places) >= 3 and scale.place(1.0) == pytest.approx(50)
    assert all(0 <= place <= 100 for place in places)
    assert all(after - before >= 8 for before, after in pairwise(places))
