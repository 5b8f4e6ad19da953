"""Raising and dropping fences: short transactions, each with a limit on its wait for locks.

CREATE TRIGGER takes a SHARE ROW EXCLUSIVE lock: it waits for every writer in
flight on the table and refuses every later one, whatever its snapshot and role.
Revoked privileges and read-only defaults lose writes that were under way.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import psycopg
from psycopg import sql

from cdc.connect import Connection
from cdc.crash import crash_point
from plans.catalog import Table, TableName
from plans.errors import GivenUp
from plans.holders import advice, holding
from toolkit import fence_sql
from toolkit.fence import (
    ALL_TRIGGERS,
    INSERT_TRIGGER,
    ON_LEAVES,
    PART_TRIGGER,
    ROWS_TRIGGER,
    TRIGGER,
    Fence,
)


def set_up(connection: Connection) -> None:
    """Create what the triggers call; harmless when repeated."""
    connection.execute(fence_sql.REFUSE)


def raise_fences(
    connection: Connection, fences: Iterable[Fence], *, lock_timeout_ms: int, deadline: float
) -> dict[str, float]:
    """Raise the fences, one relation per transaction, in the order of their names.

    All in one transaction would hold the first table's lock while it waits for
    the last one's.  `deadline` is of `time.monotonic()`; GivenUp when it passes.
    Returns the milliseconds that each relation took.
    """
    took: dict[str, float] = {}
    for fence in in_order(fences):
        for relation in fence.relations:
            began = time.monotonic()
            _retry(
                connection,
                fence_sql.create(fence, relation),
                lock_timeout_ms=lock_timeout_ms,
                deadline=deadline,
                what="the lock that fences",
                relation=relation,
            )
            took[str(relation)] = round((time.monotonic() - began) * 1000, 1)
            crash_point("cutover.fence_table")
    return took


def in_order(fences: Iterable[Fence]) -> list[Fence]:
    """The order in which fences are raised: that of their tables' names, always."""
    return sorted(fences, key=lambda fence: fence.table.name)


def drop_fences(
    connection: Connection,
    tables: Iterable[Table],
    *,
    lock_timeout_ms: int,
    deadline: float,
) -> None:
    """Let writers in again; harmless where there is no fence.

    DROP TRIGGER waits for all who read the table, and a report may read for hours.
    A fence that cannot be dropped at once is disabled, which waits for writers only.
    """
    standing = fenced(connection, *ALL_TRIGGERS)
    for table in sorted(tables, key=lambda table: table.name):
        for relation in (table.name, *table.leaves):
            if relation not in standing:
                continue
            triggers = ALL_TRIGGERS if relation == table.name else ON_LEAVES
            drop = fence_sql.drop(relation, triggers)
            if _try(connection, drop, lock_timeout_ms=lock_timeout_ms):
                continue
            _retry(
                connection,
                tuple(
                    fence_sql.disable(relation, trigger)
                    for trigger in triggers
                    if relation in fenced(connection, trigger)
                ),
                lock_timeout_ms=lock_timeout_ms,
                deadline=deadline,
                what="the lock that opens",
                relation=relation,
            )


def unfenced(connection: Connection, fences: Iterable[Fence]) -> list[TableName]:
    """The relations whose fence is not there, or not enabled always."""
    standing = {
        trigger: fenced(connection, trigger)
        for trigger in (PART_TRIGGER, INSERT_TRIGGER, ROWS_TRIGGER, TRIGGER)
    }
    return [
        relation
        for fence in fences
        for relation in fence.relations
        if relation not in standing[fence.trigger]
    ]


def fenced(connection: Connection, *triggers: str) -> frozenset[TableName]:
    """The relations of a database that carry a fence which is always enabled."""
    rows = connection.execute(
        "SELECT n.nspname, c.relname FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid"
        " JOIN pg_namespace AS n ON n.oid = c.relnamespace"
        " WHERE t.tgname = ANY (%s) AND t.tgenabled = 'A'",
        [list(triggers or (TRIGGER, PART_TRIGGER))],
    ).fetchall()
    return frozenset(TableName(schema, name) for schema, name in rows)


def _retry(
    connection: Connection,
    statements: tuple[sql.Composed, ...],
    *,
    lock_timeout_ms: int,
    deadline: float,
    what: str,
    relation: TableName,
) -> None:
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise GivenUp(
                f"{what} {relation} could not be had in time",
                hint=advice(
                    holding(connection, relation),
                    "end long transactions on the table (pg_stat_activity), or allow a longer "
                    "limits.write_pause_s_max",
                ),
            )
        wait_ms = max(1, min(lock_timeout_ms, int(left * 1000)))
        if _try(connection, statements, lock_timeout_ms=wait_ms):
            return
        # Whoever waits behind us gets a turn before the next attempt.
        time.sleep(min(0.02, max(left, 0)))


def _try(
    connection: Connection, statements: tuple[sql.Composed, ...], *, lock_timeout_ms: int
) -> bool:
    """Run statements in one transaction; False if their locks could not be had in time."""
    limit = sql.SQL("SET LOCAL lock_timeout = {}").format(lock_timeout_ms)
    try:
        # Several statements at once are one transaction, and one round trip.
        connection.execute(sql.SQL("; ").join([limit, *statements]), prepare=False)
    except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
        return False
    return True
