"""Golden pairs: NAME.toml in `golden/` and, in NAME.txt, all that is said about it, word for word.

`TRAPEZE_GOLDEN=write pytest tests/unit/test_config_golden.py` writes the texts anew; then read the difference.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from trapeze.config import load
from trapeze.errors import ConfigError

GOLDEN = Path(__file__).parent / "golden"
NAMES = sorted(path.stem for path in GOLDEN.glob("*.toml"))


@pytest.mark.parametrize("name", NAMES)
def test_all_problems_are_said(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # a copy: root reads no file that others can write, and who owns the checkout is not ours to know
    shutil.copyfile(GOLDEN / f"{name}.toml", tmp_path / "trapeze.toml")
    (tmp_path / "trapeze.toml").chmod(0o644)
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ConfigError) as caught:
        load("trapeze.toml", environ={})

    text = caught.value.message + "\n"
    expected = GOLDEN / f"{name}.txt"
    if os.environ.get("TRAPEZE_GOLDEN") == "write":
        expected.write_text(text)
    assert text == expected.read_text()


def test_every_text_has_its_file() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(NAMES)
