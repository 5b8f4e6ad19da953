"""Routes that foreign keys connect within a service's database."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from plans.catalog import Catalog, TableName
from plans.routes import Kind, Route

Place = tuple[str, TableName]  # a service's table


def key_groups(routes: Iterable[Route], catalog: Catalog) -> tuple[frozenset[str], ...]:
    """The ids of routes whose tables foreign keys connect in a service, at any distance.

    Their rows must be as of one moment, or a key could not be made; that it may be
    replaced or left out does not matter here.  What no key connects is in no group.
    A partition's key connects its table.
    """
    held: dict[Place, set[str]] = defaultdict(set)
    for route in routes:
        if route.kind is not Kind.DERIVED:
            held[route.service, route.source.name].add(route.id)
    beside: dict[Place, set[Place]] = defaultdict(set)
    for service in {service for service, _ in held}:
        for key in catalog.foreign_keys:
            one = (service, catalog.root(key.table))
            other = (service, catalog.root(key.references))
            if one in held and other in held:
                beside[one].add(other)
                beside[other].add(one)
    return tuple(
        frozenset[str]().union(*(held[place] for place in places)) for places in _connected(beside)
    )


def _connected(beside: Mapping[Place, set[Place]]) -> Iterable[set[Place]]:
    left = set(beside)
    while left:
        group, edge = set[Place](), {left.pop()}
        while edge:
            group |= edge
            edge = set[Place]().union(*(beside[place] for place in edge)) - group
        left -= group
        yield group
