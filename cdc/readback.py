"""Fetching rows from the leader when the log alone does not tell them.

A large value that an update did not touch is not in the log.  Mostly the
follower has it; where an expression or a condition needs it, or the follower
lacks the row, it is read from the leader.  What is read may be newer than the
change; then the stream brings the newer change as well, and its value in full,
so that the follower ends up right.
"""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from cdc.compaction import Key
from cdc.connect import connect
from cdc.pgoutput import Tuple
from plans.catalog import Table


def read_back(
    dsn: str, table: Table, columns: Sequence[str], rows: Sequence[Tuple]
) -> dict[Key, Tuple]:
    """The current rows that have the keys of `rows`, by key; missing ones are left out."""
    found: dict[Key, Tuple] = {}
    positions = [list(columns).index(name) for name in table.key]
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    with connect(dsn, name="dbsplit read back") as connection, connection.cursor() as cursor:
        connection.execute("SET statement_timeout = '60s'")
        for row in rows:
            condition = sql.SQL(" AND ").join(
                sql.SQL("{} = {}").format(sql.Identifier(name), sql.Literal(_text(row[position])))
                for name, position in zip(table.key, positions, strict=True)
            )
            query = sql.SQL("COPY (SELECT {} FROM {} WHERE {}) TO STDOUT").format(
                names, table.name.identifier, condition
            )
            # COPY gives values in the form that the stream does; a cast to text may not.
            with cursor.copy(query) as copy:
                for read in copy.rows():
                    image = tuple(None if v is None else str(v).encode() for v in read)
                    found[tuple(image[position] for position in positions)] = image
    return found


def _text(value: object) -> str:
    if not isinstance(value, bytes):
        raise TypeError(f"a key value is {value!r}")
    return value.decode()
