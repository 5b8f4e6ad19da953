"""Comparing tables whose key begins with an integer: unit by unit, chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from psycopg import sql

from cdc.connect import Connection
from validators.arrays import Integers
from validators.candidates import Extents
from validators.fingerprint import Extent, from_table
from validators.session import Ends, Reader, read_row
from validators.sides import Key, Pair, Side
from validators.units import (
    MODULUS,
    Chunks,
    Span,
    Unit,
    differing,
    differing_rows,
    drilled,
    in_groups,
    plan_units,
)

CORRELATION_MIN = 0.8
"""Below it rows lie about at random, and each unit would read most of the table."""
ROWS_PER_LEADING_VALUE_MAX = 1_000
"""Of a key of several columns; rows of one leading value are always opened together."""
BY_RANGE = {
    # A unit's estimate may be wrong by far; reading the whole table for each is what must not be.
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "max_parallel_workers_per_gather": "0",  # applications need the cores
}


_GROUPED = (
    "SELECT array_agg(b), array_agg(n), array_agg(s) FROM"
    " (SELECT b, count(*) AS n, mod(sum(h), {modulus})::int8 AS s FROM"
    " (SELECT {key}::int8 >> {shift} AS b, {hash} AS h FROM {table} WHERE {where} AND {bounds}"
    " OFFSET 0) AS r GROUP BY b) AS g"
)
# To look each chunk up in the index costs a fifth of what grouping the rows by chunk does.
_CHUNK_BY_CHUNK = (
    "SELECT array_agg(c.b), array_agg(g.n), array_agg(g.s)"
    " FROM generate_series({first}::int8, {last}::int8) AS c(b) CROSS JOIN LATERAL"
    " (SELECT count(*) AS n, mod(sum(h), {modulus})::int8 AS s FROM"
    " (SELECT {hash} AS h FROM {table} WHERE {where} AND {bounds}"
    " AND {key} >= (c.b << {shift}) AND {key} <= (c.b << {shift}) + ((1::int8 << {shift}) - 1)"
    " OFFSET 0) AS r) AS g WHERE g.n > 0"
)


@dataclass(frozen=True, slots=True)
class Spread:
    """How one side's rows are spread over the first column of the key."""

    first: int | None
    last: int | None
    fences: tuple[int, ...]
    correlation: float
    rows_per_value: float
    nulls: bool


@dataclass(frozen=True, slots=True)
class Opened:
    """Rows of some spans."""

    keys: Integers  # the first column
    hashes: Integers
    rest: tuple[Sequence[str | None], ...]  # the other columns of the key

    def key(self, row: int) -> Key:
        """The key of one of the rows."""
        return (str(int(self.keys[row])), *(column[row] for column in self.rest))


def units_of(ends: Ends, pair: Pair, extents: Extents, rows_per_unit: int) -> list[Unit] | None:
    """The units to compare by; None if the table has to be compared in another way."""
    leading = [side.key[0] for side in (pair.leader, pair.follower) if side.key]
    ranged = extents.leader.ranged and extents.follower.ranged
    rows = max(extents.leader.rows_estimated, extents.follower.rows_estimated)
    if rows < rows_per_unit or not ranged or not all(column.is_integer for column in leading):
        return None

    def read(connection: Connection, side: Side) -> Spread:
        return _read_spread(connection, side, extents.of(pair, side))

    return _planned(*ends.both(read, pair), rows, rows_per_unit)


def _planned(leader: Spread, follower: Spread, rows: int, rows_per_unit: int) -> list[Unit] | None:
    for spread in (leader, follower):
        if spread.nulls or abs(spread.correlation) < CORRELATION_MIN:
            return None
        if spread.rows_per_value > ROWS_PER_LEADING_VALUE_MAX:
            return None
    ends = [n for s in (leader, follower) for n in (s.first, s.last) if n is not None]
    if not ends:
        return None
    fences = leader.fences if len(leader.fences) > 2 else ()
    return plan_units(rows, [min(ends), *fences, max(ends)], rows_per_unit)


def read_chunks(reader: Reader, side: Side, extent: Extent, unit: Unit) -> Chunks:
    """One unit's fingerprint on one side."""
    columns = {
        "modulus": sql.Literal(MODULUS),
        "key": side.key[0].searched,
        "shift": sql.Literal(unit.shift),
        "hash": side.row_hash(reader.hashing),
        "table": from_table(side, extent),
        "where": side.scanned,
        "bounds": _bounds(side.key[0].searched, unit),
    }
    if unit.lower is None or unit.upper is None:
        query = sql.SQL(_GROUPED).format(**columns)
    else:
        first, last = (sql.Literal(n >> unit.shift) for n in (unit.lower, unit.upper - 1))
        query = sql.SQL(_CHUNK_BY_CHUNK).format(**columns, first=first, last=last)
    return Chunks(*map(_integers, reader.row(side, query, BY_RANGE)))


def opened_keys(
    ends: Ends, pair: Pair, extents: Extents, unit: Unit, spans: Sequence[Span]
) -> Iterator[list[Key]]:
    """The keys in these spans of a unit whose rows are not the same on both sides."""
    for group in in_groups(spans):
        smaller = drilled(group[0]) if len(group) == 1 else None
        if smaller:
            yield from _drill(ends, pair, extents, smaller)
            continue

        def read(connection: Connection, side: Side, group: Sequence[Span] = group) -> Opened:
            reader = Reader(connection, ends.hashing)
            return _read_spans(reader, side, extents.of(pair, side), group)

        ours, theirs = ends.both(read, pair)
        mine, others = differing_rows((ours.keys, ours.hashes), (theirs.keys, theirs.hashes))
        found = [ours.key(row) for row in mine] + [theirs.key(row) for row in others]
        yield list(dict.fromkeys(found))


def _drill(ends: Ends, pair: Pair, extents: Extents, unit: Unit) -> Iterator[list[Key]]:
    def read(connection: Connection, side: Side) -> Chunks:
        return read_chunks(Reader(connection, ends.hashing), side, extents.of(pair, side), unit)

    spans = differing(*ends.both(read, pair), unit)
    yield from opened_keys(ends, pair, extents, unit, spans)


def _read_spans(reader: Reader, side: Side, extent: Extent, spans: Sequence[Span]) -> Opened:
    key = side.key[0].searched
    rest = side.key_texts[1:]
    names = [sql.Identifier(f"k{number}") for number in range(len(rest))]
    query = sql.SQL(
        "SELECT {arrays} FROM unnest({firsts}::int8[], {lasts}::int8[]) AS c(first, last)"
        " CROSS JOIN LATERAL (SELECT {columns} FROM {table}"
        " WHERE {where} AND {key} >= c.first AND {key} <= c.last OFFSET 0) AS r"
    ).format(
        arrays=_list([_array(n) for n in (sql.Identifier("k"), sql.Identifier("h"), *names)]),
        firsts=_numbers(span.first for span in spans),
        lasts=_numbers(span.last for span in spans),
        columns=_list(
            [
                sql.SQL("{}::int8 AS k").format(key),
                sql.SQL("{} AS h").format(side.row_hash(reader.hashing)),
                *(sql.SQL("{} AS {}").format(t, n) for t, n in zip(rest, names, strict=True)),
            ]
        ),
        table=from_table(side, extent),
        where=side.scanned,
        key=key,
    )
    keys, hashes, *texts = reader.row(side, query, BY_RANGE)
    return Opened(_integers(keys), _integers(hashes), tuple(text or () for text in texts))


def _read_spread(connection: Connection, side: Side, extent: Extent) -> Spread:
    query = sql.SQL(
        "SELECT (SELECT min({key})::int8 FROM {table}), (SELECT max({key})::int8 FROM {table}),"
        " EXISTS (SELECT FROM {table} WHERE {key} IS NULL), s.histogram_bounds::text::int8[],"
        " s.correlation, CASE WHEN s.n_distinct < 0 THEN -1 / s.n_distinct"
        " WHEN s.n_distinct > 0 THEN {rows} / s.n_distinct END"
        " FROM (VALUES (1)) AS one LEFT JOIN pg_stats AS s ON s.schemaname = {schema}"
        " AND s.tablename = {name} AND s.attname = {column} ORDER BY s.inherited DESC LIMIT 1"
    ).format(
        key=side.key[0].searched,
        table=from_table(side, extent),
        rows=sql.Literal(extent.rows_estimated),
        schema=sql.Literal(side.table.schema),
        name=sql.Literal(side.table.name),
        column=sql.Literal(side.key[0].plain),
    )
    first, last, nulls, fences, correlation, rows_per_value = read_row(
        connection, side.schemas, query, {}
    )
    several = len(side.key) > 1
    return Spread(
        first=first,
        last=last,
        fences=tuple(_integers(fences).tolist()),
        # Never analyzed: a key of one column is likely to lie in its order.
        correlation=correlation if correlation is not None else 0.0 if several else 1.0,
        rows_per_value=rows_per_value or 1.0,
        nulls=nulls,
    )


def _bounds(key: sql.Composable, unit: Unit) -> sql.Composed:
    terms: list[sql.Composable] = [sql.SQL("true")]
    if unit.lower is not None:
        terms.append(sql.SQL("{} >= {}::int8").format(key, sql.Literal(str(unit.lower))))
    if unit.upper is not None:
        terms.append(sql.SQL("{} < {}::int8").format(key, sql.Literal(str(unit.upper))))
    return sql.SQL(" AND ").join(terms)


def _integers(found: Integers | None) -> Integers:
    return np.empty(0, np.int64) if found is None else found  # array_agg() of no rows is NULL


def _numbers(numbers: Iterable[int]) -> sql.Literal:
    return sql.Literal("{" + ",".join(map(str, numbers)) + "}")


def _array(name: sql.Identifier) -> sql.Composed:
    return sql.SQL("array_agg(r.{})").format(name)


def _list(items: Sequence[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(items)
