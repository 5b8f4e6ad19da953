"""Installing and removing the control schema ``dbsplit``.

Source and targets have the same tables.  Several splits may share a source: rows
of tables with a column ``split`` belong to one of them, and the schema goes with
the last.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

import psycopg
from psycopg import sql

from cdc.connect import connect
from plans.errors import NotReady
from toolkit.migrations import LOCK_TIMEOUT_MS, as_sql, upgrade

SCHEMA: Final = "dbsplit"
VERSION_TABLE: Final = "control_version"
_VERSIONS: Final = Path(__file__).parent / "versions"

Side = Literal["source", "target"]

_COMMENT: Final = "Control schema of dbsplit, on the {}; `dbsplit abort` removes it."

# The journal keeps its rows: those of the other splits hold their hashes.
_OF_A_SPLIT: Final = (
    "boundary",
    "difference",
    "told_difference",
    "identity_before",
    "event",
    "heartbeat",
    "throttle",
    "comparing",
    "stop",
    "validated",
    "attempt",
    "service",
    "split",
)


def install_control(dsn: str, side: Side) -> None:
    """Bring the control schema to this version; nothing if it is there already.

    Raises NotReady if there is a schema of that name which is not ours, or a newer one.
    """
    with connect(dsn, name="dbsplit control", autocommit=False) as conn:
        _limit_waits(conn)
        conn.execute("SELECT pg_advisory_xact_lock(hashtext('dbsplit control schema'))")
        if not _is_ours(conn) and _exists(conn):
            raise NotReady(
                f"the schema {SCHEMA} of {conn.info.dbname} was not made by this toolkit",
                hint=f"rename it; {SCHEMA} is the name of the control schema",
            )
        if not _exists(conn):
            conn.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(SCHEMA)))
            comment = sql.Literal(_COMMENT.format(side))
            conn.execute(
                sql.SQL("COMMENT ON SCHEMA {} IS {}").format(sql.Identifier(SCHEMA), comment)
            )
    upgrade(dsn, _VERSIONS, version_table_schema=SCHEMA, version_table=VERSION_TABLE)


def control_sql() -> str:
    """What `install_control` runs where there is nothing yet."""
    create = sql.SQL("CREATE SCHEMA {};").format(sql.Identifier(SCHEMA)).as_string(None)
    tables = as_sql(_VERSIONS, version_table_schema=SCHEMA, version_table=VERSION_TABLE)
    return f"{create}\n\n{tables}"


def forget_split(dsn: str, split: str) -> tuple[str, ...]:
    """Remove the rows of one split; returns the splits that are left.

    Its entries in the journal stay, because the hashes of later ones go on from them.
    """
    with connect(dsn, name="dbsplit control", autocommit=False) as conn:
        _limit_waits(conn)
        if not _is_ours(conn):
            return ()
        for table in _OF_A_SPLIT:
            conn.execute(
                sql.SQL("DELETE FROM {} WHERE split = %s").format(sql.Identifier(SCHEMA, table)),
                [split],
            )
        rows = conn.execute("SELECT split FROM dbsplit.split ORDER BY split").fetchall()
        return tuple(name for (name,) in rows)


def remove_control(dsn: str) -> None:
    """Drop the control schema with everything in it, and every split's rows; if it is ours."""
    with connect(dsn, name="dbsplit control", autocommit=False) as conn:
        _limit_waits(conn)
        if _is_ours(conn):
            conn.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(SCHEMA)))


def _limit_waits(conn: psycopg.Connection) -> None:
    conn.execute("SELECT set_config('lock_timeout', %s, false)", [str(LOCK_TIMEOUT_MS)])


def _exists(conn: psycopg.Connection) -> bool:
    found = conn.execute("SELECT FROM pg_namespace WHERE nspname = %s", [SCHEMA])
    return found.fetchone() is not None


def _is_ours(conn: psycopg.Connection) -> bool:
    """By its comment: there is one from the schema's first moment to its last."""
    row = conn.execute(
        "SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = %s",
        [SCHEMA],
    ).fetchone()
    return row is not None and str(row[0]).startswith(_COMMENT.partition(",")[0])
