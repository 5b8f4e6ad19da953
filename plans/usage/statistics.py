"""What the server itself knows of the use of its tables.

Statements by role come from pg_stat_statements where it is installed; the rest from
the catalog and from the counters that every server keeps.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import DictRow, dict_row

from plans.catalog import Catalog, TableName
from plans.catalog_sql import READ_ONLY
from plans.usage import statistics_sql
from plans.usage.model import (
    Actor,
    ColumnValues,
    Executed,
    Origin,
    Privileges,
    Statistics,
    Touched,
    Volume,
)
from plans.usage.search_paths import role_paths

NAME: Final = "pg_stat_statements"
HIDDEN: Final = "<insufficient privilege>"

# A column with more values than these tells kinds of rows apart only by chance.
VALUES_MAX: Final = 20

# The statistics of a thousand tables with fifty roles take a second.
QUERY_TIMEOUT: Final[LiteralString] = "SET LOCAL statement_timeout = '60s'"

_SETS = re.compile(r"\bNEW\.(?:\"((?:[^\"]|\"\")+)\"|(\w+))\s*:?=(?!=)", re.IGNORECASE)

Rows = list[DictRow]


def read_statistics(conn: psycopg.Connection[Any], catalog: Catalog) -> Statistics:
    """Read everything in a transaction of its own; `conn` must not be in one.

    What the role may not see, or the server does not have, is left out and told in
    `notes`.
    """
    with conn.transaction(), conn.cursor(row_factory=dict_row) as cursor:
        cursor.execute(READ_ONLY)
        cursor.execute(QUERY_TIMEOUT)
        schemas = {"schemas": sorted({name.schema for name in catalog.tables})}
        ask = _Asking(cursor, schemas)
        executed, origin, notes = _statements(ask)
        (database,) = ask.rows(statistics_sql.DATABASE_RESET)
        return Statistics(
            executed=executed,
            origin=origin,
            volumes=_volumes(ask.rows(statistics_sql.VOLUMES), catalog),
            counted_days=(database["now"] - database["since"]).total_seconds() / 86_400,
            privileges=_privileges(ask),
            columns=_columns(ask, catalog),
            paths=role_paths(conn),
            touched=tuple(_touched(ask.rows(statistics_sql.TOUCHED), catalog)),
            notes=notes,
        )


class _Asking:
    def __init__(self, cursor: psycopg.Cursor[DictRow], schemas: Mapping[str, Any]) -> None:
        self._cursor = cursor
        self._schemas = schemas

    def rows(self, query: LiteralString | sql.Composed, **more: object) -> Rows:
        return self._cursor.execute(query, {**self._schemas, **more}).fetchall()


def _statements(ask: _Asking) -> tuple[tuple[Executed, ...], Origin | None, tuple[str, ...]]:
    extension = next(iter(ask.rows(statistics_sql.EXTENSION)), None)
    if extension is None:
        return (), None, (f"{NAME} isn't installed",)
    if not extension["loaded"]:
        return (), None, (f"{NAME} isn't in shared_preload_libraries",)
    schema = extension["schema"]
    statements = sql.SQL(statistics_sql.STATEMENTS).format(statements=sql.Identifier(schema, NAME))
    rows = ask.rows(statements)
    (database,) = ask.rows(statistics_sql.DATABASE_RESET)
    reset: DictRow = {"stats_reset": None, "dealloc": 0}
    if extension["has_info"]:
        info = sql.SQL(statistics_sql.RESET).format(info=sql.Identifier(schema, f"{NAME}_info"))
        (reset,) = ask.rows(info)
    seen = [row for row in rows if row["text"] != HIDDEN]
    notes = []
    if hidden := len(rows) - len(seen):
        notes.append(
            f"statements of {hidden} other role{'' if hidden == 1 else 's'} are hidden;"
            " GRANT pg_read_all_stats shows them"
        )
    if reset["dealloc"]:
        notes.append(f"rare statements were evicted {reset['dealloc']} times")
    executed = tuple(
        Executed(text=row["text"], place=NAME, actor=Actor(row["role"]), calls=row["calls"])
        for row in seen
    )
    origin = Origin(
        name=NAME,
        since=reset["stats_reset"] or database["since"],
        until=database["now"],
        notes=tuple(notes),
    )
    return executed, origin, ()


def _volumes(rows: Rows, catalog: Catalog) -> Mapping[TableName, Volume]:
    """By root: a partition's rows are its table's."""
    found: dict[TableName, Volume] = {}
    for row in rows:
        if (name := _root(_name(row), catalog)) is not None:
            before = found.get(name, Volume())
            found[name] = Volume(
                before.rows_written + row["written"], before.rows_read + row["read"]
            )
    return found


def _root(name: TableName, catalog: Catalog) -> TableName | None:
    table = catalog.tables.get(name)
    while table and table.is_partition and table.parent and table.parent in catalog.tables:
        table = catalog.tables[table.parent]
    return table.name if table else None


def _privileges(ask: _Asking) -> Privileges:
    writers: dict[TableName, set[str]] = defaultdict(set)
    for row in ask.rows(statistics_sql.WRITERS):
        writers[_name(row)].add(row["role"])
    columns: dict[TableName, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for row in ask.rows(statistics_sql.COLUMN_WRITERS):
        columns[_name(row)][row["role"]].add(row["column"])
    roles = ask.rows(statistics_sql.ROLES)
    return Privileges(
        owners={_name(row): row["role"] for row in ask.rows(statistics_sql.OWNERS)},
        writers={name: frozenset(roles) for name, roles in writers.items()},
        column_writers={
            name: {role: frozenset(held) for role, held in by_role.items()}
            for name, by_role in columns.items()
        },
        roles=frozenset(row["role"] for row in roles),
        administrators=frozenset(row["role"] for row in roles if row["super"]),
    )


def _columns(ask: _Asking, catalog: Catalog) -> Mapping[tuple[TableName, str], ColumnValues]:
    found = {}
    for row in ask.rows(statistics_sql.COLUMNS, most=VALUES_MAX):
        if (name := _name(row)) in catalog.tables:
            common = tuple(sorted(row["common"] or ()))
            found[name, row["column"]] = ColumnValues(int(row["distinct"]), common)
    return found


def _touched(rows: Rows, catalog: Catalog) -> Iterator[Touched]:
    for row in rows:
        table = catalog.tables.get(_name(row))
        if table is None:
            continue
        known = {column.name for column in table.columns}
        sets = {
            quoted.replace('""', '"') if quoted else word.lower()
            for quoted, word in _SETS.findall(row["text"] or "")
        }
        yield Touched(table.name, frozenset((set(row["columns"]) | sets) & known))


def _name(row: DictRow) -> TableName:
    return TableName(row["schema"], row["name"])
