"""The nginx in front: what it has to be told (`site`, `text`, `whole`), and how it is told (`tool`, `generated`)."""

from __future__ import annotations

__all__: list[str] = []
