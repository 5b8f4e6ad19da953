"""Many small tables at once: all of a group by one statement on each side.

Two thousand tables one after the other would be ten thousand round trips.  What is not
equal at a glance, or cannot be read with the others, is compared for itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from psycopg import sql

from cdc.connect import Connection
from validators.fingerprint import Extent, Extents, from_table, read_extents
from validators.session import Ends, read_row
from validators.sides import Pair, Side
from validators.units import MODULUS

ROWS_MAX = 20_000  # of a table that is looked at with others
GROUP_ROWS_MAX = 200_000
GROUP_TABLES_MAX = 100


@dataclass(frozen=True, slots=True)
class Glance:
    """What one look at a table brought."""

    rows: int  # of the leader
    total: int  # of its rows' hashes
    equal: bool


def small_groups(ends: Ends, pairs: Sequence[Pair]) -> list[list[tuple[Pair, Extents]]]:
    """Those of the pairs that are small, in groups that are looked at together."""
    leaders = _extents(ends.leader, [pair.leader for pair in pairs])
    followers = _extents(ends.follower, [pair.follower for pair in pairs])
    groups: list[list[tuple[Pair, Extents]]] = []
    paths: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
    held = 0
    for pair, leader, follower in zip(pairs, leaders, followers, strict=True):
        if leader is None or follower is None:
            continue
        rows = max(leader.rows_estimated, follower.rows_estimated)
        if rows > ROWS_MAX:
            continue
        path = (pair.leader.schemas, pair.follower.schemas)
        full = bool(groups) and (
            len(groups[-1]) == GROUP_TABLES_MAX or held + rows > GROUP_ROWS_MAX
        )
        if not groups or full or paths[-1] != path:
            groups.append([])
            paths.append(path)
            held = 0
        groups[-1].append((pair, Extents(leader, follower)))
        held += rows
    return [group for group in groups if len(group) > 1]


def glance(ends: Ends, group: Sequence[tuple[Pair, Extents]]) -> list[Glance]:
    """Look at all tables of a group once, in its order."""

    def read(connection: Connection, side: Side) -> Sequence[tuple[int, int]]:
        leads = side is group[0][0].leader
        sides = [
            (pair.leader, extents.leader) if leads else (pair.follower, extents.follower)
            for pair, extents in group
        ]
        return _totals(ends, connection, sides)

    ours, theirs = ends.both(read, group[0][0])
    return [
        Glance(rows, total, equal=(rows, total) == other)
        for (rows, total), other in zip(ours, theirs, strict=True)
    ]


def _totals(
    ends: Ends, connection: Connection, sides: Sequence[tuple[Side, Extent]]
) -> list[tuple[int, int]]:
    looks = [
        sql.SQL(
            "SELECT {number}::int8 AS i, count(*) AS n,"
            " coalesce(pg_catalog.mod(sum(h), {modulus}), 0)::int8 AS s"
            " FROM (SELECT {hash} AS h FROM {table} WHERE {where} OFFSET 0) AS r"
        ).format(
            number=sql.Literal(number),
            modulus=sql.Literal(MODULUS),
            hash=side.row_hash(ends.hashing),
            table=from_table(side, extent),
            where=side.scanned,
        )
        for number, (side, extent) in enumerate(sides)
    ]
    query = sql.SQL(
        "SELECT pg_catalog.array_agg(n ORDER BY i), pg_catalog.array_agg(s ORDER BY i)"
        " FROM ({}) AS g"
    ).format(sql.SQL(" UNION ALL ").join(looks))
    rows, totals = read_row(connection, sides[0][0].schemas, query, {})
    return list(zip(rows.numbers(), totals.numbers(), strict=True))


def _extents(connection: Connection, sides: Iterable[Side]) -> Iterator[Extent | None]:
    yield from read_extents(connection, tuple(sides))
