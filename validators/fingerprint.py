"""Pass 1: each side as a few numbers per bucket of rows, in no order.

Rows fall into buckets by the hash of their key, so neither the key's type nor
its collation matters, and the buckets of a table without a key are formed by
whole rows.  A bucket's sum of row hashes says whether it holds the same rows on
both sides: a row hash ends in a non-linear step, so swapping values between
rows changes the sum (which record hashes, being linear, would let pass).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from psycopg import sql

from cdc.connect import Connection, describe
from plans.errors import NotReady
from validators.canonical import Hashing
from validators.session import pinned
from validators.sides import Side
from validators.units import MODULUS

ROWS_PER_BUCKET = 512
BUCKETS_MAX = 2**20
_BYTES_PER_ROW_MAX = 512  # a guess, where the table has not been analyzed since it grew

# COPY's binary format (manual, COPY, "Binary Format"): a header of 19 bytes, rows of
# a field count and length-prefixed fields, and -1 as a field count at the end.
_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER = b"\xff\xff"
_ROW = struct.Struct(">hiiiqiq")
_SHAPE = (3, 4, 8, 8)


@dataclass(frozen=True, slots=True)
class Extent:
    """How to read a table, and how much it holds."""

    only: bool  # without the tables that inherit from it, which have routes of their own
    rows_estimated: int
    ranged: bool = False  # there is an index that begins with the key's first column


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Rows and their summed hashes per bucket; buckets without rows are left out."""

    buckets: dict[int, tuple[int, int]]

    @property
    def rows(self) -> int:
        """All rows."""
        return sum(count for count, _ in self.buckets.values())

    @property
    def digest(self) -> str:
        """One text for the whole table, the same whatever the number of buckets."""
        return digest_of(self.rows, sum(total for _, total in self.buckets.values()))

    def differing(self, other: Fingerprint) -> frozenset[int]:
        """The buckets that do not hold the same rows."""
        numbers = self.buckets.keys() | other.buckets.keys()
        return frozenset(n for n in numbers if self.buckets.get(n) != other.buckets.get(n))


def digest_of(rows: int, total: int) -> str:
    """How a table's rows and the sum of their hashes are written."""
    return f"{rows}:{total % MODULUS:016x}"


def bucket_count(rows: int) -> int:
    """A power of two, so that buckets hold about ROWS_PER_BUCKET rows."""
    return min(BUCKETS_MAX, 1 << max(0, rows // ROWS_PER_BUCKET).bit_length())


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
    with pinned(connection, ()) as cursor:
        found = cursor.execute(
            "SELECT c.relkind = 'r', (SELECT coalesce(sum(greatest(l.reltuples::int8,"
            " pg_relation_size(l.oid) / $3)), 0)::int8 FROM pg_class AS l WHERE l.oid = c.oid"
            " OR l.oid IN (SELECT relid FROM pg_partition_tree(c.oid))),"
            " EXISTS (SELECT FROM pg_index AS i JOIN pg_class AS x ON x.oid = i.indexrelid"
            " JOIN pg_am AS m ON m.oid = x.relam AND m.amname = 'btree'"
            " JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]"
            " WHERE i.indrelid = c.oid AND i.indisvalid AND i.indpred IS NULL"
            " AND a.attnotnull AND a.attname = w.first_column)"
            " FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS w(name, first_column, n)"
            " LEFT JOIN pg_class AS c ON c.oid = to_regclass(w.name) ORDER BY w.n",
            [
                [side.table.identifier.as_string(connection) for side in sides],
                [side.key[0].plain if side.key else "" for side in sides],
                _BYTES_PER_ROW_MAX,
            ],
        ).fetchall()
    return [
        None if only is None else Extent(only=only, rows_estimated=rows, ranged=ranged)
        for only, rows, ranged in found
    ]


def read_fingerprint(
    connection: Connection, side: Side, *, extent: Extent, hashing: Hashing, buckets: int
) -> Fingerprint:
    """One scan of the table."""
    query = sql.SQL(
        "COPY (SELECT b, count(*), mod(sum(h), {modulus})::int8 FROM"
        " (SELECT {bucket} AS b, {hash} AS h FROM {table} WHERE {where} OFFSET 0) AS r"
        " GROUP BY b) TO STDOUT (FORMAT binary)"
    ).format(
        modulus=sql.Literal(MODULUS),
        bucket=side.bucket(hashing, buckets),
        hash=side.row_hash(hashing),
        table=from_table(side, extent),
        where=side.scanned,
    )
    with pinned(connection, side.schemas) as cursor, cursor.copy(query) as copy:
        return Fingerprint(_parse(b"".join(copy)))


def from_table(side: Side, extent: Extent) -> sql.Composed:
    """The table as it stands after FROM."""
    return sql.SQL("{}{}").format(sql.SQL("ONLY " if extent.only else ""), side.table.identifier)


def _parse(data: bytes) -> dict[int, tuple[int, int]]:
    if not data.startswith(_HEADER) or not data.endswith(_TRAILER):
        raise ValueError("not a complete COPY in binary format")
    rows = memoryview(data)[len(_HEADER) : -len(_TRAILER)]
    return dict(_fields(_ROW.iter_unpack(rows)))


def _fields(rows: Iterable[tuple[int, ...]]) -> Iterable[tuple[int, tuple[int, int]]]:
    for fields, length_b, bucket, length_c, count, length_h, total in rows:
        # An int4 that is read as an int8 would shift everything after it.
        if (fields, length_b, length_c, length_h) != _SHAPE:
            raise ValueError(f"unexpected row shape {(fields, length_b, length_c, length_h)}")
        yield bucket, (count, total)
