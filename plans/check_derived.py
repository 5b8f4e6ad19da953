"""Findings on derived routes: one row of the target for one row of the source."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql

from plans.catalog import TableName
from plans.check_subject import Subject
from plans.findings import Finding, Severity
from plans.routes import Kind, Route

Connection = psycopg.Connection[Any]

# Sets of columns of which no two rows have the same: not NULL, unique, and not only for some rows.
UNIQUE_KEYS: Final[LiteralString] = """
SELECT h.schema, h.name,
       (SELECT array_agg(a.attname::text) FROM pg_attribute a
         WHERE a.attrelid = h.oid AND a.attnum = ANY (i.indkey[:i.indnkeyatts - 1])) AS columns
  FROM held h JOIN pg_index i ON i.indrelid = h.oid
 WHERE i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
   AND NOT EXISTS (SELECT FROM pg_attribute a
                    WHERE a.attrelid = h.oid AND NOT a.attnotnull
                      AND a.attnum = ANY (i.indkey[:i.indnkeyatts - 1]))
"""


def check_derived(subject: Subject, conn: Connection) -> Iterator[Finding]:
    """Keys that several source rows have, or that are NULL."""
    keys: dict[TableName, list[set[str]]] = {}
    for row in subject.held(conn, UNIQUE_KEYS):
        keys.setdefault(TableName(row["schema"], row["name"]), []).append(set(row["columns"]))
    for route in subject.routes:
        if route.kind is Kind.DERIVED and not _is_proven(route, keys.get(route.source.name, [])):
            yield from _check_rows(subject, route, conn)


def _is_proven(route: Route, keys: list[set[str]]) -> bool:
    """Whether the key holds all columns of one that the source keeps unique."""
    plain = {route.column(name).plain for name in route.key}
    rest = [route.column(name) for name in route.key]
    nullable = {column.name for column in route.source.columns if not column.not_null}
    safe = all(column.plain is None or column.plain not in nullable for column in rest)
    constants = {name for name, _ in route.fixed}
    computed = [column for column in rest if column.plain is None and column.name not in constants]
    return safe and not computed and any(key <= plain for key in keys)


def _check_rows(subject: Subject, route: Route, conn: Connection) -> Iterator[Finding]:
    expressions = [sql.SQL(route.column(name).expression) for name in route.key]
    query = sql.SQL(
        "SELECT count(*) AS rows, pg_catalog.concat_ws(', ', {shown}) AS key, {empty} AS empty"
        " FROM (SELECT {keys} FROM {table} WHERE {where}) AS k"
        " GROUP BY {shown} HAVING count(*) > 1 OR {empty} ORDER BY 3 DESC, 1 DESC LIMIT 1"
    ).format(
        keys=sql.SQL(", ").join(
            sql.SQL("({}) AS {}").format(one, sql.Identifier(f"k{number}"))
            for number, one in enumerate(expressions)
        ),
        shown=sql.SQL(", ").join(sql.Identifier(f"k{n}") for n in range(len(expressions))),
        empty=sql.SQL(" OR ").join(
            sql.SQL("{} IS NULL").format(sql.Identifier(f"k{n}")) for n in range(len(expressions))
        ),
        table=route.source.name.identifier,
        where=sql.SQL(f"({route.where})" if route.where is not None else "true"),
    )
    try:
        with conn.transaction():
            found = conn.execute(query).fetchone()
    except psycopg.Error as error:
        if isinstance(error, psycopg.errors.QueryCanceled):
            yield _unproven(subject, route)
        return  # what the source refuses is said by check_expressions
    if found:
        yield _refused(subject, route, *found)
    else:
        yield _unproven(subject, route)


def _refused(subject: Subject, route: Route, rows: int, key: str, empty: bool) -> Finding:  # noqa: FBT001
    columns = ", ".join(route.key)
    if empty:
        return subject.finding(
            Severity.BLOCKER, "derive-key-null", route.id, subject.path_of(route),
            f"the key ({columns}) is NULL in part for {rows} row{'' if rows == 1 else 's'}",
            why=f"{route.target} has no row for them: its key refuses NULL",
            remedy="leave them out (where: … IS NOT NULL), or coalesce()",
        )  # fmt: skip
    return subject.finding(
        Severity.BLOCKER, "derive-key-shared", route.id, subject.path_of(route),
        f"{rows} rows of {route.source.name} have the key ({columns}) = ({key})",
        why=f"{route.target} can hold one of them, and which one depends on the order of changes",
        remedy="take more columns into the key, or leave rows out (where)",
    )  # fmt: skip


def _unproven(subject: Subject, route: Route) -> Finding:
    columns = ", ".join(route.key)
    return subject.finding(
        Severity.NOTE, "derive-key-assumed", route.id, subject.path_of(route),
        f"nothing in the source keeps the key ({columns}) unique",
        why="no two rows share it today; if some do later, one of them overwrites the other in"
        f" {route.target}",
        remedy="add a unique constraint to the source, or take its primary key into the key",
    )  # fmt: skip
