"""What lies across the boundary between services once the plan is carried out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from plans.catalog import Catalog, ForeignKey, TableName
from plans.routes import Kind, Route

Reads = Mapping[TableName, frozenset[str]]
"""Tables and those of their columns that something reads; no columns is any."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A foreign key that cannot be kept in a service's database as it is."""

    key: ForeignKey
    service: str
    has_reference: bool  # the service has a read-only copy of what is referenced
    route: Route  # which brings the referencing rows to the service
    owners: tuple[Route, ...]  # which bring the rows referred to; () if no service gets them


@dataclass(frozen=True, slots=True)
class Boundary:
    """Which service has which part of which table."""

    routes: Sequence[Route]
    by_table: Mapping[TableName, tuple[Route, ...]]

    @classmethod
    def of(cls, routes: Iterable[Route]) -> Boundary:
        """The boundary that these routes draw."""
        held: dict[TableName, list[Route]] = defaultdict(list)
        for route in routes:
            if route.kind is not Kind.DERIVED:
                held[route.source.name].append(route)
        return cls(
            [route for parts in held.values() for route in parts],
            {name: tuple(parts) for name, parts in held.items()},
        )

    def services(self, reads: Reads) -> frozenset[str]:
        """The services whose databases have everything that is read, copies included."""
        found: frozenset[str] | None = None
        for table, columns in reads.items():
            having = {
                route.service
                for route in self.by_table.get(table, ())
                if columns <= held_columns(route)
            }
            found = frozenset(having) if found is None else found & having
        return found if found is not None else frozenset()

    def cuts(self, catalog: Catalog) -> Iterator[Cut]:
        """Every foreign key of an owned table whose referenced rows may be elsewhere."""
        for key in catalog.foreign_keys:
            # Either end may be a partition, whose rows go where its table's go.
            others = self.by_table.get(catalog.root(key.references), ())
            for route in self.by_table.get(catalog.root(key.table), ()):
                has_columns = set(key.columns) <= held_columns(route)
                if route.kind.owned and has_columns and not _keeps(key, route, others):
                    reference = any(
                        other.kind is Kind.REFERENCE and other.service == route.service
                        for other in others
                    )
                    yield Cut(key, route.service, reference, route, _owners(key, others))


def _owners(key: ForeignKey, others: Iterable[Route]) -> tuple[Route, ...]:
    return tuple(
        route
        for route in others
        if route.kind.owned and set(key.referenced_columns) <= held_columns(route)
    )


def _keeps(key: ForeignKey, route: Route, others: Iterable[Route]) -> bool:
    """Whether all rows that may be referenced are the same service's.

    A part of a table split by columns has every row; one split by rows doesn't.
    """
    return any(
        other.service == route.service
        and other.kind in (Kind.WHOLE, Kind.COLUMNS)
        and set(key.referenced_columns) <= held_columns(other)
        for other in others
    )


def names_of(key: ForeignKey) -> tuple[str, str, str]:
    """The names by which a plan may call a foreign key; the first need not be unique."""
    return key.name, f"{key.table.name}.{key.name}", f"{key.table}.{key.name}"


def held_columns(route: Route) -> frozenset[str]:
    """The source's columns that the target has under the same name, generated ones too."""
    return frozenset(column.name for column in route.columns) | frozenset(route.generated)
