"""Findings on tables that are split, for rows that nobody has written yet.

`plans.check_data` proves that today's rows come together again.  Here it is asked what
the source would take tomorrow: rows without an owner, and rows of one service that
collide with those of another on their way back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import product
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql

from plans.boundary import held_columns
from plans.catalog import Column, Table, TableName
from plans.check_subject import Subject
from plans.expressions import quoted, read_expression
from plans.findings import Finding, Severity
from plans.routes import Kind, Route

Connection = psycopg.Connection[Any]

# Enough for two enums of thirty labels; more is left to the rows that there are.
COMBINATIONS_MAX: Final = 1000

LABELS: Final[LiteralString] = """
SELECT format('%%I.%%I', n.nspname, t.typname) AS type,
       array_agg(e.enumlabel::text ORDER BY e.enumsortorder) AS labels
  FROM pg_enum e JOIN pg_type t ON t.oid = e.enumtypid JOIN pg_namespace n ON n.oid = t.typnamespace
 GROUP BY n.nspname, t.typname
"""

CHECKS: Final[LiteralString] = """
SELECT h.schema, h.name, k.conname::text AS constraint,
       pg_get_expr(k.conbin, k.conrelid) AS expression,
       (SELECT array_agg(a.attname::text) FROM pg_attribute a
         WHERE a.attrelid = k.conrelid AND a.attnum = ANY (k.conkey)) AS columns
  FROM held h JOIN pg_constraint k ON k.conrelid = h.oid
 WHERE k.contype = 'c' AND k.convalidated ORDER BY h.schema, h.name, k.conname
"""

UNIQUE: Final[LiteralString] = """
SELECT h.schema, h.name, x.relname::text AS index, i.indexprs IS NOT NULL AS computed,
       (SELECT array_agg(a.attname::text) FROM pg_attribute a
         WHERE a.attrelid = h.oid AND a.attnum = ANY (i.indkey::int2[])) AS columns
  FROM held h JOIN pg_index i ON i.indrelid = h.oid JOIN pg_class x ON x.oid = i.indexrelid
 WHERE i.indisunique OR i.indisexclusion ORDER BY h.schema, h.name, x.relname
"""


def check_parts(
    subject: Subject, conn: Connection, contested: Collection[str] = ()
) -> Iterator[Finding]:
    """What the rules of the source's tables mean once their parts are written apart.

    Tables whose rows are `contested` today have been told of already.
    """
    checks = _by_table(subject.held(conn, CHECKS))
    unique = _by_table(subject.held(conn, UNIQUE))
    labels = {row["type"]: row["labels"] for row in subject.held(conn, LABELS)}
    seen = set()
    for route in subject.routes:
        if not route.kind.owned:
            continue
        name = route.source.name
        yield from _check_insertable(subject, route, checks.get(name, []), conn)
        if route.kind is Kind.ROWS and name not in seen:
            seen.add(name)
            predicates = _predicates(subject, name)
            yield from _check_unique(subject, route.source, predicates, unique.get(name, []))
            if str(name) not in contested:
                rules = checks.get(name, [])
                yield from _check_future(subject, route.source, predicates, labels, rules, conn)


def _by_table(rows: list[dict[str, Any]]) -> dict[TableName, list[dict[str, Any]]]:
    found: dict[TableName, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(TableName(row["schema"], row["name"]), []).append(row)
    return found


def _predicates(subject: Subject, name: TableName) -> Mapping[str, str]:
    entry = subject.plan.tables[str(subject.paths[name][1])]
    return entry.split_rows or {}


def _reads(predicates: Mapping[str, str]) -> frozenset[str]:
    return frozenset[str]().union(*(read_expression(text).reads for text in predicates.values()))


def _check_unique(
    subject: Subject, table: Table, predicates: Mapping[str, str], indexes: list[dict[str, Any]]
) -> Iterator[Finding]:
    """Keys that each part can hold up for its own rows only."""
    reads = _reads(predicates)
    for index in indexes:
        columns = [table.column(name) for name in index["columns"] or ()]
        apart = reads <= {column.name for column in columns} and not index["computed"]
        if apart or any(_is_unique_by_itself(column) for column in columns):
            continue
        names = ", ".join(column.name for column in columns)
        yield subject.finding(
            Severity.WARNING, "unique-across", f"{index['index']} on {table.name}", table.name,
            f"({names}) is unique over the rows of {' and '.join(predicates)}",
            why="after the cutover each database sees only its own rows, and two services may write"
            " the same; the second cannot travel back, and the stream stops",
            remedy=f"add {', '.join(sorted(reads))} to it, or let one service issue these values",
        )  # fmt: skip


def _is_unique_by_itself(column: Column) -> bool:
    """Whether services that never talk to each other draw different values."""
    return column.sequence is not None or column.type == "uuid"


def _check_future(
    subject: Subject,
    table: Table,
    predicates: Mapping[str, str],
    labels: Mapping[str, list[str]],
    checks: list[dict[str, Any]],
    conn: Connection,
) -> Iterator[Finding]:
    """Values that the columns may take, and for which not exactly one predicate is true."""
    reads = sorted(_reads(predicates) & {column.name for column in table.columns})
    columns = [table.column(name) for name in reads]
    values = [_values(column, labels, alone=len(columns) == 1) for column in columns]
    if not columns or not all(values):
        return
    if len(list(product(*values))) > COMBINATIONS_MAX:
        return
    rules = [row["expression"] for row in checks if set(row["columns"] or ()) <= set(reads)]
    try:
        with conn.transaction():
            found = conn.execute(_future(columns, values, predicates, rules)).fetchone()
    except psycopg.Error:
        return  # today's rows are proven or not by the same predicates
    if found:
        hits, *shown = found
        row = ", ".join(
            f"{column.name} = {'NULL' if value is None else value!r}"
            for column, value in zip(columns, shown, strict=True)
        )
        yield subject.finding(
            Severity.WARNING, "rows-future", table.name, table.name,
            f"a row with {row} would have {hits} owners",
            why="there is none now, but the source would take one: it is then in"
            f" {'no service' if hits == 0 else 'several services'}, and a cutover is refused",
            remedy=f"cover it by a predicate, or forbid it (NOT NULL or CHECK on"
            f" {', '.join(reads)})",
        )  # fmt: skip


def _values(column: Column, labels: Mapping[str, list[str]], *, alone: bool) -> list[str | None]:
    """Every value that the column may take, as far as a list can tell."""
    null: list[str | None] = [] if column.not_null else [None]
    if column.type == "boolean":
        return ["true", "false", *null]
    if column.type in labels:
        return [*labels[column.type], *null]
    return null if alone else []


def _future(
    columns: list[Column],
    values: list[list[str | None]],
    predicates: Mapping[str, str],
    rules: list[str],
) -> sql.Composed:
    hits = sql.SQL(" + ").join(
        sql.SQL("(({}) IS TRUE)::int").format(sql.SQL(text)) for text in predicates.values()
    )
    tables = sql.SQL(" CROSS JOIN ").join(
        sql.SQL("unnest({}::text[]::{}[]) AS {}({})").format(
            sql.Literal(of_one), sql.SQL(column.type),
            sql.Identifier(f"of_{column.name}"), sql.Identifier(column.name),
        )
        for column, of_one in zip(columns, values, strict=True)
    )  # fmt: skip
    allowed = sql.SQL(" AND ").join(
        sql.SQL("({}) IS NOT FALSE").format(sql.SQL(rule)) for rule in ["true", *rules]
    )
    shown = sql.SQL(", ").join(
        sql.SQL("{}::text").format(sql.Identifier(column.name)) for column in columns
    )
    return sql.SQL(
        "SELECT {hits}, {shown} FROM {tables} WHERE {hits} <> 1 AND {allowed} LIMIT 1"
    ).format(hits=hits, shown=shown, tables=tables, allowed=allowed)


def _check_insertable(
    subject: Subject, route: Route, checks: list[dict[str, Any]], conn: Connection
) -> Iterator[Finding]:
    """Conditions on columns that a service lacks; its inserts meet them on their way back."""
    held = held_columns(route)
    for row in checks:
        columns = set(row["columns"] or ())
        absent = columns - held
        if not absent or not _may_fail(route.source, row["expression"], columns, absent, conn):
            continue
        yield subject.finding(
            Severity.WARNING, "check-across",
            f"{route.service}: {row['constraint']} on {route.source.name}", route.source.name,
            f"the condition {row['expression']} reads {', '.join(sorted(absent))}, which"
            f" {route.service} doesn't have",
            why=f"{route.service}'s database doesn't know it; a row that it inserts may be refused"
            " by the source on its way back, and the stream stops",
            remedy="let the condition pass where these columns have their defaults, or give"
            f" {route.service} the columns",
        )  # fmt: skip


def _may_fail(
    table: Table, expression: str, columns: set[str], absent: set[str], conn: Connection
) -> bool:
    """Whether a row with the absent columns' defaults could be refused."""
    missing = [table.column(name) for name in sorted(absent)]
    if columns != absent or any(column.default or column.generated for column in missing):
        return columns != absent
    row = sql.SQL(", ").join(
        sql.SQL("NULL::{} AS {}").format(sql.SQL(column.type), sql.SQL(quoted(column.name)))
        for column in missing
    )
    query = sql.SQL("SELECT ({}) IS FALSE FROM (SELECT {}) AS r").format(sql.SQL(expression), row)
    try:
        with conn.transaction():
            (refused,) = conn.execute(query).fetchone() or (True,)
    except psycopg.Error:
        return True
    return bool(refused)
