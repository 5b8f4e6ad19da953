"""Findings for which the source is asked about its rows, and about the plan's expressions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql

from plans.check_subject import Subject
from plans.expressions import quoted, read_expression
from plans.findings import Finding, Severity
from plans.model import DROP
from plans.places import Path
from plans.routes import Route

Connection = psycopg.Connection[Any]

# Counting a split table reads all of it; ten minutes are about 100 GB from a fast disk.
QUERY_TIMEOUT: Final[LiteralString] = (
    "SET LOCAL statement_timeout = '10min'; SET LOCAL lock_timeout = '5s'"
)

ROWS_CODES: Final = frozenset({"rows-unowned", "rows-shared", "rows-unverified"})

VOLATILITY: Final[LiteralString] = """
SELECT array_agg(DISTINCT p.provolatile::text)
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE p.proname = %(name)s AND (%(schema)s = '' OR n.nspname = %(schema)s)
"""


def fragment(text: str) -> sql.SQL:
    """An expression of the plan as SQL; `plans.expressions` has seen that it is only that."""
    return sql.SQL(text)


def check_rows(subject: Subject, conn: Connection) -> Iterator[Finding]:
    """Every row of a table split by rows has exactly one predicate that is true."""
    for name, entry in subject.plan.tables.items():
        table = subject.catalog.find(name)
        if not entry.split_rows or table is None:
            continue
        path: Path = ("tables", name, "split_rows")
        hits = sql.SQL(" + ").join(
            sql.SQL("(({}) IS TRUE)::int").format(fragment(text))
            for text in entry.split_rows.values()
        )
        shown = [fragment(quoted(column)) for column in table.key or (table.columns[0].name,)]
        query = sql.SQL(
            "SELECT count(*) OVER () AS rows, {hits} AS hits,"
            " pg_catalog.concat_ws(', ', {shown}) AS key"
            " FROM {table} WHERE {hits} <> 1 ORDER BY {shown} LIMIT 1"
        ).format(hits=hits, shown=sql.SQL(", ").join(shown), table=table.name.identifier)
        try:
            with conn.transaction():
                found = conn.execute(query).fetchone()
        except psycopg.Error as error:
            yield _unproven(subject, name, path, error)
            continue
        if found:
            rows, count, key = found
            of = ", ".join(service for service in entry.split_rows if service != DROP)
            yield subject.finding(
                Severity.BLOCKER, "rows-unowned" if count == 0 else "rows-shared", table.name, path,
                f"{rows} row{'' if rows == 1 else 's'} ({of}) without exactly one true"
                f" predicate; for example {', '.join(table.key) or shown} = {key} has {count}",
                why="each row must have one owner; NULL is not true",
                remedy="write predicates that exclude each other and cover NULL too (IS DISTINCT"
                " FROM, coalesce), or name rows that stay behind with drop: PREDICATE",
            )  # fmt: skip


def _unproven(subject: Subject, name: str, path: Path, error: psycopg.Error) -> Finding:
    return subject.finding(
        Severity.BLOCKER, "rows-unverified", name, path,
        f"could not be proven: {error.diag.message_primary or error}",
        why="nobody knows whether each row has exactly one owner",
        remedy="correct the predicates; if the time ran out, try again when the server is quiet",
    )  # fmt: skip


def check_expressions(subject: Subject, conn: Connection) -> Iterator[Finding]:
    """The source understands each expression, and each function's value depends on nothing else."""
    for route in subject.routes:
        texts = [column.expression for column in route.columns if column.plain is None]
        texts += [route.where] if route.where is not None else []
        if not texts:
            continue
        try:
            with conn.transaction():
                conn.execute(_planned(route))
        except psycopg.Error as error:
            yield subject.finding(
                Severity.BLOCKER, "expression-refused", route.id, subject.path_of(route),
                f"the source refuses it: {error.diag.message_primary or error}",
                remedy=error.diag.message_hint or "write what the source would take in a SELECT",
            )  # fmt: skip
            continue
        for name in sorted({name for text in texts for name in read_expression(text).functions}):
            yield from _check_function(subject, route, name, conn)


def _planned(route: Route) -> sql.Composed:
    return sql.SQL("SELECT {} FROM {} WHERE {} LIMIT 0").format(
        sql.SQL(", ").join(fragment(column.expression) for column in route.columns),
        route.source.name.identifier,
        fragment(f"({route.where})" if route.where is not None else "true"),
    )


def _check_function(
    subject: Subject, route: Route, function: str, conn: Connection
) -> Iterator[Finding]:
    schema, _, name = function.rpartition(".")
    (found,) = conn.execute(VOLATILITY, {"schema": schema, "name": name}).fetchone() or (None,)
    kinds = set(found or ())
    if kinds == {"v"}:
        yield subject.finding(
            Severity.BLOCKER, "function-volatile", route.id, subject.path_of(route),
            f"{function}() is volatile",
            why="copy, stream and comparison would each get another value",
            remedy="use an immutable expression over the row's columns",
        )  # fmt: skip
    elif "i" not in kinds:
        yield subject.finding(
            Severity.WARNING, "function-stable", route.id, subject.path_of(route),
            f"{function}() is not immutable: its value depends on settings or other rows",
            why="source and target could compute different values",
            remedy="use an immutable function, or make sure that the settings are the same",
        )  # fmt: skip
