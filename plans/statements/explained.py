"""What the server itself says that a query touches: its plan, without running it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from plans.catalog import TableName
from plans.statements.placeholders import parsed
from plans.statements.problems import Unparsable
from plans.statements.tree import kind_of

_GENERIC_PLAN_SINCE = 160000
_EXPLAINED = frozenset({"SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"})
_SETTINGS: tuple[LiteralString, ...] = (
    "SET TRANSACTION READ ONLY",
    "SET LOCAL statement_timeout = '5s'",
    "SET LOCAL lock_timeout = '1s'",
    # As the parser takes strings, so that one statement to it is one to the server.
    "SET LOCAL standard_conforming_strings = on",
)
_EXPLAIN = sql.SQL("EXPLAIN (GENERIC_PLAN, VERBOSE, FORMAT JSON) ")
_ROOTS: LiteralString = """
SELECT n.nspname::text, c.relname::text
  FROM unnest(%(schemas)s::text[], %(names)s::text[]) AS named (schema, name)
  JOIN pg_namespace s ON s.nspname = named.schema
  JOIN pg_class l ON l.relnamespace = s.oid AND l.relname = named.name
  JOIN pg_class c ON c.oid = coalesce(pg_partition_root(l.oid), l.oid)
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
   AND n.nspname NOT IN ('pg_catalog', 'information_schema')
"""


def explained_tables(
    conn: psycopg.Connection[Any], text: str, search_path: Sequence[str] | None = None
) -> frozenset[TableName] | None:
    """The tables in the plan of one query; None if the server doesn't plan it.

    Partitions are given as their root.  What functions, triggers and keys touch isn't in a
    plan, and the planner drops joins and partitions that it proves to be of no effect: so
    this confirms what `read_statements` finds, and cannot show that nothing else is touched.

    Nothing is run: read only, with time limits, rolled back.  `conn` must not be in a
    transaction: ValueError.  Its own search_path counts if none is given.
    """
    if conn.info.transaction_status != TransactionStatus.IDLE:
        raise ValueError("explained_tables() needs a connection that isn't in a transaction")
    if conn.info.server_version < _GENERIC_PLAN_SINCE or (query := _query(text)) is None:
        return None
    try:
        with conn.transaction(force_rollback=True), conn.cursor() as cursor:
            for setting in _SETTINGS:
                cursor.execute(setting)
            if search_path is not None:
                path = ", ".join(sql.Identifier(name).as_string(conn) for name in search_path)
                cursor.execute("SELECT set_config('search_path', %s, true)", [path])
            # One statement, which is only planned; its parameters must not be bound.
            row = cursor.execute(_EXPLAIN + sql.SQL(query)).fetchone()
            named = sorted(set(_relations(row[0] if row else [])))
            schemas, names = [name.schema for name in named], [name.name for name in named]
            rows = cursor.execute(_ROOTS, {"schemas": schemas, "names": names}).fetchall()
            return frozenset(TableName(schema, name) for schema, name in rows)
    except psycopg.OperationalError:
        if conn.closed:
            raise
        return None
    except psycopg.Error:
        return None


def _query(text: str) -> str | None:
    try:
        query, trees = parsed(text)
    except Unparsable:
        return None
    return query if len(trees) == 1 and kind_of(trees[0])[0] in _EXPLAINED else None


def _relations(plan: Any) -> Iterator[TableName]:  # noqa: ANN401 - JSON
    if isinstance(plan, list):
        for item in plan:
            yield from _relations(item)
    elif isinstance(plan, dict):
        if "Relation Name" in plan and "Schema" in plan:
            yield TableName(plan["Schema"], plan["Relation Name"])
        for item in plan.values():
            yield from _relations(item)
