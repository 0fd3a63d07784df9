"""The `trapeze` command; also `python -m trapeze`."""

from __future__ import annotations

import gc
import os
from typing import NoReturn

from trapeze import early

__all__ = ["main"]


def main() -> NoReturn:
    """Run the command line and exit. Signals are obeyed from the first line on, before anything else is imported.

    The collector is off while modules are imported: it would look at every new object several times and find nothing, a
    sixth of the start-up time. The supervisor switches it on when it runs; client commands are over before it matters.
    """
    early.install()
    gc.disable()
    if os.environ.get("TRAPEZE_RESUME", "").isdecimal():  # the name and the form stand in `takeover`, a dear import
        from trapeze.successor import main as run
    else:
        from trapeze.outset import without

        with without("typing_extensions"):  # which msgspec would import, for what is in `typing` by now: 4 ms
            from trapeze.cli import main as run
    run()


if __name__ == "__main__":
    main()
