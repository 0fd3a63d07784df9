"""The console: how lines look, and what becomes of lines in pieces."""

from __future__ import annotations

import os
import pty
import re
import tty

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.console import console, line, pipe, read, run, turn


def test_lines_go_to_their_descriptor_with_an_aligned_prefix() -> None:
    async def main() -> None:
        with pipe() as (out, w_out), pipe() as (err, w_err), console(w_out, w_err) as console_:
            console_.reserve(["web", "scheduler"])
            console_.write(line("hello"))
            console_.write(line("oh", stream="stderr"))
            console_.write(line("once", service="migrate", index=None))
            console_.write(line(""))
            console_.say("two\nlines")
            assert read(out) == "", "one write for all that comes in one turn of the loop"
            await turn()

            assert read(out) == "web.0       | hello\nmigrate     | once\nweb.0       | \n"
            assert read(err) == "web.0       | oh\ntrapeze     | two\ntrapeze     | lines\n"

    run(main)


def test_prefix_grows_with_a_longer_name() -> None:
    async def main() -> None:
        with pipe() as (out, w), console(w) as console_:
            console_.write(line("a"))
            console_.write(line("b", index=12345))
            console_.write(line("c"))
            await turn()

            assert read(out) == "web.0   | a\nweb.12345 | b\nweb.0     | c\n"

    run(main)


def test_what_is_no_utf8_is_shown_and_never_an_error() -> None:
    async def main() -> None:
        with pipe() as (out, w), console(w) as console_:
            console_.write(line("é \udcff \ud800", service="\udcff"))
            await turn()

            assert read(out) == "\\udcff.0 | é \\udcff \\ud800\n"

    run(main)


def coloured(environ: dict[str, str], terminal: bool) -> bool:
    found = ""

    async def main() -> None:
        nonlocal found
        if terminal:
            master, fd = pty.openpty()
            tty.setraw(fd)
            os.set_blocking(master, False)
        else:
            master, fd = os.pipe()
            os.set_blocking(master, False)
        with console(fd, environ=environ) as console_:
            console_.write(line("text"))
            console_.flush()
            found = read(master)
        os.close(master)
        os.close(fd)

    run(main)
    assert found.endswith("text\n")
    return "\x1b" in found


@pytest.mark.parametrize(
    ("environ", "on_terminal", "on_pipe"),
    [
        ({}, True, False),
        ({"TERM": "xterm"}, True, False),
        ({"TERM": "dumb"}, False, False),
        ({"NO_COLOR": "1"}, False, False),
        ({"NO_COLOR": ""}, True, False),
        ({"FORCE_COLOR": "1"}, True, True),
        ({"FORCE_COLOR": "0"}, False, False),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False, False),
    ],
)
def test_colour_is_decided(environ: dict[str, str], on_terminal: bool, on_pipe: bool) -> None:
    assert coloured(environ, terminal=True) == on_terminal
    assert coloured(environ, terminal=False) == on_pipe


def test_each_service_has_its_own_colour_for_good() -> None:
    async def main() -> None:
        with pipe() as (out, w), console(w, environ={"FORCE_COLOR": "1"}) as console_:
            services = [f"service{number}" for number in range(10)]
            console_.reserve(services)
            for service in services * 2:
                console_.write(line("text", service=service, index=1))
            console_.say("own")
            await turn()

            found = re.findall(r"\x1b\[0;(\d+)m(\S+) +\| \x1b\[0m", read(out))
            colours = {label: colour for colour, label in found}
            assert len(found) == 21
            assert len(set(colours.values())) == 11, "10 services and trapeze itself"
            assert [colour for colour, _ in found[:10]] == [colour for colour, _ in found[10:20]]

    run(main)


# -- lines in pieces


def test_pieces_make_one_line() -> None:
    async def main() -> None:
        with pipe() as (out, w), console(w) as console_:
            for text in ("a", "b", "c"):
                console_.write(line(text, more=True))
                await turn()
            console_.write(line("d"))
            await turn()

            assert read(out) == "web.0   | abcd\n"

    run(main)


def test_other_line_comes_between_pieces() -> None:
    async def main() -> None:
        with pipe() as (out, w), console(w) as console_:
            console_.write(line("a", more=True))
            console_.write(line("x", index=1, more=True))
            console_.write(line("b"))
            console_.write(line("y", index=1))
            await turn()

            assert read(out) == "web.0   | a\nweb.1   | x\nweb.0   | ... b\nweb.1   | ... y\n"
            console_.write(line("c"))
            await turn()
            assert read(out) == "web.0   | c\n", "a line of its own"

    run(main)


sources = st.tuples(st.sampled_from(["web", "redis"]), st.sampled_from([0, 1]), st.sampled_from(["stdout", "stderr"]))


@given(st.lists(st.tuples(sources, st.text("abc", max_size=3), st.booleans())))
def test_every_line_has_its_prefix_and_no_text_is_lost(lines: list[tuple[tuple[str, int, str], str, bool]]) -> None:
    async def main() -> None:
        with pipe() as (out, w), console(w) as console_:
            for (service, index, stream), text, more in lines:
                console_.write(line(text, service, index, stream, more))
            console_.write(line("", service="end"))
            console_.flush()
            found: dict[str, str] = {}
            for each in read(out).splitlines():
                label, text = re.fullmatch(r"(\S+) +\| (.*)", each).groups()  # type: ignore[union-attr]
                found[label] = found.get(label, "") + text.removeprefix("... ")
            for service, index in {source[:2] for source, _, _ in lines}:
                texts = [text for source, text, _ in lines if source[:2] == (service, index)]
                assert found[f"{service}.{index}"] == "".join(texts)

    run(main)
