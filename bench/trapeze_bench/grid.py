"""Text tables for a terminal: aligned, whole, in several narrow ones where one would be too wide. Pure.

Nothing is ever cut: a number that is not there cannot be believed, and one of which half is there will be.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Column", "bar", "grid", "wrapped"]

GAP = "  "
EIGHTHS = " ▏▎▍▌▋▊▉"


class Column(NamedTuple):
    """A column: its head may have several lines."""

    head: str
    cells: Sequence[str]
    left: bool = False
    """Words: aligned at the left; numbers are at the right."""

    @property
    def lines(self) -> list[str]:
        """Of the head."""
        return self.head.split("\n")

    @property
    def width(self) -> int:
        """Of the longest cell."""
        return max(map(len, [*self.lines, *self.cells]), default=0)


def grid(names: Column, columns: Sequence[Column], width: int) -> str:
    """A table whose first column are the names; the others are spread over as many tables as the width makes needed."""
    room = width - names.width
    blocks = _blocks(columns, room, len(columns))
    even = math.ceil(len(columns) / max(len(blocks), 1))
    more = _blocks(columns, room, even)
    blocks = more if len(more) == len(blocks) else blocks
    return "\n\n".join(_block([names, *block]) for block in blocks or [[]])


def _blocks(columns: Sequence[Column], room: int, most: int) -> list[list[Column]]:
    blocks: list[list[Column]] = []
    used = room
    for column in columns:
        needed = len(GAP) + column.width
        if used + needed > room or len(blocks[-1]) >= most:
            blocks.append([])
            used = 0
        blocks[-1].append(column)
        used += needed
    return blocks


def _block(columns: Sequence[Column]) -> str:
    height = max(len(column.lines) for column in columns)
    rows = [[([""] * height + column.lines)[-height:][number] for column in columns] for number in range(height)]
    rows = [row for row in rows if any(row)]
    rows += [[column.cells[number] for column in columns] for number in range(len(columns[0].cells))]
    return "\n".join(
        GAP.join(
            cell.ljust(column.width) if column.left else cell.rjust(column.width)
            for cell, column in zip(row, columns, strict=True)
        ).rstrip()
        for row in rows
    )


def bar(value: float, greatest: float, cells: int) -> str:
    """A bar of at most so many cells, to an eighth of one."""
    if greatest <= 0 or cells <= 0:
        return ""
    eighths = round(8 * cells * max(0.0, min(1.0, value / greatest)))
    return ("█" * (eighths // 8) + EIGHTHS[eighths % 8]).rstrip()


def wrapped(text: str, width: int, mark: str = "", hang: int = 0) -> str:
    """A paragraph; further lines stand below the first word, not below its mark, or `hang` blanks from the edge."""
    return textwrap.fill(
        text,
        max(width, 20),
        initial_indent=mark,
        subsequent_indent=" " * (hang or len(mark)),
        break_long_words=False,
        break_on_hyphens=False,
    )
