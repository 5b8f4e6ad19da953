"""Findings on what PostgreSQL does with a table besides holding its rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, LiteralString

import psycopg

from plans.catalog import TableName
from plans.check_subject import Subject
from plans.findings import Finding, Severity

Connection = psycopg.Connection[Any]

HIDDEN: Final[LiteralString] = """
SELECT schema, name FROM held WHERE row_security_active(oid) ORDER BY schema, name
"""

# ev_type: '2' update, '3' insert, '4' delete.
RULES: Final[LiteralString] = """
SELECT h.schema, h.name, r.rulename::text AS rule, r.ev_type = '2' AS on_update,
       r.ev_enabled::text AS enabled
  FROM held h JOIN pg_rewrite r ON r.ev_class = h.oid
 WHERE r.rulename <> '_RETURN' ORDER BY h.schema, h.name, r.rulename
"""

TRIGGERS: Final[LiteralString] = """
SELECT h.schema, h.name, t.tgname::text AS trigger, t.tgenabled = 'A' AS always
  FROM held h JOIN pg_trigger t ON t.tgrelid = h.oid
 WHERE NOT t.tgisinternal AND t.tgparentid = 0 AND t.tgenabled IN ('A', 'R')
   AND t.tgname <> 'dbsplit_fence' ORDER BY h.schema, h.name, t.tgname
"""

# A table's children that are no tables of the plan's schemas, and partitions without rows of
# their own.
CHILDREN: Final[LiteralString] = """
SELECT h.schema, h.name, n.nspname::text AS child_schema, c.relname::text AS child_name,
       c.relkind = 'f' AS is_foreign
  FROM held h JOIN pg_inherits i ON i.inhparent = h.oid JOIN pg_class c ON c.oid = i.inhrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'f' OR NOT c.relispartition AND n.nspname <> ALL (%(schemas)s)
 ORDER BY h.schema, h.name, n.nspname, c.relname
"""

# format_type() of the types whose values are OIDs of objects: they come out as names, and are
# read as names.
_OBJECT_TYPES: Final = frozenset({
    "regclass", "regcollation", "regconfig", "regdictionary", "regnamespace", "regoper",
    "regoperator", "regproc", "regprocedure", "regrole", "regtype",
})  # fmt: skip


def check_relations(subject: Subject, conn: Connection) -> Iterator[Finding]:
    """Rows that are hidden, elsewhere or changed on their way by rules and triggers."""
    yield from _hidden(subject, conn)
    yield from _rules(subject, conn)
    yield from _triggers(subject, conn)
    yield from _children(subject, conn)


def _hidden(subject: Subject, conn: Connection) -> Iterator[Finding]:
    for row in subject.held(conn, HIDDEN):
        name = TableName(row["schema"], row["name"])
        yield subject.finding(
            Severity.BLOCKER, "row-security", name, name,
            f"row level security hides rows from {conn.info.user}",
            why="the copy would be refused, or would lack the rows",
            remedy=f"ALTER ROLE {conn.info.user} BYPASSRLS, or connect as the table's owner where"
            " the table doesn't force row level security",
        )  # fmt: skip


def _rules(subject: Subject, conn: Connection) -> Iterator[Finding]:
    for row in subject.held(conn, RULES):
        name = TableName(row["schema"], row["name"])
        rule = f"{row['rule']} on {name}"
        if row["on_update"]:
            yield subject.finding(
                Severity.BLOCKER, "rule-on-update", rule, name,
                "the table has a rule on UPDATE, disabled or not",
                why="PostgreSQL refuses INSERT … ON CONFLICT on such a table, by which the stream"
                " writes",
                remedy="make it a trigger",
            )  # fmt: skip
        elif row["enabled"] in ("A", "R"):
            yield subject.finding(
                Severity.BLOCKER, "rule-always", rule, name,
                f"the rule is ENABLE {'ALWAYS' if row['enabled'] == 'A' else 'REPLICA'}",
                why="it rewrites what the stream writes, on either side",
                remedy=f"ALTER TABLE {name.identifier.as_string()} ENABLE RULE …, or make it a"
                " trigger",
            )  # fmt: skip


def _triggers(subject: Subject, conn: Connection) -> Iterator[Finding]:
    for row in subject.held(conn, TRIGGERS):
        name = TableName(row["schema"], row["name"])
        yield subject.finding(
            Severity.WARNING, "trigger-always", f"{row['trigger']} on {name}", name,
            f"the trigger is ENABLE {'ALWAYS' if row['always'] else 'REPLICA'}",
            why="it fires for what the stream writes too, so what it does is done on both sides:"
            " rows are doubled, or differ",
            remedy=f"ALTER TABLE {name.identifier.as_string()} ENABLE TRIGGER …, unless it changes"
            " no rows",
        )  # fmt: skip


def _children(subject: Subject, conn: Connection) -> Iterator[Finding]:
    for row in subject.held(conn, CHILDREN):
        name = TableName(row["schema"], row["name"])
        child = TableName(row["child_schema"], row["child_name"])
        if row["is_foreign"]:
            yield subject.finding(
                Severity.BLOCKER, "partition-foreign", child, name,
                f"it is a foreign table, and part of {name}: its rows are in another database",
                why="their changes aren't in the source's log, so they cannot be followed",
                remedy=f"detach it (ALTER TABLE {name.identifier.as_string()} DETACH PARTITION …),"
                " or make it a table of the source",
            )  # fmt: skip
        else:
            yield subject.finding(
                Severity.BLOCKER, "inherited-elsewhere", child, name,
                f"it inherits from {name}, and its schema isn't listed",
                why="its rows are read with the table's and would be copied, but not followed",
                remedy=f"ALTER TABLE {child.identifier.as_string()} NO INHERIT …, or list the"
                " schema under source.schemas",
            )  # fmt: skip


def check_object_columns(subject: Subject) -> Iterator[Finding]:
    """Columns whose values name objects of the database."""
    for name, table in sorted(
        {route.source.name: route.source for route in subject.routes}.items()
    ):
        for column in table.columns:
            if column.type.removesuffix("[]") in _OBJECT_TYPES:
                yield subject.finding(
                    Severity.WARNING, "column-object", f"{name}.{column.name}", name,
                    f"its type is {column.type}: its values are objects of this database",
                    why="a service's database refuses the name of one that it doesn't have",
                    remedy="make it text",
                )  # fmt: skip
