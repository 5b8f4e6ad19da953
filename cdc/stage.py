"""Staging: the leader's raw rows in a temporary table of the follower's session.

Rows come in binary form where that means the same on every server.  Otherwise they
come as text; then the table's columns are text, and a view gives them their types.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from struct import pack

from psycopg import sql

from cdc.flow_sql import COUNT, OP, UNCHANGED_NAMES
from cdc.inflow import into
from cdc.rows import NULL, UNCHANGED, Row, Unchanged, blank, value, values
from plans.catalog import Column, Table

JOINED_ROWS = 1_000
"""So many rows are joined at once."""

_TEXT_OID = 25


def carries_binary(tables: Iterable[Table]) -> bool:
    """Whether all rows of these tables may come in binary form."""
    return all(
        column.is_portable
        for table in tables
        for column in table.columns
        if column.generated is None
    )


@dataclass(frozen=True)
class Stage:
    """The temporary table for rows of one leader table.

    Its columns are those that a stream can send, in the catalog's order, and three
    of ours.  Generated columns are not among them: no expression may read them.
    """

    number: int
    leader: Table
    types: Mapping[str, str]  # the leader's type names → those to use here
    binary: bool = True
    collated: frozenset[str] = frozenset()
    """The columns that have the leader's collation here, because conditions read them."""

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The leader's columns, as the values of a row follow each other."""
        return tuple(column.name for column in self._columns())

    @cached_property
    def into(self) -> bytes:
        """The statement that takes lines that `lines` or a writer has made."""
        names = [*map(sql.Identifier, self.columns), OP, COUNT, UNCHANGED_NAMES]
        return into(self.table, names)

    @property
    def name(self) -> sql.Identifier:
        """What statements read: a table, or a view with the columns' types."""
        return sql.Identifier(f"dbsplit_stage_{self.number}")

    @property
    def table(self) -> sql.Identifier:
        """What is filled."""
        return self.name if self.binary else sql.Identifier(f"dbsplit_text_{self.number}")

    def create(self) -> tuple[sql.Composed, ...]:
        """The statements that create it for the session.

        It is emptied batch by batch: ON COMMIT DELETE ROWS would truncate every
        stage of the session at every commit, at 0.5 ms each.
        """
        ours = [(OP, sql.SQL('"char" NOT NULL')), (COUNT, sql.SQL("int"))]
        ours.append((UNCHANGED_NAMES, sql.SQL("text[]")))
        typed = [(sql.Identifier(c.name), sql.SQL(self._type(c))) for c in self._columns()]
        stored = typed if self.binary else [(name, sql.SQL("text")) for name, _ in typed]
        table = sql.SQL("CREATE TEMPORARY TABLE {} ({})").format(
            self.table, sql.SQL(", ").join(sql.SQL("{} {}").format(*one) for one in stored + ours)
        )
        if self.binary:
            return (table,)
        values: list[sql.Composable] = [
            sql.SQL("{name}::{type} AS {name}").format(name=name, type=type_)
            for name, type_ in typed
        ]
        values += [name for name, _ in ours]
        view = sql.SQL("CREATE TEMPORARY VIEW {} AS SELECT {} FROM {}").format(
            self.name, sql.SQL(", ").join(values), self.table
        )
        return table, view

    def lines(self, op: bytes, rows: Sequence[Row], count: int | None = None) -> Iterator[bytes]:
        """Complete rows in COPY's binary format, many at a time; as `writer` has them."""
        head, tail = self._frame(op, count)
        tail += NULL
        between = tail + head
        for at in range(0, len(rows), JOINED_ROWS):
            yield head + between.join(rows[at : at + JOINED_ROWS]) + tail

    def writer(self, op: bytes, count: int | None = None) -> Callable[[Row], bytes]:
        """What writes complete rows in COPY's binary format (manual, COPY, "Binary Format").

        UNCHANGED stands for a length there: not for rows that may have it.
        """
        head, tail = self._frame(op, count)
        tail += NULL

        def write(row: Row) -> bytes:
            return b"%b%b%b" % (head, row, tail)

        return write

    def partial_writer(self, op: bytes, count: int | None = None) -> Callable[[Row], bytes]:
        """What writes rows that may have UNCHANGED values."""
        head, tail = self._frame(op, count)
        ending = tail + NULL

        def write(row: Row) -> bytes:
            if UNCHANGED not in row:
                return b"%b%b%b" % (head, row, ending)
            sent = values(row)
            names = [n for n, v in zip(self.columns, sent, strict=True) if v == UNCHANGED]
            filled = (NULL if one == UNCHANGED else one for one in sent)
            return b"".join((head, *filled, tail, value(_array(names)) if names else NULL))

        return write

    def blank_writer(self, op: bytes, count: int, unchanged: Unchanged) -> Callable[[Row], bytes]:
        """What writes rows with these values UNCHANGED, and NULL in their place."""
        write = self.writer(op, count)
        return lambda row: write(blank(row, unchanged))

    def _frame(self, op: bytes, count: int | None) -> tuple[bytes, bytes]:
        head = pack("!h", len(self.columns) + 3)
        return head, value(op) + (NULL if count is None else value(pack("!i", count)))

    def _columns(self) -> list[Column]:
        return [column for column in self.leader.columns if column.generated is None]

    def _type(self, column: Column) -> str:
        type_ = self.types.get(column.type, column.type)
        if column.collation is None or column.name not in self.collated:
            return type_
        return f"{type_} COLLATE {column.collation}"


def plain_writer(width: int) -> Callable[[Row], bytes]:
    """What writes complete rows of so many values, and nothing else, in that format."""
    return pack("!h", width).__add__


def _array(names: list[str]) -> bytes:
    """The binary form of a text[] (array_recv in PostgreSQL's arrayfuncs.c)."""
    elements = b"".join(value(name.encode()) for name in names)
    return pack("!iiiii", 1, 0, _TEXT_OID, len(names), 1) + elements
