"""The documentation holds: links lead somewhere, commands exist, TOML loads, the reference is what the program says.

How a TOML block is judged is said in an HTML comment on the line before its fence: `<!-- wrong -->` must be refused;
everything else must load. Blocks of a shell session are fenced as `console`; their commands begin with `$`.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import msgspec
import pytest

from scripts import reference
from trapeze import config
from trapeze.cli import cli
from trapeze.errors import ConfigError
from trapeze.lifecycle import TABLE
from trapeze.nginx.site import Site, plan
from trapeze.nginx.text import Facts, fragment
from trapeze.spec import ServiceSpec

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
GUIDE = [ROOT / "README.md", *sorted((ROOT / "docs" / "guide").glob("*.md"))]

_FENCE = re.compile(r"^(?:<!-- (?P<mark>\w+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
_INLINE = re.compile(r"`(trapeze [^`]+)`")


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    mark: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    return [block for page in PAGES for block in _blocks(page) if block.language in languages]


def _blocks(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for found in _FENCE.finditer(text):
        line = text.count("\n", 0, found.start("text"))
        yield Block(name(page), line, found["language"], found["mark"] or "", found["text"])


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def slug(title: str) -> str:
    """The anchor that code hosts give a heading."""
    plain = re.sub(r"[^\w\- ]", "", title.strip().lower())
    return plain.replace(" ", "-")


def anchors(page: Path) -> set[str]:
    prose = _FENCE.sub("", page.read_text())
    return {slug(title) for title in re.findall(r"^#+ (.+)$", prose, re.MULTILINE)}


# -- the reference ----------------------------------------------------------------------------------------------------


def test_the_reference_is_what_the_program_says(capsys: pytest.CaptureFixture[str]) -> None:
    code = reference.main(["--check"])

    assert (code, capsys.readouterr().out) == (0, "")


def test_a_stale_reference_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The control of the test above: one page missing, one changed."""
    monkeypatch.setattr(reference, "ROOT", tmp_path)

    assert reference.main([]) == 0
    assert reference.main(["--check"]) == 0
    (tmp_path / "docs/reference/config.md").write_text("something else")
    (tmp_path / "docs/reference/cli.md").unlink()
    assert reference.main(["--check"]) == 1
    said = capsys.readouterr().out
    assert "config.md: stale" in said and "cli.md: stale" in said


def test_the_reference_has_every_field_with_its_words() -> None:
    text = reference.config_page()

    for field in msgspec.structs.fields(ServiceSpec):
        [row] = re.findall(
            rf"^\| `{field.name}` \| ([^|]*) \|.*\| (.*) \|$", text.partition("## [services.NAME]")[2], re.M
        )[:1]
        assert all(row), field.name


def test_the_state_table_is_whole() -> None:
    rows = [line for line in reference.lifecycle_page().splitlines() if line.startswith("| **")]

    assert sum(row.count("|") - 2 for row in rows) == len(TABLE)


# -- links and words --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in _LINK.findall(_FENCE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            broken.append(target)

    assert broken == []


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    ahead = [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        targets = [target.partition("#")[0] for target in _LINK.findall(page.read_text())]
        ahead += [(page.parent / target).resolve() for target in targets if target and ":" not in target]

    assert set(PAGES) - seen == set()


def test_nobody_is_told_to_install_the_project_of_somebody_else() -> None:
    told = [name(page) for page in PAGES if re.search(r"pip install (?:-\S+ )*trapeze\b(?!-)", page.read_text())]

    assert told == []


# -- commands ---------------------------------------------------------------------------------------------------------


def commands() -> list[tuple[str, str]]:
    """Every `trapeze ...` in a shell session or in backquotes, with where it stands."""
    found = []
    for block in blocks("console"):
        for line in block.text.splitlines():
            typed = re.match(r"\$ (?:[A-Z_]+=\S+ )*(?:systemd-socket-activate .*/)?(trapeze .*)", line)
            if typed:
                found.append((str(block), typed[1]))
    for page in GUIDE:
        found += [(name(page), text) for text in _INLINE.findall(_FENCE.sub("", page.read_text()))]
    return found


def test_there_are_commands_to_look_at() -> None:
    assert len(commands()) > 60


@pytest.mark.parametrize(("where", "typed"), commands())
def test_commands_and_options_exist(where: str, typed: str) -> None:
    words = shlex.split(typed.replace("[SERVICE]...", "web"))[1:]
    context = click.Context(cli, info_name="trapeze")
    known = {option for param in cli.params for option in param.opts} | {"--help", "-h"}
    while words and words[0] == "--name":
        words = words[2:]
    if words and not words[0].startswith("-"):
        command = cli.get_command(context, words[0])
        assert command is not None, f"{where}: there is no trapeze {words[0]}"
        known |= {option for param in command.params for option in param.opts}
    unknown = [word for word in words if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in known]

    assert unknown == [], where


# -- what can be copied -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_toml_loads(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "trapeze.toml"
    file.write_text(block.text)
    try:
        config.load(str(file), environ={})
        problems: list[str] = []
    except ConfigError as error:
        problems = [str(problem) for problem in error.problems]

    assert block.mark in ("", "wrong")
    assert bool(problems) == (block.mark == "wrong"), problems


def generated(source: str, file: Path) -> list[str]:
    """Lines of what nginx is told; comments and empty lines apart."""
    file.write_text(source)
    site = plan(config.load(str(file), environ={}).config)
    assert isinstance(site, Site)
    lines = [line.strip() for line in fragment(site, Facts(version=(1, 22, 1)), "trapeze.toml").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def test_nginx_blocks_are_what_is_generated(tmp_path: Path) -> None:
    """Made of the first TOML block of their page, those marked "kept" with `keepalive` in it; in this order."""
    page = "docs/guide/nginx.md"
    [source, *_] = [block for block in blocks("toml") if block.page == page]
    kept = source.text.replace("[nginx]\n", "[nginx]\nkeepalive = 16\n")
    made = {mark: generated(text, tmp_path / "trapeze.toml") for mark, text in (("", source.text), ("kept", kept))}
    shown = [block for block in blocks("nginx") if block.page == page]

    assert len(shown) > 5
    for block in shown:
        lines = [line.strip() for line in block.text.splitlines()]
        found = made[block.mark]
        assert any(found[at : at + len(lines)] == lines for at in range(len(found))), str(block)


def test_what_is_wrong_on_purpose_is_refused_in_these_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The output that the page shows below its wrong file."""
    monkeypatch.chdir(tmp_path)
    [block] = [block for block in blocks("toml") if block.mark == "wrong"]
    Path("trapeze.toml").write_text(block.text)

    with pytest.raises(ConfigError) as caught:
        config.load("trapeze.toml", environ={})

    page = (ROOT / block.page).read_text()
    assert all(f"{problem}\n" in page for problem in caught.value.problems)


def test_the_readme_shows_the_example_as_it_is() -> None:
    shown = [tomllib.loads(block.text) for block in blocks("toml") if block.page == "README.md"]

    assert tomllib.loads((ROOT / "examples/shop/trapeze.toml").read_text()) in shown


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_compiles(block: Block) -> None:
    compile(block.text, str(block), "exec")


def test_every_fence_says_what_it_is() -> None:
    assert [str(block) for block in blocks("")] == []
