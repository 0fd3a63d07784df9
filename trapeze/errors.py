"""Every error trapeze raises on purpose.

    TrapezeError                exit 1   the operation failed
    |-- ConfigError             exit 2   the file, the flags or the environment are wrong: a list of problems
    |-- BindError               exit 2   a listening socket could not be had
    |-- AlreadyRunning          exit 2   another instance bears this name
    |-- UnknownName             exit 2   a service or process that does not exist
    |-- StartFailed             exit 1   a service failed at its first start
    |-- NotRunning              exit 3   no supervisor there (the client says where it looked)
    |-- WaitTimeout             exit 4   what was asked for is under way, but not done in time
    `-- IllegalTransition       exit 1   a bug of ours: (state, event) that the table forbids

Each carries its exit code and, where there is one, a hint: what to do about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

__all__ = [
    "AlreadyRunning",
    "BindError",
    "ConfigError",
    "IllegalTransition",
    "NotRunning",
    "NothingKept",
    "Problem",
    "StartFailed",
    "TrapezeError",
    "UnknownName",
    "WaitTimeout",
]


class TrapezeError(Exception):
    """Base of all; `code` is the word the control API uses, `exit_code` what the command line ends with."""

    exit_code = 1
    code = "failed"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def render(self) -> str:
        """Message and, after it, the hint on a line of its own."""
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


class Problem(NamedTuple):
    """One thing that is wrong in the configuration."""

    path: str
    """Where, as `services.web.workers`; empty for the file as a whole."""
    reason: str
    """What is wrong, in one line."""
    hint: str = ""
    """What to do about it."""
    origin: str = ""
    """Where the value came from: `trapeze.toml`, `flag --workers`, `environment TRAPEZE_...`."""

    def __str__(self) -> str:
        where = ": ".join(part for part in (self.origin, self.path) if part)
        text = f"{where}: {self.reason}" if where else self.reason
        if not self.hint:
            return text
        # A traceback stands below, indented; a few words follow on the line.
        lines = self.hint.rstrip("\n").split("\n")
        return f"{text}, {self.hint}" if len(lines) == 1 else "\n    ".join([text, *lines])


class ConfigError(TrapezeError):
    """The configuration has problems; all of them are in `problems`."""

    exit_code = 2
    code = "config"

    def __init__(self, problems: Sequence[Problem], *, partial: object = None) -> None:
        """`partial`: the configuration (a `config.Resolved`) as far as it could be understood, to look for more."""
        self.problems = tuple(problems)
        self.partial = partial
        super().__init__("\n".join(str(problem) for problem in self.problems))


class BindError(TrapezeError):
    """A listening socket could not be bound or adopted."""

    exit_code = 2
    code = "bind"


class AlreadyRunning(TrapezeError):
    """The control socket of this instance is answered by a live supervisor."""

    exit_code = 2
    code = "already_running"


class UnknownName(TrapezeError):
    """No service or process of that name."""

    exit_code = 2
    code = "unknown"


class NothingKept(TrapezeError):
    """There is no earlier generation to go back to."""

    code = "nothing_kept"


class StartFailed(TrapezeError):
    """A service failed at its very first start; `output` holds its traceback or last lines."""

    code = "start_failed"

    def __init__(self, message: str, *, output: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.output = output


class NotRunning(TrapezeError):
    """No supervisor answers."""

    exit_code = 3
    code = "not_running"


class WaitTimeout(TrapezeError):
    """The operation goes on, but did not settle within the time asked for."""

    exit_code = 4
    code = "timeout"


class IllegalTransition(TrapezeError):
    """An event that the state table does not allow: always a bug in trapeze."""

    code = "bug"
