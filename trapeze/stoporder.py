"""Which services a web service waits for when all stop. Pure; for who stops them, and who reckons how long it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

__all__ = ["Place", "follows_web"]


class Place(Struct, frozen=True):
    """A service, as far as it matters here."""

    web: bool
    after: Sequence[str]
    """Services that have to be there before it, and stop after it."""


def follows_web(name: str, places: Mapping[str, Place]) -> bool:
    """Does the named service come `after` a web service, be it by way of others? Then that waits for it to leave."""
    seen, ahead = {name}, list(places[name].after)
    while ahead:
        other = ahead.pop()
        if other in seen or other not in places:
            continue
        seen.add(other)
        if places[other].web:
            return True
        ahead += places[other].after
    return False
