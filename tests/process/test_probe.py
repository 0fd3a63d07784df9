"""Readiness asked from outside: against real sockets, and against answers that go wrong in every way."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from trapeze import probe as module
from trapeze.probe import Probe, RunExec


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait between tries."""
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(module, "LONGEST_PAUSE", 0.004)


def run(main: Callable[[], Coroutine[object, object, None]]) -> None:
    """Run a coroutine to its end; an error that only the loop hears of is an error of the test."""
    errors: list[dict[str, object]] = []

    async def bounded() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        async with asyncio.timeout(20):
            await main()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.wait(left, timeout=1) if left else None
        assert not [task for task in left if not task.done()]

    asyncio.run(bounded())
    gc.collect()  # "never awaited" and "never retrieved" are said at the end of an object
    assert errors == []


class Asked:
    """A probe, and what it said."""

    def __init__(self, text: str, run_exec: RunExec | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.notes: asyncio.Queue[str] = asyncio.Queue()
        self.said: list[str] = []
        self.ready = loop.create_future()
        self.probe = Probe.start(text, loop, lambda: self.ready.set_result(None), self._note, run_exec=run_exec)

    def _note(self, text: str) -> None:
        self.said.append(text)
        self.notes.put_nowait(text)


@asynccontextmanager
async def server(answer: bytes | None, host: str = "127.0.0.1") -> AsyncIterator[tuple[str, list[bytes]]]:
    """Answer each connection's request with these bytes (None: say nothing); yield the address and the requests."""
    requests: list[bytes] = []
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        try:
            requests.append(await reader.readuntil(b"\r\n\r\n"))
        except asyncio.IncompleteReadError:
            pass
        else:
            if answer is None:
                await reader.read()
            else:
                writer.write(answer)
        writer.close()

    listening = await asyncio.start_server(serve, host, 0)
    name = listening.sockets[0].getsockname()
    async with listening:
        yield (f"[{host}]" if ":" in host else host) + f":{name[1]}", requests
        for writer in writers:
            writer.transport.abort()
    await asyncio.wait([task for task in asyncio.all_tasks() if task is not asyncio.current_task()] or [_nothing()])


def _nothing() -> asyncio.Task[None]:
    return asyncio.ensure_future(asyncio.sleep(0))


def unused_port() -> socket.socket:
    """A port that is bound and not listened on: a connection to it is refused."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.bind(("127.0.0.1", 0))
    return sock


# -- tcp and unix


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_tcp_is_ready_once_somebody_listens(host: str) -> None:
    async def main() -> None:
        with unused_port() as sock:
            port = sock.getsockname()[1]
            asked = Asked(f"tcp://{host}:{port}")
            assert await asked.notes.get() == f"{host}:{port}: connection refused"
            active = [asked.probe.active]
            sock.listen()
            await asked.ready

            assert [*active, asked.probe.active] == [True, False]
            assert asked.said == [f"{host}:{port}: connection refused"], "the same reason is said once"

    run(main)


def test_tcp6() -> None:
    async def main() -> None:
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as sock:
            await Asked(f"tcp://[::1]:{sock.getsockname()[1]}").ready

    run(main)


def test_localhost_may_be_either_family() -> None:
    async def main() -> None:
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as sock:
            await Asked(f"tcp://localhost:{sock.getsockname()[1]}").ready

    run(main)


def test_name_is_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            loop = asyncio.get_running_loop()
            tries = 0

            async def resolve(host: str, port: int, **_: object) -> list[object]:
                nonlocal tries
                tries += 1
                if tries == 1:
                    raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
                return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

            monkeypatch.setattr(loop, "getaddrinfo", resolve)
            port = sock.getsockname()[1]
            asked = Asked(f"tcp://redis.example:{port}")
            await asked.ready
            assert asked.said == [f"redis.example:{port}: temporary failure in name resolution"]

    run(main)


def test_port_that_answers_to_itself_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        with unused_port() as sock:
            place = sock.getsockname()
        loop = asyncio.get_running_loop()
        connect = loop.sock_connect

        async def same_source(sock: socket.socket, address: tuple[str, int]) -> None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(place)  # what the kernel does by chance
            await connect(sock, address)

        monkeypatch.setattr(loop, "sock_connect", same_source)
        asked = Asked(f"tcp://127.0.0.1:{place[1]}")
        assert (await asked.notes.get()).endswith("connection refused")
        asked.probe.cancel()
        assert not asked.ready.done()

    run(main)


def test_unix(run_dir: Path) -> None:
    async def main() -> None:
        path = run_dir / "a.sock"
        asked = Asked(f"unix:{path}")
        assert await asked.notes.get() == f"unix:{path}: no such file or directory"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.bind(str(path))
            assert await asked.notes.get() == f"unix:{path}: connection refused"
            sock.listen()
            await asked.ready
        path.unlink()

    run(main)


def test_abstract() -> None:
    async def main() -> None:
        name = f"trapeze-test-{os.getpid()}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.bind(f"\0{name}")
            sock.listen()
            await Asked(f"unix:@{name}").ready

    run(main)


# -- http


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.0 302 Found\r\nLocation: /\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 399 Odd\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
def test_http_is_ready(answer: bytes) -> None:
    async def main() -> None:
        async with server(answer) as (address, requests):
            asked = Asked(f"http://{address}/ready?deep=1")
            await asked.ready
            assert asked.said == []
        lines = requests[0].decode().split("\r\n")
        assert lines[0] == "GET /ready?deep=1 HTTP/1.1"
        assert f"Host: {address}" in lines
        assert "Connection: close" in lines

    run(main)


@pytest.mark.parametrize(
    ("answer", "note"),
    [
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "answered 503 Service Unavailable"),
        (b"HTTP/1.1 404\r\n\r\n", "answered 404"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "the answer is not HTTP: "),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000, "the answer is not HTTP: "),
        (b"", "the answer is not HTTP: "),
        (b"HTTP/1.1 200", "the answer is not HTTP: "),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n", "the answer is not HTTP: "),
    ],
)
def test_http_is_not_ready(answer: bytes, note: str) -> None:
    async def main() -> None:
        async with server(answer) as (address, _):
            asked = Asked(f"http://{address}/")
            assert (await asked.notes.get()).startswith(f"http://{address}/: {note}")
            asked.probe.cancel()
            await asyncio.sleep(0)
            assert not asked.ready.done()

    run(main)


def test_http_over_ipv6() -> None:
    async def main() -> None:
        async with server(b"HTTP/1.1 200 OK\r\n\r\n", host="::1") as (address, requests):
            await Asked(f"http://{address}").ready
        assert f"Host: {address}\r\n".encode() in requests[0]

    run(main)


def test_server_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TRY_TIMEOUT", 0.01)

    async def main() -> None:
        async with server(None) as (address, _):
            asked = Asked(f"http://{address}/")
            assert await asked.notes.get() == f"http://{address}/: no answer in 0.01 s"
            asked.probe.cancel()

    run(main)


def test_cancel_in_the_middle_of_a_request() -> None:
    async def main() -> None:
        async with server(None) as (address, requests):
            asked = Asked(f"http://{address}/")
            while not requests:
                await asyncio.sleep(0)
            asked.probe.cancel()
            asked.probe.cancel()
            assert not asked.probe.active

    run(main)


# -- exec


def test_exec_is_ready_when_it_exits_0() -> None:
    async def main() -> None:
        statuses, commands = [1, 1, -9, 0], []

        async def run_exec(command: str) -> int:
            commands.append(command)
            return statuses.pop(0)

        asked = Asked("exec:redis-cli ping", run_exec)
        await asked.ready
        assert commands == ["redis-cli ping"] * 4
        assert asked.said == ["redis-cli ping: exited 1", "redis-cli ping: killed by signal 9"]

    run(main)


def test_exec_that_cannot_be_started() -> None:
    async def main() -> None:
        async def run_exec(command: str) -> int:
            raise FileNotFoundError(2, "No such file or directory", command)

        asked = Asked("exec:nothing", run_exec)
        assert await asked.notes.get() == "nothing: no such file or directory"
        asked.probe.cancel()

    run(main)


def test_exec_that_hangs_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXEC_TIMEOUT", 0.01)

    async def main() -> None:
        ended = asyncio.Event()

        async def run_exec(command: str) -> int:
            try:
                return await asyncio.get_running_loop().create_future()
            finally:
                ended.set()

        asked = Asked("exec:cat", run_exec)
        assert await asked.notes.get() == "cat: no answer in 0.01 s"
        await ended.wait()
        asked.probe.cancel()

    run(main)


def test_mistake_of_the_runner_is_reported_and_ends_the_probe() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        heard = loop.create_future()
        loop.set_exception_handler(lambda _, context: heard.set_result(context))

        async def run_exec(command: str) -> int:
            raise ZeroDivisionError

        asked = Asked("exec:x", run_exec)
        context = await heard
        assert isinstance(context["exception"], ZeroDivisionError)
        await asyncio.sleep(0)
        assert not asked.ready.done()
        assert not asked.probe.active

    run(main)


# -- after, and the ends


def test_after() -> None:
    async def main() -> None:
        asked = Asked("after:1ms")
        await asked.ready
        assert not asked.probe.active
        asked.probe.cancel()

    run(main)


@pytest.mark.parametrize("text", ["after:0s", "tcp://127.0.0.1:1", "exec:true"])
def test_cancel_before_anything_happened(text: str) -> None:
    async def main() -> None:
        async def run_exec(command: str) -> int:
            return 0

        asked = Asked(text, run_exec)
        asked.probe.cancel()
        assert not asked.probe.active
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not asked.ready.done()
        assert asked.said == []

    run(main)


def test_cancel_when_it_is_just_ready() -> None:
    async def main() -> None:
        cancel: list[Callable[[], None]] = []

        async def run_exec(command: str) -> int:
            asyncio.get_running_loop().call_soon(cancel[0])  # runs between the end of the task and `on_ready`
            return 0

        asked = Asked("exec:true", run_exec)
        cancel.append(asked.probe.cancel)
        for _ in range(5):
            await asyncio.sleep(0)
        assert not asked.ready.done()

    run(main)


def test_cancel_from_a_note() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        probes: list[Probe] = []
        with unused_port() as sock:
            told = loop.create_future()

            def note(text: str) -> None:
                probes[0].cancel()
                told.set_result(text)

            def ready() -> None:
                raise AssertionError("it was cancelled")

            probes.append(Probe.start(f"tcp://127.0.0.1:{sock.getsockname()[1]}", loop, ready, note))
            await told
            await asyncio.sleep(0)
            assert not probes[0].active

    run(main)


@pytest.mark.parametrize("text", ["notify", "exec:true", "nonsense"])
def test_what_cannot_be_asked(text: str) -> None:
    async def main() -> None:
        with pytest.raises(ValueError):
            Probe.start(text, asyncio.get_running_loop(), lambda: None, lambda _: None)

    run(main)


def test_pauses_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    pauses: list[float] = []

    async def main() -> None:
        real = asyncio.sleep

        async def sleep(seconds: float) -> None:
            pauses.append(seconds)
            await real(0)

        monkeypatch.setattr(asyncio, "sleep", sleep)

        async def run_exec(command: str) -> int:
            return 0 if len(pauses) == 8 else 1

        await Asked("exec:true", run_exec).ready

    run(main)
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]
