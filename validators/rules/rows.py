"""A service's tables on both sides: what a rule reads where it says the table's name.

On the target a table is itself.  On the source it is what the routes make of the source's
rows, so that one rule can be asked on both sides.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from psycopg import sql

from plans.catalog import Catalog, Table, TableName
from plans.routes import Kind, Route
from validators.canonical import is_builtin, trusted
from validators.rules.rule import Side

_ALEMBIC: Final = "alembic_version"  # where a schema stands; nobody's data


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceTable:
    """One table of a service."""

    service: str
    name: TableName
    target: Table
    routes: tuple[Route, ...] = ()  # that fill it; () for a table that the source knows nothing of

    @property
    def source(self) -> Table | None:
        """The source's table, if the service's table has its shape."""
        return self.routes[0].source if self.keeps_shape else None

    @property
    def keeps_shape(self) -> bool:
        """Whether it is a table of the source, or a part or copy of one."""
        return bool(self.routes) and self.routes[0].kind is not Kind.DERIVED

    @property
    def is_copy(self) -> bool:
        """Whether it is another service's table, only to be read."""
        return bool(self.routes) and self.routes[0].kind is Kind.REFERENCE

    @property
    def columns_of(self) -> Mapping[Side, frozenset[str]]:
        """The columns that a rule can read on each side."""
        there = {"target": frozenset(column.name for column in self.target.columns)}
        if not self.routes:
            return {"target": there["target"]}
        routed = (
            frozenset(column.name for column in route.columns) | frozenset(route.generated)
            for route in self.routes
        )
        return {"source": frozenset.intersection(*routed), "target": there["target"]}

    @property
    def key(self) -> tuple[str, ...]:
        """The columns that tell a row from others, () if none do."""
        return self.routes[0].key if self.routes else self.target.key

    def rows(self, side: Side) -> sql.Composable:
        """What stands behind FROM, before an alias, for the table's rows on a side."""
        if side == "target":
            return self.name.identifier
        return sql.SQL("({})").format(self.selected)

    @property
    def selected(self) -> sql.Composed:
        """A SELECT on the source that gives the table's rows."""
        names = [column.name for column in self.target.columns]
        names = [name for name in names if name in self.columns_of.get("source", ())]
        return sql.SQL(" UNION ALL ").join(_selected(route, names) for route in self.routes)


def tables_of(
    service: str, routes: Iterable[Route], catalog: Catalog
) -> Mapping[TableName, ServiceTable]:
    """All tables of a service's database, with the routes that fill them."""
    filling: dict[TableName, list[Route]] = {}
    for route in routes:
        if route.service == service:
            filling.setdefault(route.target, []).append(route)
    return {
        name: ServiceTable(
            service=service, name=name, target=table, routes=tuple(filling.get(name, ()))
        )
        for name, table in catalog.tables.items()
        if not table.is_partition and name.name != _ALEMBIC
    }


def with_tables(
    query: str,
    tables: Iterable[ServiceTable],
    side: Side,
    more: Mapping[str, sql.Composable] = MappingProxyType({}),
) -> str:
    """A query written with the bare names of a service's tables, as it runs on a side.

    The first table of a name is meant, so they come in the order of the plan's schemas.
    `more` are queries that have names there besides.
    """
    views = dict(more)
    if side == "source":
        named = {t.name.name: t for t in reversed(list(tables)) if t.routes}
        views |= {name: named[name].selected for name in _mentioned(query, named)}
    asked = sql.SQL("SELECT * FROM (\n{}\n) AS unexpected").format(
        trusted(query.strip().rstrip(";"))
    )
    if views:
        # Not materialized: so a condition reaches the source's indexes.
        asked = sql.SQL("WITH {}\n{}").format(
            sql.SQL(",\n").join(
                sql.SQL("{} AS NOT MATERIALIZED ({})").format(sql.Identifier(name), view)
                for name, view in views.items()
            ),
            asked,
        )
    return asked.as_string()


def _mentioned(query: str, names: Iterable[str]) -> Iterator[str]:
    """The names that stand in the query; one that is meant otherwise does no harm."""
    for name in names:
        bare = rf"(?<![\w.\"]){re.escape(name)}(?![\w\"])"
        written = re.escape(sql.Identifier(name).as_string())
        if re.search(bare, query, re.IGNORECASE) or re.search(written, query):
            yield name


def _selected(route: Route, names: list[str]) -> sql.Composed:
    where = sql.SQL(" WHERE ({}\n)").format(trusted(route.where)) if route.where else sql.SQL("")
    return sql.SQL("SELECT {} FROM {}{}").format(
        sql.SQL(", ").join(_column(route, name) for name in names),
        route.source.name.identifier,
        where,
    )


def _column(route: Route, name: str) -> sql.Composable:
    if name in route.generated or route.column(name).plain == name:
        return sql.Identifier(name)
    column = route.column(name)
    # On lines of its own: an expression may end in a comment.
    value = sql.SQL("({}\n)").format(trusted(column.expression))
    if is_builtin(column.type):
        value = sql.SQL("{}::{}").format(value, trusted(column.type))
    return sql.SQL("{} AS {}").format(value, sql.Identifier(name))
