"""What was ordered at run time and not by the file: a scale, a stop, a start.

An order is kept with the generation that it was given to, and goes over to the next one where the file says the same as
before. So how many processes are wanted follows from the generation that is wanted, and from nothing that a reload has
left behind: a reload that fails, and a rollback, give back what was so before.
"""

from __future__ import annotations

from collections.abc import Collection

from msgspec import Struct
from msgspec.structs import replace

from trapeze.generation import Generation
from trapeze.planner import Want

__all__ = ["Order", "Orders", "found_in"]


class Order(Struct, frozen=True, omit_defaults=True):
    """What holds instead of what the file says; None where the file holds."""

    workers: int | None = None
    enabled: bool | None = None


_NONE = Order()


class Orders:
    """Of one service, by generation."""

    def __init__(self) -> None:
        self.given: dict[int, Order] = {}

    def want(self, generation: Generation) -> Want:
        """What is wanted where this generation is wanted."""
        spec, order = generation.spec, self.given.get(generation.number, _NONE)
        count = spec.workers if order.workers is None else order.workers
        return Want(count, generation.number, spec.enabled if order.enabled is None else order.enabled)

    def scale(self, count: int, numbers: Collection[int]) -> None:
        """So many processes, whatever the file says."""
        for number in numbers:
            self.given[number] = replace(self.given.get(number, _NONE), workers=count)

    def switch(self, enabled: bool, numbers: Collection[int]) -> None:
        """Run, or do not, whatever the file says."""
        for number in numbers:
            self.given[number] = replace(self.given.get(number, _NONE), enabled=enabled)

    def hand_on(self, before: Generation, after: Generation) -> None:
        """`after` is wanted instead of `before`: an order stays, unless the file's own value is another now."""
        order, own = self.given.get(before.number, _NONE), self.given.get(after.number, _NONE)
        self.given[after.number] = Order(
            order.workers if before.spec.workers == after.spec.workers else own.workers,
            order.enabled if before.spec.enabled == after.spec.enabled else own.enabled,
        )

    def forget(self, known: Collection[int | None]) -> None:
        """Drop those of generations that are gone."""
        self.given = {number: order for number, order in self.given.items() if number in known}


def found_in(want: Want, generation: Generation) -> dict[int, Order]:
    """The orders that explain a `want`: for a state that was written by a version that did not write them down."""
    spec = generation.spec
    order = Order(
        want.count if want.count != spec.workers else None, want.enabled if want.enabled != spec.enabled else None
    )
    return {want.generation: order} if order != _NONE else {}
