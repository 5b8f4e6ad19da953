"""Fetching rows from the leader when the log alone does not tell them.

A large value that an update did not touch is not in the log.  Mostly the
follower has it; where an expression or a condition needs it, or the follower
lacks the row, it is read from the leader.  What is read may be newer than the
change; then the stream brings the newer change as well, and its value in full,
so that the follower ends up right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from psycopg import sql

from cdc.compaction import Key
from cdc.connect import Connection, connect
from cdc.pgoutput import Tuple
from plans.catalog import Table

ROWS_MAX = 500
"""Keys in one query; its text is parsed, and the rows are large."""

TIMEOUT = "60s"


def read_back(
    dsn: str, table: Table, columns: Sequence[str], rows: Sequence[Tuple]
) -> dict[Key, Tuple]:
    """The current rows that have the keys of `rows`, by key; missing ones are left out."""
    found: dict[Key, Tuple] = {}
    key = [list(columns).index(name) for name in table.key]
    with connect(dsn, name="dbsplit read back") as connection:
        connection.execute(sql.SQL("SET statement_timeout = {}").format(TIMEOUT))
        for start in range(0, len(rows), ROWS_MAX):
            query = _query(table, columns, key, rows[start : start + ROWS_MAX])
            for image in _read(connection, query):
                found[tuple(image[position] for position in key)] = image
    return found


def _query(
    table: Table, columns: Sequence[str], key: Sequence[int], rows: Sequence[Tuple]
) -> sql.Composed:
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    # Bare literals take the columns' types, whatever these are.
    wanted = (
        sql.SQL("({})").format(sql.SQL(", ").join(sql.Literal(_text(row[n])) for n in key))
        for row in rows
    )
    return sql.SQL("COPY (SELECT {} FROM {} WHERE ({}) IN ({})) TO STDOUT").format(
        names,
        table.name.identifier,
        sql.SQL(", ").join(sql.Identifier(columns[n]) for n in key),
        sql.SQL(", ").join(wanted),
    )


def _read(connection: Connection, query: sql.Composed) -> Iterator[Tuple]:
    # COPY gives values in the form that the stream does; a cast to text may not.
    with connection.cursor() as cursor, cursor.copy(query) as copy:
        for row in copy.rows():
            yield tuple(None if value is None else str(value).encode() for value in row)


def _text(value: object) -> str:
    if not isinstance(value, bytes):
        raise TypeError(f"a key value is {value!r}")
    return value.decode()
