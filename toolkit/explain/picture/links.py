"""The bundles between regions: where each runs, and where its label stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from toolkit.explain.crossings import Sort
from toolkit.explain.picture.scene import Bundle
from toolkit.explain.picture.treemap import Rect
from toolkit.report.frame import LETTER

PILL_FONT = 12.0
PILL_HEIGHT = 22.0
_APART = 8.0  # between labels
_PLACES = (0.5, 0.4, 0.6, 0.3, 0.7, 0.22, 0.78)  # of a label on its line
_SHIFTS = (0, *(sign * step for step in range(15, 181, 15) for sign in (1, -1)))
_LANE_SHIFT = 24
_WORDS = {
    Sort.KEY: ("key cut", "keys cut"),
    Sort.CODE: ("in code", "in code"),
    Sort.COPY: ("copy", "copies"),
    Sort.DERIVED: ("derived", "derived"),
    Sort.SHARED: ("shared", "shared"),
}

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Link:
    """A bundle's line from region to region, and the label on it."""

    bundle: Bundle
    path: str  # of the line, as SVG writes it
    pill: Rect
    text: str


def across_gaps(
    bundles: Sequence[Bundle], boxes: Mapping[str, Rect], width: float
) -> Iterator[Link]:
    """Straight from border to border, for regions that all touch each other."""
    pairs: dict[frozenset[str], list[Bundle]] = {}
    for bundle in bundles:
        pairs.setdefault(frozenset((bundle.begin, bundle.end)), []).append(bundle)
    taken: list[Rect] = []
    for some in pairs.values():
        for number, bundle in enumerate(some):
            begin, end = _line(boxes[bundle.begin], boxes[bundle.end], number, len(some))
            text = _text(bundle, begin, end)
            pill = _free(begin, end, text, taken, width)
            taken.append(pill)
            yield Link(bundle, f"M{_at(begin)} L{_at(end)}", pill, text)


def lanes_needed(
    bundles: Sequence[Bundle], columns: Mapping[str, tuple[float, float]], width: float
) -> int:
    """How many labels have to stand above each other in a corridor."""
    return 1 + max((lane for _, lane in _placed(bundles, columns, width).values()), default=0)


def through_corridor(
    bundles: Sequence[Bundle],
    boxes: Mapping[str, Rect],
    width: float,
    corridor: tuple[float, float],
) -> Iterator[Link]:
    """Between two rows of regions: down from each, and to its label."""
    columns = {service: (box.x, box.width) for service, box in boxes.items()}
    placed = _placed(bundles, columns, width)
    lanes = 1 + max((lane for _, lane in placed.values()), default=0)
    top, bottom = corridor
    pills = {
        bundle.id: _centered(x, top + (bottom - top) * (lane + 1) / (lanes + 1), _words(bundle))
        for bundle in bundles
        for x, lane in [placed[bundle.id]]
    }
    anchors = _anchors(bundles, boxes, pills)
    for bundle in bundles:
        x, y = pills[bundle.id].center
        begin, end = (
            (anchors[bundle.id, s], top if boxes[s].bottom <= top + 1 else bottom)
            for s in (bundle.begin, bundle.end)
        )
        path = f"M{_at(begin)} C{_at((begin[0], y))} {_at((begin[0], y))} {_at((x, y))}"
        path += f" C{_at((end[0], y))} {_at((end[0], y))} {_at(end)}"
        yield Link(bundle, path, pills[bundle.id], _text(bundle, begin, end))


def _placed(
    bundles: Sequence[Bundle], columns: Mapping[str, tuple[float, float]], width: float
) -> dict[str, tuple[float, int]]:
    """The middle and the lane of each label; as near to its two regions as it finds room."""
    lanes: list[list[tuple[float, float]]] = []
    found = {}
    for bundle in bundles:
        centers = [columns[s][0] + columns[s][1] / 2 for s in (bundle.begin, bundle.end)]
        half = (_width(_words(bundle)) + _APART) / 2
        x, lane = _spot(lanes, sum(centers) / 2, half, width)
        if lane == len(lanes):
            lanes.append([])
        lanes[lane].append((x - half, x + half))
        found[bundle.id] = (x, lane)
    return found


def _spot(
    lanes: Sequence[Sequence[tuple[float, float]]], wanted: float, half: float, width: float
) -> tuple[float, int]:
    """The free spot nearest to the wanted one; a lane further on counts as a shift."""
    middle = min(max(wanted, half), width - half)
    best, spot = _LANE_SHIFT * len(lanes), (middle, len(lanes))
    for lane, taken in enumerate(lanes):
        for shift in _SHIFTS:
            cost = abs(shift) + _LANE_SHIFT * lane
            x = min(max(wanted + shift, half), width - half)
            if cost >= best:
                break
            if all(x + half <= low or x - half >= high for low, high in taken):
                best, spot = cost, (x, lane)
    return spot


def _anchors(
    bundles: Sequence[Bundle], boxes: Mapping[str, Rect], pills: Mapping[str, Rect]
) -> dict[tuple[str, str], float]:
    """Where a bundle leaves a region: in the order of the labels, so that few lines cross."""
    found = {}
    for service, box in boxes.items():
        ours = [bundle.id for bundle in bundles if service in (bundle.begin, bundle.end)]
        ours.sort(key=lambda one: pills[one].center[0])
        for number, one in enumerate(ours, 1):
            found[one, service] = box.x + box.width * number / (len(ours) + 1)
    return found


def _line(a: Rect, b: Rect, number: int, of: int) -> tuple[Point, Point]:
    """From border to border, side by side with the pair's other bundles."""
    place = (number + 0.5) / of
    top, bottom = max(a.y, b.y), min(a.bottom, b.bottom)
    if bottom - top > PILL_HEIGHT:
        y = _within(top, bottom, place, (PILL_HEIGHT + _APART) * of)
        return ((a.right, y), (b.x, y)) if a.x < b.x else ((a.x, y), (b.right, y))
    left, right = max(a.x, b.x), min(a.right, b.right)
    x = _within(left, right, place, 130.0 * of)
    return ((x, a.bottom), (x, b.y)) if a.y < b.y else ((x, a.y), (x, b.bottom))


def _within(low: float, high: float, place: float, wanted: float) -> float:
    """A place in the middle stretch of what two regions share."""
    length = min(wanted, high - low)
    return (low + high - length) / 2 + place * length


def _free(begin: Point, end: Point, text: str, taken: Sequence[Rect], width: float) -> Rect:
    """The label on its line, where no other label is yet."""
    found = []
    for place in _PLACES:
        x = begin[0] + (end[0] - begin[0]) * place
        y = begin[1] + (end[1] - begin[1]) * place
        half = _width(text) / 2
        pill = _centered(min(max(x, half), width - half), y, text)
        if not any(pill.meets(other) for other in taken):
            return pill
        found.append(pill)
    return found[0]


def _centered(x: float, y: float, text: str) -> Rect:
    return Rect(x - _width(text) / 2, y - PILL_HEIGHT / 2, _width(text), PILL_HEIGHT)


def _width(text: str) -> float:
    return len(text) * LETTER * PILL_FONT + 18


def _words(bundle: Bundle) -> str:
    one, more = _code_words(bundle) if bundle.sort is Sort.CODE else _WORDS[bundle.sort]
    arrow = "  →" if bundle.sort in (Sort.COPY, Sort.DERIVED) else ""
    return f"{bundle.count} {one if bundle.count == 1 else more}{arrow}"


def _text(bundle: Bundle, begin: Point, end: Point) -> str:
    """The label, with an arrow that shows where the rows go."""
    said = _words(bundle)
    if not said.endswith("→"):
        return said
    said = said.removesuffix("  →")
    over, down = end[0] - begin[0], end[1] - begin[1]
    if abs(over) >= abs(down):
        return f"{said} →" if over > 0 else f"← {said}"
    return f"{said} ↓" if down > 0 else f"{said} ↑"


def _code_words(bundle: Bundle) -> tuple[str, str]:
    """What it is by name, if all of it is the same."""
    kinds = {crossing.name.partition(" ")[0] for _, crossing in bundle.crossings}
    kind = kinds.pop() if len(kinds) == 1 and "materialized" not in kinds else ""
    return (kind, f"{kind}s") if kind else _WORDS[Sort.CODE]


def _at(point: Point) -> str:
    return f"{point[0]:.1f} {point[1]:.1f}"
