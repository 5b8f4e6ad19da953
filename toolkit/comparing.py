"""Comparing tables of two databases without a plan; nothing is written to either."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

from psycopg import sql

from cdc.connect import connect, describe
from plans.catalog import Catalog, Column, Table, name_parts
from plans.catalog_read import read_catalog
from plans.errors import NotReady
from plans.routes import Kind, Route, RouteColumn
from validators.compare import compare_routes
from validators.results import Progress, TableResult
from validators.scans import SNAPSHOT_S_MAX, Course
from validators.scope import Scope
from validators.sides import Pair, pair_of

SETTLE_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is to be compared, and how."""

    tables: tuple[str, ...] = ()  # all that the first database has, if empty
    schemas: tuple[str, ...] = ("public",)  # where tables are that are named without one
    key: tuple[str, ...] = ()  # instead of the primary key
    leave_out: tuple[str, ...] = ()  # columns
    scope: Scope = field(default_factory=Scope)
    jobs: int = 2
    snapshot_s_max: float = SNAPSHOT_S_MAX
    settle_s: float = SETTLE_S
    """How long a row that differs may take to become equal: the delay of a replica."""


def compare_databases(
    left_dsn: str, right_dsn: str, wish: Wish, report: Callable[[Progress], None]
) -> list[TableResult]:
    """Compare tables of the same names in two databases, all rows or those of the scope.

    A row differs if it still does after `settle_s` seconds, twice, and has not
    changed on the left meanwhile.  Raises NotReady, with all that is wrong, for
    tables, columns and keys that are not on both sides.
    """
    with ThreadPoolExecutor(2) as pool:
        left, right = pool.map(partial(_catalog, wish=wish), (left_dsn, right_dsn))
    routes, wrong = [], list[str]()
    names = wish.tables or _all(left)
    for name in names:
        try:
            routes.append(_route(left, right, name, wish))
        except _Wrong as error:
            wrong.append(str(error))
    found = [table for side in (left, right) for name in names if (table := side.find(name))]
    known = {column.name for table in found for column in table.columns}
    wrong += [
        f"no table has a column {name} to leave out" for name in wish.leave_out if name not in known
    ]
    if wrong:
        raise NotReady(
            "; ".join(wrong),
            hint="name tables as schema.table, see --schema, --key and --exclude",
        )
    if not routes:
        raise NotReady(
            f"{describe(left_dsn)} has no tables in schema {', '.join(wish.schemas)}",
            hint="name others with --schema",
        )
    pairs = [_pair(route, left_dsn, right_dsn, wish) for route in routes]
    wish.scope.require_bounds(pairs)

    def wait(timeout_s: float) -> bool:
        time.sleep(min(wish.settle_s, timeout_s))
        return True

    course = Course(jobs=wish.jobs, snapshot_s_max=wish.snapshot_s_max)
    return compare_routes(pairs, wait, course=course, report=report)


class _Wrong(Exception):
    """A table that cannot be compared, and why."""


def _pair(route: Route, left_dsn: str, right_dsn: str, wish: Wish) -> Pair:
    pair = pair_of(route, source_dsn=left_dsn, target_dsn=right_dsn)
    return wish.scope.of(pair)


def _catalog(dsn: str, wish: Wish) -> Catalog:
    named = {schema for name in wish.tables for schema in _schemas_in(name)}
    with connect(dsn, name="dbsplit compare") as connection:
        catalog = read_catalog(connection, [*wish.schemas, *sorted(named - {*wish.schemas})])
    return replace(catalog, schemas=wish.schemas)


def _schemas_in(name: str) -> set[str]:
    """The schemas that a name may begin with; a dot may also be part of a table's name."""
    quoted = name_parts(name) if '"' in name else ()
    return {*quoted[:-1], name.partition(".")[0]}


def _all(catalog: Catalog) -> list[str]:
    """The names of all tables; partitions go with their roots."""
    return [
        table.name.identifier.as_string()
        for table in catalog.tables.values()
        if not table.is_partition
    ]


def _route(left: Catalog, right: Catalog, name: str, wish: Wish) -> Route:
    ours, theirs = _found(left, name, "left"), _found(right, name, "right")
    columns = tuple(_columns(ours, theirs, wish))
    return Route(
        id=str(ours.name),
        service="",
        owner="",
        kind=Kind.WHOLE,
        source=ours,
        target=theirs.name,
        columns=columns,
        key=_key(ours, [column.name for column in columns], wish),
    )


def _found(catalog: Catalog, name: str, side: str) -> Table:
    table = catalog.find(name)
    if table is None:
        raise _Wrong(f"the {side} database has no table {name}")
    return table


def _columns(ours: Table, theirs: Table, wish: Wish) -> Iterator[RouteColumn]:
    there = {column.name: column for column in theirs.columns}
    names = {column.name for column in ours.columns}
    for column in ours.columns:
        if column.name in wish.leave_out:
            continue
        if column.name not in there:
            raise _Wrong(f"column {column.name} of {ours.name} is missing on the right")
        yield _column(column, there[column.name])
    surplus = [name for name in there if name not in names and name not in wish.leave_out]
    if surplus:
        raise _Wrong(f"column {surplus[0]} of {ours.name} is missing on the left")


def _column(ours: Column, theirs: Column) -> RouteColumn:
    return RouteColumn(
        name=ours.name,
        expression=sql.Identifier(ours.name).as_string(),
        reads=frozenset([ours.name]),
        type=theirs.type,
        plain=ours.name,
        binary=False,  # nothing is copied
    )


def _key(table: Table, columns: Sequence[str], wish: Wish) -> tuple[str, ...]:
    key = wish.key or table.primary_key
    missing = [name for name in key if name not in columns]
    if missing and wish.key:
        raise _Wrong(f"{table.name} has no column {missing[0]} to be its key")
    if missing:
        raise _Wrong(f"column {missing[0]} of {table.name} is of its key and cannot be left out")
    return key
