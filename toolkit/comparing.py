"""Comparing tables of two databases without a plan; nothing is written to either."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

from psycopg import sql

from cdc.connect import connect, describe
from plans.catalog import Catalog, Table, TableName, name_parts
from plans.catalog_read import read_catalog
from plans.errors import NotReady
from validators.common_types import common_type
from validators.compare import compare_routes
from validators.plain_pairs import plain_pair
from validators.results import Progress, TableResult
from validators.scans import SNAPSHOT_S_MAX, Course
from validators.scope import Scope
from validators.session import read_rows
from validators.sides import Pair

SETTLE_S = 0.5
ALTERED = "it was altered while it was compared; compare it again"

_Shapes = Mapping[TableName, set[tuple[str, str]]]
"""Names and types of tables' columns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is to be compared, and how."""

    tables: tuple[str, ...] = ()  # all of both databases, if empty
    schemas: tuple[str, ...] = ("public",)  # where tables are that are named without one
    key: tuple[str, ...] = ()  # instead of the primary key
    leave_out: tuple[str, ...] = ()  # columns
    scope: Scope = field(default_factory=Scope)
    jobs: int = 2
    snapshot_s_max: float = SNAPSHOT_S_MAX
    settle_s: float = SETTLE_S
    """How long a row that differs may take to become equal: the delay of a replica."""


@dataclass(frozen=True, slots=True)
class UnlikeTypes:
    """A column whose type is not the same on both sides."""

    table: TableName
    column: str
    left: str
    right: str
    compared_as: str  # a type, "number" or "text"

    def as_dict(self) -> dict[str, str]:
        """As the verb's result has it."""
        return {
            "table": str(self.table),
            "column": self.column,
            "left": self.left,
            "right": self.right,
            "compared_as": self.compared_as,
        }


@dataclass(frozen=True, slots=True)
class Compared:
    """What a comparison brought."""

    tables: tuple[TableResult, ...]
    unlike_types: tuple[UnlikeTypes, ...]
    left_out: tuple[TableName, ...]  # foreign tables: their rows are in other databases


def compare_databases(
    left_dsn: str, right_dsn: str, wish: Wish, report: Callable[[Progress], None]
) -> Compared:
    """Compare tables of the same names in two databases, all rows or those of the scope.

    A row differs if it still does after `settle_s` seconds, twice, and has not
    changed on the left meanwhile.  Raises NotReady, with all that is wrong, for
    tables, columns and keys that are not on both sides, and for one database given twice.
    """
    with ThreadPoolExecutor(2) as pool:
        looked = pool.map(partial(_look, wish=wish), (left_dsn, right_dsn))
        (left, our_identity), (right, their_identity) = looked
    if our_identity == their_identity:
        raise NotReady(
            f"both are the same database, {describe(left_dsn)}: comparing it with itself"
            " proves nothing",
            hint="give the DSNs of two databases",
        )
    chosen = list[_Chosen]()
    wrong = list[str]()
    names = _names(left, right, wish)
    for name in names:
        try:
            chosen.append(_choose(left, right, name, wish))
        except _Wrong as error:
            wrong.append(str(error))
    wrong += _nothing_to_leave_out(left, right, names, wish)
    if wrong:
        raise NotReady(
            "; ".join(wrong),
            hint="name tables as schema.table with --tables, see --schema, --key and --exclude",
        )
    if not chosen:
        raise NotReady(
            f"{describe(left_dsn)} has no tables in schema {', '.join(wish.schemas)}",
            hint="name others with --schema",
        )
    pairs = [_pair(one, left_dsn, right_dsn, wish) for one in chosen]
    wish.scope.require_bounds(pairs)

    def wait(timeout_s: float) -> bool:
        time.sleep(min(wish.settle_s, timeout_s))
        return True

    course = Course(jobs=wish.jobs, snapshot_s_max=wish.snapshot_s_max)
    results = compare_routes(pairs, wait, course=course, report=report)
    with ThreadPoolExecutor(2) as pool:
        tables = [one.left.name for one in chosen]
        ours, theirs = pool.map(partial(_shapes, tables=tables), (left_dsn, right_dsn))
    results = [
        _unless_altered(result, one, ours, theirs)
        for result, one in zip(results, chosen, strict=True)
    ]
    unlike = [unlike for one in chosen for unlike in one.unlike_types()]
    foreign = set[TableName]() if wish.tables else _foreign(left) | _foreign(right)
    return Compared(tuple(results), tuple(unlike), tuple(sorted(foreign)))


def _nothing_to_leave_out(
    left: Catalog, right: Catalog, names: Sequence[str], wish: Wish
) -> list[str]:
    """What no column is called that is to be left out: it may be mistyped."""
    found = [table for side in (left, right) for name in names if (table := side.find(name))]
    known = {column.name for table in found for column in table.columns}
    return [
        f"no table has a column {name} to leave out" for name in wish.leave_out if name not in known
    ]


class _Wrong(Exception):
    """A table that cannot be compared, and why."""


@dataclass(frozen=True, slots=True)
class _Chosen:
    """A table of both databases."""

    left: Table
    right: Table
    columns: tuple[str, ...]
    key: tuple[str, ...]

    def unlike_types(self) -> Iterator[UnlikeTypes]:
        for name in self.columns:
            ours, theirs = self.left.column(name).type, self.right.column(name).type
            if ours != theirs:
                words = common_type(ours, theirs).words
                yield UnlikeTypes(self.left.name, name, ours, theirs, words)


def _pair(one: _Chosen, left_dsn: str, right_dsn: str, wish: Wish) -> Pair:
    pair = plain_pair(
        one.left, one.right, one.columns, one.key, left_dsn=left_dsn, right_dsn=right_dsn
    )
    return wish.scope.of(pair)


def _unless_altered(
    result: TableResult, one: _Chosen, ours: _Shapes, theirs: _Shapes
) -> TableResult:
    """What was read by columns that are others now proves nothing."""
    sides = ((one.left, ours), (one.right, theirs))
    if result.state != "equal" or all(_shape(t) == there.get(t.name) for t, there in sides):
        return result
    return replace(result, state="unverified", reason=ALTERED)


def _shape(table: Table) -> set[tuple[str, str]]:
    return {(column.name, column.type) for column in table.columns}


def _shapes(dsn: str, tables: Sequence[TableName]) -> _Shapes:
    """The tables' columns and types as they are now; nobody's lock is waited for."""
    with connect(dsn, name="dbsplit compare", may_be_lent=True) as connection:
        found = read_rows(
            connection,
            (),
            sql.SQL(
                "SELECT n.nspname::text, c.relname::text, a.attname::text,"
                " format_type(a.atttypid, a.atttypmod)"
                " FROM unnest($1::text[], $2::text[]) AS w(schema, name)"
                " JOIN pg_namespace AS n ON n.nspname = w.schema"
                " JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = w.name"
                " LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid"  # a table may have none
                " AND a.attnum > 0 AND NOT a.attisdropped"
            ).format(),
            [[table.schema for table in tables], [table.name for table in tables]],
        )
    shapes: dict[TableName, set[tuple[str, str]]] = {}
    for schema, name, column, type_ in found:
        shape = shapes.setdefault(TableName(schema, name), set())
        if column is not None:
            shape.add((column, type_))
    return shapes


def _look(dsn: str, wish: Wish) -> tuple[Catalog, object]:
    """What a database has, and what no other database has in common with it."""
    named = {schema for name in wish.tables for schema in _schemas_in(name)}
    with connect(dsn, name="dbsplit compare", may_be_lent=True) as connection:
        identity = connection.execute(
            "SELECT pg_postmaster_start_time(), current_database()"
        ).fetchone()
        catalog = read_catalog(connection, [*wish.schemas, *sorted(named - {*wish.schemas})])
    return replace(catalog, schemas=wish.schemas), identity


def _schemas_in(name: str) -> set[str]:
    """The schemas that a name may begin with; a dot may also be part of a table's name."""
    quoted = name_parts(name) if '"' in name else ()
    return {*quoted[:-1], name.partition(".")[0]}


def _names(left: Catalog, right: Catalog, wish: Wish) -> list[str]:
    """The tables that are wanted, each once; partitions go with their roots."""
    if not wish.tables:
        every = [*left.tables.values(), *right.tables.values()]
        return list(dict.fromkeys(_quoted(one.name) for one in every if not one.is_partition))
    wanted: dict[str, None] = {}
    for name in wish.tables:
        table = left.find(name)
        if table is None:
            wanted[name] = None
            continue
        # A query of a table shows the rows of those that inherit from it, too.
        for one in (table.name, *_heirs(left, table.name), *_heirs(right, table.name)):
            wanted[_quoted(one)] = None
    return list(wanted)


def _foreign(catalog: Catalog) -> set[TableName]:
    """Foreign tables that are not read with a table that they are partitions of."""
    return set(catalog.foreign_tables) - catalog.foreign_partitions


def _heirs(catalog: Catalog, name: TableName) -> Iterator[TableName]:
    for table in catalog.tables.values():
        if table.parent == name and not table.is_partition:
            yield table.name
            yield from _heirs(catalog, table.name)


def _quoted(name: TableName) -> str:
    return name.identifier.as_string()


def _choose(left: Catalog, right: Catalog, name: str, wish: Wish) -> _Chosen:
    ours = _found(left, name, "left")
    theirs = _found(right, _quoted(ours.name), "right")
    for one, other in ((left, theirs), (right, ours)):
        if other.leaves and (heirs := sorted(_heirs(one, other.name))):
            raise _Wrong(
                f"{other.name} has partitions on one side, and on the other tables that inherit"
                f" from it: name each of them, such as {heirs[0]}"
            )
    columns = tuple(_columns(ours, theirs, wish))
    return _Chosen(ours, theirs, columns, _key(ours, columns, wish))


def _found(catalog: Catalog, name: str, side: str) -> Table:
    if table := catalog.find(name):
        return table
    if view := catalog.named(name, catalog.views):
        raise _Wrong(f"{view} is a view in the {side} database, and only tables are compared")
    if foreign := catalog.named(name, catalog.foreign_tables):
        raise _Wrong(
            f"{foreign} is a foreign table in the {side} database, and its rows are in another"
        )
    plain = (".".join(name_parts(name)) if name.startswith('"') else "") or name
    raise _Wrong(f"the {side} database has no table {plain}")


def _columns(ours: Table, theirs: Table, wish: Wish) -> Iterator[str]:
    there = {column.name for column in theirs.columns}
    names = {column.name for column in ours.columns}
    for column in ours.columns:
        if column.name in wish.leave_out:
            continue
        if column.name not in there:
            raise _Wrong(f"column {column.name} of {ours.name} is missing on the right")
        yield column.name
    surplus = [
        column.name
        for column in theirs.columns
        if column.name not in names and column.name not in wish.leave_out
    ]
    if surplus:
        raise _Wrong(f"column {surplus[0]} of {ours.name} is missing on the left")


def _key(table: Table, columns: Sequence[str], wish: Wish) -> tuple[str, ...]:
    key = wish.key or table.primary_key
    missing = [name for name in key if name not in columns]
    if missing and wish.key:
        raise _Wrong(f"{table.name} has no column {missing[0]} to be its key")
    if missing:
        raise _Wrong(f"column {missing[0]} of {table.name} is of its key and cannot be left out")
    return key
