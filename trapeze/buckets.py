"""Into which buckets waiting times are counted: by each worker, on the scoreboard, in `status` and in the metrics."""

from __future__ import annotations

__all__ = ["bucket_end"]


def bucket_end(place: int) -> float:
    """Return below how many seconds the times of this bucket are, the first being 0; each goes twice as far as the one
    before. The last bucket has no end: it takes what all others have not."""
    return 2.0 ** (place - 15)
