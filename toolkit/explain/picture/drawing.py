"""The picture as SVG: each tile and each label is a link to what is written below it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from math import hypot, log2

from toolkit.explain.crossings import NOBODY, Crossing
from toolkit.explain.picture.arrangement import WIDTH, Arrangement, Region
from toolkit.explain.picture.links import Link
from toolkit.explain.picture.scene import Scene, Tile
from toolkit.explain.picture.treemap import Rect
from toolkit.report.amounts import count, many, size
from toolkit.report.frame import LETTER
from toolkit.report.markup import Markup, element

_FONTS = (13.0, 11.5, 10.0, 8.5)
_LINE = 1.2  # of a font's size
_BOLD = 0.64  # width of a bold letter, in font sizes; as LETTER, generous
_SMALL = 0.84  # of the name's font, for what stands below it
_MARGIN = 5.0
_BOW = 0.12  # of a line's length: lines between the same tiles must not lie on each other
_WORD = re.compile(r"[^_\s.-]+[_\s.-]*|[_\s.-]+")
_HUES = (212, 28, 152, 285, 340, 190, 60, 250)


def hue(number: int) -> str:
    """A service's colour, as a custom property for the style sheet."""
    return f"--h:{_HUES[number % len(_HUES)] + 13 * (number // len(_HUES))}"


def draw(scene: Scene, arrangement: Arrangement) -> Markup:
    """The whole picture."""
    places = arrangement.places
    lines = [
        line
        for link in arrangement.links
        for row, crossing in link.bundle.crossings
        if (line := _single(scene, places, link, row, crossing)) is not None
    ]
    return element(
        "svg",
        _definitions(),
        *(_region(region, scene.services) for region in arrangement.regions),
        element("g", *(_thread(link) for link in arrangement.links), class_="threads"),
        element("g", *lines, class_="lines", aria_hidden="true"),
        element("g", *(_pill(link) for link in arrangement.links), class_="pills"),
        viewBox=f"-2 -2 {WIDTH + 4:.0f} {arrangement.height + 4:.0f}",
        class_="picture map",
        role="group",
        aria_label="The services, their tables, and what crosses between them",
    )


def _definitions() -> Markup:
    def pattern(name: str, path: str) -> Markup:
        return element(
            "pattern",
            element("path", d=path, class_="stripe"),
            id=name,
            width=4,
            height=4,
            patternUnits="userSpaceOnUse",
        )

    arrows = [
        element(
            "marker",
            element("path", d="M0 0 L8 4 L0 8 Z", class_=f"head {sort}"),
            id=f"arrow-{sort}",
            viewBox="0 0 8 8",
            refX=7,
            refY=4,
            markerWidth=7,
            markerHeight=7,
            markerUnits="userSpaceOnUse",
            orient="auto",
        )
        for sort in ("copy", "derived", "key", "code", "shared")
    ]
    return element("defs", pattern("columns", "M1 0 V4"), pattern("rows", "M0 1 H4"), *arrows)


def _region(region: Region, services: Sequence[str]) -> Markup:
    box, tiles = region.box, [tile for tile, _ in region.tiles]
    bytes_ = sum(tile.size.disk_bytes for tile in tiles)
    name = region.service or "left behind"
    told = f"{many(len(tiles), 'table', 'tables')} · {size(bytes_)}"
    room = box.width - 24
    short = _cut(name, room, 17, _BOLD)
    return element(
        "g",
        element("rect", x=box.x, y=box.y, width=box.width, height=box.height, rx=10, class_="box"),
        element(
            "text", element("title", name), short, x=box.x + 12, y=box.y + 21, class_="service"
        ),
        element("text", _cut(told, room, 11.5), x=box.x + 12, y=box.y + 36, class_="told"),
        *(_tile(tile, rect) for tile, rect in region.tiles),
        class_="region nobody" if region.service == NOBODY else "region",
        style=hue(services.index(region.service)),
        data_service=name,
    )


def _tile(tile: Tile, rect: Rect) -> Markup:
    inner = rect.inset(1.5, 1.5, 1.5, 1.5)
    split = tile.kind in ("columns", "rows")
    strip = min(7.0, inner.width / 4) if split else 0.0
    whole = ", ".join(part for part in (tile.label, tile.note, *_amounts(tile)) if part)
    return element(
        "a",
        element("title", whole),
        element(
            "rect",
            x=inner.x,
            y=inner.y,
            width=inner.width,
            height=inner.height,
            rx=3,
            class_="face",
        ),
        element(
            "rect",
            x=inner.x + 1,
            y=inner.y + 2,
            width=strip,
            height=max(inner.height - 4, 0),
            fill=f"url(#{tile.kind})",
            class_="strip",
        )
        if split
        else None,
        *_words(tile, inner.inset(strip + _MARGIN, _MARGIN - 1, _MARGIN - 2, _MARGIN - 2)),
        href=f"#{tile.row}",
        class_=f"tile {tile.kind} heat-{tile.heat}",
        data_tile=tile.id,
        aria_label=whole,
    )


def _amounts(tile: Tile) -> tuple[str, ...]:
    rows = f"about {many(tile.size.rows, 'row', 'rows')}"
    told = (rows, size(tile.size.disk_bytes))
    return told if tile.writes is None else (*told, f"{count(tile.writes)} writes")


def _words(tile: Tile, room: Rect) -> Iterator[Markup]:
    """The name, as large as it fits; below it what there is room for."""
    for font in _FONTS:
        lines = wrapped(tile.label, room.width, font)
        if lines and len(lines) * font * _LINE <= room.height:
            break
    else:
        font = _FONTS[-1]
        letters, fitting = int(room.width / (_BOLD * font)), int(room.height // (font * _LINE))
        if fitting < 1 or letters < 4:
            return
        lines = wrapped(tile.label, room.width, font) or _broken(tile.label, letters)
        if len(lines) > fitting:
            rest = "".join(lines[fitting - 1 :])
            lines = [*lines[: fitting - 1], _cut(rest, room.width, font, _BOLD)]
    y = room.y
    for line in lines:
        y += font * _LINE
        yield element("text", line, x=room.x, y=y - 0.25 * font, class_="name", font_size=font)
    small = max(font * _SMALL, 8.0)
    more = [tile.note, f"{count(tile.size.rows)} rows", size(tile.size.disk_bytes)]
    for text in filter(None, more):
        y += small * _LINE
        fits = len(text) * LETTER * small <= room.width or text == tile.note
        if y > room.bottom or not fits or room.width < 6 * small:
            return
        said = _cut(text, room.width, small)
        yield element("text", said, x=room.x, y=y - 0.25 * small, class_="more", font_size=small)


def wrapped(name: str, width: float, font: float) -> list[str]:
    """A name in lines, broken where its words end; [] if one word does not fit."""
    per_line = int(width / (_BOLD * font))
    lines: list[str] = []
    for word in _WORD.findall(name):
        if len(word) > per_line:
            return []
        if lines and len(lines[-1]) + len(word) <= per_line:
            lines[-1] += word
        else:
            lines.append(word)
    return lines


def _broken(name: str, letters: int) -> list[str]:
    """A name in lines of so many letters, wherever that breaks it."""
    return [name[at : at + letters] for at in range(0, len(name), letters)]


def _cut(text: str, width: float, font: float, letter: float = LETTER) -> str:
    letters = int(width / (letter * font))
    return text if len(text) <= letters else text[: max(letters - 1, 1)].rstrip() + "…"


def _thread(link: Link) -> Markup:
    """A bundle's own line, the thicker the more it holds."""
    return element(
        "path",
        d=link.path,
        class_=f"thread {link.bundle.sort.name.lower()}",
        stroke_width=min(2 + 1.5 * log2(link.bundle.count), 10),
        data_bundle=link.bundle.id,
    )


def _pill(link: Link) -> Markup:
    pill, bundle = link.pill, link.bundle
    x, y = pill.center
    begin, end = (service or "left behind" for service in (bundle.begin, bundle.end))
    what = f"{bundle.count} of sort {bundle.sort.value} between {begin} and {end}"
    return element(
        "a",
        element("title", what),
        element(
            "rect", x=pill.x, y=pill.y, width=pill.width, height=pill.height, rx=pill.height / 2
        ),
        element("text", link.text, x=x, y=y + 4, text_anchor="middle"),
        href=f"#{bundle.id}",
        class_=f"pill {bundle.sort.name.lower()}",
        data_bundle=bundle.id,
        aria_label=what,
    )


def _single(
    scene: Scene, places: Mapping[str, Rect], link: Link, row: str, crossing: Crossing
) -> Markup | None:
    """One crossing from tile to tile; shown when its bundle or an end is chosen."""
    begin, end = scene.tile_at(crossing.begin), scene.tile_at(crossing.end)
    if begin is None or end is None:
        return None
    (x1, y1), (x2, y2) = places[begin.id].center, places[end.id].center
    length = hypot(x2 - x1, y2 - y1) or 1.0
    bow = _BOW * length * (-1 if int(row.rpartition("-")[2]) % 2 else 1)
    cx, cy = (x1 + x2) / 2 - bow * (y2 - y1) / length, (y1 + y2) / 2 + bow * (x2 - x1) / length
    sort = link.bundle.sort.name.lower()
    return element(
        "g",
        element("title", f"{crossing.name}: {crossing.how}"),
        element(
            "path",
            d=f"M{x1:.1f} {y1:.1f} Q{cx:.1f} {cy:.1f} {x2:.1f} {y2:.1f}",
            marker_end=f"url(#arrow-{sort})" if sort != "shared" else None,
        ),
        element("circle", cx=x1, cy=y1, r=2.5),
        class_=f"line {sort}",
        data_bundle=link.bundle.id,
        data_ends=f"{begin.id} {end.id}",
        data_row=row,
    )


def legend() -> Markup:
    """What the signs mean."""

    def sign(kind: str, *inside: Markup | None) -> Markup:
        face = element("rect", x=1, y=1, width=24, height=16, rx=3, class_="face")
        return element(
            "svg",
            element("g", face, *inside, class_=f"tile {kind}"),
            class_="sign",
            viewBox="0 0 26 18",
            width=26,
            height=18,
            aria_hidden="true",
            style=hue(0),
        )

    def strip(kind: str) -> Markup:
        fill = f"url(#{kind})"
        return element("rect", x=2, y=3, width=7, height=12, fill=fill, class_="strip")

    def line(sort: str) -> Markup:
        path = element("path", d="M1 9 H25", class_=f"thread {sort}", stroke_width=4)
        return element(
            "svg", path, class_="sign", viewBox="0 0 26 18", width=26, height=18, aria_hidden="true"
        )

    entries = [
        (sign("whole heat-0"), "a table; the larger, the more bytes (square root)"),
        (sign("whole heat-4"), "the stronger its colour, the more it is written"),
        (sign("columns heat-2", strip("columns")), "split by column: a part of the columns"),
        (sign("rows heat-2", strip("rows")), "split by row: a part of the rows"),
        (sign("reference heat-0"), "read-only copy of another service's table"),
        (sign("derived heat-0"), "computed from another service's rows"),
        (line("key"), "foreign keys that are cut"),
        (line("code"), "views, functions and triggers that need both"),
        (line("copy"), "what keeps the copies fresh"),
        (line("derived"), "what feeds the computed rows"),
        (line("shared"), "parts of the same table"),
    ]
    items = [element("li", drawn, element("span", said)) for drawn, said in entries]
    return element("ul", *items, class_="signs")
