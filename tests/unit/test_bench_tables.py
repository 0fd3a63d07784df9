"""The report in a terminal: aligned, whole, the worst first, and no wider than it has to be."""

from __future__ import annotations

import re

import pytest
from trapeze_bench.grid import Column, bar, grid, wrapped
from trapeze_bench.results import Report, Result, Scenario, Standing, Study
from trapeze_bench.tables import render, scenario
from trapeze_bench.words import (
    cell,
    counts,
    duration,
    listed,
    milliseconds,
    number,
    rate,
    ratio,
    seconds,
    several,
    span,
)

from tests.support.benchdoc import result, sample


@pytest.fixture(scope="module")
def text() -> str:
    return render(sample(), 80)


@pytest.mark.parametrize("width", [80, 100, 140])
def test_no_line_is_too_long(width: int) -> None:
    long = [line for line in render(sample(), width).splitlines() if len(line) > width]

    assert long == []


def test_the_worst_comes_first(text: str) -> None:
    lines = text.splitlines()

    assert lines[0] == "! reload: trapeze+uvicorn: 3 lost"
    assert lines[1] == "! trapeze+wsgiref did not answer every request: 12 timeout, 3 read"
    marks = [line[0] for line in lines[: lines.index("")] if line[0] != " "]
    assert marks == sorted(marks, key="!+-".index) and set(marks) == set("!+-")


def table(text: str, title: str) -> dict[str, list[str]]:
    """The rows of a table, by name."""
    block = text.partition(title)[2].partition("\n\n")[0].splitlines()[1:]
    rows = [re.split(r" {2,}", line.strip()) for line in block]
    return {row[0]: row[1:] for row in rows if len(row) > 1}


def test_rates_have_a_spread_and_a_ratio_or_are_the_same(text: str) -> None:
    rows = table(text, "Requests per second, 64 connections")

    assert rows["gunicorn, plain"][2] == "ref."
    assert re.fullmatch(r"[\d,]+", rows["granian"][0]) and re.fullmatch(r"[\d,]+-[\d,]+", rows["granian"][1])
    assert float(rows["trapeze+granian"][2]) > 4
    assert rows["granian"][3].count("█") > rows["waitress"][3].count("█") > 1
    assert table(text, "Requests per second, 1 connection,")["waitress"][2] == "same"


def test_a_difference_inside_the_noise_is_never_a_number() -> None:
    base = result("gunicorn, plain", [[100.0, 110, 105]], role="reference")
    near = result("trapeze+granian", [[109.0, 104, 112]])
    found = Study("a:b", "wsgi", 2, 3, 1.0, [1], ["GET /"], results=[base, near], finished=True)
    rows = table(render(Report(sample(1).machine, "now", study=found), 80), "Requests per second, 1 connection")

    assert rows["trapeze+granian"][2] == "same"


def test_latencies_and_errors(text: str) -> None:
    head, rows = text.partition("64 connections (closed loop)")[2], table(text, "64 connections (closed loop)")

    assert head.split()[:6] == ["p50", "p90", "p99", "p99.9", "max", "errors"]
    assert rows["trapeze+wsgiref"][-1] == "15" and rows["granian"][-1] == "0"
    fixed = table(text, "timed from when each request was")
    assert fixed["trapeze+wsgiref"][-1] == "cannot keep up" and fixed["granian"][-1] == "0"


def test_what_it_costs_beside_the_same_server(text: str) -> None:
    rows = table(text, "What trapeze costs")

    assert re.fullmatch(r"0\.\d\d slower", rows["granian"][2])
    assert re.fullmatch(r"1\.\d\d slower", rows["uvicorn"][3]), "p99: more is worse"
    assert "same" in rows["fastpysgi"][0]


def test_failures_have_their_reason(text: str) -> None:
    assert "\nErrors\n  trapeze+wsgiref: 12 timeout, 3 read\n  hypercorn: no answer in 30 s\n" in text


def test_how_it_was_measured_is_said(text: str) -> None:
    end = " ".join(text.partition("How it was measured")[2].split())

    for words in (
        "shop.wsgi:application (wsgi), 4 workers; 5 rounds of 5 s, contestants in turn; asked for: GET /, GET /items",
        "load by wrk 4.1.0, at most 26,000/s here (nginx 1.22.1, return 200)",
        "Example 3000, 2.4 GHz, 2 cores, 24,000 MiB, Linux 6.1.0, Python 3.11.7, load 0.3",
        "autogroup on",
        "commit 0123abc+",
        "granian: granian --workers 4 app:wsgi",
    ):
        assert words in end


def test_the_advice_is_there(text: str) -> None:
    assert "\nRecommended\n  " in text
    assert re.search(r"^  trapeze serve shop\.wsgi:application --backend \w+ --workers 2", text, re.MULTILINE)


def test_a_scenario_says_what_was_lost_and_what_was_not_run(text: str) -> None:
    found = scenario(sample().scenarios[0], 80)

    assert found in text
    rows = table("\n" + found, "take?")
    assert rows["trapeze+uvicorn"][0] == "NO: 3 lost" and rows["gunicorn, HUP"][0] == "ok"
    assert "  trapeze+gunicorn: one worker took 31 s to leave" in found
    assert "  circus, reload: not installed: pip install circus chaussette" in found
    assert "not in 40 s" in text and " no such question" in text


def test_only_what_was_measured_is_shown() -> None:
    machine = sample(1).machine
    found = render(
        Report(machine, "now", scenarios=[Scenario("boot", "How long?", {"s": ""}, [Standing("x", missing="y")])]), 80
    )

    assert "boot: How long?\n  x: not installed: y\n  interrupted" in found
    assert "Requests per second" not in found and "Recommended" not in found
    nothing = Study("a:b", "wsgi", 2, 3, 1.0, [1], ["GET /"], results=[Result("x", "trapeze", "x", failed="no")])
    assert render(Report(machine, "now", study=nothing), 80).startswith("! x could not be measured: no\n! nothing")


def test_no_word_of_a_heading_is_broken() -> None:
    found = Scenario("idle", "What?", {"wake-ups, supervisor": "/s"}, [Standing("x", {"wake-ups, supervisor": 1.0})])

    assert [line.split() for line in scenario(found, 80).splitlines() if "supervisor" in line] == [["supervisor"]]


def test_sentences_stand_below_the_table() -> None:
    words = "error: " + 12 * "a broken deploy "
    rows = [Standing("trapeze", {"lost": 0, "it said": words}), Standing("x", {"lost": 3})]
    lines = scenario(Scenario("deploy", "What?", {"lost": "", "it said": ""}, rows), 80).splitlines()

    assert ["trapeze", "0"] in [line.split() for line in lines]
    assert any(line.startswith("  trapeze, it said: error: a broken deploy") for line in lines)
    assert max(map(len, lines)) <= 80


def test_a_table_too_wide_becomes_several_with_all_names() -> None:
    names = Column("", ["a", "bb"], left=True)
    columns = [Column(f"\nhead {n}", [str(n), "12345678"]) for n in range(4)]
    found = grid(names, columns, 24)

    assert [len(block.splitlines()) for block in found.split("\n\n")] == [3, 3]
    assert found.splitlines()[2] == "bb  12345678  12345678"
    assert grid(names, columns, 5).count("12345678") == 4, "too narrow for anything: all is there all the same"


def test_bars_and_paragraphs() -> None:
    assert [bar(value, 8, 2) for value in (0, 1, 4, 8, 9)] == ["", "▎", "█", "██", "██"]
    assert bar(1, 0, 5) == "" and bar(1, 1, 0) == ""
    assert wrapped("one two three four five", 20, "! ") == "! one two three four\n  five"
    assert wrapped("name: one two three four", 20, "", hang=4) == "name: one two three\n    four"


def test_numbers() -> None:
    assert [number(each) for each in (None, 0, 0.000234, 0.5, 9.996, 12.34, 1234567.8)] == [
        "-", "0", "0.000234", "0.500", "10.0", "12.3", "1,234,568",
    ]  # fmt: skip
    assert [number(float("inf")), number(float("nan"))] == ["inf", "-"]
    assert [milliseconds(each) for each in (None, 0.123, 1.234, 123.4)] == ["-", "0.12", "1.23", "123"]
    assert [ratio(each) for each in (None, 0.987, 9.99, 14.26)] == ["-", "0.99", "9.99", "14.3"]
    assert [rate(each) for each in (None, 3.14159, 99.0, 20512.4)] == ["-", "3.14", "99.0", "20,512"]
    assert [seconds(each) for each in (None, 0.00021, 0.1234)] == ["-", "0.0002", "0.123"]
    assert [duration(each) for each in (0.1, 10.0, 1000.0)] == ["0.1 ms", "10 ms", "1 s"]
    assert [cell(each) for each in (None, "", True, 1234, 1.5, "x")] == ["-", "-", "yes", "1,234", "1.50", "x"]
    assert span([3.0, 1.0]) == "1.00-3.00" and span([]) == "-"
    assert counts({"a": 1, "b": 12, "c": 0}) == "12 b, 1 a"
    assert several(1, "core") == "1 core" and several(1200, "core") == "1,200 cores"
    assert [listed("a"), listed("ab"), listed("abcde"), listed("abcdef")] == [
        "a", "a and b", "a, b, c, d and e", "a, b, c, d and 2 more",
    ]  # fmt: skip
