"""Tiles whose areas are proportional to weights: the squarified treemap.

M. Bruls, K. Huizing, J. van Wijk: Squarified Treemaps (2000).  Rows of tiles are filled
along the shorter side as long as that makes them more like squares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rect:
    """A rectangle, from its upper left corner."""

    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """The right edge."""
        return self.x + self.width

    @property
    def bottom(self) -> float:
        """The lower edge."""
        return self.y + self.height

    @property
    def center(self) -> tuple[float, float]:
        """The middle."""
        return self.x + self.width / 2, self.y + self.height / 2

    def inset(self, left: float, top: float, right: float, bottom: float) -> Rect:
        """What is left of it within margins; never less than nothing."""
        width, height = self.width - left - right, self.height - top - bottom
        return Rect(self.x + left, self.y + top, max(width, 0.0), max(height, 0.0))

    def meets(self, other: Rect) -> bool:
        """Whether both have a point inside in common."""
        return (
            self.x < other.right
            and other.x < self.right
            and self.y < other.bottom
            and other.y < self.bottom
        )


def treemap(weights: Sequence[float], room: Rect) -> list[Rect]:
    """A tile for each weight, in the order given; together they fill the room.

    The same weights give the same tiles.  ValueError for a weight that is not above zero.
    """
    if any(weight <= 0 for weight in weights):
        raise ValueError("a tile needs a weight above zero")
    if not weights:
        return []
    scale = room.width * room.height / sum(weights)
    order = sorted(range(len(weights)), key=lambda number: (-weights[number], number))
    # Room for nothing gives tiles without a size, side by side.
    areas = [weights[number] * (scale or 1.0) for number in order]
    tiles: list[Rect] = []
    while len(tiles) < len(areas):
        row = _row(areas[len(tiles) :], min(room.width, room.height)) if scale > 0 else areas
        # What is left over at the end goes to the last row, or rounding would show.
        is_last = len(tiles) + len(row) == len(areas)
        placed, room = _place(row, room, fill=is_last)
        tiles += placed
    found = dict(zip(order, tiles, strict=True))
    return [found[number] for number in range(len(weights))]


def _row(areas: Sequence[float], side: float) -> Sequence[float]:
    """As many of the areas as make a row whose worst tile is best."""
    best = 1
    while best < len(areas) and _worst(areas[: best + 1], side) <= _worst(areas[:best], side):
        best += 1
    return areas[:best]


def _worst(row: Sequence[float], side: float) -> float:
    """The row's most stretched tile: longer by shorter side."""
    thickness = sum(row) / side if side > 0 else 0.0
    if thickness <= 0:
        return float("inf")
    lengths = (area / thickness for area in row)
    return max(max(length / thickness, thickness / length) for length in lengths)


def _place(row: Sequence[float], room: Rect, *, fill: bool) -> tuple[list[Rect], Rect]:
    """The row at the shorter side of the room, and the room that is left."""
    is_column = room.width >= room.height
    side = room.height if is_column else room.width
    thickness = sum(row) / side if side > 0 else 0.0
    if fill:
        thickness = room.width if is_column else room.height
    tiles, at = [], 0.0
    for area in row:
        length = side * area / sum(row)
        tiles.append(
            Rect(room.x, room.y + at, thickness, length)
            if is_column
            else Rect(room.x + at, room.y, length, thickness)
        )
        at += length
    left = room.inset(thickness, 0, 0, 0) if is_column else room.inset(0, thickness, 0, 0)
    return tiles, left
