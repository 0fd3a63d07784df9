"""What bench/results/ and the README say of a full run: all of it from the reports, and trapeze's own losses first."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
from trapeze_bench import documents, published
from trapeze_bench.page import page
from trapeze_bench.picture import picture
from trapeze_bench.results import Report, Result, Scenario, Standing, Study
from trapeze_bench.showing import facts, fault, faults, paces, section

from tests.support.benchdoc import result, sample
from tests.support.server import ROOT

SVG = "{http://www.w3.org/2000/svg}"
PLAIN = result("gunicorn, plain", [[100.0, 101, 102], [200.0, 201, 202]], role="reference", backend="gunicorn")
FAST = [[300.0, 301, 302], [900.0, 901, 902]]
CLOSE = [[300.0, 302, 303], [890.0, 903, 902]]


def whole(rounds: int = 4) -> dict[str, Report]:
    """As a directory has it: a study and two scenarios, each in its own file."""
    found = sample(rounds)
    reports = {"wsgi": msgspec.structs.replace(found, scenarios=[])}
    for each in found.scenarios:
        reports[each.name] = msgspec.structs.replace(found, study=None, scenarios=[each])
    return reports


def of(*results: Result, scenarios: tuple[Scenario, ...] = ()) -> dict[str, Report]:
    """A study of these and the reference; scenarios."""
    study = Study("trapeze_bench.hello:wsgi", "wsgi", 4, 3, 1.0, [1, 16], ["GET /"], finished=True)
    study.results = [PLAIN, *results]
    machine = msgspec.structs.replace(sample(1).machine, load=0.1)
    reports = {"wsgi": Report(machine, "2026-01-02T03:04Z", study=study)}
    for each in scenarios:
        reports[each.name] = Report(machine, "2026-01-02T03:04Z", scenarios=[each])
    return reports


def after_table(text: str, first: str) -> str:
    """The first line below the table whose head begins so."""
    lines = text.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith(first))
    while lines[at].startswith("|"):
        at += 1
    return lines[at + 1]


# -- the section of the README ----------------------------------------------------------------------------------------


def test_the_table_has_who_is_fastest_first_and_the_reference_among_them() -> None:
    text = section(of(result("trapeze+granian", FAST), result("granian", CLOSE, role="native")))

    assert "**WSGI, hello world**: 4 workers, 16 connections, 3 rounds of 1 s" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows == [
        "|  | requests/s | rounds | of gunicorn, plain | of itself without trapeze |",
        "| trapeze+granian | 901 | 900-902 | 4.48 x | same |",
        "| gunicorn, plain | 201 | 200-202 | 1 |  |",
    ]


def test_where_it_is_not_slower_it_says_so() -> None:
    text = section(of(result("trapeze+granian", FAST), result("granian", CLOSE, role="native")))

    words = "Nowhere in this table is trapeze clearly slower than the same server by itself"
    assert after_table(text, "|  | requests/s").startswith(words)


def test_where_it_is_slower_that_is_the_first_line_below_the_table() -> None:
    quick = [[400.0, 401, 402], [1200.0, 1201, 1202]]
    text = section(of(result("trapeze+granian", FAST), result("granian", quick, role="native")))

    assert "| trapeze+granian | 901 | 900-902 | 4.48 x | 0.75 x |" in text
    assert after_table(text, "|  | requests/s") == "Where trapeze is slower, or fails:"
    assert "\n- trapeze+granian is slower than granian run by itself: 0.75 x (0.75-0.75) at 1 connection" in text


def test_a_request_that_trapeze_loses_is_the_first_line_below_the_faults() -> None:
    rows = [
        Standing("trapeze+uvicorn", {"lost, fresh": 2, "lost, kept": 1, "requests": 900}, "3 lost", good=False),
        Standing("uvicorn", {"lost, fresh": 0, "lost, kept": 0}, "ok", good=True),
        Standing("circus", missing="pip install circus"),
    ]
    text = section(of(scenarios=(Scenario("reload", "?", {}, rows, finished=True),)))

    assert "\n| trapeze+uvicorn | ✕ 3 lost |\n| uvicorn | ✓ ok |\n" in text
    assert after_table(text, "|  | reload |") == "Where trapeze loses something:"
    assert "\n- reload: trapeze+uvicorn: 3 lost\n" in text
    assert "Not installed, and not run: circus (`pip install circus`)." in text


def test_where_it_loses_nothing_it_says_so() -> None:
    rows = [Standing("trapeze+uvicorn", {"lost": 0}, "ok", good=True), Standing("x", {"lost": 9}, "down", good=False)]
    text = section(of(scenarios=(Scenario("reload", "?", {}, rows, finished=True),)))

    assert "| x | ✕ 9 lost, down |" in text
    assert after_table(text, "|  | reload |") == "In none of these trapeze did anything that it should not."


def test_what_could_not_be_measured_is_no_success() -> None:
    rows = [Standing("trapeze+uvicorn", verdict="not measured"), Standing("uvicorn", {"lost": 0}, "ok", good=True)]
    text = section(of(scenarios=(Scenario("reload", "?", {}, rows, finished=True),)))

    assert after_table(text, "|  | reload |") == "Could not be measured: trapeze+uvicorn in reload."
    assert "In none of these" not in text


def test_what_makes_it_less_sure_is_said() -> None:
    reports = of(result("trapeze+granian", FAST), result("granian", CLOSE, role="native"))
    busy = msgspec.structs.replace(reports["wsgi"].machine, load=9.0)
    reports["wsgi"] = msgspec.structs.replace(reports["wsgi"], machine=busy)

    assert "\n- others were at work when it began (load 9.0 on 2 cores)" in section(reports)


def test_others_that_could_not_be_measured_are_named() -> None:
    reports = of(result("trapeze+granian", FAST), Result("granian", "native", "granian", failed="round 1: no answer"))

    assert "\n- granian could not be measured: round 1: no answer\n" in section(reports)


def test_several_commits_are_all_named() -> None:
    reports = whole()
    other = msgspec.structs.replace(reports["reload"].machine, commit="fedcba98")
    reports["reload"] = msgspec.structs.replace(reports["reload"], machine=other)

    assert "2026-01-02, commit 0123abc+ and fedcba98." in section(reports)
    assert "fedcba98" in facts(reports)


def test_of_nothing_nothing_is_said() -> None:
    assert section({}) == ""
    assert "Nothing was measured yet" in facts({})


@pytest.mark.parametrize(
    ("verdict", "cells", "good", "said"),
    [
        ("ok", {"lost, fresh": 0, "lost, kept": 0}, True, "ok"),
        ("ok", {"lost, fresh": 1, "lost, kept": 0}, True, "1 lost"),
        ("12 lost, not done in 20 s", {"lost, fresh": 12, "requests": 5000}, False, "12 lost, not done in 20 s"),
        ("every answer 500, 300 failed", {"failed": 300}, False, "300 lost, every answer 500"),
        ("replaced in 31 s", {"hung": 4, "no answer": 0}, True, "replaced in 31 s"),
        ("5 of 20 lost", {"answered": 15, "lost": 5}, False, "5 lost"),
        ("not measured", {}, None, "not measured"),
    ],
)  # fmt: skip
def test_a_cell(verdict: str, cells: dict[str, float | int | str | None], good: bool | None, said: str) -> None:
    assert fault(Standing("x", cells, verdict, good)) == said


def test_who_did_not_take_part_has_no_cell() -> None:
    found = faults(whole().values())

    assert [name for name, _ in found.rows if name.startswith("circus")] == []
    assert fault(None) == "-"


def test_a_scenario_without_right_and_wrong_is_no_column() -> None:
    idle = Scenario("idle", "?", {}, [Standing("trapeze", {"CPU": 0.0})], finished=True)

    assert faults(of(scenarios=(idle,)).values()).scenarios == []
    assert "|  | idle" not in section(of(scenarios=(idle,)))


# -- the picture ------------------------------------------------------------------------------------------------------


def texts(svg: str) -> list[str]:
    return [each.text or "" for each in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_the_picture_has_a_bar_for_each_and_a_cell_for_each() -> None:
    reports = whole()
    svg = picture(reports)
    root = ElementTree.fromstring(svg)
    study = reports["wsgi"].study
    assert study is not None
    rows = paces(study)
    bars = [each for each in root.iter(f"{SVG}rect") if each.get("height") == "10"]
    widths = [float(bar.get("width", "")) for bar in bars]

    assert len(bars) == len(rows) and widths == sorted(widths, reverse=True)
    by_itself = [
        each for each in root.iter(f"{SVG}rect") if each.get("class") == "native" and each.get("width") != "14"
    ]
    assert len(by_itself) == sum(1 for each in rows if each.native and each.ours)
    said = texts(svg)
    assert {"✕ 41 lost", "✓ ok", "reload", "frozen-worker", "of itself 0.89 x"} <= set(said)
    assert [float(part) for part in root.get("viewBox", "").split()][2:] == [
        float(root.get("width", "")),
        float(root.get("height", "")),
    ]


def test_the_picture_has_a_ground_of_its_own_in_light_and_in_dark() -> None:
    svg = picture(whole())

    assert 'class="ground"' in svg and "prefers-color-scheme:dark" in svg
    classes = {word for found in re.findall(r'class="([^"]+)"', svg) for word in found.split()}
    light, dark = svg.split("@media", 1)
    for each in classes - {"title", "small"}:
        assert f".{each}{{" in light and f".{each}{{" in dark, each
    assert not re.search(r"(?:href|url\()", svg)


def test_long_words_stay_in_their_column() -> None:
    verdict = "every answer 500, not mended by a reload, stalls for 1.2 s"
    rows = [Standing("trapeze+uvicorn", {"lost": 3}, verdict, good=False)]
    scenarios = [Scenario(f"no-{number}", "?", {}, rows, finished=True) for number in range(7)]
    said = texts(picture(of(scenarios=tuple(scenarios))))
    cell = said[said.index("trapeze+uvicorn") + 1 :][:6]

    assert cell == [
        "✕ 3 lost,",
        "every answer",
        "500, not",
        "mended by a",
        "reload, stalls",
        "for 1.2\N{NO-BREAK SPACE}s",
    ]


def test_a_picture_of_one_part_alone() -> None:
    reports = whole()

    for part, report in reports.items():
        assert ElementTree.fromstring(picture({part: report})).tag == f"{SVG}svg"
    rateless = of(result("trapeze+granian", FAST))
    study = rateless["wsgi"].study
    assert study is not None
    study.results = [each for each in study.results if each.role != "reference"]
    assert "901/s" in texts(picture(rateless))


# -- files ------------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    published.write(tmp_path, whole())

    assert published.load(tmp_path) == whole()
    names = {"wsgi.json", "wsgi.html", "reload.json", "reload.html", "frozen-worker.json", "frozen-worker.html"}
    assert {path.name for path in tmp_path.iterdir()} == {*names, "summary.svg", "README.md"}
    assert "[reload.json](reload.json), [reload.html](reload.html)" in (tmp_path / "README.md").read_text()


def test_a_report_is_thinned_until_it_is_small_and_keeps_all_that_were_lost() -> None:
    report = whole()["reload"]
    thin = published.thin(report, 100_000)

    assert len(documents.dumps(report)) > 100_000 > len(documents.dumps(thin))
    for before, after in zip(report.scenarios[0].standings, thin.scenarios[0].standings, strict=True):
        if before.timeline is None:
            assert after.timeline is None
            continue
        assert after.timeline is not None
        assert after.timeline.lost == before.timeline.lost and after.timeline.events == before.timeline.events
        assert max(after.timeline.took) == max(before.timeline.took)
        assert len(after.timeline.due) == len(after.timeline.took) > 0
        assert after.cells == before.cells
    assert len(page(thin)) < len(page(report))
    assert published.thin(thin, 100_000) == thin


def test_the_readme_is_changed_between_its_marks_alone() -> None:
    text = f"before\n{published.BEGIN}\nwhat was there\n{published.END}\nafter\n"
    new = published.filled(text, whole())

    assert new.startswith(f"before\n{published.BEGIN}\n![") and new.endswith(f"\n{published.END}\nafter\n")
    assert "what was there" not in new and published.filled(new, whole()) == new
    assert published.filled(new, {}) == f"before\n{published.BEGIN}\n{published.END}\nafter\n"
    with pytest.raises(ValueError, match="substring"):
        published.filled("no marks", {})


# -- what this repository says ----------------------------------------------------------------------------------------

RESULTS = ROOT / "bench" / "results"


def test_the_readme_says_what_was_measured_and_nothing_else() -> None:
    text = (ROOT / "README.md").read_text()

    assert published.filled(text, published.load(RESULTS)) == text, "python bench/publish.py --redraw"


def test_the_results_are_in_step_with_their_json() -> None:
    reports = published.load(RESULTS)

    assert (RESULTS / "README.md").read_text() == facts(reports), "python bench/publish.py --redraw"
    for part in reports:
        assert (RESULTS / f"{part}.html").exists(), part
        assert (RESULTS / f"{part}.json").stat().st_size <= 2 * published.LIMIT
    assert not reports or (RESULTS / published.PICTURE).read_text() == picture(reports)


def test_results_name_no_machine_and_no_path() -> None:
    text = "".join(path.read_text() for path in sorted(RESULTS.glob("*.json")))

    assert not re.search(r'"/(?:home|root|work|tmp|usr)/', text)
