"""The page of a report in a real browser: not blank, light and dark, and nothing that sticks out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from trapeze_bench.page import page
from trapeze_bench.picture import picture as drawn

from tests.support.benchdoc import sample
from tests.support.browser import picture, probe

STICKS_OUT = """
const wide = document.documentElement.clientWidth;
const found = [];
for (const each of document.querySelectorAll('body *')) {
  if (each.closest('.scroll') && !each.matches('.scroll') || each.closest('.symbols, .unseen')) continue;
  const { left, right } = each.getBoundingClientRect();
  if (right > wide + 1 || left < -1) found.push(`${each.tagName} ${each.className.baseVal ?? each.className}: `
    + `${left.toFixed()} to ${right.toFixed()} of ${wide}, ${each.textContent.slice(0, 40)}`);
}
return { wide, scrolls: document.documentElement.scrollWidth, found: found.slice(0, 10),
  dots: document.querySelectorAll('circle').length, fetched: performance.getEntriesByType('resource').length };
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the sample, in a file."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page(sample()))
    return path


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_is_seen(written: Path, dark: bool) -> None:
    found = picture(written, 800, 700, dark=dark)

    assert (found.width, found.height) == (800, 700)
    assert (max(found.ground) < 60) if dark else (min(found.ground) > 230)
    drawn = 1 - found.colours[found.ground] / (800 * 700)
    assert 0.05 < drawn < 0.8, "the rest is text, marks and boxes"
    assert len(found.colours) > 30
    accent = bytes.fromhex("56d3bf" if dark else "0b7066")
    assert found.colours[accent] > 20


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_picture_of_a_full_run_is_seen_as_an_image(tmp_path: Path, dark: bool) -> None:
    """As a README shows it: inside of a page that says nothing of light and dark."""
    (tmp_path / "summary.svg").write_text(drawn({"wsgi": sample()}))
    path = tmp_path / "readme.html"
    path.write_text('<html><body style="margin: 0"><img src="summary.svg"></body></html>')
    found = picture(path, 920, 500, dark=dark)

    assert found.ground == bytes.fromhex("101413" if dark else "fcfcfa")
    drawn_part = 1 - found.colours[found.ground] / (920 * 500)
    assert 0.05 < drawn_part < 0.5
    for accent in ("3fae9e", "ff9c66") if dark else ("0b7066", "b23c08"):
        assert found.colours[bytes.fromhex(accent)] > 20


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("width", [1200, 390])
def test_nothing_sticks_out_and_nothing_is_fetched(written: Path, width: int) -> None:
    found: dict[str, Any] = probe(written, STICKS_OUT, width)

    assert found["wide"] == width
    assert found["found"] == []
    assert found["scrolls"] <= width
    assert found["dots"] > 100
    assert found["fetched"] == 0


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_what_sticks_out_is_found(tmp_path: Path) -> None:
    """The control of the test above."""
    path = tmp_path / "wide.html"
    path.write_text("<html><head></head><body><p style='width: 2000px'>x</p></body></html>")

    found: dict[str, Any] = probe(path, STICKS_OUT, 1200)
    assert found["scrolls"] > 1200 and [each[:1] for each in found["found"]] == ["P"]
