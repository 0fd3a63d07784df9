"""The program that takes the place of another (`upgrade`), on the shortest way: clients wait at the control door.

Everything it goes on with is in the document. The command line matters at the next reload; it was understood by the
probe, and is read when that comes, or a moment after the door has opened. To import click and the verbs before would
cost a quarter of the time in which nobody answers.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, NoReturn

from trapeze.outset import fill_standard_descriptors, no_ssl, without

with without("typing_extensions"):  # which msgspec would import, for what is in `typing` by now
    from trapeze import takeover
    from trapeze.errors import TrapezeError

if TYPE_CHECKING:
    from trapeze.cli.run import CommandLine
    from trapeze.config import Resolved

__all__ = ["main"]


class _Later:
    """A command line that is read when it is needed."""

    def __init__(self) -> None:
        self._read: CommandLine | None = None

    def _understood(self) -> CommandLine:
        if self._read is None:
            from trapeze.cli.run import understood

            self._read = understood(sys.argv[1:])
        return self._read

    def load(self) -> Resolved:
        """Read the configuration."""
        return self._understood().load()

    def keep_going(self) -> bool:
        """Where the program before did not write it down."""
        return self._understood().keep_going

    def complete(self) -> None:
        """Read it now; what is wrong with it, the next reload says."""
        with contextlib.suppress(Exception):
            self._understood()


def main() -> NoReturn:
    """Take over, run to the end, exit."""
    fill_standard_descriptors()
    taken = takeover.begin(os.environ)
    assert taken is not None
    with no_ssl():
        from trapeze import foreground
    later = _Later()
    try:
        code = foreground.resume(later.load, *taken, later.keep_going, later.complete)
    except TrapezeError as error:
        from trapeze.cli.common import say_error

        code = say_error(error)
    sys.exit(code)
