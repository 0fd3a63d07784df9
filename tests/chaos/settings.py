"""How long, which seed, which backends: from the environment, as `make chaos SECONDS=60 SEED=n` sets it."""

from __future__ import annotations

import os
import random

__all__ = ["DUMP", "LONG", "ONLY", "REPORTS", "ROUNDS", "SECONDS", "SEED"]

LONG = bool(os.environ.get("CHAOS_SECONDS"))
"""Was it asked for? Else this is the short run within all tests."""

SECONDS = float(os.environ.get("CHAOS_SECONDS") or 4)
"""Operations are dealt for so long to each group of backends, but one whole round at least."""

_RUN = os.environ.get("PYTEST_XDIST_TESTRUNUID", "")
SEED = int(os.environ.get("CHAOS_SEED") or (int(_RUN[:8], 16) if _RUN else random.randrange(1_000_000)))
"""The same in all processes of one run: they share out the operations by it."""

ROUNDS = 200 if LONG else 24
"""Rounds of the test that looks for descriptors that stay open."""

ONLY = os.environ.get("CHAOS_ONLY", "").split()
"""Names of backends; all if there are none."""

DUMP = os.environ.get("CHAOS_DUMP", "")
"""A directory for all that is known of each run: operations, transitions, requests that were lost."""

REPORTS: list[str] = []
"""What the end of the run shows."""
