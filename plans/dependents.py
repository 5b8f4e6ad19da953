"""Views, functions and triggers of the source, and the tables that they read.

What a function's text names is found by its words: the text may be in any
language and is only read when it runs.  So the answer is a hint for people; a
table that a function reaches by a built string isn't found.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row

from plans.boundary import Reads
from plans.catalog import Catalog, TableName

# A view reads views, at the bottom tables; pg_depend names their columns.
VIEWS: LiteralString = """
WITH RECURSIVE views AS (
    SELECT c.oid AS top, c.oid AS view
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname = ANY (%(schemas)s) AND c.relkind IN ('v', 'm')
       AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
                          AND d.objid = c.oid AND d.deptype = 'e')
     UNION
    SELECT v.top, d.refobjid
      FROM views v JOIN pg_rewrite r ON r.ev_class = v.view
      JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
                      AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> v.view
      JOIN pg_class c ON c.oid = d.refobjid AND c.relkind IN ('v', 'm')
)
SELECT CASE t.relkind WHEN 'm' THEN 'materialized view' ELSE 'view' END AS kind,
       tn.nspname::text AS schema, t.relname::text AS name,
       n.nspname::text AS table_schema, c.relname::text AS table_name, a.attname::text AS column
  FROM views v
  JOIN pg_class t ON t.oid = v.top JOIN pg_namespace tn ON tn.oid = t.relnamespace
  JOIN pg_rewrite r ON r.ev_class = v.view
  JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
                  AND d.refclassid = 'pg_class'::regclass
  JOIN pg_class c ON c.oid = d.refobjid AND c.relkind IN ('r', 'p')
  JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.refobjsubid AND a.attnum > 0
"""

FUNCTIONS: LiteralString = """
SELECT p.oid::bigint AS oid, n.nspname::text AS schema, p.proname::text AS name,
       pg_get_function_identity_arguments(p.oid) AS arguments,
       coalesce(pg_get_function_sqlbody(p.oid), p.prosrc) AS text
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
  JOIN pg_language l ON l.oid = p.prolang
 WHERE n.nspname = ANY (%(schemas)s) AND l.lanname NOT IN ('internal', 'c')
   AND p.prokind IN ('f', 'p')
   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass
                      AND d.objid = p.oid AND d.deptype = 'e')
"""

TRIGGERS: LiteralString = """
SELECT t.tgname::text AS name, t.tgfoid::bigint AS function,
       n.nspname::text AS table_schema, c.relname::text AS table_name
  FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE NOT t.tgisinternal AND t.tgparentid = 0 AND n.nspname = ANY (%(schemas)s)
"""

_WORD = re.compile(r'"((?:[^"]|"")+)"|([A-Za-z_\u0080-\uffff][\w$]*)')


@dataclass(frozen=True, slots=True)
class Dependent:
    """Something that reads tables, and with them moves or stays."""

    kind: str  # "view", "materialized view", "function", "trigger"
    name: str
    reads: Reads
    table: TableName | None = None  # a trigger's own


def read_dependents(conn: psycopg.Connection[Any], catalog: Catalog) -> list[Dependent]:
    """Everything of the catalog's schemas that reads its tables."""
    schemas = {"schemas": list(catalog.schemas)}
    with conn.cursor(row_factory=dict_row) as cursor:
        views = list(_views(cursor.execute(VIEWS, schemas).fetchall()))
        rows = cursor.execute(FUNCTIONS, schemas).fetchall()
        reads = {row["oid"]: _named_in(row["text"], catalog) for row in rows}
        functions = [
            Dependent(
                "function", f"{row['schema']}.{row['name']}({row['arguments']})", reads[row["oid"]]
            )
            for row in rows
        ]
        triggers = [
            _trigger(row, reads.get(row["function"], {}))
            for row in cursor.execute(TRIGGERS, schemas).fetchall()
        ]
    return [one for one in (*views, *functions, *triggers) if one.reads]


def _views(rows: list[dict[str, Any]]) -> Iterator[Dependent]:
    found: dict[tuple[str, str], dict[TableName, set[str]]] = defaultdict(lambda: defaultdict(set))
    for row in rows:
        view = (row["kind"], f"{row['schema']}.{row['name']}")
        columns = found[view][TableName(row["table_schema"], row["table_name"])]
        if row["column"]:
            columns.add(row["column"])
    for (kind, name), reads in sorted(found.items()):
        yield Dependent(kind, name, {table: frozenset(names) for table, names in reads.items()})


def _trigger(row: dict[str, Any], reads: Mapping[TableName, frozenset[str]]) -> Dependent:
    table = TableName(row["table_schema"], row["table_name"])
    return Dependent("trigger", f"{row['name']} on {table}", {**reads, table: frozenset()}, table)


def _named_in(text: str, catalog: Catalog) -> dict[TableName, frozenset[str]]:
    words = {
        quoted.replace('""', '"') if quoted else word.lower()
        for quoted, word in _WORD.findall(text)
    }
    return {name: frozenset() for name in catalog.tables if name.name in words}
