"""What the picture shows, before it has a place: tiles, and the bundles of what crosses."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from plans.catalog import TableName
from plans.routes import Kind, Route
from toolkit.explain.crossings import NOBODY, Crossing, End, Sort
from toolkit.explain.outlook import Outlook
from toolkit.explain.predictions import Size, sizes

HEATS = 5
_DIRECTED = (Sort.COPY, Sort.DERIVED)  # who is fed from whom matters


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """A table in one service's database, or one that nobody gets."""

    id: str
    end: End
    label: str
    kind: str  # "whole", "columns", "rows", "reference", "derived", "dropped"
    note: str  # what is special about it
    size: Size
    writes: int | None  # None: it is fed
    heat: int  # 0: nothing was written, HEATS - 1: most
    row: str  # the id of its row in the tables below

    @property
    def weight(self) -> float:
        """How much room it gets.

        The square root of its size: sizes differ by millions, and of a thousand tables the
        small ones have to be seen too.
        """
        return math.sqrt(max(self.size.disk_bytes, 8192))


@dataclass(frozen=True, slots=True)
class Bundle:
    """All that crosses between two services and is of one sort."""

    id: str
    sort: Sort
    begin: str
    end: str
    crossings: tuple[tuple[str, Crossing], ...]  # each with the id of its row

    @property
    def count(self) -> int:
        """How many things cross; one that has several ends there is one."""
        return len({crossing.name for _, crossing in self.crossings})


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that is drawn."""

    services: tuple[str, ...]  # NOBODY is the last, if something is left behind
    tiles: tuple[Tile, ...]
    bundles: tuple[Bundle, ...]

    def tiles_of(self, service: str) -> list[Tile]:
        """The tiles of one service."""
        return [tile for tile in self.tiles if tile.end.service == service]

    def tile_at(self, end: End) -> Tile | None:
        """The tile of an end; a table split among services is at each of them."""
        return next((tile for tile in self.tiles if tile.end == end), None)


def scene_of(outlook: Outlook, crossings: Sequence[Crossing]) -> Scene:
    """The scene of a split."""
    tiles = tuple(_tiles(outlook))
    here = [*outlook.split.plan.services]
    if any(tile.end.service == NOBODY for tile in tiles):
        here.append(NOBODY)
    return Scene(tuple(here), tiles, tuple(_bundles(crossings, here)))


def source_rows(outlook: Outlook) -> Mapping[TableName, str]:
    """The ids of the rows of the source's tables, partitions with their root."""
    tables = outlook.split.catalog.tables.values()
    names = sorted(table.name for table in tables if not table.is_partition)
    return {name: f"table-{number}" for number, name in enumerate(names, 1)}


def made_rows(outlook: Outlook) -> Mapping[End, str]:
    """The ids of the rows of tables that exist in a service alone."""
    ends = {
        End(route.service, route.target)
        for route in outlook.split.routes
        if route.kind is Kind.DERIVED
    }
    return {end: f"made-{number}" for number, end in enumerate(sorted(ends), 1)}


def _tiles(outlook: Outlook) -> Iterator[Tile]:
    known, rows, made = sizes(outlook), source_rows(outlook), made_rows(outlook)
    by_end: dict[End, list[Route]] = {}
    for route in outlook.split.routes:
        by_end.setdefault(End(route.service, route.target), []).append(route)
    most = max((one.writes for one in outlook.measured.values()), default=0)
    number = 0
    for number, (end, routes) in enumerate(by_end.items(), 1):
        first = routes[0]
        writes = outlook.measured[first.source.name].writes if first.kind.owned else None
        yield Tile(
            id=f"tile-{number}",
            end=end,
            label=_label(end.table, outlook),
            kind=first.kind.value,
            note=_note(outlook, routes),
            size=sum((known[route.id] for route in routes), Size()),
            writes=writes,
            heat=_heat(writes, most),
            row=made.get(end) or rows[first.source.name],
        )
    read = {route.source.name for route in outlook.split.routes}
    for name in rows:
        if name in read:
            continue
        number += 1
        table, measured = outlook.split.catalog.tables[name], outlook.measured[name]
        yield Tile(
            id=f"tile-{number}",
            end=End(NOBODY, name),
            label=_label(name, outlook),
            kind="dropped",
            note="stays behind",
            size=Size(table.rows_estimated, table.size_bytes),
            writes=measured.writes,
            heat=_heat(measured.writes, most),
            row=rows[name],
        )


def _label(name: TableName, outlook: Outlook) -> str:
    plain = name.schema in (outlook.split.catalog.schemas[:1] or ("public",))
    return name.name if plain or name.schema == "public" else str(name)


def _note(outlook: Outlook, routes: Sequence[Route]) -> str:
    first = routes[0]
    match first.kind:
        case Kind.WHOLE:
            return ""
        case Kind.COLUMNS:
            held = len(first.columns) + len(first.generated)
            return f"{held} of {len(first.source.columns)} columns"
        case Kind.ROWS:
            return f"rows: {first.where}"
        case Kind.REFERENCE:
            return f"copy of {' and '.join(sorted(outlook.split.owners(first.source.name)))}"
        case Kind.DERIVED:
            return f"from {', '.join(dict.fromkeys(r.source.name.name for r in routes))}"


def _heat(writes: int | None, most: int) -> int:
    """A step of the scale, logarithmic: the tenth part of the most is one step cooler."""
    if not writes or not most:
        return 0
    return max(1, HEATS - 1 - int(math.log10(most / writes)))


def _bundles(crossings: Sequence[Crossing], services: Sequence[str]) -> Iterator[Bundle]:
    found: dict[tuple[str, str, Sort], list[tuple[str, Crossing]]] = {}
    for number, one in enumerate(crossings, 1):
        begin, end = one.begin.service, one.end.service
        if begin == end or end not in services or begin not in services:
            continue
        if one.sort not in _DIRECTED and services.index(begin) > services.index(end):
            begin, end = end, begin
        found.setdefault((begin, end, one.sort), []).append((f"crossing-{number}", one))
    order = list(Sort)
    for number, key in enumerate(
        sorted(found, key=lambda k: (services.index(k[0]), services.index(k[1]), order.index(k[2])))
    ):
        yield Bundle(f"bundle-{number + 1}", key[2], key[0], key[1], tuple(found[key]))
