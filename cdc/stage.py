"""Staging: the leader's raw rows in a temporary table of the follower's session."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from psycopg import sql

from cdc.connect import Connection
from cdc.pgoutput import UNCHANGED, Tuple, Value
from plans.catalog import Column, Table


@dataclass(frozen=True, slots=True)
class Stage:
    """The temporary table for rows of one leader table.

    `columns` are those that the stream sends, in its order; generated columns
    are generated in the stage as well, so that expressions may read them.
    """

    name: sql.Identifier
    leader: Table
    columns: tuple[str, ...]
    types: Mapping[str, str]  # the leader's type names → those to use here

    def create(self) -> sql.Composed:
        """Create it for the session.

        It is emptied batch by batch: ON COMMIT DELETE ROWS would truncate every
        stage of the session at every commit, at 0.5 ms each.
        """
        columns: list[sql.Composable] = [self._column(column) for column in self.leader.columns]
        columns += [
            sql.SQL('_op "char" NOT NULL'),
            sql.SQL("_count int"),
            sql.SQL("_unchanged text[]"),
        ]
        return sql.SQL("CREATE TEMPORARY TABLE {} ({})").format(
            self.name, sql.SQL(", ").join(columns)
        )

    def fill(self, connection: Connection, lines: Iterable[bytes]) -> int:
        """Stage rows; returns their number."""
        statement = sql.SQL("COPY {} ({}, _op, _count, _unchanged) FROM STDIN").format(
            self.name, sql.SQL(", ").join(map(sql.Identifier, self.columns))
        )
        with connection.cursor() as cursor, cursor.copy(statement) as copy:
            count = 0
            block: list[bytes] = []
            size = 0
            for line in lines:
                block.append(line)
                size += len(line)
                count += 1
                if size > 1 << 18:
                    copy.write(b"".join(block))
                    block, size = [], 0
            copy.write(b"".join(block))
        return count

    def line(self, row: Tuple, op: bytes, count: bytes = b"\\N") -> bytes:
        """One row in COPY's text format (manual, COPY, "Text Format")."""
        values = [_escape(value) for value in row]
        if UNCHANGED in row:
            names = [
                name for name, value in zip(self.columns, row, strict=True) if value is UNCHANGED
            ]
            unchanged = _escape(_array(names))
        else:
            unchanged = b"\\N"
        return b"\t".join([*values, op, count, unchanged]) + b"\n"

    def _column(self, column: Column) -> sql.Composed:
        type_ = self.types.get(column.type, column.type)
        text = sql.SQL("{} {}").format(sql.Identifier(column.name), sql.SQL(type_))
        if column.generated is None:
            return text
        return sql.SQL("{} GENERATED ALWAYS AS ({}) STORED").format(
            text,
            sql.SQL(column.generated),
        )


def _escape(value: Value) -> bytes:
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
