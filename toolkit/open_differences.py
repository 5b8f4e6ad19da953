"""Which differences are known already, from one comparison of a route to the next."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from toolkit.differences import Way, as_dict
from validators.results import Difference, TableResult

KNOWN_MAX: Final = 100_000
"""Rows of a route that are told apart; beyond them it is only counted how many there are."""
EXAMPLES_MAX: Final = 5


@dataclass(frozen=True, slots=True)
class News:
    """What a comparison of a route brought that was not known before."""

    new: int
    closed: int  # differed before, and do not any more
    open: int


@dataclass(slots=True)
class OpenDifferences:
    """A sink of a comparison that goes on and on; it holds no values."""

    masked: bool = False  # it is given keys as they are, and keeps their hashes
    _salt: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    _known: dict[str, set[bytes]] = field(default_factory=dict)
    _now: dict[str, set[bytes]] = field(default_factory=dict)

    def begin(self, way: Way) -> None:
        """A comparison of the route begins."""
        self._now[way.route.id] = set()

    def take(self, way: Way, differences: Sequence[Difference]) -> None:
        """Note which rows differ."""
        now = self._now[way.route.id]
        for one in differences[: KNOWN_MAX - len(now)]:
            named = repr((one.key, one.row_hash)).encode()
            now.add(hashlib.blake2b(named, digest_size=16, key=self._salt).digest())

    def news(self, result: TableResult) -> News:
        """What is new, once the comparison has ended.

        One that came to no end closes nothing: it has not looked at everything.
        """
        known, now = self._known.get(result.route, set()), self._now.get(result.route, set())
        if result.reason:
            now = now | known
        self._known[result.route] = now
        return News(new=len(now - known), closed=len(known - now), open=len(now))


@dataclass(slots=True)
class Examples:
    """A sink that holds the first differences of each route, as they may be shown."""

    masked: bool = True
    by_route: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def begin(self, way: Way) -> None:
        """Begin a list."""
        self.by_route[way.route.id] = []

    def take(self, way: Way, differences: Sequence[Difference]) -> None:
        """Hold some."""
        held = self.by_route[way.route.id]
        held += [as_dict(way, one.shortened()) for one in differences[: EXAMPLES_MAX - len(held)]]
