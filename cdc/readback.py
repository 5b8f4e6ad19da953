"""Fetching rows from the leader when the log alone does not tell them.

A large value that an update did not touch is not in the log.  Mostly the
follower has it; where an expression or a condition needs it, or the follower
lacks the row, it is read from the leader.  What is read may be newer than the
change; then the stream brings the newer change as well, and its value in full,
so that the follower ends up right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from psycopg import pq, sql

from cdc.connect import Connection, connect
from cdc.rows import LENGTH, NULL, Key, Row, key_of, value, values
from cdc.stage import Stage
from plans.catalog import Table
from plans.errors import NotReady

PARAMETERS_MAX = 1_000
"""Key values in one query; the rows are large."""

TIMEOUT = "60s"


def read_back(dsn: str, table: Table, stage: Stage, keys: Sequence[Key]) -> dict[Key, Row]:
    """The current rows that have these keys; missing ones are left out."""
    found: dict[Key, Row] = {}
    places = [stage.columns.index(name) for name in table.key]
    step = max(1, PARAMETERS_MAX // len(places))
    with connect(dsn, name="dbsplit read back") as connection:
        connection.execute(sql.SQL("SET statement_timeout = {}").format(TIMEOUT))
        for start in range(0, len(keys), step):
            for row in _read(connection, table, stage, keys[start : start + step]):
                found[key_of(row, places)] = row
    return found


def _read(connection: Connection, table: Table, stage: Stage, keys: Sequence[Key]) -> Iterator[Row]:
    """The rows in the form in which the stream has them: psycopg would make objects of them."""
    width = len(table.key)
    wanted = ", ".join(
        "(" + ", ".join(f"${first * width + place + 1}" for place in range(width)) + ")"
        for first in range(len(keys))
    )
    query = sql.SQL("SELECT {} FROM {} WHERE ({}) IN ({})").format(
        sql.SQL(", ").join(map(sql.Identifier, stage.columns)),
        table.name.identifier,
        sql.SQL(", ").join(map(sql.Identifier, table.key)),
        sql.SQL(wanted),
    )
    form = pq.Format.BINARY if stage.binary else pq.Format.TEXT
    parameters = [one[LENGTH:] for key in keys for one in values(key)]
    result = connection.pgconn.exec_params(
        query.as_string(None).encode(), parameters, None, [form] * len(parameters), form
    )
    if result.status != pq.ExecStatus.TUPLES_OK:
        said = result.get_error_message().strip()
        raise NotReady(f"rows of {table.name} could not be read back: {said}")
    for number in range(result.ntuples):
        found = (result.get_value(number, column) for column in range(result.nfields))
        yield b"".join(NULL if one is None else value(one) for one in found)
