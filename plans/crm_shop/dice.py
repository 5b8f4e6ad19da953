"""Chance that falls the same way on every machine.

Only `random.Random.random` is drawn from: of that one Python guarantees that a seed
gives the same numbers in every version.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from random import Random
from typing import TypeVar

_T = TypeVar("_T")


class Dice:
    """Draws that depend on nothing but what they are named after."""

    __slots__ = ("_draw",)

    def __init__(self, *name: object) -> None:
        self._draw = Random("/".join(map(str, name))).random  # noqa: S311 - is to be predictable

    def below(self, limit: int) -> int:
        """A number from 0 to `limit` - 1."""
        return int(self._draw() * limit)

    def between(self, lowest: int, highest: int) -> int:
        """A number from `lowest` to `highest`, both included."""
        return lowest + int(self._draw() * (highest - lowest + 1))

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self._draw() < probability

    def pick(self, items: Sequence[_T]) -> _T:
        """One of `items`."""
        return items[int(self._draw() * len(items))]


def uuid_of(*name: object) -> str:
    """A UUID that depends on nothing but `name`."""
    return str(uuid.UUID(bytes=_digest(name, 16), version=4))


def bytes_of(*name: object, size: int) -> bytes:
    """Bytes that no compression makes smaller, and that depend on nothing but `name`."""
    return _digest(name, size)


def _digest(name: tuple[object, ...], size: int) -> bytes:
    return hashlib.shake_128("/".join(map(str, name)).encode()).digest(size)
