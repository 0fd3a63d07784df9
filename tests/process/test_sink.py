"""Where the console writes: nothing that reads slowly, or not at all, or has gone, ever makes it wait or fail."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import re
import socket
import subprocess
import sys
import tty
from pathlib import Path

import pytest

from tests.support.console import MIB, console, line, pipe, read, run, turn
from tests.support.wait import until_async


def test_pipe_that_nobody_reads_never_blocks_and_says_what_was_dropped() -> None:
    async def main() -> None:
        with pipe() as (out, w), console(w) as console_:
            total = 50_000
            for number in range(total):
                console_.write(line(f"{number} {'x' * 90}"))
                if number % 100 == 0:
                    await asyncio.sleep(0)
            assert os.get_blocking(w), "the flag of the shared description is left alone"
            assert not console_.flush(timeout=0.0)

            found = ""
            while "dropped" not in found:
                found += read(out)
                await asyncio.sleep(0)
            console_.write(line("on we go"))
            await turn()
            *lines, report, last = (found + read(out)).splitlines()

            dropped = re.fullmatch(r"trapeze \| (\d+) lines dropped: this output could not take them", report)
            assert dropped is not None, report
            assert len(lines) + int(dropped[1]) == total, "all are accounted for"
            assert all(re.fullmatch(rf"web\.0   \| {number} x{{90}}", each) for number, each in enumerate(lines))
            assert len("\n".join(lines)) > MIB
            assert last == "web.0   | on we go"

    run(main)


def test_report_stands_where_the_lines_are_missing() -> None:
    async def main() -> None:
        with pipe() as (out, w), console(w, limit=4096) as console_:
            fcntl.fcntl(w, fcntl.F_SETPIPE_SZ, 4096)
            for number in range(2000):
                console_.write(line(f"{number:04}"))
            await turn()
            found = read(out)
            await turn()  # half of it is out: there is room again, and the report comes before the next line
            console_.write(line("again"))
            await turn()
            while not found.endswith("again\n"):
                found += read(out)
                await asyncio.sleep(0)

        *numbers, report, last = [each.split(" | ")[1] for each in found.splitlines()]
        assert numbers == [f"{number:04}" for number in range(len(numbers))]
        assert report.startswith(f"{2000 - len(numbers)} lines dropped")
        assert last == "again"

    run(main)


def test_line_is_dropped_whole_with_all_its_pieces() -> None:
    async def main() -> None:
        with pipe() as (out, w), console(w, limit=1000) as console_:
            fcntl.fcntl(w, fcntl.F_SETPIPE_SZ, 4096)
            console_.write(line("x" * 6000, more=True))  # accepted, and then it is full
            console_.write(line("lost 1", more=True))
            console_.write(line("lost 2", index=1, more=True))
            await turn()
            found = read(out)
            await turn()
            found += read(out)
            assert "dropped" in found, found
            console_.write(line("lost 1"))
            console_.write(line("lost 2", index=1))
            console_.write(line("kept"))
            await turn()
            found += read(out)

        assert found.splitlines()[0] == "web.0   | " + "x" * 6000
        assert found.splitlines()[1].startswith("trapeze | 2 lines dropped")
        assert found.splitlines()[2:] == ["web.0   | kept"]

    run(main)


def test_terminal_that_is_stopped_never_blocks() -> None:
    async def main() -> None:
        master, slave = pty.openpty()
        tty.setraw(slave)
        os.set_blocking(master, False)
        with console(slave, limit=8192, environ={"NO_COLOR": "1"}) as console_:
            for _ in range(3000):
                console_.write(line("x" * 90))
            await turn()
            found = ""

            def reported() -> bool:
                nonlocal found
                found += read(master)
                return "dropped" in found and found.endswith("\n")

            await until_async(reported, what="the report")
            assert os.get_blocking(slave)
        os.close(slave)
        os.close(master)
        assert found.count("x\n") + int(re.findall(r"(\d+) lines dropped", found)[0]) == 3000

    run(main)


def test_terminal_that_hangs_up_is_left() -> None:
    async def main() -> None:
        master, slave = pty.openpty()
        with console(slave) as console_:
            os.close(master)
            console_.write(line("nobody"))
            await turn()
            console_.write(line("is there"))
            await turn()
            assert console_.flush()
        os.close(slave)

    run(main)


def test_socket_that_nobody_reads_never_blocks() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs, console(theirs.fileno()) as console_:
            for _ in range(30_000):
                console_.write(line("x" * 90))
            await turn()
            assert os.get_blocking(theirs.fileno())
            ours.setblocking(False)
            found = ""

            def reported() -> bool:
                nonlocal found
                found += read(ours.fileno())
                return "dropped" in found and found.endswith("\n")

            await until_async(reported, what="the report")
        assert found.count("x\n") + int(re.findall(r"(\d+) lines dropped", found)[0]) == 30_000

    run(main)


def test_file_is_written_where_it_stands(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "log"
        path.write_text("0123456789")
        fd = os.open(path, os.O_WRONLY)
        os.lseek(fd, 5, os.SEEK_SET)
        with console(fd) as console_:
            for _ in range(20_000):
                console_.write(line("x" * 90))
            console_.say("end")
            await turn()
            os.write(fd, b"after")
        os.close(fd)
        text = path.read_text()
        assert text.startswith("01234web.0   | xxx")
        assert text.endswith("x\ntrapeze | end\nafter")
        assert text.count("\n") == 20_001

    run(main)


def test_file_that_is_appended_to(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "log"
        path.write_text("before\n")
        fd = os.open(path, os.O_WRONLY | os.O_APPEND)
        with console(fd) as console_:
            console_.say("one")
            await turn()
            path.write_text("")  # logrotate's copytruncate
            console_.say("two")
            await turn()
        os.close(fd)
        assert path.read_text() == "trapeze | two\n"

    run(main)


def test_dev_null_takes_all() -> None:
    async def main() -> None:
        fd = os.open(os.devnull, os.O_WRONLY)
        with console(fd) as console_:
            for _ in range(20_000):
                console_.write(line("x" * 90))
            assert console_.flush()
        os.close(fd)

    run(main)


def test_full_disk_loses_lines_and_nothing_else() -> None:
    async def main() -> None:
        fd = os.open("/dev/full", os.O_WRONLY)
        with console(fd) as console_:
            for _ in range(3):
                console_.write(line("lost"))
                await turn()
            sink = console_._out
            assert sink.dropped == 3
            good = os.open(os.devnull, os.O_WRONLY)
            os.dup2(good, sink._door.fd)  # type: ignore[union-attr]  # room again
            os.close(good)
            console_.write(line("kept"))
            await turn()
            assert sink.dropped == 0
        os.close(fd)

    run(main)


def test_reader_that_goes_away_is_no_reason_to_fail() -> None:
    async def main() -> None:
        with pipe() as (out, w), console(w) as console_:
            os.close(out)
            for _ in range(3):
                console_.write(line("nobody"))
                await turn()
            assert console_.flush()

    run(main)


def test_reader_that_goes_away_while_lines_wait() -> None:
    async def main() -> None:
        with pipe() as (out, w), console(w) as console_:
            for _ in range(10_000):
                console_.write(line("x" * 90))
            await turn()
            os.close(out)
            await turn()
            console_.write(line("nobody"))
            assert console_.flush()

    run(main)


def test_reader_that_had_gone_before() -> None:
    async def main() -> None:
        with pipe() as (out, w):
            os.close(out)
            with console(w) as console_:
                console_.write(line("nobody"))
                await turn()
                assert console_.flush()

    run(main)


def test_descriptor_that_is_not_open() -> None:
    async def main() -> None:
        with console(1_000_000, 1_000_001) as console_:
            console_.write(line("nobody"))
            console_.say("nobody")
            await turn()
            assert console_.flush()

    run(main)


def test_without_proc_it_polls_before_each_write(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def no_proc(path: str, flags: int) -> int:
        if path.startswith("/proc/"):
            raise PermissionError(path)
        return real(path, flags)

    monkeypatch.setattr(os, "open", no_proc)

    async def main() -> None:
        with pipe() as (out, w), console(w, limit=100_000) as console_:
            for _ in range(3000):
                console_.write(line("x" * 90))
            await turn()  # would hang here
            found = ""

            def reported() -> bool:
                nonlocal found
                found += read(out)
                return "dropped" in found and found.endswith("\n")

            await until_async(reported, what="the report")
        assert found.count("x\n") + int(re.findall(r"(\d+) lines dropped", found)[0]) == 3000

    run(main)


def test_flush_waits_for_a_reader_up_to_its_timeout() -> None:
    async def main() -> None:
        with pipe() as (out, w), console(w) as console_:
            for _ in range(5000):
                console_.write(line("x" * 90))
            assert not console_.flush(timeout=0.01)
            reading = asyncio.get_running_loop().run_in_executor(None, read_all, out, 5000 * 101)
            assert console_.flush(timeout=10)
            assert len(await reading) == 5000 * 101

    run(main)


def read_all(fd: int, size: int) -> bytes:
    os.set_blocking(fd, True)
    data = b""
    while len(data) < size:
        data += os.read(fd, size)
    return data


def test_closing_forgets_what_waits() -> None:
    async def main() -> None:
        with pipe() as (out, w), console(w) as console_:
            console_.write(line("x"))
            console_.close()
            console_.close()
            console_.write(line("y"))
            await turn()
            assert read(out) == ""

    run(main)


SOMEBODY_ELSES = """
import fcntl, os, sys, termios
from trapeze.sink import WRITE_SIZE, Door
if sys.argv[1] == "ours":
    fcntl.ioctl(1, termios.TIOCSCTTY, 0)
os.setgroups([]); os.setgid(65534); os.setuid(65534)
door = Door(1)
door.write(memoryview(b"opened anew\\n" if door.size == WRITE_SIZE else b"polled\\n"))
door.close()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to be root")
@pytest.mark.parametrize(("whose", "how"), [("ours", "opened anew\n"), ("another", "polled\n")])
def test_terminal_of_another_user(whose: str, how: str) -> None:
    master, slave = pty.openpty()
    tty.setraw(slave)
    os.fchmod(slave, 0o600)
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", SOMEBODY_ELSES, whose]
    try:
        subprocess.run(command, cwd=root, stdout=slave, start_new_session=True, check=True)
        assert os.read(master, 100).decode() == how
    finally:
        os.close(slave)
        os.close(master)
