"""Each side as a few numbers per bucket of rows, in no order.

Rows fall into buckets by the hash of their key, so neither the key's type nor
its collation matters, and the buckets of a table without a key are formed by
whole rows.  A bucket's sum of row hashes says whether it holds the same rows on
both sides: a row hash ends in a non-linear step, so swapping values between
rows changes the sum (which record hashes, being linear, would let pass).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from psycopg import sql

from cdc.connect import Connection, describe
from plans.errors import NotReady
from validators.blocks import Blocks
from validators.session import Reader, read_row, read_rows
from validators.sides import Pair, Side
from validators.units import MODULUS, Chunks

BUCKETS_MAX = 2**18  # 36 bytes each, a few times on each side
_BYTES_PER_ROW_MAX = 512  # a guess, where the table has grown to twice since it was analyzed

_EXTENTS = (
    "SELECT c.relkind = 'r', s.rows, s.blocks,"
    " EXISTS (SELECT FROM pg_index AS i JOIN pg_class AS x ON x.oid = i.indexrelid"
    " JOIN pg_am AS m ON m.oid = x.relam AND m.amname = 'btree'"
    " JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]"
    " WHERE i.indrelid = c.oid AND i.indisvalid AND i.indpred IS NULL"
    " AND a.attnotnull AND a.attname = w.first_column)"
    " FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS w(name, first_column, n)"
    " LEFT JOIN pg_class AS c ON c.oid = to_regclass(w.name)"
    " CROSS JOIN LATERAL (SELECT coalesce(sum(CASE WHEN l.reltuples > 0"
    " AND l.relpages >= z.bytes / z.block / 2 THEN l.reltuples * z.bytes / z.block / l.relpages"
    " ELSE greatest(l.reltuples, z.bytes / $3) END), 0)::int8 AS rows,"
    # Other kinds of tables than PostgreSQL's own need not know of blocks.
    " CASE WHEN bool_and(l.relkind = 'p' OR l.relkind = 'r' AND l.relam = 2)"
    " THEN max(z.bytes / z.block)::int8 END AS blocks"
    " FROM (SELECT c.oid UNION SELECT relid FROM pg_partition_tree(c.oid)) AS p(oid)"
    " JOIN pg_class AS l ON l.oid = p.oid CROSS JOIN LATERAL"
    " (SELECT pg_relation_size(l.oid) AS bytes, current_setting('block_size')::int8 AS block) AS z"
    ") AS s ORDER BY w.n"
)
# Of a partitioned table only the statistics over all partitions are of its rows.
_WITHOUT_NULLS = (
    "SELECT coalesce(array_agg(s.attname::text), '{{}}') FROM pg_class AS c"
    " JOIN pg_namespace AS n ON n.oid = c.relnamespace"
    " JOIN pg_stats AS s ON s.schemaname = n.nspname AND s.tablename = c.relname"
    " AND s.inherited = (c.relkind = 'p') AND s.null_frac = 0"
    " WHERE c.oid = to_regclass({table})"
)


@dataclass(frozen=True, slots=True)
class Extent:
    """How to read a table, and how much it holds."""

    only: bool  # without the tables that inherit from it, which have routes of their own
    rows_estimated: int
    ranged: bool = False  # there is an index that begins with the key's first column
    blocks: int | None = None  # of its largest partition; None if it may have none


@dataclass(frozen=True, slots=True)
class Extents:
    """Both tables."""

    leader: Extent
    follower: Extent

    def of(self, pair: Pair, side: Side) -> Extent:
        """The extent of one of the pair's sides."""
        return self.leader if side is pair.leader else self.follower

    @property
    def rows_estimated(self) -> int:
        """Of the larger one."""
        return max(self.leader.rows_estimated, self.follower.rows_estimated)


def digest_of(rows: int, total: int) -> str:
    """How a table's rows and the sum of their hashes are written."""
    return f"{rows}:{total % MODULUS:016x}"


def bucket_count(rows: int, rows_per_bucket: int) -> int:
    """A power of two, so that buckets hold about so many rows."""
    return min(BUCKETS_MAX, 1 << max(0, rows // rows_per_bucket).bit_length())


def read_extent(connection: Connection, side: Side) -> Extent:
    """Look the table up; NotReady if it does not exist."""
    (extent,) = read_extents(connection, [side])
    if extent is None:
        raise NotReady(
            f"table {side.table} does not exist in {describe(side.dsn)}",
            hint="is it the right database, and may this role use the schema?",
        )
    return extent


def read_extents(connection: Connection, sides: Sequence[Side]) -> list[Extent | None]:
    """Look many tables up at once; None for one that does not exist."""
    if not sides:
        return []
    found = read_rows(
        connection,
        (),
        sql.SQL(_EXTENTS).format(),
        [
            [side.table.identifier.as_string(connection) for side in sides],
            [side.key[0].plain if side.key else "" for side in sides],
            _BYTES_PER_ROW_MAX,
        ],
    )
    return [
        None if only is None else Extent(only, rows, ranged, blocks)
        for only, rows, blocks, ranged in found
    ]


def read_without_nulls(connection: Connection, side: Side) -> frozenset[str]:
    """The columns of the side's table in which its statistics have seen no NULL."""
    table = side.table.identifier.as_string(connection)
    query = sql.SQL(_WITHOUT_NULLS).format(table=sql.Literal(table))
    return frozenset(read_row(connection, (), query, {})[0])


def read_buckets(
    reader: Reader,
    side: Side,
    *,
    extent: Extent,
    buckets: int,
    blocks: Blocks,
    planner: Mapping[str, str],
) -> Chunks:
    """One scan of some of the table's blocks: the buckets are its chunks."""
    query = sql.SQL(
        "SELECT b::int8, count(*) AS n, pg_catalog.mod(sum(h), {modulus})::int8 AS s FROM"
        " (SELECT {bucket} AS b, {hash} AS h FROM {table} WHERE {where} AND {blocks}"
        " OFFSET 0) AS r GROUP BY b ORDER BY b"
    ).format(
        modulus=sql.Literal(MODULUS),
        bucket=side.bucket(reader.hashing, buckets),
        hash=side.row_hash(reader.hashing),
        table=from_table(side, extent),
        where=side.scanned,
        blocks=blocks.condition,
    )
    return read_chunks(reader, side, query, planner)


def read_chunks(
    reader: Reader, side: Side, query: sql.Composed, planner: Mapping[str, str]
) -> Chunks:
    """What a query says of each chunk: its number `b`, its `n` rows and the sum `s`."""
    whole = sql.SQL(
        "SELECT pg_catalog.array_agg(b), pg_catalog.array_agg(n), pg_catalog.array_agg(s),"
        " count(*), sum(n)::int8, pg_catalog.mod(sum(s), {})::int8 FROM ({}) AS g"
    ).format(sql.Literal(MODULUS), query)
    numbers, rows, sums, count, total, digest = reader.row(side, whole, planner)
    if not count:  # array_agg() and sum() of no rows are NULL
        return Chunks()
    return Chunks(numbers, rows, sums, count, total, digest % MODULUS)


def from_table(side: Side, extent: Extent) -> sql.Composed:
    """The table as it stands after FROM."""
    return sql.SQL("{}{}").format(sql.SQL("ONLY " if extent.only else ""), side.table.identifier)
