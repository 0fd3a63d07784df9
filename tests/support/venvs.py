"""Other interpreters, and environments with a few packages in them, made without a network."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

__all__ = ["interpreter", "make_venv", "needed_by", "put_packages"]


@functools.cache
def _runs(path: str) -> str:
    """Version of a Python as "3.12"; "" if it is none that runs."""
    try:
        code = "import sys; print('%d.%d' % sys.version_info[:2])"
        done = subprocess.run([path, "-c", code], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def interpreter(version: str) -> str:
    """Return the path of a Python of that version, "3.12"; skips the test where there is none."""
    on_path = [found for found in [shutil.which(f"python{version}")] if found]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    built = [str(path) for path in sorted(pyenv.glob(f"versions/{version}.*/bin/python"))]
    for path in (*on_path, *built):
        if _runs(path) == version:  # pyenv puts names on the PATH that only say that they are switched off
            return path
    pytest.skip(f"there is no Python {version} here")


def needed_by(*names: str) -> set[str]:
    """The distributions of this environment that these need, themselves included."""
    found: set[str] = set()
    ahead = list(names)
    while ahead:
        name = ahead.pop().lower().replace("_", "-")
        if name in found:
            continue
        found.add(name)
        for text in metadata.requires(name) or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                ahead.append(requirement.name)
    return found


def put_packages(directory: Path, *names: str) -> None:
    """Copy distributions of this environment, with all that they need, as an installer would have put them."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in needed_by(*names):
        for file in metadata.files(name) or ():
            if file.parts[0] == ".." or "__pycache__" in file.parts:
                continue  # scripts: they are not used
            target = directory / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(Path(str(file.locate())), target)


def make_venv(directory: Path, *names: str) -> Path:
    """Make a virtual environment of this Python with these distributions and what they need in it, and nothing else."""
    venv.create(directory, with_pip=False, symlinks=True)
    minor = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    put_packages(directory / "lib" / minor / "site-packages", *names)
    return directory
