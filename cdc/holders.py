"""Who holds others up: transactions in progress, and those that hold a table's lock.

A prepared transaction belongs to no session, and ``pg_stat_activity`` knows nothing of it.
It ends when somebody ends it by its name.
"""

# ruff: noqa: S608 - constants are put together

from __future__ import annotations

from typing import Final, LiteralString

import psycopg

from cdc.connect import Connection
from plans.catalog import TableName

SHOWN_MAX: Final = 3

_PREPARED: Final[LiteralString] = """
SELECT format('prepared transaction %%L of %%s in database %%s', p.gid, p.owner, p.database) AS who,
       p.prepared AS since, p.transaction
  FROM pg_prepared_xacts AS p
"""

_SESSIONS: Final[LiteralString] = """
SELECT format('process %%s of %%s in database %%s%%s', a.pid, a.usename, a.datname,
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
), held AS (
    SELECT who, since FROM prepared
     WHERE transaction::text IN (SELECT transaction::text FROM locks)
    UNION ALL
    SELECT who, since FROM sessions WHERE pid IN (SELECT pid FROM locks)
)
"""
)

_OLDEST: Final[LiteralString] = """
SELECT who || coalesce(' for ' || round(extract(epoch FROM clock_timestamp() - since)) || ' s', '')
  FROM held ORDER BY since NULLS LAST, who
"""


def in_progress(connection: Connection) -> str:
    """The oldest transactions of the server that may have written, or "" if there are none."""
    return _some(connection, _IN_PROGRESS + _OLDEST)


def holding(connection: Connection, table: TableName) -> str:
    """Who has held a table's locks for longest, or "" if nobody does."""
    return _some(connection, _ON_TABLE + _OLDEST, schema=table.schema, name=table.name)


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


def _some(connection: Connection, query: LiteralString, **names: str) -> str:
    """Some of what holds others up; it is asked for when something else has failed already."""
    try:
        found = [who for (who,) in connection.execute(query, names).fetchall()]
    except psycopg.Error:
        return ""
    more = f" and {len(found) - SHOWN_MAX} more" if len(found) > SHOWN_MAX else ""
    return ", ".join(found[:SHOWN_MAX]) + more
