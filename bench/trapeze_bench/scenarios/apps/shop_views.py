"""The views of `shop`: imported when they are first needed."""

from __future__ import annotations

VERSION = "1"
