"""Who holds others up: transactions in progress, and those that hold a table's lock.

A prepared transaction belongs to no session, and ``pg_stat_activity`` knows nothing of it.
It ends when somebody ends it by its name.
"""

# ruff: noqa: S608 - constants are put together

from __future__ import annotations

from typing import Any, Final, LiteralString

import psycopg

from plans.catalog import TableName
from plans.errors import Locked, NotReady
from plans.names import CONTROL_SCHEMA
from plans.some import some

Connection = psycopg.Connection[Any]

MOMENT_S: Final = 1.0
"""Who locks a table for less is not worth a word: a TRUNCATE does."""

_WAIT: Final = "wait for the end of that, or end it; then run the same command again"

_PREPARED: Final[LiteralString] = """
SELECT format('prepared transaction %%L of %%s in database %%s', p.gid, p.owner, p.database) AS who,
       p.prepared AS since, p.transaction
  FROM pg_prepared_xacts AS p
"""

_SESSIONS: Final[LiteralString] = """
SELECT format('process %%s of %%s in database %%s%%s', a.pid, coalesce(a.usename, a.backend_type),
              a.datname,
              ' (' || nullif(a.application_name, '') || ')') AS who, a.xact_start AS since, a.pid,
       a.backend_xid IS NOT NULL AS has_number
  FROM pg_stat_activity AS a WHERE a.pid <> pg_backend_pid()
"""

# What has a number may have written; slots and exported snapshots wait for its end.
_IN_PROGRESS: Final[LiteralString] = (
    "WITH prepared AS (" + _PREPARED + "), sessions AS (" + _SESSIONS + ")"
    ", held AS (SELECT who, since FROM prepared"
    " UNION ALL SELECT who, since FROM sessions WHERE has_number)"
)

# A prepared transaction's locks have no process; one of them is that on its own number.
_ON_TABLE: Final[LiteralString] = (
    "WITH prepared AS (" + _PREPARED + "), sessions AS (" + _SESSIONS + ")"
    """
, locks AS (
    SELECT l.pid, o.transactionid AS transaction
      FROM pg_locks AS l
      LEFT JOIN pg_locks AS o ON l.pid IS NULL AND o.pid IS NULL
           AND o.locktype = 'transactionid' AND o.virtualtransaction = l.virtualtransaction
      JOIN pg_class AS c ON c.oid = l.relation JOIN pg_namespace AS n ON n.oid = c.relnamespace
     WHERE l.granted AND l.locktype = 'relation'
       AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
       AND n.nspname = %(schema)s AND c.relname = %(name)s
       AND (%(rows)s OR l.mode NOT IN ('AccessShareLock', 'RowShareLock', 'RowExclusiveLock'))
), held AS (
    SELECT who, since FROM prepared
     WHERE transaction::text IN (SELECT transaction::text FROM locks)
    UNION ALL
    SELECT who, since FROM sessions WHERE pid IN (SELECT pid FROM locks)
)
"""
)

SHUTS: Final[LiteralString] = """locktype = 'relation' AND mode = 'AccessExclusiveLock'
   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""
"""Whether a lock of pg_locks keeps others from reading a table of the database: who waits for
it does so as well as who has it."""

_SHUT: Final[LiteralString] = f"""
SELECT n.nspname, c.relname, bool_or(l.granted)
  FROM pg_locks AS l LEFT JOIN pg_stat_activity AS a USING (pid)
  JOIN pg_class AS c ON c.oid = l.relation JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE {SHUTS}
   AND l.pid IS DISTINCT FROM pg_backend_pid()
   AND c.relkind IN ('r', 'p', 'm') AND n.nspname <> %(ours)s AND n.nspname !~ '^pg_'
   AND coalesce(coalesce(l.waitstart, a.xact_start)
                < clock_timestamp() - make_interval(secs => %(age_s)s), true)
 GROUP BY 1, 2 ORDER BY 1, 2
"""

_OLDEST: Final[LiteralString] = """
SELECT who || coalesce(' for ' || round(extract(epoch FROM clock_timestamp() - since)) || ' s', '')
  FROM held ORDER BY since NULLS LAST, who
"""


def in_progress(connection: Connection) -> str:
    """The oldest transactions of the server that may have written, or "" if there are none."""
    return _some(connection, _IN_PROGRESS + _OLDEST)


def holding(connection: Connection, table: TableName, *, rows: bool = True) -> str:
    """Who has held a table's locks for longest, or "" if nobody does.

    Without those that read and write its rows, unless `rows`: not each lock waits for them.
    """
    return _some(connection, _ON_TABLE + _OLDEST, schema=table.schema, name=table.name, rows=rows)


def shut(connection: Connection, *, age_s: float = 0.0) -> tuple[str, ...]:
    """Which tables of the database nobody can read now, and because of whom.

    Without those that have been so for less than `age_s`: most are for a moment.
    """
    rows = connection.execute(_SHUT, {"ours": CONTROL_SCHEMA, "age_s": age_s}).fetchall()
    return tuple(
        f"table {table} is locked by {by}" if granted else f"{by} keeps table {table} from a lock"
        for schema, name, granted in rows
        for table in [TableName(schema, name)]
        if (by := holding(connection, table))
    )


def require_unlocked(connection: Connection) -> None:
    """NotReady if somebody locks a table of the database, and not only for a moment."""
    if found := shut(connection, age_s=MOMENT_S):
        raise NotReady(some(found), hint=_WAIT)


def locked(connection: Connection, error: psycopg.Error) -> Locked:
    """What to raise when a lock could not be had in time; outside of a failed transaction."""
    found = some(shut(connection))
    return Locked(found or f"{error.diag.message_primary}: somebody has a lock", hint=_WAIT)


def prepared(connection: Connection, *, age_s: float) -> tuple[str, ...]:
    """The names of the database's prepared transactions that are at least so old."""
    rows = connection.execute(
        "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
        " AND prepared <= clock_timestamp() - make_interval(secs => %s) ORDER BY prepared",
        [age_s],
    ).fetchall()
    return tuple(gid for (gid,) in rows)


def advice(who: str, otherwise: str) -> str:
    """What to do about those who hold others up, or about whom nothing is known."""
    if not who:
        return otherwise
    by_name = " (COMMIT PREPARED or ROLLBACK PREPARED)" if "prepared transaction" in who else ""
    return f"it waits for {who}: end that{by_name}, and repeat"


def _some(connection: Connection, query: LiteralString, **values: str | bool) -> str:
    """Some of what holds others up; it is asked for when something else has failed already."""
    try:
        found = [who for (who,) in connection.execute(query, values).fetchall()]
    except psycopg.Error:
        return ""
    return some(found)
