"""Changes of tables that others use: short tries for their locks, and a rest between them.

Who waits for a lock holds up everybody that comes behind: with one reader in the way, all
of the table's writers.  So no try waits for long, and after it those who have waited get
their turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final

import psycopg
from psycopg import sql

from cdc.connect import Connection
from plans.catalog import TableName
from plans.errors import NotReady
from plans.holders import advice, holding

TRY_MS: Final = 150
REST_S: Final = 1.0


def with_locks(
    connection: Connection,
    change: Callable[[], object],
    failed: str,
    *,
    of: Iterable[TableName] = (),
    beside_rows: bool = False,
    limit_s: float,
) -> None:
    """Make a change that needs locks, in a transaction of its own.

    Raises NotReady, which says that it `failed` and who holds locks `of` these relations,
    if they could not be had within `limit_s` seconds.  `beside_rows` they go with those of
    whoever reads and writes rows, who are not named then.
    """
    deadline = time.monotonic() + limit_s
    while not tried(connection, change):
        if time.monotonic() + REST_S > deadline:
            held = (holding(connection, relation, rows=not beside_rows) for relation in of)
            who = next(filter(None, held), "")
            raise NotReady(
                f"{failed} within {limit_s:.0f} s",
                hint=advice(who, "end long transactions that lock it (pg_locks), and repeat"),
            )
        time.sleep(REST_S)


def tried(connection: Connection, change: Callable[[], object]) -> bool:
    """Make the change, in a transaction; False if its locks could not be had in a moment."""
    try:
        with connection.transaction():
            connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(TRY_MS))
            change()
    except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
        return False
    return True
