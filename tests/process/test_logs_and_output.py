"""What the terminal shows, and that nobody who does not read it holds anybody up; the debugger; the file watch."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.server import ROOT, Trapeze, clean_environment
from tests.support.site import Site, run_command
from tests.support.wait import until

TALKS = """
import os, sys
wire = os.open(sys.argv[1], os.O_WRONLY)
exec(sys.argv[2])
os.write(wire, b"done\\n")
import signal
signal.pause()
"""


def talks(site: Site, wire: object, code: str) -> str:
    """A command that runs this code and then says "done" on the wire."""
    script = site.write("talks.py", TALKS)
    file = site.write(f"code{len(list(site.directory.iterdir()))}.py", code)
    return json.dumps([sys.executable, "-S", "-E", str(script), str(wire), f"exec(open({str(file)!r}).read())"])


def test_prefix_is_aligned(site: Site) -> None:
    wire = site.wire()
    server = site.up(f"""
        [services.x]
        command = {run_command("life.py", wire, "x", "print=short name")}
        [services.longer-name]
        command = {run_command("life.py", wire, "longer", "print=long name")}
        """).ready()
    wire.lines(2)

    assert server.stop() == 0

    lines = server.stdout.splitlines()
    assert sorted(lines) == ["longer-name.0 | long name", "x.0           | short name"]
    assert all(line.startswith("trapeze       | ") for line in server.stderr.splitlines())
    assert "\x1b" not in server.output, "no colour into a file"


def test_stdout_and_stderr_stay_apart(site: Site) -> None:
    wire = site.wire()
    code = "os.write(1, b'to out\\n'); os.write(2, b'to err\\n')"
    server = site.up(f"[services.x]\ncommand = {talks(site, wire, code)}\n")
    wire.line()
    server.ready()

    assert server.stop() == 0
    assert "to out" in server.stdout
    assert "to err" not in server.stdout
    assert re.search(r"^x.0 +\| to err$", server.stderr, re.MULTILINE)


def test_long_line_and_split_characters_come_out_whole(site: Site) -> None:
    """A line of 3 MB, and UTF-8 whose bytes come in two writes, byte for byte; what is no UTF-8 is shown as such."""
    wire = site.wire()
    code = (
        "text = 'é€𝄞'.encode()\n"
        "for byte in text: os.write(1, bytes([byte]))\n"
        "os.write(1, b'\\n')\n"
        "line = ('0123456789é' * 300000).encode() + b'\\n'\n"
        "while line: line = line[os.write(1, line[:100001]):]\n"
        "os.write(1, b'bad \\xff\\xfe end\\n')\n"
        "os.write(1, b'no newline at the end')\n"
    )
    server = site.up(f"[services.x]\ncommand = {talks(site, wire, code)}\n")
    wire.line()
    server.ready()

    assert server.stop() == 0

    assert [line.partition("| ")[2] for line in server.stdout.splitlines()] == [
        "é€𝄞",
        "0123456789é" * 300000,
        "bad \\xff\\xfe end",
        "no newline at the end",
    ]


def test_last_words_of_a_process_are_not_lost(site: Site) -> None:
    """What it wrote just before it died is read before its death is said."""
    server = site.up("""
        [services.x]
        command = 'i=0; while [ $i -lt 500 ]; do i=$((i+1)); echo "line $i"; done; exit 0'
        shell = true
        restart = "never"
        """).ready()

    assert server.stop() == 0
    assert [line.partition("| ")[2] for line in server.stdout.splitlines()] == [f"line {n}" for n in range(1, 501)]


def test_nobody_reads(site: Site) -> None:
    """The supervisor's stdout is a pipe that is full: its child writes megabytes and is never held up."""
    wire = site.wire()
    fifo = site.directory / "unread"
    os.mkfifo(fifo)
    unread = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    try:
        code = "for number in range(4000): os.write(1, b'x' * 2000 + b'\\n')"
        server = site.up(
            f"[services.x]\ncommand = {talks(site, wire, code)}\n",
            prefix=["sh", "-c", f'exec "$@" >{fifo} 2>&1', "sh"],
        )
        assert wire.line(timeout=30) == "done"
        assert server.ready().service("x")["status"] == "RUNNING"
        assert server.stop() == 0
    finally:
        os.close(unread)


def test_reader_has_gone(site: Site) -> None:
    """`trapeze up | head -1`: nobody listens, and that is no reason to stop serving."""
    wire = site.wire()
    fifo = site.directory / "pipe"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    code = "os.write(1, b'first\\n')\nopen(sys.argv[1] + '.gate').readline()\nos.write(1, b'second\\n' * 10000)"
    os.mkfifo(f"{wire}.gate")
    server = site.up(
        f"[services.x]\ncommand = {talks(site, wire, code)}\n", prefix=["sh", "-c", f'exec "$@" >{fifo} 2>&1', "sh"]
    )
    try:
        server.ready()
    finally:
        os.close(reader)

    with open(f"{wire}.gate", "w") as gate:
        gate.write("go\n")

    assert wire.line() == "done"
    assert server.service("x")["status"] == "RUNNING"
    assert server.stop() == 0


def test_no_standard_descriptors(site: Site) -> None:
    """Started with 0, 1 and 2 closed: no socket gets their numbers, no output goes into one."""
    wire = site.wire()
    server = site.up(
        f"""
        [sockets.web]
        bind = "127.0.0.1:0"
        [services.x]
        command = {run_command("life.py", wire, "x", "print=hello")}
        socket = "web"
        """,
        prefix=["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"],
    ).ready()
    wire.line()

    assert server.status()["sockets"][0]["fd"] > 2
    assert server.ctl("logs", "x").out == "x.0 | hello\n"
    assert server.stop() == 0


# -- development ------------------------------------------------------------------------------------------------------

DEBUGGED = """
def app(environ, start_response):
    answer = "not stopped"
    if environ["PATH_INFO"] == "/debug":
        breakpoint()
    body = answer.encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


class Terminal:
    """A pseudo-terminal, seen from where the person sits."""

    def __init__(self) -> None:
        self.master, self.slave = os.openpty()
        os.set_blocking(self.master, False)
        self.text = ""

    def wait(self, pattern: str) -> None:
        """Read until this is on the screen."""
        until(lambda: re.search(pattern, self.read()), timeout=15, what=f"{pattern!r} on the terminal")

    def read(self) -> str:
        try:
            while data := os.read(self.master, 65536):
                self.text += data.decode(errors="replace")
        except (BlockingIOError, OSError):
            pass
        return self.text

    def type(self, text: str) -> None:
        """Type."""
        os.write(self.master, text.encode())

    def close(self) -> None:
        """Hang up."""
        os.close(self.master)
        if self.slave >= 0:
            os.close(self.slave)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    yield made
    made.close()


def in_terminal(
    terminal: Terminal, site: Site, *args: str, fds: tuple[int, ...] = (), env: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Run `trapeze ARGS` with this as its controlling terminal, in the foreground."""
    runtime = site.directory / "run"
    runtime.mkdir(mode=0o700, exist_ok=True)
    return subprocess.Popen(
        ["setsid", "--ctty", sys.executable, "-m", "trapeze", *args],
        env={**clean_environment(), "TRAPEZE_RUNTIME_DIR": str(runtime), "TERM": "xterm", **(env or {})},
        cwd=ROOT,
        stdin=terminal.slave,
        stdout=terminal.slave,
        stderr=terminal.slave,
        pass_fds=fds,
    )


def test_colour_in_a_terminal(site: Site, terminal: Terminal) -> None:
    wire = site.wire()
    site.write("trapeze.toml", f"[services.x]\ncommand = {run_command('life.py', wire, 'x', 'print=hello')}\n")
    process = in_terminal(terminal, site, "up", "-c", str(site.file))
    try:
        terminal.wait(r"\x1b\[[0-9;]*mx\.0 *\|? *(\x1b\[[0-9;]*m)? *\|? ?(\x1b\[[0-9;]*m)?hello")
        terminal.type("\x03")  # ^C: to the supervisor and nobody else
        assert process.wait(15) == 0
    finally:
        process.kill()
        process.wait()
    assert [line for line in wire.rest() if "start" not in line] == ["x stop"]


def test_breakpoint(site: Site, terminal: Terminal) -> None:
    """`serve --reload` with one worker: pdb talks to the terminal, `c` goes on, and the answer is what was set."""
    listener = site.tcp()
    site.write("debugged.py", DEBUGGED)
    process = in_terminal(
        terminal, site, "serve", "debugged", "--app-dir", str(site.directory), "--reload", "--bind", listener.bind,
        fds=(listener.fd,),
    )  # fmt: skip
    try:
        terminal.wait("web RUNNING")
        with subprocess.Popen(["curl", "-s", f"{listener.url}/debug"], stdout=subprocess.PIPE) as client:
            terminal.wait(r"\(Pdb\)")
            assert "debugged.py" in terminal.text
            terminal.type("answer = 'from the debugger'\n")
            terminal.wait(r"\(Pdb\)[^\0]*\(Pdb\)")
            terminal.type("c\n")
            assert client.communicate(timeout=15)[0] == b"from the debugger"
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(15) == 0
    finally:
        process.kill()
        process.wait()
    listener.close()


PRINTS_ITS_PID = """
import os
print("imported in", os.getpid(), flush=True)
{more}
def app(environ, start_response): ...
"""


@pytest.mark.parametrize("when", ["starting", "running"])
def test_interrupt_that_the_worker_is_quicker_to_obey(when: str, site: Site, terminal: Terminal) -> None:
    """^C goes to the worker of `--reload` too: its end is what was asked for, also where we hear of that first."""
    gate = site.gate()
    waits = f"open({str(gate)!r}).read()" if when == "starting" else ""
    site.write("prints.py", PRINTS_ITS_PID.format(more=waits))
    listener = site.tcp()
    process = in_terminal(
        terminal, site, "serve", "prints", "--app-dir", str(site.directory), "--reload", "--bind", listener.bind,
        fds=(listener.fd,),
    )  # fmt: skip
    try:
        terminal.wait(r"imported in \d+" if when == "starting" else "web RUNNING")
        found = re.search(r"imported in (\d+)", terminal.text)
        assert found is not None
        worker = Path("/proc", found[1], "stat")
        process.send_signal(signal.SIGSTOP)
        terminal.type("\x03")
        until(lambda: worker.read_text().rpartition(")")[2].split()[0] == "Z", what="the end of the worker")

        process.send_signal(signal.SIGCONT)

        assert process.wait(15) == 0
        assert not re.search(r"error|ERROR|FAILED|Traceback|Interrupt", terminal.read()), terminal.text
    finally:
        process.kill()
        process.wait()


INTERRUPTED = """
import os, signal
if os.environ.get("TRAPEZE_GENERATION", "0") != "0":
    os.kill(os.getpid(), signal.SIGINT)
"""


def test_interrupt_while_python_starts_is_no_traceback(site: Site, terminal: Terminal) -> None:
    """The worker has our terminal, and ^C may reach it before a line of ours runs in it."""
    site.write("early/sitecustomize.py", INTERRUPTED)
    site.write("prints.py", PRINTS_ITS_PID.format(more=""))
    listener = site.tcp()
    process = in_terminal(
        terminal, site, "serve", "prints", "--app-dir", str(site.directory), "--reload", "--bind", listener.bind,
        fds=(listener.fd,), env={"PYTHONPATH": str(site.directory / "early")},
    )  # fmt: skip
    try:
        assert process.wait(15) == 1  # nobody has interrupted us
    finally:
        process.kill()
        process.wait()
    assert "worker 0 killed by SIGINT before it was ready" in terminal.read()
    assert not re.search("Traceback|Interrupt", terminal.text), terminal.text


def test_file_watch(site: Site) -> None:
    """`--reload`: a change of a source file rolls to it; broken code is said and the old one serves on."""
    listener = site.tcp()
    body = "def app(environ, start_response):\n    start_response('200 OK', [])\n    return [{}]\n"
    site.write("shop.py", body.format(b"one"))
    site.write("watchfiles.py", "raise SystemExit('the watch must not import what the app has beside it')\n")
    server: Trapeze = site.serve("shop", "--reload", listeners=[listener]).ready()
    server.wait_output("watching .* for changes")
    assert server.get("/").text == "one"

    # Written again until it is seen: the watch is another process, which may still be starting.
    def answers(text: str) -> bool:
        if server.service()["generation"] == before:
            site.write("shop.py", body.format(text.encode()) + f"# {os.urandom(4).hex()}\n")
        return server.get("/").text == text

    before = 1
    until(lambda: answers("two"), timeout=20, what="the new code")
    assert server.service()["generation"] > 1
    before = server.service()["generation"]
    server.expect_error(".*")
    site.write("shop.py", "def app(:\n")
    server.wait_output("generation . failed, generation . serves on: .*SyntaxError", timeout=20)
    assert server.get("/").text == "two"
    before = server.service()["generation"]
    until(lambda: answers("three"), timeout=20, what="the repaired code")
    assert server.stop() == 0
