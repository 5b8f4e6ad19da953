"""Fetching rows from the leader when the log alone does not tell them.

A large value that an update did not touch is not in the log.  Mostly the
follower has it; where an expression or a condition needs it, or the follower
lacks the row, it is read from the leader.  What is read may be newer than the
change; then the stream brings the newer change as well, and its value in full,
so that the follower ends up right.

It must not be older.  A transaction is in the log, and with us, before others see it on
the leader: at once as a rule, later on a busy machine, and much later while it waits for
a synchronous standby.  A row that has a new key would not be found there until then, and
taken for one that was deleted since.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence

from psycopg import pq, sql

from cdc.connect import Connection, connect
from cdc.rows import LENGTH, NULL, Key, Row, key_of, value, values
from cdc.stage import Stage
from plans.catalog import Table
from plans.errors import NotReady

PARAMETERS_MAX = 1_000
"""Key values in one query; the rows are large."""

TIMEOUT = "60s"
VISIBLE_S_MAX = 60.0
POLL_S = 0.002

_XIDS = 1 << 32  # the stream tells them without their epoch


def read_back(
    dsn: str, table: Table, stage: Stage, keys: Sequence[Key], xids: Collection[int]
) -> dict[Key, Row]:
    """The current rows that have these keys, once these transactions can be seen.

    Missing ones are left out.  Raises NotReady if the transactions cannot be seen within
    a minute.
    """
    found: dict[Key, Row] = {}
    places = [stage.columns.index(name) for name in table.key]
    step = max(1, PARAMETERS_MAX // len(places))
    with connect(dsn, name="dbsplit read back") as connection:
        connection.execute(sql.SQL("SET statement_timeout = {}").format(TIMEOUT))
        _await_visible(connection, xids)
        for start in range(0, len(keys), step):
            for row in _read(connection, table, stage, keys[start : start + step]):
                found[key_of(row, places)] = row
    return found


def _await_visible(connection: Connection, xids: Collection[int]) -> None:
    deadline = time.monotonic() + VISIBLE_S_MAX
    while True:
        row = connection.execute("SELECT pg_current_snapshot()::text").fetchone()
        assert row is not None  # noqa: S101
        if sees(row[0], xids):
            return
        if time.monotonic() > deadline:
            raise NotReady(
                f"transactions that are in the log cannot be seen for {VISIBLE_S_MAX:.0f} s",
                hint="they wait for a synchronous standby: see to it, or to "
                "synchronous_standby_names",
            )
        time.sleep(POLL_S)


def sees(snapshot: str, xids: Collection[int]) -> bool:
    """Whether a snapshot, as `pg_current_snapshot` writes it, sees transactions as ended.

    They are in the log, so none of them is older than half of all that can be told apart.
    """
    xmin, xmax, running = snapshot.split(":")
    first, end = int(xmin), int(xmax)
    in_progress = {int(one) for one in running.split(",") if one}
    for xid in xids:
        whole = end - end % _XIDS + xid
        if whole > end + _XIDS // 2:
            whole -= _XIDS
        elif whole < end - _XIDS // 2:
            whole += _XIDS
        if whole >= first and (whole >= end or whole in in_progress):
            return False
    return True


def _read(connection: Connection, table: Table, stage: Stage, keys: Sequence[Key]) -> Iterator[Row]:
    """The rows in the form in which the stream has them: psycopg would make objects of them."""
    width = len(table.key)
    # With their types, or a composite's would be none that a value can be read as.
    types = [table.column(name).type for name in table.key]
    wanted = ", ".join(
        "(" + ", ".join(f"${first * width + n}::{type_}" for n, type_ in enumerate(types, 1)) + ")"
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
