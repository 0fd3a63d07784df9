"""The client's side of the control socket: find the instance, ask it, and turn its errors back into ours."""

from __future__ import annotations

import contextlib
import http.client
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from trapeze.errors import NotRunning, Problem, TrapezeError, WaitTimeout
from trapeze.runtime import Instance, directories, list_instances, peer
from trapeze.status import Snapshot, Transition

__all__ = ["Client", "RemoteError", "find", "is_gone"]

PATIENCE = 15.0
"""Seconds in which a supervisor that is well answers, beyond what it was asked to wait."""

_EXIT_CODES = {"usage": 2, "config": 2, "bind": 2, "unknown": 2, "timeout": 4}

Query = Mapping[str, object]
Watcher = Callable[[Transition], None]


class RemoteError(TrapezeError):
    """The supervisor said no; `body` is its answer."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        message = str(body.get("message", "")) or "the supervisor gave no reason"
        super().__init__(message, hint=str(body.get("hint", "")))
        self.code = str(body.get("code", "failed"))
        self.exit_code = _EXIT_CODES.get(self.code, 1)
        self.body = dict(body)
        self.output: list[str] = [str(line) for line in body.get("output", ())]
        self.problems = [Problem(**problem) for problem in body.get("problems", ())]


def find(name: str | None, environ: Mapping[str, str] | None = None) -> Instance:
    """Return the instance of that name, or the only one there is.

    Raises:
        NotRunning: there is none; the message says where it looked.
        TrapezeError: there are several and no name was given.
    """
    places = directories(environ)
    found = list_instances(environ)
    # Who set the variable meant it: what lies elsewhere counts only if there is nothing.
    named_place = os.path.realpath(places[0].path) if places[0].why.startswith("$TRAPEZE") else None
    near = [each for each in found if os.path.dirname(each.path) == named_place] or found
    if name is not None:
        for instance in [*near, *found]:
            if instance.name == name:
                return instance
    elif len(near) == 1:
        return near[0]
    elif near:
        names = ", ".join(each.name for each in near)
        raise Ambiguous(f"{len(near)} instances are running: {names}", hint="say which one with --name")
    what = "no instance is running" if name is None else f"no instance named {name} is running"
    looked = ", ".join(f"{place.path} ({place.why})" for place in places)
    others = f"running: {', '.join(each.name for each in found)}" if found else ""
    raise NotRunning(f"{what}; looked in {looked}", hint=others)


class WentAway(TrapezeError):
    """The supervisor ended before its answer did."""


def is_gone(error: TrapezeError) -> bool:
    """Does an error mean that the supervisor has ended, or is about to?"""
    return isinstance(error, (NotRunning, WentAway)) or (isinstance(error, RemoteError) and error.code == "stopping")


class Ambiguous(TrapezeError):
    """Several instances could be meant."""

    exit_code = 2
    code = "usage"


class _UnixConnection(http.client.HTTPConnection):
    """HTTP to a path instead of a host and port."""

    def __init__(self, instance: Instance, timeout: float | None) -> None:
        super().__init__("localhost")
        self._instance = instance
        self._patience = timeout

    def connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # Python's own timeout makes the socket non-blocking, and then a full backlog is an error at once.
            patience = PATIENCE if self._patience is None else self._patience
            seconds, fraction = divmod(patience, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(seconds), int(fraction * 1e6)))
            sock.connect(self._instance.path)
            sock.settimeout(self._patience)
        except BaseException:
            sock.close()
            raise
        self.sock = sock


class Client:
    """One instance, as seen through its control socket. Each question opens a connection of its own."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance

    # ---- reads

    def status(self) -> Snapshot:
        """Return everything, at one revision."""
        return msgspec.json.decode(self.status_json(), type=Snapshot)

    def status_json(self) -> bytes:
        """Return the same as it came, keys of a newer supervisor included."""
        return self.get("/status")

    def get(self, path: str, query: Query | None = None) -> bytes:
        """Return the body of a read that is one JSON value."""
        while True:
            try:
                with self._ask("GET", path, query or {}, PATIENCE) as response:
                    return response.read().strip()
            except RemoteError as error:
                if error.code != "upgrading":
                    raise

    def lines(self, path: str, query: Query) -> Iterator[bytes]:
        """Yield the lines of a stream that has an end."""
        with self._ask("GET", path, query, PATIENCE) as response:
            yield from _lines(response)

    def follow(self, path: str, query: Query, again: Callable[[], Query]) -> Iterator[bytes]:
        """Yield the lines of a stream that goes on, until the supervisor is gone.

        A stream also ends when the supervisor is replaced in place. The new program finds the same clients waiting at
        the same socket: it is asked for what `again` says, the query for what came after the lines that were yielded.
        """
        with self._ask("GET", path, {**query, "follow": 1}, PATIENCE, endless=True) as response:
            yield from _lines(response)
        while True:
            try:
                with self._ask("GET", path, {**again(), "follow": 1}, PATIENCE, endless=True) as response:
                    yield from _lines(response)
            except TrapezeError as error:
                if is_gone(error):
                    return
                if error.code != "upgrading":
                    raise

    # ---- writes

    def write(self, path: str, query: Query, *, wait: float | None, watch: Watcher | None = None) -> dict[str, Any]:
        """Give an order; return the answer once it is settled, or at once if *wait* is None.

        Args:
            path: `/services/web/reload`; see `service_path`.
            query: parameters other than wait.
            wait: seconds.
            watch: is told every transition on the way.

        Raises:
            RemoteError: it failed, or was refused.
            WaitTimeout: it is not done in time.
            NotRunning: nobody there.
        """
        if wait is None:
            with self._ask("POST", path, query, PATIENCE) as response:
                return _object(response.read())
        deadline = time.monotonic() + wait
        told = _Told(watch)
        answer = self._told(told, "POST", path, {**query, "wait": wait, "progress": 1}, wait)
        while answer is None:
            # The stream ended first. If that was an upgrade in place, the new program knows what became of the order.
            left = max(0.0, deadline - time.monotonic())
            try:
                answer = self._told(told, "GET", "/settled", {**told.query(), "wait": left, "progress": 1}, left)
            except TrapezeError as error:
                if not is_gone(error):
                    raise
                raise TrapezeError("the supervisor stopped before it was done") from None
        return answer

    def _told(self, told: _Told, method: str, path: str, query: Query, wait: float) -> dict[str, Any] | None:
        """Ask, and read to the end; None if it ended without an answer, because the supervisor ended or is replaced."""
        try:
            with self._ask(method, path, query, wait + PATIENCE) as response:
                return told.read(response)
        except RemoteError as error:
            if error.code != "upgrading" or told.ticket is None:
                raise
            return None

    def shutdown(self, *, wait: float | None, fast: bool, watch: Watcher | None = None) -> dict[str, Any]:
        """Stop everything; with *wait* return once the process is gone. Raises as `write` does."""
        query: dict[str, object] = {"fast": 1} if fast else {}
        if wait is None:
            return self.write("/shutdown", query, wait=None)
        deadline = time.monotonic() + wait
        with contextlib.ExitStack() as stack:
            pidfds: list[int] = []

            def hold(sock: socket.socket) -> None:
                # Taken while it lives: the end of the connection comes a moment before the end of the process.
                with contextlib.suppress(OSError):
                    pidfds.append(os.pidfd_open(peer(sock)[0]))
                    stack.callback(os.close, pidfds[-1])

            asked = {**query, "wait": wait, "progress": 1}
            with self._ask("POST", "/shutdown", asked, wait + PATIENCE, hold) as response:
                answer = _Told(watch).read(response) or {}
            for pidfd in pidfds:
                left = max(0.0, deadline - time.monotonic())
                if not select.select([pidfd], [], [], left)[0]:
                    raise WaitTimeout(f"not done after {round(wait, 2):g} s: still stopping")
        return {**answer, "settled": True, "message": "stopped"}

    @contextlib.contextmanager
    def _ask(
        self,
        method: str,
        path: str,
        query: Query,
        timeout: float | None,
        on_connect: Callable[[socket.socket], None] | None = None,
        *,
        endless: bool = False,
    ) -> Iterator[http.client.HTTPResponse]:
        """Ask; `timeout` is for each step, but with `endless` only until the answer begins.

        A stand-in (`doorman`) has done nothing of what it was asked, and says so when the new program is there: that
        one is asked then.
        """
        target = f"{path}?{urlencode(query, doseq=True)}" if query else path
        with _in_words(self.instance), contextlib.ExitStack() as stack:
            while True:
                connection = stack.enter_context(contextlib.closing(_UnixConnection(self.instance, timeout)))
                connection.connect()
                if on_connect is not None:
                    on_connect(connection.sock)
                with contextlib.suppress(BrokenPipeError):  # a door that is full answers before it was asked
                    connection.request(method, target)
                response = connection.getresponse()
                if response.status < 400:
                    break
                error = _remote(_object(response.read()))
                if error.code != "standing_in":
                    raise error
            if endless:
                connection.sock.settimeout(None)
            yield response


def service_path(name: str, verb: str) -> str:
    """Return the path of a verb of one service, or of the verb for all if there is no name."""
    return f"/services/{quote(name, safe='')}/{verb}" if name else f"/{verb}"


def _lines(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Lines as they arrive; readline of a chunked response waits for no more than it has."""
    while line := response.readline():
        yield line.rstrip(b"\n")


class _Told:
    """What was heard of an order: enough to ask about it again."""

    def __init__(self, watch: Watcher | None) -> None:
        self._watch = watch
        self.ticket: dict[str, Any] | None = None
        self._seen = 0

    def read(self, response: http.client.HTTPResponse) -> dict[str, Any] | None:
        """Read to the end; hand transitions on, return the answer, raise the error."""
        answer = None
        for line in _lines(response):
            found = _object(line)
            if "transition" in found:
                change = msgspec.convert(found["transition"], Transition)
                self._seen = max(self._seen, change.revision)
                if self._watch is not None:
                    self._watch(change)
            elif "ticket" in found:
                self.ticket = found["ticket"]
            elif "answer" in found:
                answer = found["answer"]
            elif "error" in found:
                raise _remote(found["error"])
        return answer

    def query(self) -> Query:
        """To ask /settled for the rest. Raises TrapezeError when nothing is known of the order."""
        if self.ticket is None:
            raise TrapezeError("the supervisor stopped before it was done")
        since = max(self._seen, self.ticket["revision"])
        return {"ticket": msgspec.json.encode(self.ticket).decode(), "since": since}


def _remote(body: Mapping[str, Any]) -> TrapezeError:
    if body.get("code") == "timeout":
        return WaitTimeout(str(body.get("message", "")), hint=str(body.get("hint", "")))
    return RemoteError(body)


def _object(data: bytes) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(data)
    except msgspec.DecodeError:
        found = None
    if not isinstance(found, dict):
        raise TrapezeError("what answers at the control socket is no trapeze", hint=data[:80].decode(errors="replace"))
    return found


@contextlib.contextmanager
def _in_words(instance: Instance) -> Iterator[None]:
    """Turn errors of the socket into errors that say what to do."""
    who = f"{instance.name} (pid {instance.pid})" if instance.pid else instance.name
    try:
        yield
    except (ConnectionRefusedError, FileNotFoundError):
        raise NotRunning(f"{instance.name} is not running any more; looked at {instance.path}") from None
    except PermissionError:
        hint = "run it as the user of the instance, or open it to a group: mode and group under [control]"
        raise TrapezeError(f"permission denied on the control socket {instance.path}", hint=hint) from None
    except (TimeoutError, BlockingIOError):
        raise WaitTimeout(f"{who} does not answer at {instance.path}") from None
    except (OSError, http.client.HTTPException):
        raise WentAway(f"{who} went away in the middle of its answer") from None


def services(instance: Instance) -> Sequence[str]:
    """Return the names of its services, for shell completion."""
    return [service.name for service in Client(instance).status().services]
