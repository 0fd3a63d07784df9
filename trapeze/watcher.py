"""`python -m trapeze.watcher DIR...`: prints a line for each batch of changed source files. A process of its own.

A process, because the library's watching thread does not belong into the supervisor (R5), and because a watch that
breaks must not break anything else.
"""

from __future__ import annotations

import os
import sys

__all__ = ["main"]


def main(directories: list[str]) -> None:
    """Watch until killed. Prints the changed paths, relative to the first directory, joined by commas."""
    import watchfiles

    base = directories[0]
    for changes in watchfiles.watch(*directories, watch_filter=watchfiles.PythonFilter(), step=50, debounce=400):
        names = sorted({os.path.relpath(path, base) for _change, path in changes})
        print(", ".join(names), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
