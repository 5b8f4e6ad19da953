"""Comparing tables whose key begins with an integer: unit by unit, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from psycopg import sql

from cdc.connect import Connection
from validators.fingerprint import Extent, Extents, from_table, read_chunks
from validators.session import Ends, Reader, read_row
from validators.sides import Key, Pair, Side
from validators.units import (
    MODULUS,
    ROWS_PER_PIECE,
    Chunks,
    Sizes,
    Span,
    Unit,
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


ROWS_PER_PIECE_MAX = 2 * ROWS_PER_PIECE
"""More than that, because keys are not spread evenly, is compared by chunks after all."""

BYTES_PER_PAIR = 16

_GROUPED = (
    "SELECT b, count(*) AS n, pg_catalog.mod(sum(h), {modulus})::int8 AS s FROM"
    " (SELECT {key}::int8 >> {shift} AS b, {hash} AS h FROM {table} WHERE {where} AND {bounds}"
    " OFFSET 0) AS r GROUP BY b ORDER BY b"
)
# To look each chunk up in the index costs a tenth of what grouping the rows by chunk does.
# The table goes by its own name within, so ours must not be one that it may have.
_CHUNK_BY_CHUNK = (
    "SELECT _dbsplit.b, g.n, g.s"
    " FROM generate_series({first}::int8, {last}::int8) AS _dbsplit(b) CROSS JOIN LATERAL"
    " (SELECT count(*) AS n, pg_catalog.mod(sum({hash}), {modulus})::int8 AS s"
    " FROM {table} WHERE {where} AND {bounds}"
    " AND {key} >= (_dbsplit.b << {shift})"
    " AND {key} <= (_dbsplit.b << {shift}) + ((1::int8 << {shift}) - 1)"
    ") AS g WHERE g.n > 0"
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

    rows: int
    pairs: bytes  # of each row the key's first column and the hash, as int8send() has them
    rest: tuple[Sequence[str | None], ...]  # the key's other columns


@dataclass(frozen=True, slots=True)
class Look:
    """What comparing a unit, or a piece of one, brought."""

    rows: int  # of the leader
    digest: int  # of their hashes
    sums: int  # how many sums of hashes, or hashes, were compared
    share: float  # of the rows, that lie in chunks that differ
    keys: Iterable[list[Key]]  # that differ; iterating reads more


def units_of(ends: Ends, pair: Pair, extents: Extents, sizes: Sizes) -> list[Unit] | None:
    """The units to compare by; None if the table has to be compared in another way."""
    leading = [side.key[0] for side in (pair.leader, pair.follower) if side.key]
    ranged = extents.leader.ranged and extents.follower.ranged
    rows = max(extents.leader.rows_estimated, extents.follower.rows_estimated)
    if rows < sizes.rows_per_unit or not ranged or not all(column.is_integer for column in leading):
        return None

    def read(connection: Connection, side: Side) -> Spread:
        return _read_spread(connection, side, extents.of(pair, side))

    return _planned(*ends.both(read, pair), rows, sizes)


def _planned(leader: Spread, follower: Spread, rows: int, sizes: Sizes) -> list[Unit] | None:
    for spread in (leader, follower):
        if spread.nulls or abs(spread.correlation) < CORRELATION_MIN:
            return None
        if spread.rows_per_value > ROWS_PER_LEADING_VALUE_MAX:
            return None
    ends = [n for s in (leader, follower) for n in (s.first, s.last) if n is not None]
    if not ends:
        return None
    fences = leader.fences if len(leader.fences) > 2 else ()
    return plan_units(rows, [min(ends), *fences, max(ends)], sizes)


def begin_chunks(ends: Ends, pair: Pair, extents: Extents, unit: Unit) -> Callable[[], Look]:
    """Begin to compare a unit by its chunks; what is returned waits for it."""

    def read(connection: Connection, side: Side) -> Chunks:
        reader = Reader(connection, ends.hashing)
        return _read_chunks(reader, side, extents.of(pair, side), unit)

    waiting = ends.begin(read, pair)

    def look() -> Look:
        ours, theirs = waiting()
        spans = _spans(ours, theirs, unit)
        return Look(
            rows=ours.total,
            digest=ours.digest,
            sums=ours.count,
            share=sum(span.rows for span in spans) / max(1, ours.total),
            keys=_opened(ends, pair, extents, unit, spans),
        )

    return look


def begin_rows(ends: Ends, pair: Pair, extents: Extents, piece: Unit) -> Callable[[], Look]:
    """Begin to compare a piece of a unit row by row; what is returned waits for it."""

    def read(connection: Connection, side: Side) -> Opened | None:
        reader = Reader(connection, ends.hashing)
        return _read_rows(reader, side, extents.of(pair, side), piece)

    waiting = ends.begin(read, pair)

    def look() -> Look:
        from validators.differing import digest_of_pairs, share_of_chunks

        ours, theirs = waiting()
        if ours is None or theirs is None:
            return begin_chunks(ends, pair, extents, piece)()
        keys = _unlike(ours, theirs)
        chunks = {int(key[0] or 0) >> piece.shift for key in keys}
        return Look(
            rows=ours.rows,
            digest=digest_of_pairs(ours.pairs),
            sums=ours.rows,
            share=share_of_chunks(ours.pairs, piece.shift, chunks),
            keys=[keys] if keys else [],
        )

    return look


def _spans(ours: Chunks, theirs: Chunks, unit: Unit) -> list[Span]:
    if ours == theirs:
        return []
    from validators.differing import differing_spans

    return differing_spans(ours, theirs, unit)


def _unlike(ours: Opened, theirs: Opened) -> list[Key]:
    """The keys of rows that the other side has not, or not as often."""
    if ours == theirs:
        return []
    from validators.differing import differing_rows, pairs

    (our_keys, _), (their_keys, _) = we, they = pairs(ours.pairs), pairs(theirs.pairs)
    mine, others = differing_rows(we, they)
    found: dict[Key, None] = {}
    for opened, keys, rows in ((ours, our_keys, mine), (theirs, their_keys, others)):
        for row in rows.tolist():
            found[str(int(keys[row])), *(column[row] for column in opened.rest)] = None
    return list(found)


def _read_chunks(reader: Reader, side: Side, extent: Extent, unit: Unit) -> Chunks:
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
        chunks = sql.SQL(_GROUPED).format(**columns)
    else:
        first, last = (sql.Literal(n >> unit.shift) for n in (unit.lower, unit.upper - 1))
        chunks = sql.SQL(_CHUNK_BY_CHUNK).format(**columns, first=first, last=last)
    return read_chunks(reader, side, chunks, BY_RANGE)


def _opened(
    ends: Ends, pair: Pair, extents: Extents, unit: Unit, spans: Sequence[Span]
) -> Iterator[list[Key]]:
    """The keys in these spans of a unit whose rows are not the same on both sides."""
    for group in in_groups(spans):
        smaller = drilled(group[0]) if len(group) == 1 else None
        if smaller:
            yield from begin_chunks(ends, pair, extents, smaller)().keys
            continue

        def read(connection: Connection, side: Side, group: Sequence[Span] = group) -> Opened:
            reader = Reader(connection, ends.hashing)
            return _read_spans(reader, side, extents.of(pair, side), group)

        yield _unlike(*ends.both(read, pair))


def _read_spans(reader: Reader, side: Side, extent: Extent, spans: Sequence[Span]) -> Opened:
    key = side.key[0].searched
    query = sql.SQL(
        "SELECT {arrays} FROM unnest({firsts}::int8[], {lasts}::int8[]) AS _dbsplit(first, last)"
        " CROSS JOIN LATERAL (SELECT {columns} FROM {table}"
        " WHERE {where} AND {key} >= _dbsplit.first AND {key} <= _dbsplit.last OFFSET 0) AS r"
    ).format(
        arrays=_arrays(side),
        firsts=_numbers(span.first for span in spans),
        lasts=_numbers(span.last for span in spans),
        columns=_columns(side, reader),
        table=from_table(side, extent),
        where=side.scanned,
        key=key,
    )
    return _as_opened(*reader.row(side, query, BY_RANGE))


def _read_rows(reader: Reader, side: Side, extent: Extent, piece: Unit) -> Opened | None:
    """All rows of a piece; None if they are too many."""
    query = sql.SQL(
        "SELECT {arrays} FROM"
        " (SELECT {columns} FROM {table} WHERE {where} AND {bounds} LIMIT {most}) AS r"
    ).format(
        arrays=_arrays(side),
        columns=_columns(side, reader),
        table=from_table(side, extent),
        where=side.scanned,
        bounds=_bounds(side.key[0].searched, piece),
        most=sql.Literal(ROWS_PER_PIECE_MAX + 1),
    )
    opened = _as_opened(*reader.row(side, query, BY_RANGE))
    return None if opened.rows > ROWS_PER_PIECE_MAX else opened


def _as_opened(rows: int, pairs: bytes | None, *texts: Sequence[str | None] | None) -> Opened:
    if rows * BYTES_PER_PAIR != len(pairs or b""):
        raise ValueError(f"{len(pairs or b'')} bytes are not the keys and hashes of {rows} rows")
    return Opened(rows, pairs or b"", tuple(text or () for text in texts))


def _arrays(side: Side) -> sql.Composed:
    """All rows in one; an array of each would cost twice as much as a string of bytes."""
    rest = [sql.Identifier(f"k{number}") for number in range(1, len(side.key))]
    return _list(
        [
            sql.SQL("count(*), string_agg(int8send(r.k) || int8send(r.h), '')"),
            *(sql.SQL("pg_catalog.array_agg(r.{})").format(name) for name in rest),
        ]
    )


def _columns(side: Side, reader: Reader) -> sql.Composed:
    """A row's hash and key, by the names that `_arrays` has for them."""
    rest = enumerate(side.key_texts[1:], 1)
    return _list(
        [
            sql.SQL("{}::int8 AS k").format(side.key[0].searched),
            sql.SQL("{} AS h").format(side.row_hash(reader.hashing)),
            *(sql.SQL("{} AS {}").format(t, sql.Identifier(f"k{n}")) for n, t in rest),
        ]
    )


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
        fences=tuple(fences.numbers()) if fences else (),
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


def _numbers(numbers: Iterable[int]) -> sql.Literal:
    return sql.Literal("{" + ",".join(map(str, numbers)) + "}")


def _list(items: Sequence[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(items)
