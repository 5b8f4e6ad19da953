"""Staging: the leader's raw rows in a temporary table of the follower's session."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from psycopg import sql

from cdc.connect import Connection
from cdc.flow_sql import COUNT, OP, UNCHANGED_NAMES
from cdc.pgoutput import UNCHANGED, Tuple, Value
from plans.catalog import Table

BLOCK_BYTES = 1 << 18
"""Lines are joined to blocks of about this size: one call of libpq per line would cost more."""


@dataclass(frozen=True, slots=True)
class Stage:
    """The temporary table for rows of one leader table.

    Its columns are those that a stream can send, in the catalog's order, and three
    of ours.  Generated columns are not among them: no expression may read them.
    """

    name: sql.Identifier
    leader: Table
    types: Mapping[str, str]  # the leader's type names → those to use here

    @property
    def columns(self) -> tuple[str, ...]:
        """The leader's columns, as the values of a row follow each other."""
        return tuple(c.name for c in self.leader.columns if c.generated is None)

    def create(self) -> sql.Composed:
        """Create it for the session.

        It is emptied batch by batch: ON COMMIT DELETE ROWS would truncate every
        stage of the session at every commit, at 0.5 ms each.
        """
        columns: list[sql.Composable] = [
            sql.SQL("{} {}").format(
                sql.Identifier(column.name), sql.SQL(self.types.get(column.type, column.type))
            )
            for column in self.leader.columns
            if column.generated is None
        ]
        columns += [
            sql.SQL('{} "char" NOT NULL').format(OP),
            sql.SQL("{} int").format(COUNT),
            sql.SQL("{} text[]").format(UNCHANGED_NAMES),
        ]
        return sql.SQL("CREATE TEMPORARY TABLE {} ({})").format(
            self.name, sql.SQL(", ").join(columns)
        )

    def fill(self, connection: Connection, lines: Iterable[bytes]) -> int:
        """Stage rows; returns their number."""
        names = [*map(sql.Identifier, self.columns), OP, COUNT, UNCHANGED_NAMES]
        statement = sql.SQL("COPY {} ({}) FROM STDIN").format(self.name, sql.SQL(", ").join(names))
        count = size = 0
        with connection.cursor() as cursor, cursor.copy(statement) as copy:
            block: list[bytes] = []
            for line in lines:
                block.append(line)
                size += len(line)
                count += 1
                if size > BLOCK_BYTES:
                    copy.write(b"".join(block))
                    block, size = [], 0
            copy.write(b"".join(block))
        return count

    def line(self, row: Tuple, op: bytes, count: bytes = b"\\N") -> bytes:
        """One row in COPY's text format (manual, COPY, "Text Format")."""
        values = [escape(value) for value in row]
        if UNCHANGED in row:
            names = [
                name for name, value in zip(self.columns, row, strict=True) if value is UNCHANGED
            ]
            unchanged = escape(_array(names))
        else:
            unchanged = b"\\N"
        return b"\t".join([*values, op, count, unchanged]) + b"\n"


def escape(value: Value) -> bytes:
    """A value as COPY's text format has it; NULL for what was not sent."""
    if value is None or value is UNCHANGED:
        return b"\\N"
    assert isinstance(value, bytes)  # noqa: S101  (narrows for mypy; an enum has one other member)
    if b"\\" in value or b"\n" in value or b"\t" in value or b"\r" in value:
        return (
            value.replace(b"\\", b"\\\\")
            .replace(b"\n", b"\\n")
            .replace(b"\t", b"\\t")
            .replace(b"\r", b"\\r")
        )
    return value


def _array(names: list[str]) -> bytes:
    quoted = [name.replace("\\", "\\\\").replace('"', '\\"') for name in names]
    return ("{" + ",".join(f'"{name}"' for name in quoted) + "}").encode()
