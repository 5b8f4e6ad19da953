"""Pass 2: the keys in differing buckets whose rows are not the same.

Both sides send the rows of these buckets in the order of the buckets, and they
are merged one bucket at a time.  Keys come as text, as their columns' output
functions write it, so no order or equality of the database takes part.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from typing import Any

from psycopg import sql

from cdc.connect import Connection
from validators.canonical import Hashing
from validators.evidence import Found, merge
from validators.fingerprint import Extent, from_table
from validators.session import Cursor, Ends, pinned
from validators.sides import Key, Pair, Side

ROWS_PER_FETCH = 5_000
_CURSOR = sql.Identifier("dbsplit_candidates")


@dataclass(frozen=True, slots=True)
class Extents:
    """Both tables."""

    leader: Extent
    follower: Extent

    def of(self, pair: Pair, side: Side) -> Extent:
        """The extent of one of the pair's sides."""
        return self.leader if side is pair.leader else self.follower


@dataclass(frozen=True, slots=True)
class Batch:
    """Candidates, and the buckets that were not looked into for want of room."""

    keys: tuple[Key, ...]
    left: tuple[int, ...]


def read_candidates(
    ends: Ends, pair: Pair, extents: Extents, *, differing: tuple[int, ...], buckets: int, most: int
) -> Batch:
    """Candidates from the first of the `differing` buckets, which come ascending.

    Stops at the end of the bucket in which the number of candidates reaches `most`.
    """
    with ExitStack() as stack:

        def start(connection: Connection, side: Side) -> Iterator[Found]:
            cursor = stack.enter_context(pinned(connection, side.schemas))
            declare = _declare(side, ends.hashing, extents.of(pair, side), buckets)
            cursor.execute(declare, [list(differing)])
            pages = _pages(cursor)
            first = next(pages, [])  # here, so that both sides scan and sort at the same time
            return _found(chain([first], pages), keyed=bool(side.key))

        keys: list[Key] = []
        for bucket, differ in merge(*ends.both(start, pair)):
            ends.check()
            keys += differ
            if len(keys) >= most:
                return Batch(tuple(keys), tuple(n for n in differing if n > bucket))
        return Batch(tuple(keys), ())


def _declare(side: Side, hashing: Hashing, extent: Extent, buckets: int) -> sql.Composed:
    bucket = side.bucket(hashing, buckets)
    return sql.SQL(
        "DECLARE {cursor} NO SCROLL CURSOR FOR SELECT {bucket} AS b, {hash} AS h, {rest}"
        " FROM {table} WHERE {where} AND {bucket} = ANY($1::int4[]) {group} ORDER BY 1"
    ).format(
        cursor=_CURSOR,
        bucket=bucket,
        hash=side.row_hash(hashing),
        rest=sql.SQL(", ").join([sql.SQL("1::int8"), *side.key_texts])
        if side.key
        else sql.SQL("count(*)"),
        table=from_table(side, extent),
        where=side.scanned,
        group=sql.SQL("" if side.key else "GROUP BY 1, 2"),
    )


def _pages(cursor: Cursor) -> Iterator[list[tuple[Any, ...]]]:
    fetch = sql.SQL("FETCH FORWARD {} FROM {}").format(ROWS_PER_FETCH, _CURSOR)
    while page := cursor.execute(fetch).fetchall():
        yield page


def _found(pages: Iterator[list[tuple[Any, ...]]], *, keyed: bool) -> Iterator[Found]:
    for page in pages:
        for bucket, hashed, rows, *key in page:
            yield bucket, tuple(key) if keyed else (str(hashed),), hashed, rows
