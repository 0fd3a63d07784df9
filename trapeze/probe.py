"""Is it ready yet? Asks a starting process from outside until the answer is yes, or until it is told to stop.

A probe through a listener that several processes share proves only that one of them answers; web workers of ours say
it themselves instead.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from trapeze.addresses import Abstract, Tcp, Unix
from trapeze.readiness import After, Connect, Execute, Http, Notify, Ready, parse_ready

if TYPE_CHECKING:
    from typing import Self

    import h11

__all__ = ["Probe", "RunExec"]

FIRST_PAUSE = 0.05
"""Seconds between the first two tries; doubles up to LONGEST_PAUSE."""
LONGEST_PAUSE = 1.0
TRY_TIMEOUT = 2.0
"""Seconds that one connection or request may take."""
EXEC_TIMEOUT = 10.0
"""Seconds that one run of a command may take: an interpreter starts slowly on a machine that is busy starting."""
READ_SIZE = 16 * 1024

RunExec = Callable[[str], Awaitable[int]]
"""Runs a command line and returns its exit status (negative: by signal); kills it when cancelled."""

_Where = tuple[int, tuple[object, ...] | str | bytes]


class _NotYet(Exception):
    """It is not ready, and why."""


class Probe:
    """Asks one process. Make it with `start`."""

    def __init__(
        self,
        ready: Ready,
        loop: asyncio.AbstractEventLoop,
        on_ready: Callable[[], None],
        on_note: Callable[[str], None],
        run_exec: RunExec | None,
    ) -> None:
        self._loop = loop
        self._on_ready = on_ready
        self._on_note = on_note
        self._run_exec = run_exec
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        if isinstance(ready, After):
            self._timer = loop.call_later(ready.seconds, self._finish)
        else:
            self._task = loop.create_task(self._ask(ready), name="readiness probe")
            self._task.add_done_callback(self._asked)

    @classmethod
    def start(
        cls,
        text: str,
        loop: asyncio.AbstractEventLoop,
        on_ready: Callable[[], None],
        on_note: Callable[[str], None],
        *,
        run_exec: RunExec | None = None,
    ) -> Self:
        """Begin to ask.

        Args:
            text: the condition, as `parse_ready` takes it; "notify" is not one that can be asked for.
            loop: where it runs.
            on_ready: called once, unless `cancel` comes first.
            on_note: called with the reason why it is not ready yet, each time that the reason changes.
            run_exec: for "exec:".

        Raises:
            ValueError: a condition that cannot be asked for.
        """
        ready = parse_ready(text)
        if isinstance(ready, Notify):
            raise ValueError('"notify" is said by the process; nobody can be asked for it')
        if isinstance(ready, Execute) and run_exec is None:
            raise ValueError('"exec:" needs somebody to run the command')
        return cls(ready, loop, on_ready, on_note, run_exec)

    @property
    def active(self) -> bool:
        """Is it still asking?"""
        return self._timer is not None or self._task is not None

    def cancel(self) -> None:
        """Stop asking; `on_ready` is not called any more. Safe to call twice, and from within the callbacks."""
        timer, self._timer = self._timer, None
        task, self._task = self._task, None
        if timer is not None:
            timer.cancel()
        if task is not None:
            task.cancel()

    def _finish(self) -> None:
        self._timer = self._task = None
        self._on_ready()

    def _asked(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            # Ours, or the caller's callback: an answer that is merely bad never ends up here.
            self._loop.call_exception_handler({"message": "readiness probe failed", "exception": error, "task": task})
        if self._task is not task:
            return
        self._task = None
        if error is None:
            self._finish()

    async def _ask(self, ready: Connect | Http | Execute | Notify) -> None:
        """Return once it is ready."""
        pause, said = FIRST_PAUSE, ""
        limit = EXEC_TIMEOUT if isinstance(ready, Execute) else TRY_TIMEOUT
        while True:
            try:
                async with asyncio.timeout(limit):
                    await self._try(ready)
                return
            except TimeoutError:
                reason = f"{_what(ready)}: no answer in {limit:g} s"
            except _NotYet as error:
                reason = f"{_what(ready)}: {error}"
            except OSError as error:
                reason = f"{_what(ready)}: {_words(error)}"
            if reason != said:
                said = reason
                self._on_note(reason)
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    async def _try(self, ready: Connect | Http | Execute | Notify) -> None:
        """Ask once; return if it is ready.

        Raises:
            _NotYet: an answer, but not the right one.
            OSError: no answer.
        """
        match ready:
            case Connect():
                (await self._connect(ready.address)).close()
            case Http():
                await self._get(ready)
            case Execute():
                await self._execute(ready.command)

    async def _connect(self, address: Tcp | Unix | Abstract) -> socket.socket:
        failure: OSError | None = None
        for family, where in await self._places(address):
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                sock.setblocking(False)
                await self._loop.sock_connect(sock, where)
                if family != socket.AF_UNIX and sock.getsockname() == sock.getpeername():
                    # TCP: with nobody there, a port can connect to itself if the kernel picks it as the source.
                    raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
            except OSError as error:
                sock.close()
                failure = failure or error
            except BaseException:
                sock.close()
                raise
            else:
                return sock
        raise failure or OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))

    async def _places(self, address: Tcp | Unix | Abstract) -> list[_Where]:
        match address:
            case Unix():
                return [(socket.AF_UNIX, address.path)]
            case Abstract():
                return [(socket.AF_UNIX, b"\0" + address.name.encode("utf-8", "surrogateescape"))]
            case Tcp():
                return await self._resolve(address)

    async def _resolve(self, address: Tcp) -> list[_Where]:
        if address.host == "localhost":
            # Known without asking; asking would start a thread that stays.
            return [(socket.AF_INET, ("127.0.0.1", address.port)), (socket.AF_INET6, ("::1", address.port, 0, 0))]
        if address.v6 or address.host.replace(".", "").isdigit():
            found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        else:
            found = await self._loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        return [(each[0], each[4]) for each in found]

    async def _get(self, ready: Http) -> None:
        import h11  # only here: most services are not asked by HTTP

        sock = await self._connect(ready.address)
        with sock:
            connection = h11.Connection(h11.CLIENT)
            headers = [("Host", ready.authority), ("User-Agent", "trapeze"), ("Accept", "*/*"), ("Connection", "close")]
            request = connection.send(h11.Request(method="GET", target=ready.target, headers=headers))
            await self._loop.sock_sendall(sock, (request or b"") + (connection.send(h11.EndOfMessage()) or b""))
            try:
                response = await self._response(sock, connection)
            except h11.RemoteProtocolError as error:
                raise _NotYet(f"the answer is not HTTP: {error}") from None
        if not 200 <= response.status_code < 400:
            reason = response.reason.decode("ascii", "backslashreplace")
            raise _NotYet(f"answered {response.status_code} {reason}".rstrip())

    async def _response(self, sock: socket.socket, connection: h11.Connection) -> h11.Response:
        import h11

        while True:
            event = connection.next_event()
            if isinstance(event, h11.Response):
                return event
            if event is h11.NEED_DATA:
                connection.receive_data(await self._loop.sock_recv(sock, READ_SIZE))
            elif not isinstance(event, h11.InformationalResponse):
                raise _NotYet("the connection was closed without an answer")

    async def _execute(self, command: str) -> None:
        assert self._run_exec is not None  # `start` sees to it
        status = await self._run_exec(command)
        if status:
            raise _NotYet(f"exited {status}" if status > 0 else f"killed by signal {-status}")


def _what(ready: Connect | Http | Execute | Notify) -> str:
    match ready:
        case Connect():
            return str(ready.address)
        case Http():
            return f"http://{ready.authority}{ready.target}"
        case Execute():
            return ready.command
        case Notify():  # pragma: no cover - `start` refuses it
            return "notify"


def _words(error: OSError) -> str:
    # asyncio puts words of its own, with the address in them, in place of the error's.
    if error.errno and not isinstance(error, socket.gaierror):
        return os.strerror(error.errno).lower()
    return (error.strerror or str(error)).lower()
