"""The app of a scenario on the disk: a copy of its own, which is deployed anew, broken and mended."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

__all__ = ["APPS", "Code"]

APPS = Path(__file__).resolve().parent / "apps"
BROKEN = '\n\nraise RuntimeError("this deploy is broken")\n'


class Code:
    """The files that are served."""

    def __init__(self, directory: str, *modules: str) -> None:
        self.directory = Path(directory)
        self.version = "1"
        self._began = time.time()
        self._writes = 0
        for module in modules:
            shutil.copyfile(APPS / f"{module}.py", self.directory / f"{module}.py")

    def deploy(self, version: str) -> None:
        """Write both modules of the shop, whole, with another version in them."""
        self.version = version
        for module in ("shop", "shop_views"):
            text = (APPS / f"{module}.py").read_text()
            self._write(module, text.replace('VERSION = "1"', f'VERSION = "{version}"'))

    def damage(self, module: str) -> None:
        """From now on it cannot be imported."""
        self._write(module, (APPS / f"{module}.py").read_text() + BROKEN)

    def _write(self, module: str, text: str) -> None:
        # A compiled file is taken for one whose source has the same size and second of change: each its own second.
        self._writes += 1
        path = self.directory / f"{module}.py"
        new = path.with_suffix(".new")
        new.write_text(text)
        when = self._began + 2.0 * self._writes
        os.utime(new, (when, when))
        os.replace(new, path)
