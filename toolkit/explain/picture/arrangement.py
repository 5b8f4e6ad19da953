"""Where everything in the picture goes: regions of services, tiles within, bundles between.

Up to three regions touch each other all, and bundles cross the gaps between them.  More of
them stand in two rows with a corridor between, in which all bundles run: so no line ever
crosses a region that it does not belong to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from toolkit.explain.crossings import NOBODY
from toolkit.explain.picture.links import Link, across_gaps, lanes_needed, through_corridor
from toolkit.explain.picture.scene import Scene, Tile
from toolkit.explain.picture.treemap import Rect, treemap

WIDTH = 1000.0
HEAD = 44.0  # of a region: its name and what it holds
PAD = 8.0
ACROSS, DOWN = 120.0, 64.0  # the gaps of a few regions, in which the labels have room
ASIDE = 14.0  # between the regions of a row
_HEIGHTS = (560.0, 1000.0)
_TILE_HEIGHT = 1.9  # more tiles, a higher picture
_FEW = 3
_LANE = 30.0
_REGION_SHARE_MIN = 0.6  # of the average region: a name has to fit
_TILE_SHARE_MIN = 0.3  # of the average tile of its region: a name has to fit
_FED_SHARES = (0.16, 0.5)


@dataclass(frozen=True, slots=True)
class Region:
    """A service's part of the picture."""

    service: str
    box: Rect
    tiles: tuple[tuple[Tile, Rect], ...]


@dataclass(frozen=True, slots=True)
class Arrangement:
    """The whole picture."""

    height: float
    regions: tuple[Region, ...]
    links: tuple[Link, ...]

    @property
    def places(self) -> Mapping[str, Rect]:
        """Where each tile is, by its id."""
        return {tile.id: rect for region in self.regions for tile, rect in region.tiles}


def arrange(scene: Scene) -> Arrangement:
    """A place for everything; the same scene gives the same picture."""
    low, high = _HEIGHTS
    height = min(max(low, 440 + _TILE_HEIGHT * len(scene.tiles)), high)
    weights = _region_weights(scene)
    if len(weights) <= _FEW:
        boxes = _touching(weights, height)
        links = across_gaps(scene.bundles, boxes, WIDTH)
    else:
        upper, lower = _rows(weights)
        # Where in the corridor a label goes depends on columns only, so lanes come first.
        columns = {**_columns(upper, weights), **_columns(lower, weights)}
        corridor = _LANE * (lanes_needed(scene.bundles, columns, WIDTH) + 1)
        share = sum(weights[s] for s in upper) / sum(weights.values())
        above = height * min(max(share, 0.4), 0.6)
        boxes = {
            service: Rect(x, 0, width, above)
            if service in upper
            else Rect(x, above + corridor, width, height - above)
            for service, (x, width) in columns.items()
        }
        links = through_corridor(scene.bundles, boxes, WIDTH, (above, above + corridor))
        height += corridor
    regions = tuple(
        Region(service, boxes[service], tuple(_tiles(scene.tiles_of(service), boxes[service])))
        for service in scene.services
    )
    return Arrangement(height, regions, tuple(links))


def _region_weights(scene: Scene) -> dict[str, float]:
    weights = {s: sum(tile.weight for tile in scene.tiles_of(s)) for s in scene.services}
    floor = max(sum(weights.values()) / len(weights), 1.0) * _REGION_SHARE_MIN
    return {service: max(weight, floor) for service, weight in weights.items()}


def _touching(weights: Mapping[str, float], height: float) -> dict[str, Rect]:
    room = Rect(-ACROSS / 2, -DOWN / 2, WIDTH + ACROSS, height + DOWN)
    boxes = treemap(list(weights.values()), room)
    half = ACROSS / 2, DOWN / 2
    return {service: box.inset(*half, *half) for service, box in zip(weights, boxes, strict=True)}


def _rows(weights: Mapping[str, float]) -> tuple[list[str], list[str]]:
    """Two rows that weigh about the same, each in the plan's order; the heaviest is above."""
    upper: list[str] = []
    lower: list[str] = []
    for service in sorted(weights, key=lambda s: (s == NOBODY, -weights[s])):
        heavier = sum(weights[s] for s in upper) > sum(weights[s] for s in lower)
        (lower if heavier else upper).append(service)
    order = list(weights)
    return sorted(upper, key=order.index), sorted(lower, key=order.index)


def _columns(row: Sequence[str], weights: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Left edge and width of each region of a row."""
    room = WIDTH - ASIDE * (len(row) - 1)
    total, x = sum(weights[s] for s in row), 0.0
    found = {}
    for service in row:
        width = room * weights[service] / total
        found[service] = (x, width)
        x += width + ASIDE
    return found


def _tiles(tiles: Sequence[Tile], box: Rect) -> Iterator[tuple[Tile, Rect]]:
    """What the service owns above, what it is fed below."""
    inner = box.inset(PAD, HEAD, PAD, PAD)
    fed = [tile for tile in tiles if tile.kind in ("reference", "derived")]
    owned = [tile for tile in tiles if tile not in fed]
    share = _share(fed, owned)
    above = Rect(inner.x, inner.y, inner.width, inner.height * (1 - share))
    below = Rect(inner.x, above.bottom, inner.width, inner.height * share)
    for some, room in ((owned, above), (fed, below)):
        if some:
            yield from zip(some, treemap(_weights(some), room), strict=True)


def _share(fed: Sequence[Tile], owned: Sequence[Tile]) -> float:
    if not fed or not owned:
        return 1.0 if fed else 0.0
    of_fed, of_owned = sum(_weights(fed)), sum(_weights(owned))
    low, high = _FED_SHARES
    return min(max(of_fed / (of_fed + of_owned), low), high)


def _weights(tiles: Sequence[Tile]) -> list[float]:
    floor = _TILE_SHARE_MIN * sum(tile.weight for tile in tiles) / len(tiles)
    return [max(tile.weight, floor) for tile in tiles]
