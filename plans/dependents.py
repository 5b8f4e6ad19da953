"""Views, functions and triggers of the source, and the tables that they touch.

They are read as SQL (`plans.statements`), so a name in a comment or a string is no table.
What cannot be known, such as SQL that is put together when it runs, is told with them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg

from plans.boundary import Reads, held_columns
from plans.catalog import Catalog, TableName
from plans.routes import Kind, Route
from plans.statements.model import Touch
from plans.statements.objects import SourceObject, read_objects
from plans.statements.scope import read_scope


@dataclass(frozen=True, slots=True)
class Dependent:
    """Something that touches tables, and with them moves or stays."""

    kind: str  # "view", "materialized view", "function", "procedure", "trigger"
    name: str
    reads: Reads  # what it touches, whether it reads or writes it
    writes: frozenset[TableName] = frozenset()
    table: TableName | None = None  # a trigger's own
    unproven: tuple[str, ...] = ()  # why it may touch more
    sets: frozenset[str] = frozenset()  # columns of the row that a trigger sets at an UPDATE
    fires_on: frozenset[str] = frozenset()  # the columns of its UPDATE OF; none are any


def read_dependents(conn: psycopg.Connection[Any], catalog: Catalog) -> list[Dependent]:
    """Everything of the database that touches the catalog's tables, or may do so.

    `conn` must not be in a transaction: ValueError.
    """
    objects = read_objects(read_scope(conn, catalog))
    # Of a trigger's function the trigger says where it matters.
    fired = {one.statement.text for one in objects if one.kind == "trigger"}
    found = [
        _dependent(one, catalog)
        for one in objects
        if one.kind == "trigger" or one.statement.text not in fired
    ]
    return [one for one in found if one.reads or one.unproven]


def _dependent(one: SourceObject, catalog: Catalog) -> Dependent:
    touches = [touch for touch in one.statement.touches if not _by_a_key(touch)]
    reads = dict(_touched(touches))
    if one.table is not None and one.table in catalog.tables:
        reads[one.table] = frozenset()  # its row's columns are those that there are
    writes = frozenset(touch.table for touch in touches if touch.writes)
    return Dependent(
        kind=one.kind,
        name=one.name,
        reads=reads,
        writes=writes,
        table=one.table,
        unproven=one.statement.unproven,
        sets=one.sets,
        fires_on=one.fires_on,
    )


@dataclass(frozen=True, slots=True)
class SetForOthers:
    """A trigger sets columns of one part of a table when other parts' columns are changed."""

    owner: str  # whose the columns are
    columns: tuple[str, ...]
    others: tuple[str, ...]  # the services at whose UPDATEs it happens


def sets_for_others(one: Dependent, parts: Iterable[Route]) -> Iterator[SetForOthers]:
    """By the owner of what a trigger of a table split by column sets."""
    own = {
        route.service: held_columns(route) - set(route.source.key)
        for route in parts
        if route.kind is Kind.COLUMNS
    }
    for owner, columns in own.items():
        others = tuple(
            service
            for service, theirs in own.items()
            if service != owner and (not one.fires_on or one.fires_on & theirs)
        )
        if (found := one.sets & columns) and others:
            yield SetForOthers(owner, tuple(sorted(found)), others)


def _by_a_key(touch: Touch) -> bool:
    """Whether it is only reached by ON DELETE or ON UPDATE, of which a cut key's finding tells."""
    return any(step.startswith("foreign key ") for step in touch.via)


def _touched(touches: Iterable[Touch]) -> Reads:
    """The columns of each table; none are any, as soon as one touch doesn't know them."""
    columns: dict[TableName, set[str]] = defaultdict(set)
    unknown = set()
    for touch in touches:
        columns[touch.table] |= touch.columns
        if not touch.columns:
            unknown.add(touch.table)
    return {
        table: frozenset() if table in unknown else frozenset(names)
        for table, names in columns.items()
    }
