"""What a check looks at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from plans.boundary import Boundary
from plans.catalog import Catalog, TableName
from plans.findings import Finding, Severity
from plans.load import Plan
from plans.places import Path
from plans.routes import Kind, Route

# What each query of `Subject.held` begins with: the relations that move, by their OIDs.
_HELD: LiteralString = """
WITH held AS (
    SELECT c.oid, h.schema, h.name
      FROM unnest(%(held_schemas)s::text[], %(held_names)s::text[]) AS h (schema, name)
      JOIN pg_namespace n ON n.nspname = h.schema
      JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = h.name
)
"""


@dataclass(frozen=True, slots=True)
class Subject:
    """A plan, the source's catalog and the routes that the plan means."""

    plan: Plan
    catalog: Catalog
    routes: Sequence[Route]
    boundary: Boundary
    paths: Mapping[TableName, Path] = field(default_factory=dict)  # of the plan's entries
    roots: Mapping[TableName, TableName] = field(default_factory=dict)
    """Every relation that moves, partitions included, and the table that the plan names."""

    @classmethod
    def of(cls, plan: Plan, catalog: Catalog, routes: Sequence[Route]) -> Subject:
        """The subject, with its boundary and the places of its tables."""
        found = {name: catalog.find(name) for name in plan.tables}
        paths: dict[TableName, Path] = {
            table.name: ("tables", name) for name, table in found.items() if table
        }
        roots = dict(_roots(catalog, {route.source.name for route in routes}))
        return cls(plan, catalog, routes, Boundary.of(routes), paths, roots)

    def held(
        self,
        conn: psycopg.Connection[Any],
        query: LiteralString,
        **more: Any,  # noqa: ANN401 - what psycopg adapts
    ) -> list[dict[str, Any]]:
        """The rows of a query on the source's catalog.

        It may read ``held`` (oid, schema, name), and name the parameter ``schemas``.
        """
        names = sorted(self.roots)
        parameters = {
            "held_schemas": [name.schema for name in names],
            "held_names": [name.name for name in names],
            "schemas": list(self.catalog.schemas),
            **more,
        }
        with conn.cursor(row_factory=dict_row) as cursor:
            whole = sql.SQL("{} {}").format(sql.SQL(_HELD), sql.SQL(query))
            return cursor.execute(whole, parameters).fetchall()

    def path_of(self, route: Route) -> Path:
        """Where the plan asks for a route: a predicate, a derived table, or the table's entry."""
        path = self.paths.get(route.source.name, ("tables",))
        if len(path) == 1:
            return path
        entry = self.plan.tables[str(path[1])]
        if route.kind is Kind.ROWS:
            return (*path, "split_rows", route.service)
        if route.kind is Kind.DERIVED:
            # Routes of one entry come in the order of its `derive`.
            same = [r for r in self.routes if r.kind is Kind.DERIVED and r.source is route.source]
            if len(same) == len(entry.derive):
                return (*path, "derive", same.index(route))
        return path

    def finding(  # noqa: PLR0913 - a finding's own parts
        self,
        severity: Severity,
        code: str,
        about: object,
        path: Path | TableName,
        message: str,
        *,
        why: str = "",
        remedy: str = "",
    ) -> Finding:
        """A finding at a path of the plan, or at a table's entry."""
        if isinstance(path, TableName):
            path = self.paths.get(self.roots.get(path, path), ("tables",))
        place = self.plan.place(path)
        return Finding(severity, code, str(about), place, message, why, remedy)


def _roots(catalog: Catalog, moved: set[TableName]) -> Iterator[tuple[TableName, TableName]]:
    for name, table in catalog.tables.items():
        root = table
        while root.is_partition and root.parent and root.parent in catalog.tables:
            root = catalog.tables[root.parent]
        if root.name in moved:
            yield name, root.name
