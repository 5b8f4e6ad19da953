"""Spans of time, one below the other, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from toolkit.report.amounts import span
from toolkit.report.axis import Axis, time_ticks
from toolkit.report.frame import Frame, words_at, words_width
from toolkit.report.markup import Markup, element

_ROW: Final = 22
_BAR: Final = 12
_TOP: Final = 20
_GUTTER_MAX: Final = 260
_SHOWN_MAX: Final = 60


@dataclass(frozen=True, slots=True)
class Span:
    """Something that took a while; unix seconds."""

    name: str
    kind: str  # a class of the sheet
    begin: float
    end: float


def span_picture(spans: Sequence[Span], *, width: int) -> Markup:
    """The longest of them, in the order in which they began."""
    longest = sorted(spans, key=lambda one: one.begin - one.end)[:_SHOWN_MAX]
    shown = sorted(longest, key=lambda one: one.begin)
    first, last = min(one.begin for one in shown), max(one.end for one in shown)
    is_narrow = width < 500
    row = _ROW + (14 if is_narrow else 0)
    widest = max(words_width(one.name) for one in shown) + 12
    gutter = 0 if is_narrow else int(min(_GUTTER_MAX, widest))
    frame = Frame(width, gutter, Axis(first, max(last, first + 0.001), gutter, width - 60))
    height = _TOP + row * len(shown) + 4
    parts: list[Markup] = []
    for offset in time_ticks(max(last - first, 0.001), at_most=3 if is_narrow else 6):
        x = frame.time.at(first + offset)
        parts.append(element("line", x1=x, x2=x, y1=_TOP - 4, y2=height, class_="grid"))
        anchor = "start" if offset == 0 else "middle"
        parts.append(words_at(span(offset), x, 11, "tick", anchor))
    for number, one in enumerate(shown):
        y = _TOP + row * number
        parts += _lane(one, frame, y, is_narrow=is_narrow)
    return element(
        "svg",
        element("title", "When each table was compared"),
        *parts,
        viewBox=f"0 0 {width} {height}",
        class_="picture",
        role="img",
    )


def _lane(one: Span, frame: Frame, y: float, *, is_narrow: bool) -> list[Markup]:
    x, width = frame.extent(one.begin, one.end)
    top = y + (16 if is_narrow else 3)
    name = _cut(one.name, frame.width if is_narrow else frame.gutter - 8)
    at = words_at(name, 0, y + 13, "span-name", "start", one.name)
    bar = element(
        "rect",
        element("title", f"{one.name}: {span(one.end - one.begin)}"),
        x=x, y=top, width=width, height=_BAR, rx=2, class_=f"span {one.kind}",
    )  # fmt: skip
    took = words_at(span(one.end - one.begin), x + width + 5, top + 10, "tick over", "start")
    return [at, bar, took]


def _cut(name: str, room: float) -> str:
    if words_width(name) <= room:
        return name
    kept = int(len(name) * room / words_width(name)) - 1
    return f"{name[: max(kept, 1)]}…"
