"""The nginx.conf of an nginx that is one of our services: made of the configuration, written where nginx may read it.

It stands in a directory of its own beside the control socket, with nginx's pid and temporary files, and goes when the
supervisor does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence

from trapeze.access import barred, entries, person
from trapeze.checks_nginx import servant, words_of
from trapeze.config import Resolved
from trapeze.errors import ConfigError, Problem, TrapezeError
from trapeze.generation import Generation
from trapeze.nginx import tool
from trapeze.nginx.site import plan
from trapeze.nginx.text import HTTP2_ON, Facts
from trapeze.nginx.whole import Frame, whole
from trapeze.prelude import ChildHandle, Launch, Listener
from trapeze.runtime import own_directory
from trapeze.sockets import ListenSocket

__all__ = ["Front"]

Spawn = Callable[[Launch, Listener], ChildHandle]
PATIENCE = 30.0
"""Seconds that nginx gets to judge a configuration."""
_SHOWN = 20
"""Lines of what it says that are shown."""


class Front:
    """The file, for one instance."""

    def __init__(self, instance: str) -> None:
        self.directory = os.path.join(own_directory().path, f"{instance}.nginx")
        self.path = os.path.join(self.directory, "nginx.conf")

    def text(self, resolved: Resolved, sockets: Mapping[str, Sequence[ListenSocket]]) -> str:
        """Return what the file has to say.

        Raises:
            ConfigError: that cannot be told.
        """
        name = servant(resolved.config) or ""
        addresses = {each: [held.address for held in group] for each, group in sockets.items()}
        site = plan(resolved.config, (), addresses)
        if isinstance(site, list):
            raise ConfigError(site)
        spec = resolved.config.services[name]
        program = next(iter(words_of(spec)[:1]), "nginx").split()[0]
        version = tool.version(tool.find(program)) if site.certificate else HTTP2_ON
        frame = Frame(
            directory=self.directory,
            user=self._workers(resolved),
            types=tool.types_file(),
            log=resolved.config.nginx.access_log,
        )
        source = os.path.basename(resolved.path) if resolved.path else "the flags of serve"
        return whole(site, Facts(version=version, ipv6=tool.has_ipv6()), frame, source)

    @staticmethod
    def _workers(resolved: Resolved) -> str | None:
        """The user of nginx's workers, where nginx itself is root."""
        user = resolved.config.services[servant(resolved.config) or ""].user
        if os.geteuid() != 0 or user not in (None, "root", "0"):
            return None
        return resolved.config.nginx.user or tool.worker_user() or "root"

    def present(self) -> str | None:
        """What the file says now; None if there is none."""
        try:
            with open(self.path, encoding="utf-8") as file:
                return file.read()
        except OSError:
            return None

    def write(self, text: str, resolved: Resolved, *, name: str = "nginx.conf") -> str:
        """Write it, and return its path; `name` is another one beside it, to be judged.

        Raises:
            TrapezeError: it cannot be written, or nginx's workers could not get at it.
        """
        user = self._workers(resolved)
        owner = self._owner(resolved)
        path = os.path.join(self.directory, name)
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self.directory, 0o700)
            if os.geteuid() == 0:
                os.chmod(self.directory, 0o755)
                os.chown(self.directory, *owner)
            tool.replace_file(path, text, 0o644, owner if os.geteuid() == 0 else ())
        except OSError as error:
            raise TrapezeError(f"cannot write {path}: {os.strerror(error.errno or 0).lower()}") from None
        self._reachable(user or resolved.config.services[servant(resolved.config) or ""].user)
        return path

    @staticmethod
    def _owner(resolved: Resolved) -> tuple[int, int]:
        """Whom the directory belongs to: who runs nginx, so that it may write its pid."""
        user = resolved.config.services[servant(resolved.config) or ""].user
        who = person(user) if user is not None else None
        return (who.uid, -1) if who is not None else (os.geteuid(), -1)

    def _reachable(self, user: str | None) -> None:
        """A large request body is a file in this directory: who may not enter it answers 500."""
        who = person(user) if user is not None else None
        if who is None or os.geteuid() != 0:
            return
        closed = barred(entries(self.directory), who)
        if closed is not None:
            hint = f"chmod o+x {closed.path}, set TRAPEZE_RUNTIME_DIR to another directory, or [nginx] user"
            raise TrapezeError(f"nginx's user {who.name} may not enter {closed.path}", hint=hint)

    async def judge(
        self, spawn: Spawn, text: str, resolved: Resolved, sockets: Mapping[str, Sequence[ListenSocket]]
    ) -> None:
        """Have nginx itself judge a text before anything is changed.

        Raises:
            ConfigError: it refuses it.
            TrapezeError: it cannot be asked.
        """
        name = servant(resolved.config) or ""
        path = self.write(text, resolved, name="next.conf")
        made = Generation.make(0, name, resolved.config.services[name], sockets, resolved.directory, generated=path)
        words = list(made.launch(name, 0).argv)
        answer = _Answer(asyncio.get_running_loop().create_future())
        try:
            child = spawn(made.launch_tool(name, "check", [*words, "-t"]), answer)
        except OSError as error:
            raise TrapezeError(f"nginx cannot be asked: {error}") from None
        try:
            await asyncio.wait([answer.status], timeout=PATIENCE)
        finally:
            child.kill()
            with contextlib.suppress(OSError):
                os.unlink(path)
        if answer.status.done() and answer.status.result() == 0:
            return
        said = tool.with_lines("\n".join(answer.lines[-_SHOWN:]), {path: text})
        raise ConfigError(
            [Problem("nginx", "nginx refuses the configuration that is made of it", said or "it has said nothing")]
        )

    def forget(self) -> None:
        """There is no such service any more; one that is still leaving has read the file and keeps the directory."""
        with contextlib.suppress(OSError):
            os.unlink(self.path)

    def remove(self) -> None:
        """Leave nothing behind."""
        shutil.rmtree(self.directory, ignore_errors=True)


class _Answer:
    """Listens to nginx judging."""

    def __init__(self, status: asyncio.Future[int]) -> None:
        self.status = status
        self.lines: list[str] = []

    def on_line(self, stream: str, text: str, more: bool) -> None:
        self.lines = [*self.lines[-100:], text]

    def on_message(self, datagram: bytes) -> None:
        """There is nothing to notify."""

    def on_exit(self, status: int) -> None:
        if not self.status.done():
            self.status.set_result(status)
