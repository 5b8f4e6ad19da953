"""What lies across the boundary between services, with both of its ends.

The same rules as `plan check`'s, of `plans.boundary`; here with who is at which end, for a
picture and for the list of `plan explain`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import combinations

from plans.boundary import Boundary, Cut, names_of
from plans.catalog import TableName
from plans.dependents import Dependent
from plans.routes import Kind, Route
from toolkit.opened import Split

NOBODY = ""
"""Instead of a service: what the plan leaves behind."""

_ON_DELETE = {"c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}


class Sort(Enum):
    """What crosses; the value is what one of them is called."""

    KEY = "foreign key"
    CODE = "code"  # a view, a function or a trigger
    COPY = "read-only copy"
    DERIVED = "derived rows"
    SHARED = "shared table"


@dataclass(frozen=True, slots=True, order=True)
class End:
    """A table in a service's database, or in nobody's."""

    service: str
    table: TableName


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossing:
    """One thing that crosses, between two ends; one of several ends is several of these."""

    sort: Sort
    name: str  # "foreign key orders_manager_id_fkey", "view public.overview"
    begin: End  # what refers, reads or is fed from
    end: End
    how: str  # what becomes of it
    said: bool = True  # the plan says so
    place: str = ""  # where it does


def crossings(split: Split, dependents: Sequence[Dependent]) -> tuple[Crossing, ...]:
    """Everything that crosses, in the order of its sorts."""
    boundary = Boundary.of(split.routes)
    found = [
        *_keys(split, boundary),
        *_code(split, boundary, dependents),
        *_feeds(split),
        *_shared(split),
    ]
    order = list(Sort)
    return tuple(sorted(found, key=lambda c: (order.index(c.sort), c.name, c.begin, c.end)))


def _keys(split: Split, boundary: Boundary) -> Iterator[Crossing]:
    for cut in boundary.cuts(split.catalog):
        entry = next((n for n in names_of(cut.key) if n in split.plan.foreign_keys), None)
        place = split.plan.place(("foreign_keys", entry)) if entry else ""
        owners = {route.service for route in cut.owners} or {NOBODY}
        others = owners - {cut.service} or owners
        for other in sorted(others):
            yield Crossing(
                sort=Sort.KEY,
                name=f"foreign key {cut.key.name}",
                begin=End(cut.service, cut.route.target),
                end=End(other, split.catalog.root(cut.key.references)),
                how=_replaced(split, cut, entry),
                said=entry is not None,
                place=place,
            )


def _replaced(split: Split, cut: Cut, entry: str | None) -> str:
    if entry is None:
        action = _ON_DELETE.get(cut.key.on_delete)
        lost = f", and ON DELETE {action} no longer happens" if action else ""
        return f"left out{lost}; the plan says nothing of it"
    named = split.plan.foreign_keys[entry]
    said = {
        "none": "left out",
        "reference": "kept, to the read-only copy",
        "orphan_check": "left out, and orphans are looked for",
    }[named.replace_with]
    return f"{said}: {named.reason}" if named.reason else said


def _code(split: Split, boundary: Boundary, dependents: Iterable[Dependent]) -> Iterator[Crossing]:
    """Views, functions and triggers that read what no one service has together."""
    for one in dependents:
        ends = [End(s, t) for t in sorted(one.reads) for s in sorted(split.owners(t)) or [NOBODY]]
        held = [end for end in ends if end.service != NOBODY]
        having = _holders(boundary, one)
        if not held or (one.table is None and having):
            continue
        if one.table is None:
            # From the service that has most of it; the first by name of several.
            counts = Counter(end.service for end in held)
            at = min(counts, key=lambda service: (-counts[service], service))
            begins = [next(end for end in held if end.service == at)]
        else:
            begins = [end for end in held if end.table == one.table and end.service not in having]
        for begin in begins:
            own = {end.table for end in ends if end.service == begin.service}
            for end in ends:
                if end.service != begin.service and end.table not in own:
                    yield Crossing(
                        sort=Sort.CODE,
                        name=f"{one.kind} {one.name}",
                        begin=begin,
                        end=end,
                        how="left out in every service"
                        if one.table is None
                        else f"left out in {begin.service}",
                        said=False,
                    )


def _holders(boundary: Boundary, one: Dependent) -> frozenset[str]:
    """The services that have all it touches, and own something of what it writes."""
    found = boundary.services(one.reads)
    for table in one.writes:
        found &= {route.service for route in boundary.by_table.get(table, ()) if route.kind.owned}
    return found


def _feeds(split: Split) -> Iterator[Crossing]:
    for route in split.routes:
        if route.kind.owned:
            continue
        sort, how = (
            (Sort.COPY, "read-only there until complete, and kept fresh")
            if route.kind is Kind.REFERENCE
            else (Sort.DERIVED, "computed from each row, read-only until complete")
        )
        for owner in sorted(split.owners(route.source.name)) or [NOBODY]:
            if owner != route.service:
                yield Crossing(
                    sort=sort,
                    name=f"{sort.value} {route.id}",
                    begin=End(owner, route.source.name),
                    end=End(route.service, route.target),
                    how=how,
                    place=_entry(split, route),
                )


def _shared(split: Split) -> Iterator[Crossing]:
    parts: dict[TableName, list[Route]] = {}
    for route in split.routes:
        if route.kind in (Kind.COLUMNS, Kind.ROWS):
            parts.setdefault(route.source.name, []).append(route)
    for name, routes in parts.items():
        by = "column" if routes[0].kind is Kind.COLUMNS else "row"
        for one, other in combinations(sorted(routes, key=lambda r: r.service), 2):
            yield Crossing(
                sort=Sort.SHARED,
                name=f"shared table {name}",
                begin=End(one.service, one.target),
                end=End(other.service, other.target),
                how=f"split by {by}",
                place=_entry(split, one),
            )


def entry_of(split: Split, table: TableName) -> tuple[str, str] | None:
    """Where in the plan a table of the source stands."""
    for name in (table.name, str(table), *split.plan.tables):
        found = split.catalog.find(name) if name in split.plan.tables else None
        if found is not None and found.name == table:
            return "tables", name
    return None


def _entry(split: Split, route: Route) -> str:
    entry = entry_of(split, route.source.name)
    return split.plan.place(entry) if entry else ""
