"""Which differences are known already, from one comparison of a route to the next.

What was told is noted in the source, so that a process that was started again does not
tell it as new.  Names of rows are hashes of their keys.  Whoever reads them could try keys
out, so rows whose name would say something of a masked column are known only in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cdc.connect import Connection
from plans.routes import Route
from toolkit.differences import Way, as_dict
from validators.results import Difference, TableResult

KNOWN_MAX: Final = 100_000
"""Rows of a route that are told apart; beyond them it is only counted how many there are."""
EXAMPLES_MAX: Final = 5


@dataclass(frozen=True, slots=True)
class News:
    """What a comparison of a route brought that was not known before."""

    new: frozenset[bytes]
    closed: frozenset[bytes]  # differed before, and do not any more
    open: int


@dataclass(slots=True)
class OpenDifferences:
    """A sink of a comparison that goes on and on; it holds no values."""

    masked: bool = False  # it is given keys as they are, and keeps their hashes
    _known: dict[str, frozenset[bytes]] = field(default_factory=dict)
    _now: dict[str, set[bytes]] = field(default_factory=dict)

    def begin(self, way: Way) -> None:
        """A comparison of the route begins."""
        self._now[way.route.id] = set()

    def take(self, way: Way, differences: Sequence[Difference]) -> None:
        """Note which rows differ."""
        now = self._now[way.route.id]
        for one in differences[: KNOWN_MAX - len(now)]:
            named = repr((one.key, one.row_hash)).encode()
            now.add(hashlib.blake2b(named, digest_size=16).digest())

    def news(self, result: TableResult) -> News:
        """What is new, once the comparison has ended.

        One that came to no end closes nothing: it has not looked at everything.
        """
        known = self._known.get(result.route, frozenset())
        now = frozenset(self._now.get(result.route, ()))
        if result.reason:
            now = now | known
        self._known[result.route] = now
        return News(new=now - known, closed=known - now, open=len(now))

    def recall(self, source: Connection, split: str, routes: Iterable[Route]) -> None:
        """Know what another process has told of these routes."""
        for route in routes:
            names = source.execute(
                "SELECT name FROM dbsplit.told_difference WHERE split = %s AND route = %s",
                [split, route.id],
            ).fetchall()
            self._known[route.id] = frozenset(bytes(name) for (name,) in names)


def note_told(source: Connection, split: str, route: Route, news: News) -> None:
    """Note it, after it was told: one that is killed in between tells it again."""
    is_masked = route.masked & set(route.key) if route.key else route.masked
    if is_masked:
        return
    with source.transaction():
        source.execute(
            "DELETE FROM dbsplit.told_difference"
            " WHERE split = %s AND route = %s AND name = ANY (%s)",
            [split, route.id, list(news.closed)],
        )
        source.execute(
            "INSERT INTO dbsplit.told_difference (split, route, name)"
            " SELECT %s, %s, unnest(%s::bytea[]) ON CONFLICT DO NOTHING",
            [split, route.id, list(news.new)],
        )


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
