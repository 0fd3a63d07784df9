"""Children's output: cut into lines, remembered within bounds, passed on."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import pty
import socket
import subprocess
import sys
import tty
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trapeze.output import LINE_LIMIT, READ_SIZE, Journal, LogLine, Splitter, Stream, cost

T = TypeVar("T")

Piece = tuple[str, bool]


def run(main: Callable[[], Coroutine[object, object, T]], timeout: float = 20) -> T:
    """Run a coroutine to its end; an error that only the loop hears of is an error of the test."""

    async def bounded() -> T:
        loop = asyncio.get_running_loop()
        errors: list[object] = []
        loop.set_exception_handler(lambda _, context: errors.append(context))
        async with asyncio.timeout(timeout):
            result = await main()
        assert errors == []
        return result

    return asyncio.run(bounded())


# -- bytes -> lines


def lines_of(chunks: list[bytes], limit: int = LINE_LIMIT) -> list[Piece]:
    found: list[Piece] = []
    splitter = Splitter(lambda text, more: found.append((text, more)), limit)
    for chunk in chunks:
        splitter.feed(chunk)
    splitter.finish()
    return found


def expected(data: bytes) -> list[str]:
    """The plain meaning, without streaming and without a limit."""
    *lines, rest = data.split(b"\n")
    return [
        line.removesuffix(b"\r").decode("utf-8", "backslashreplace") for line in (*lines, *([rest] if rest else []))
    ]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


texts = st.text(st.sampled_from("ab\n\n\réü€漢😀")).map(str.encode)
data = st.lists(
    st.one_of(texts, st.binary(max_size=4), st.sampled_from([b"\n", b"\r\n", b"\xe2\x82", b"\xf0\x9f"]))
).map(b"".join)
cuts = st.lists(st.integers(0, 10_000), max_size=8)


@given(data, cuts)
def test_any_split_gives_the_same_lines(data: bytes, places: list[int]) -> None:
    assert lines_of(cut(data, places)) == [(line, False) for line in expected(data)]


@given(data, cuts, st.integers(4, 20))
def test_any_split_gives_the_same_pieces(data: bytes, places: list[int], limit: int) -> None:
    whole = lines_of([data], limit)

    assert lines_of(cut(data, places), limit) == whole
    assert lines_of([bytes([byte]) for byte in data], limit) == whole


@given(texts, st.integers(4, 20))
def test_pieces_are_short_and_make_up_the_line(data: bytes, limit: int) -> None:
    pieces = lines_of([data], limit)
    lines, line = [], ""
    for text, more in pieces:
        assert len(text.encode()) <= limit + 1  # one "\r" may come on top, where it is not the end
        line += text
        if not more:
            lines.append(line)
            line = ""

    assert lines == expected(data), "no character was cut"
    assert line == ""


def test_only_the_line_end_is_taken_away() -> None:
    assert lines_of([b"a\rb\r\r\n \n\nc"]) == [("a\rb\r", False), (" ", False), ("", False), ("c", False)]


def test_bytes_that_are_no_text_are_shown() -> None:
    assert lines_of([b"\xff\x00\xe2\x82\n"]) == [("\\xff\x00\\xe2\\x82", False)]


def test_line_of_exactly_the_limit_is_whole() -> None:
    assert lines_of([b"x" * LINE_LIMIT + b"\n"]) == [("x" * LINE_LIMIT, False)]


def test_long_line_comes_in_pieces() -> None:
    pieces = lines_of(cut("é".encode() * LINE_LIMIT + b"\nnext\n", list(range(0, 3 * LINE_LIMIT, READ_SIZE))))

    assert [more for _, more in pieces] == [True, False, False]
    assert "".join(text for text, _ in pieces[:2]) == "é" * LINE_LIMIT
    assert pieces[2] == ("next", False)


# -- reading


class Reader:
    """A stream and what came out of it."""

    def __init__(self, fd: int) -> None:
        loop = asyncio.get_running_loop()
        self.lines: list[Piece] = []
        self.ends = 0
        self.done = loop.create_future()
        self.stream = Stream(loop, fd, lambda text, more: self.lines.append((text, more)), self._end)

    def _end(self) -> None:
        self.ends += 1
        if not self.done.done():
            self.done.set_result(None)


def test_pipe_is_read_to_its_end() -> None:
    async def main() -> None:
        r, w = os.pipe()
        reader = Reader(r)
        os.write(w, b"one\ntwo \xc3")
        await asyncio.sleep(0)
        os.write(w, b"\xa9\nthree")
        os.close(w)
        await reader.done

        assert reader.lines == [("one", False), ("two é", False), ("three", False)]
        assert reader.stream.closed
        reader.stream.close()
        assert reader.ends == 1

    run(main)


def test_terminal_is_read_to_its_end() -> None:
    async def main() -> None:
        master, slave = pty.openpty()
        tty.setraw(slave)
        reader = Reader(master)
        os.write(slave, b"one\r\ntwo")
        os.close(slave)
        await reader.done  # EIO

        assert reader.lines == [("one", False), ("two", False)]
        assert reader.ends == 1

    run(main)


def test_socket_is_read_to_its_end() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        reader = Reader(ours.detach())
        with theirs:
            theirs.sendall(b"one\n")
        await reader.done

        assert reader.lines == [("one", False)]

    run(main)


def test_connection_that_was_reset_is_an_end() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        ours.send(b"x")
        reader = Reader(ours.detach())
        theirs.close()  # with data unread: ECONNRESET
        await reader.done

        assert reader.lines == []

    run(main)


def test_process_writes_64_mib() -> None:
    source = "import os\nfor _ in range(1024): os.write(1, (b'x' * 127 + b'\\n') * 512)"

    async def main() -> None:
        r, w = os.pipe()
        count, journal = 0, Journal()
        done = asyncio.get_running_loop().create_future()

        def line(text: str, more: bool) -> None:
            nonlocal count
            count += len(text) + 1
            journal.append(LogLine(0.0, "web", 0, 1, "stdout", text, more))

        Stream(asyncio.get_running_loop(), r, line, lambda: done.set_result(None))
        with subprocess.Popen([sys.executable, "-c", source], stdout=w) as child:
            os.close(w)
            await done
            assert child.wait(10) == 0
        assert count == 64 * 1024 * 1024

    run(main, timeout=50)


def test_drain_does_not_wait_for_those_who_hold_the_pipe() -> None:
    async def main() -> None:
        r, w = os.pipe()
        reader = Reader(r)
        os.write(w, b"x\n" * 30_000 + b"unfinished")
        reader.stream.drain()
        assert len(reader.lines) == 30_000
        assert not reader.stream.closed

        reader.stream.close()
        assert reader.lines[-1] == ("unfinished", False)
        reader.stream.drain()
        os.close(w)
        assert reader.ends == 1

    run(main)


def test_drain_finds_the_end() -> None:
    async def main() -> None:
        r, w = os.pipe()
        reader = Reader(r)
        os.write(w, b"one")
        os.close(w)
        reader.stream.drain()

        assert reader.lines == [("one", False)]
        assert reader.stream.closed

    run(main)


def test_drain_is_bounded() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.setblocking(False)
            chunk = (b"x" * 99 + b"\n") * 100
            total = 0

            def line(text: str, more: bool) -> None:
                nonlocal total  # a writer that never stops: each line read makes room for more
                total += 1
                if total % 100 == 1:
                    with contextlib.suppress(BlockingIOError):
                        theirs.send(chunk)

            theirs.send(chunk)
            stream = Stream(asyncio.get_running_loop(), ours.detach(), line, lambda: None)
            stream.drain()
            assert 10_000 <= total <= 12_000  # 1 MiB, and what one read takes on top
            stream.close()

    run(main)


def test_chatty_child_does_not_starve_the_loop() -> None:
    async def main() -> None:
        r, w = os.pipe()
        reader = Reader(r)
        os.write(w, b"x" * 65_536)
        turns = 0
        while not reader.stream.splitter.rest:
            await asyncio.sleep(0)
            turns += 1
        assert len(reader.stream.splitter.rest) <= READ_SIZE
        assert turns < 10
        os.close(w)
        await reader.done

    run(main)


# -- journal


def log(text: str, service: str = "web", stream: str = "stdout", more: bool = False) -> LogLine:
    return LogLine(0.0, service, 0, 1, stream, text, more)


def texts_of(lines: list[LogLine]) -> list[str]:
    return [line.text for line in lines]


def test_tail_is_in_order_of_arrival_over_services() -> None:
    journal = Journal()
    for number in range(10):
        journal.append(log(str(number), service="web" if number % 3 else "redis"))

    assert texts_of(journal.tail(None, 4)) == ["6", "7", "8", "9"]
    assert texts_of(journal.tail(["redis"], 2)) == ["6", "9"]
    assert texts_of(journal.tail(["redis", "unknown"], 100)) == ["0", "3", "6", "9"]
    assert journal.tail(None, 0) == []
    assert journal.tail(None, -1) == []
    assert journal.tail([], 5) == []
    journal.drop("redis")
    journal.drop("redis")
    assert texts_of(journal.tail(None, 3)) == ["5", "7", "8"]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3000), st.sampled_from("xé漢😀"))),
    st.integers(1000, 8000),
)
def test_memory_is_bounded_and_the_newest_stay(lines: list[tuple[str, int, str]], limit: int) -> None:
    journal = Journal(limit)
    for service, length, letter in lines:
        journal.append(log(letter * length, service))

    for service in "abc":
        kept = journal.tail([service], 10_000)
        mine = [letter * length for name, length, letter in lines if name == service]
        assert sum(cost(line) for line in kept) <= limit or len(kept) == 1
        assert [line.text[:10] for line in kept] == [text[:10] for text in mine[len(mine) - len(kept) :]]
        assert bool(kept) == bool(mine)


def test_long_line_is_remembered_by_both_its_ends_and_passed_on_whole() -> None:
    journal = Journal()
    seen: list[LogLine] = []
    journal.add_sink(seen.append)
    long = "start " + "x" * LINE_LIMIT + " end"

    journal.append(log("before"))
    journal.append(log(long))
    journal.remove_sink(seen.append)
    journal.remove_sink(seen.append)

    (before, kept) = journal.tail(None, 5)
    assert before.text == "before"
    assert kept.text.startswith("start xxx")
    assert kept.text.endswith("xxx end")
    assert "characters cut]" in kept.text
    assert cost(kept) < 64 * 1024
    assert seen[1].text == long


async def take(lines: AsyncIterator[LogLine], number: int) -> list[str]:
    return [(await anext(lines)).text for _ in range(number)]


def test_subscription() -> None:
    async def main() -> None:
        journal = Journal()
        journal.append(log("before"))
        web, both = journal.subscribe(["web"]), journal.subscribe(None)
        waiting = asyncio.ensure_future(take(web, 2))
        await asyncio.sleep(0)
        for number in range(2):
            journal.append(log(str(number)))
            journal.append(log(str(number), service="redis"))

        assert await waiting == ["0", "1"]
        assert await take(both, 4) == ["0", "0", "1", "1"]
        journal.append(log("last"))
        web.close()
        web.close()
        journal.append(log("too late"))
        assert [line.text async for line in web] == ["last"]
        journal.close()
        assert [line.text async for line in both] == ["last", "too late"]

    run(main)


def test_close_wakes_a_reader() -> None:
    async def main() -> None:
        subscription = Journal().subscribe(None)
        waiting = asyncio.ensure_future(take(subscription, 1))
        await asyncio.sleep(0)
        subscription.close()
        with pytest.raises((StopAsyncIteration, RuntimeError)):
            await waiting

    run(main)


def test_reader_that_goes_away_is_forgotten() -> None:
    async def main() -> None:
        journal = Journal()
        subscription = journal.subscribe(None)
        waiting = asyncio.ensure_future(take(subscription, 1))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        journal.append(log("nobody waits"))
        subscription.close()
        journal.append(log("late"))
        assert [line.text async for line in subscription] == ["nobody waits"]

    run(main)


@pytest.mark.parametrize(
    ("sent", "size", "kept"),
    [(10_005, 1, 10_000), (10_001, 1, 10_000), (8, 1024 * 1024, 3)],
    ids=["lines", "one", "bytes"],
)
def test_slow_reader_loses_the_oldest_and_is_told(sent: int, size: int, kept: int) -> None:
    async def main() -> None:
        journal = Journal()
        subscription = journal.subscribe(None)
        for number in range(sent):
            journal.append(log(str(number).ljust(size)))

        first = await anext(subscription)
        rest = await take(subscription, kept)
        lost = sent - kept
        assert first.text == f"{lost} line{'s' if lost > 1 else ''} dropped: the reader did not keep up"
        assert first.stream == "trapeze"
        assert [int(text) for text in rest] == list(range(sent - kept, sent))
        journal.append(log("on"))
        assert await take(subscription, 1) == ["on"]
        subscription.close()

    run(main)
