"""From a configuration to a running supervisor and back to an exit code. The order of things at start-up lives here.

Checks that need another interpreter run beside the binding and beside our own imports; the control door is imported
when the workers are already on their way.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence

from trapeze import early, takeover, verify
from trapeze.config import Resolved
from trapeze.errors import ConfigError
from trapeze.outset import fill_standard_descriptors, no_ssl
from trapeze.preflight import examine
from trapeze.runtime import claim
from trapeze.sockets import ListenSocket, open_sockets, systemd_sockets

__all__ = ["run"]


def run(load: Callable[[], Resolved], *, keep_going: bool = False) -> int:
    """Run until everything has stopped. Return the exit code.

    Args:
        load: reads the configuration; called again at each reload.
        keep_going: go on when a service fails at its first start.

    Raises:
        TrapezeError: it could not start (nothing is left), or a service failed at its first start.
    """
    fill_standard_descriptors()
    if (taken := takeover.begin(os.environ)) is not None:
        with no_ssl():
            from trapeze import foreground
        memfd, kind = taken
        return foreground.probe(memfd) if kind == "probe" else foreground.resume(load, memfd, kind, lambda: keep_going)
    with _early_signals() as started, contextlib.ExitStack() as undo:
        resolved = load()
        problems = examine(resolved)
        if problems:
            raise ConfigError(problems)
        with started.postponed():
            checks = verify.begin(resolved)
            undo.callback(lambda: verify.cancel(checks))
            claimed = claim(resolved.config.name, resolved.config.control)
            undo.callback(claimed.release)
            sockets = _bind(resolved, undo)
        # asyncio and the machine take as long to import as the checks take to answer.
        with no_ssl():
            from trapeze import foreground
        problems = verify.end(checks)
        checks.clear()
        if problems:
            raise ConfigError(problems)
        return foreground.run(load, resolved, sockets, claimed, keep_going)


class _Early:
    """Until the loop listens, TERM, INT and QUIT end the start by an exception, so that what was opened is closed."""

    def __init__(self) -> None:
        self._postponed = False
        self._code: int | None = None

    def leave(self, signum: int, _frame: object) -> None:
        """Obey at once, or at the end of `postponed`; a second signal must not disturb the undoing."""
        first, self._code = self._code is None, 0
        if first and not self._postponed:
            raise SystemExit(self._code)

    @contextlib.contextmanager
    def postponed(self) -> Iterator[None]:
        """What is opened here and what closes it again come together: nothing in between."""
        self._postponed = True
        yield
        self._postponed = False
        if self._code is not None:
            raise SystemExit(self._code)


@contextlib.contextmanager
def _early_signals() -> Iterator[_Early]:
    found = _Early()
    before = {signum: signal.signal(signum, found.leave) for signum in early.ENDING}
    before |= {signum: signal.signal(signum, early.ignore) for signum in early.HARMLESS}
    try:
        yield found
    finally:
        for signum, handler in before.items():
            # We are leaving, and the exit code says how it went. Python's own end takes handlers back, not SIG_IGN.
            signal.signal(signum, signal.SIG_IGN if handler in (early.leave, early.ignore) else handler)


def _bind(resolved: Resolved, undo: contextlib.ExitStack) -> Mapping[str, Sequence[ListenSocket]]:
    inherited = systemd_sockets(os.environ, os.getpid())
    sockets: dict[str, Sequence[ListenSocket]] = {}
    for name, spec in resolved.config.sockets.items():
        sockets[name] = open_sockets(name, spec, systemd=inherited)
        for held in sockets[name]:
            undo.callback(held.close)
    return sockets
