"""Which tables and columns a service's database has, and whose the others are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from plans.catalog import TableName
from plans.errors import PlanInvalid
from plans.routes import Kind, Route


@dataclass(frozen=True, slots=True)
class Part:
    """What a service's database has of one source table."""

    table: TableName
    columns: frozenset[str]
    key: frozenset[str]
    owned: bool  # else it is a read-only copy
    all_rows: bool  # else the table is split by rows


@dataclass(frozen=True, slots=True)
class Scope:
    """One service's share of the source."""

    service: str
    parts: Mapping[TableName, Part]
    owners: Mapping[TableName, Mapping[str, set[str]]]  # of each column

    def whose(self, table: TableName, column: str | None = None) -> str:
        """Who has a table or one of its columns, for a person: "(owned by crm)"."""
        of_table = self.owners.get(table, {})
        sets = of_table.values() if column is None else [of_table.get(column, set())]
        owners = sorted(set[str]().union(*sets))
        if owners:
            return f"(owned by {' and '.join(owners)})"
        return "(which no service gets)" if column is None else f"(which {self.service} lacks)"


def scope_of(service: str, routes: Iterable[Route]) -> Scope:
    """The share that `routes` (those of every service) give to `service`.

    Derived routes give nothing: their tables come from hand-written revisions.
    """
    parts: dict[TableName, Part] = {}
    owners: dict[TableName, dict[str, set[str]]] = {}
    for route in routes:
        if route.kind is Kind.DERIVED:
            continue
        if route.kind.owned:
            for column in _columns(route):
                of_table = owners.setdefault(route.source.name, {})
                of_table.setdefault(column, set()).add(route.service)
        if route.service == service:
            part = _part(route)
            parts[part.table] = _united(parts.get(part.table), part)
    return Scope(service, parts, owners)


def _columns(route: Route) -> frozenset[str]:
    return frozenset({*(column.name for column in route.columns), *route.generated})


def _part(route: Route) -> Part:
    renamed = [column.name for column in route.columns if column.plain != column.name]
    if route.target != route.source.name or renamed:
        raise PlanInvalid(
            f"{route.id} gives {route.source.name} another shape in {route.target}"
            + (f" (columns {', '.join(renamed)})" if renamed else ""),
            hint="derive it into a table that hand-written revisions create",
        )
    return Part(
        table=route.source.name,
        columns=_columns(route),
        key=frozenset(route.key),
        owned=route.kind.owned,
        all_rows=route.kind is not Kind.ROWS,
    )


def _united(one: Part | None, other: Part) -> Part:
    if one is None:
        return other
    return Part(
        table=one.table,
        columns=one.columns | other.columns,
        key=one.key | other.key,
        owned=one.owned or other.owned,
        all_rows=one.all_rows or other.all_rows,
    )
