"""An amount over time as an area, with a small value axis of its own."""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.report.axis import Axis, thinned, unbroken
from toolkit.report.frame import Frame, words_at
from toolkit.report.markup import Markup, element, join

_PIECE = 3  # a curve is not told more finely than this


def strip(
    frame: Frame,
    points: Sequence[tuple[float, float]],
    axis: Axis,
    ticks: Sequence[tuple[float, str]],
    kind: str,
) -> Markup:
    """The area under `points`; `ticks` are values of the axis with their names, highest first."""
    left, right, base = frame.time.start, frame.time.stop, axis.start
    places = [(axis.at(value), name) for value, name in ticks]
    rules = [element("line", x1=left, x2=right, y1=y, y2=y, class_="grid") for y, _ in places]
    ground = element("line", x1=left, x2=right, y1=base, y2=base, class_="base")
    runs = unbroken(thinned(points, buckets=int(right - left) // _PIECE))
    return join(
        [
            ground,
            *rules,
            *(_area(frame, run, axis, kind) for run in runs),
            None if points else words_at("not measured", left + 6, base - 6, "tick", "start"),
            *_names(frame, places),
        ]
    )


def _area(frame: Frame, run: Sequence[tuple[float, float]], axis: Axis, kind: str) -> Markup:
    places = [f"{frame.time.at(at):.1f},{axis.at(value):.1f}" for at, value in run]
    first, last = (place.split(",")[0] for place in (places[0], places[-1]))
    path = "M" + " ".join(places)
    outline = f"{path} {last},{axis.start:.1f} {first},{axis.start:.1f}Z"
    return join(
        [
            element("path", d=outline, class_=f"area {kind}"),
            element("path", d=path, class_=f"line {kind}"),
        ]
    )


def _names(frame: Frame, places: Sequence[tuple[float, str]]) -> list[Markup]:
    if frame.gutter:
        x = frame.gutter - 8.0
        return [words_at(name, x, y + 4, "tick", "end") for y, name in places]
    # No room beside the curve: only the highest, over it.
    x = frame.time.stop
    return [words_at(name, x, y + 10, "tick over", "end") for y, name in places[:1]]
