"""Findings on the tables and routes themselves: what can be told from the catalog alone."""

from __future__ import annotations

from collections.abc import Iterator

from plans.boundary import held_columns
from plans.catalog import Column, Table
from plans.check_subject import Subject
from plans.findings import Finding, Severity
from plans.names import STAGE_PREFIX
from plans.routes import Kind, Route


def check_switch(subject: Subject) -> Iterator[Finding]:
    """Whether this version can switch the traffic as the plan says."""
    if subject.plan.switch.kind == "pgbouncer":
        yield subject.finding(
            Severity.BLOCKER, "switch-unsupported", "switch", ("switch", "kind"),
            "switching by PgBouncer isn't supported in this version",
            remedy="use kind: command with a script that does it, or kind: none",
        )  # fmt: skip


def check_tables(subject: Subject) -> Iterator[Finding]:
    """What keeps a table's changes out of the log, or its rows from being told apart."""
    tables = {route.source.name: route.source for route in subject.routes}
    for _, table in sorted(tables.items()):
        yield from _check_persistence(subject, table)
        yield from _check_identity(subject, table)
        yield from _check_generated_key(subject, table)
        yield from _check_names(subject, table)
        yield from _check_later_partitions(subject, table)
    for route in subject.routes:
        yield from _check_leaves(subject, route)


def _check_persistence(subject: Subject, table: Table) -> Iterator[Finding]:
    parts = [table, *(subject.catalog.tables[leaf] for leaf in table.leaves)]
    for part in parts:
        if part.persistence == "u":
            yield subject.finding(
                Severity.BLOCKER, "table-unlogged", part.name, table.name,
                "the table is unlogged; its changes aren't in the log and cannot be followed",
                remedy=f"ALTER TABLE {part.name.identifier.as_string()} SET LOGGED, or drop it"
                " in the plan",
            )  # fmt: skip


def _check_identity(subject: Subject, table: Table) -> Iterator[Finding]:
    if not table.key:
        yield subject.finding(
            Severity.WARNING, "table-keyless", table.name, table.name,
            "the table has no primary key and no replica identity index",
            why="prepare sets REPLICA IDENTITY FULL, so updates and deletes log whole rows; its"
            " rows are compared as a multiset",
            remedy="add a primary key if you can",
        )  # fmt: skip
    elif table.replica_identity != "f" and not table.logs_key:
        what = "REPLICA IDENTITY NOTHING" if table.replica_identity == "n" else "a deferrable key"
        yield subject.finding(
            Severity.WARNING, "table-identity", table.name, table.name,
            f"the table has {what}, so the log doesn't say which row was updated or deleted",
            why="prepare sets REPLICA IDENTITY FULL",
            remedy="make the key NOT DEFERRABLE, or choose an index (REPLICA IDENTITY USING"
            " INDEX …)",
        )  # fmt: skip


def _check_generated_key(subject: Subject, table: Table) -> Iterator[Finding]:
    for name in table.key:
        if table.column(name).generated is not None:
            yield subject.finding(
                Severity.BLOCKER, "key-generated", table.name, table.name,
                f"{name} is generated, and belongs to the key",
                why="the log doesn't carry generated columns, so it doesn't say which row it means",
                remedy="choose another unique index (ALTER TABLE … REPLICA IDENTITY USING INDEX …)",
            )  # fmt: skip


def _check_names(subject: Subject, table: Table) -> Iterator[Finding]:
    for column in table.columns:
        if column.name.startswith(STAGE_PREFIX):
            yield subject.finding(
                Severity.BLOCKER, "column-reserved", f"{table.name}.{column.name}", table.name,
                f"names that begin with {STAGE_PREFIX} are dbsplit's own",
                why="the stream stages the table's rows beside columns that are called so",
                remedy="rename the column, also if no service gets it",
            )  # fmt: skip


def _check_leaves(subject: Subject, route: Route) -> Iterator[Finding]:
    """Partitions whose changes are logged otherwise than their root's key needs."""
    table = route.source
    if _has_generated_key(table) or route.needs_old_rows:
        return  # cannot be followed at all, or prepare sets FULL on all of them
    for name in table.leaves:
        leaf = subject.catalog.tables[name]
        as_key = leaf.logs_key and set(leaf.key) == set(table.key)
        if leaf.replica_identity != "f" and not as_key:
            yield subject.finding(
                Severity.BLOCKER, "partition-identity", name, table.name,
                f"its replica identity isn't that of {table.name}",
                why="once the table is published, updates and deletes of its rows are refused, or"
                " cannot be told apart",
                remedy=f"ALTER TABLE {name.identifier.as_string()} REPLICA IDENTITY DEFAULT",
            )  # fmt: skip


def _has_generated_key(table: Table) -> bool:
    return any(table.column(name).generated is not None for name in table.key)


def _check_later_partitions(subject: Subject, table: Table) -> Iterator[Finding]:
    """Tables whose new partitions have not the replica identity that they need."""
    if table.kind != "p" or _has_generated_key(table):
        return
    in_full = any(r.needs_full_identity for r in subject.routes if r.source.name == table.name)
    has_key = bool(table.primary_key) and not table.key_deferrable
    if in_full or not has_key:
        yield subject.finding(
            Severity.WARNING, "partition-later", table.name, table.name,
            "partitions that are made after prepare have REPLICA IDENTITY DEFAULT, and no key"
            " by which the log could tell their rows",
            why="PostgreSQL refuses updates and deletes of their rows, or the stream stops at"
            " them, until copy or stream, whichever runs, has set REPLICA IDENTITY FULL; that"
            " takes some seconds",
            remedy="make them with ALTER TABLE … REPLICA IDENTITY FULL in the same transaction,"
            " or add a primary key that is not deferrable",
        )  # fmt: skip


def check_way_back(subject: Subject) -> Iterator[Finding]:
    """Rows that a service writes and that cannot travel back to the source."""
    for route in subject.routes:
        if route.kind is Kind.DERIVED:
            yield subject.finding(
                Severity.NOTE, "route-derived", route.id, route.source.name,
                f"the rows of {route.target} are computed and cannot be computed back",
                why=f"they are fed and read-only in {route.service} until complete",
            )  # fmt: skip
        elif route.kind.owned:
            yield from _check_inserts(subject, route)


def _check_inserts(subject: Subject, route: Route) -> Iterator[Finding]:
    if missing := unfilled_columns(route):
        yield subject.finding(
            Severity.WARNING, "insert-incomplete", route.id, route.source.name,
            f"{', '.join(missing)}: NOT NULL without default in the source, and not in"
            f" {route.service}'s part",
            why=f"rows that {route.service} inserts cannot travel back, so its inserts are"
            " refused from the cutover until complete",
            remedy="give the columns a default in the source before prepare",
        )  # fmt: skip


def unfilled_columns(route: Route) -> tuple[str, ...]:
    """Columns without which the source takes no row, and which the route does not hold."""
    held = held_columns(route)
    return tuple(
        column.name
        for column in route.source.columns
        if column.name not in held and _needs_value(column)
    )


def _needs_value(column: Column) -> bool:
    has_value = column.default is not None or column.identity or column.generated is not None
    return column.not_null and not has_value
