"""Findings on what else works with the source: replication, DDL triggers, its text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, LiteralString

import psycopg

from plans import names
from plans.catalog import TableName
from plans.check_subject import Subject
from plans.findings import Finding, Severity
from plans.some import some

Connection = psycopg.Connection[Any]

EVENT_TRIGGERS: Final[LiteralString] = """
SELECT t.evtname::text AS name, t.evtevent::text AS event, t.evtfoid::regproc::text AS function
  FROM pg_event_trigger t WHERE t.evtenabled IN ('O', 'A') ORDER BY t.evtname
"""

PUBLICATIONS: Final[LiteralString] = """
SELECT p.pubname::text AS name, p.puballtables AS all_tables,
       array_agg(h.schema ORDER BY h.schema, h.name) AS schemas,
       array_agg(h.name ORDER BY h.schema, h.name) AS tables
  FROM pg_publication p
  JOIN pg_publication_tables t ON t.pubname = p.pubname
  JOIN held h ON h.schema = t.schemaname AND h.name = t.tablename
 GROUP BY p.pubname, p.puballtables ORDER BY p.pubname
"""

# Since 17; a standby that has our slot follows by a physical slot of its own.
AHEAD: Final[LiteralString] = """
SELECT slot_name::text AS name FROM pg_replication_slots
 WHERE slot_type = 'physical' AND current_setting('synchronized_standby_slots', true) = ''
 ORDER BY 1
"""

SLOTS: Final[LiteralString] = """
SELECT slot_name::text AS name, plugin::text AS plugin, active
  FROM pg_replication_slots WHERE slot_type = 'logical' AND database = current_database()
   AND NOT temporary ORDER BY slot_name
"""

SUBSCRIPTIONS: Final[LiteralString] = """
SELECT s.subname::text AS name FROM pg_subscription s
  JOIN pg_database d ON d.oid = s.subdbid AND d.datname = current_database() ORDER BY s.subname
"""

DEFINERS: Final[LiteralString] = """
SELECT format('%%I.%%I(%%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid))
         AS function, p.proowner::regrole::text AS owner
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE p.prosecdef AND n.nspname = ANY (%(schemas)s)
   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass
                      AND d.objid = p.oid AND d.deptype = 'e')
 ORDER BY 1
"""

STALE: Final[LiteralString] = """
SELECT d.datcollversion::text AS recorded, pg_database_collation_actual_version(d.oid) AS actual
  FROM pg_database d WHERE d.datname = current_database()
"""

LARGE_OBJECT_TYPES: Final = frozenset({"oid", "lo", "public.lo"})


def check_surroundings(subject: Subject, conn: Connection) -> Iterator[Finding]:
    """Who else reads the source's log or writes by replication, and what fires on DDL."""
    yield from _event_triggers(subject, conn)
    yield from _publications(subject, conn)
    yield from _slots(subject, conn)
    yield from _definers(subject, conn)
    yield from _text(subject, conn)
    yield from check_large_objects(subject, conn)


def _event_triggers(subject: Subject, conn: Connection) -> Iterator[Finding]:
    for row in subject.held(conn, EVENT_TRIGGERS):
        yield subject.finding(
            Severity.WARNING, "event-trigger", row["name"], ("source",),
            f"{row['function']}() runs at every {row['event']}",
            why="prepare, the fences of a cutover and complete are DDL: if it fails or waits, so do"
            " they, within the write pause; no service's database gets it",
            remedy="see that it lets the role of the split pass, or disable it for the time",
        )  # fmt: skip


def _publications(subject: Subject, conn: Connection) -> Iterator[Finding]:
    ours = names.publication(subject.plan.split)
    for row in subject.held(conn, PUBLICATIONS):
        moved = [
            TableName(schema, table)
            for schema, table in zip(row["schemas"], row["tables"], strict=True)
        ]
        if row["name"] == ours:
            continue
        if row["all_tables"]:
            yield subject.finding(
                Severity.WARNING, "publication-all-tables", row["name"], ("source",),
                "the publication is FOR ALL TABLES",
                why="the split's own tables are published with it, and a subscriber that lacks them"
                " stops; after complete it gets nothing of the tables that have moved",
                remedy="list the tables that its subscribers want",
            )  # fmt: skip
        else:
            yield subject.finding(
                Severity.WARNING, "publication-other", row["name"], moved[0],
                f"it publishes {some(moved)} to others",
                why="until complete they get what the services write by way of the source; after it"
                " they get nothing",
                remedy="let its subscribers follow the services' databases before complete",
            )  # fmt: skip


def _slots(subject: Subject, conn: Connection) -> Iterator[Finding]:
    ours = names.slot(subject.plan.split)
    for row in subject.held(conn, SLOTS):
        if row["name"].startswith(ours):
            continue
        state = "read now" if row["active"] else "not read now"
        yield subject.finding(
            Severity.WARNING, "slot-other", row["name"], ("source",),
            f"somebody else follows this database by a logical slot ({row['plugin']}, {state})",
            why="what services write after their cutover reaches it as the stream's writes, whole"
            " batches at a time, and after complete not at all",
            remedy="move its reader to the services' databases before complete, or drop the slot if"
            " nobody reads it",
        )  # fmt: skip
    for row in subject.held(conn, AHEAD) if subject.plan.slots.failover else ():
        yield subject.finding(
            Severity.WARNING, "slot-ahead", row["name"], ("source",),
            f"a standby follows by slot {row['name']}, and synchronized_standby_slots is empty",
            why="the stream may be ahead of it: once it is promoted, targets have changes that"
            " the source lacks, which ends the stream for good",
            remedy=f"ALTER SYSTEM SET synchronized_standby_slots = '{row['name']}', and reload, if"
            " it may be promoted; else slots: {failover: false}",
        )  # fmt: skip
    for row in subject.held(conn, SUBSCRIPTIONS):
        yield subject.finding(
            Severity.WARNING, "subscription", row["name"], ("source",),
            "the source is itself a subscriber",
            why="a fence refuses what the subscription writes into a table that has moved, and its"
            " worker fails again and again",
            remedy="end it for tables that move, or let it write to the service's database",
        )  # fmt: skip


def _definers(subject: Subject, conn: Connection) -> Iterator[Finding]:
    for row in subject.held(conn, DEFINERS):
        yield subject.finding(
            Severity.NOTE, "function-definer", row["function"], ("source",),
            f"it is SECURITY DEFINER: here it runs with the rights of {row['owner']}",
            why="in a service's database it runs with the rights of the role that prepares it,"
            " which may be a superuser",
            remedy="after prepare, ALTER FUNCTION … OWNER TO a role that has just the rights that"
            " it needs",
        )  # fmt: skip


def _text(subject: Subject, conn: Connection) -> Iterator[Finding]:
    (row,) = subject.held(conn, STALE)
    if row["recorded"] and row["recorded"] != row["actual"]:
        yield subject.finding(
            Severity.WARNING, "collation-stale", subject.catalog.database, ("source",),
            f"its collation was of version {row['recorded']}, and the server's is {row['actual']}",
            why="indexes on text may be out of order, so that rows aren't found by their keys and"
            " keys may be doubled",
            remedy="REINDEX DATABASE, then ALTER DATABASE … REFRESH COLLATION VERSION",
        )  # fmt: skip


def check_large_objects(subject: Subject, conn: Connection) -> Iterator[Finding]:
    """Large objects, which no table owns, and the columns that may point at them."""
    (count,) = conn.execute("SELECT count(*) FROM pg_largeobject_metadata").fetchone() or (0,)
    if not count:
        return
    pointing = [
        f"{name}.{column}" for name, columns in _pointers(subject).items() for column in columns
    ]
    yield subject.finding(
        Severity.WARNING, "large-objects", subject.catalog.database, ("source",),
        f"the database has {count} large object{'' if count == 1 else 's'}"
        + (f"; {some(pointing)} may point at them" if pointing else ""),
        why="no table owns them and logical replication doesn't carry them: they stay behind",
        remedy="move them into bytea columns first, or copy them yourself",
    )  # fmt: skip


def _pointers(subject: Subject) -> Mapping[TableName, list[str]]:
    tables = {route.source.name: route.source for route in subject.routes}
    return {
        name: [column.name for column in table.columns if column.type in LARGE_OBJECT_TYPES]
        for name, table in sorted(tables.items())
    }
