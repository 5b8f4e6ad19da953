"""Who could write when, how far behind the followers were, and how much was written: one picture.

Everything shares one time axis.  A lane per service has its phases as a band and, below it,
the lag on a logarithmic scale (it spans from bytes to gigabytes); pauses cross all lanes,
never narrower than they can be seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from toolkit.report.amounts import count, size, span
from toolkit.report.axis import Axis, byte_ticks, log_bytes, round_ticks, time_ticks
from toolkit.report.frame import FONT, LETTER, Frame, words_at, words_width
from toolkit.report.marks import place_marks, words
from toolkit.report.markup import Markup, element, join
from toolkit.report.model import PhaseSpan, Report
from toolkit.report.strip import strip

PHASE_KINDS = {
    "planned": "early",
    "prepared": "early",
    "copying": "copying",
    "following": "following",
    "draining": "paused",
    "settled": "paused",
    "moved": "moved",
    "completed": "completed",
}
_BAND, _STRIP_GAP, _STRIP, _RATE, _LANE_GAP = 26, 9, 40, 64, 22
_RIGHT = 12


@dataclass(frozen=True, slots=True)
class _Part:
    """A finished piece of the picture, and how high it is."""

    drawing: Markup
    height: float


def services_of(report: Report) -> list[str]:
    """Every service that has a phase or a lag sample, in order of appearance."""
    named = [p.service for p in report.phases] + [s.service for s in report.lag]
    return list(dict.fromkeys(named))


def timeline(report: Report, *, width: int) -> Markup:
    """The picture at one width, in units that are about a pixel each."""
    frame = _frame(report, width)
    marks = place_marks(frame, report.pauses)
    top = y = marks.height + 6
    lanes = []
    lag_high = max((sample.bytes for sample in report.lag), default=0)
    for service in services_of(report):
        lane = _lane(frame, report, service, lag_high=lag_high, top=y)
        lanes.append(lane.drawing)
        y += lane.height + _LANE_GAP
    if report.writes:
        rate = _rate(frame, report, top=y)
        lanes.append(rate.drawing)
        y += rate.height + _LANE_GAP
    bottom = y - _LANE_GAP + 8 if lanes else y
    name = f"timeline-{width}"
    return element(
        "svg",
        element("title", "Timeline of the split", id=f"{name}-title"),
        element("desc", _in_words(report), id=f"{name}-desc"),
        _time_grid(frame, top=top, bottom=bottom),
        *lanes,
        marks.drawn(bottom=bottom),
        viewBox=f"0 0 {width} {bottom + 24:.0f}",
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
        class_="picture",
    )


def _frame(report: Report, width: int) -> Frame:
    moments = [report.started_at, report.ended_at]
    moments += [moment for p in report.phases for moment in (p.begin, p.end)]
    low, high = min(moments), max(moments)
    gutter = 0 if width < 500 else 116
    return Frame(width, gutter, Axis(low, max(high, low + 1), gutter or 1, width - _RIGHT))


def _time_grid(frame: Frame, *, top: float, bottom: float) -> Markup:
    axis = frame.time
    ticks = time_ticks(axis.high - axis.low, at_most=max(3, frame.width // 95))
    parts = []
    for tick in ticks:
        x = axis.at(axis.low + tick)
        anchor = "start" if frame.gutter == 0 and tick == 0 else "middle"
        parts.append(element("line", x1=x, x2=x, y1=top, y2=bottom, class_="grid"))
        label = "0" if tick == 0 else span(tick)
        if x + words_width(label) / 2 <= frame.width:
            parts.append(words_at(label, x, bottom + 18, "tick", anchor))
    return join(parts)


def _lane(frame: Frame, report: Report, service: str, *, lag_high: float, top: float) -> _Part:
    phases = [p for p in report.phases if p.service == service]
    parts, y = [_lane_name(frame, service, top)], top + (0 if frame.gutter else 20)
    parts += [_phase(frame, phase, y, report.started_at) for phase in phases]
    y += _BAND
    if report.lag:
        y += _STRIP_GAP
        points = [(s.at, log_bytes(s.bytes)) for s in report.lag if s.service == service]
        ticks = byte_ticks(lag_high)
        axis = Axis(0, log_bytes(ticks[-1]), y + _STRIP, y)
        named = [(log_bytes(tick), size(tick)) for tick in _spread(ticks)]
        parts.append(strip(frame, points, axis, named, "lag"))
        y += _STRIP
    return _Part(element("g", *parts), y - top)


def _spread(ticks: Sequence[float]) -> list[float]:
    """The top tick, and one about halfway if there is room for it."""
    return [ticks[-1]] if len(ticks) < 3 else [ticks[-1], ticks[(len(ticks) - 1) // 2]]


def _lane_name(frame: Frame, name: str, top: float) -> Markup:
    room = int((frame.gutter - 14 if frame.gutter else frame.width) / (LETTER * (FONT + 1)))
    shown = name if len(name) <= room else name[: room - 1] + "…"
    if not frame.gutter:
        return words_at(shown, 1, top + 13, "lane", "start", name)
    return words_at(shown, frame.gutter - 14, top + _BAND / 2 + 4.5, "lane", "end", name)


def _phase(frame: Frame, phase: PhaseSpan, y: float, zero: float) -> Markup:
    word = phase.phase.lower()
    kind = PHASE_KINDS.get(word, "other")
    x, width = frame.extent(phase.begin, phase.end)
    when = f"{phase.service}: {word} from {span(max(phase.begin - zero, 0))}, "
    rect = element(
        "rect",
        element("title", when + f"for {span(max(phase.end - phase.begin, 0))}"),
        x=x,
        y=y,
        width=max(width - 1, 1.5),
        height=_BAND,
        class_=f"phase {kind}",
    )
    if words_width(word) + 10 > width:
        return rect
    label = words_at(word, x + width / 2, y + _BAND / 2 + 4, f"phase-name on-{kind}", "middle")
    return join([rect, label])


def _rate(frame: Frame, report: Report, *, top: float) -> _Part:
    points = [(sample.at, sample.per_s) for sample in report.writes]
    ticks = round_ticks(max(per_s for _, per_s in points), at_most=2)
    head = 0 if frame.gutter else 20
    axis = Axis(0, ticks[-1], top + head + _RATE, top + head)
    named = [(tick, count(tick)) for tick in reversed(ticks[1:])]
    name = element("g", *_rate_name(frame, top))
    return _Part(join([name, strip(frame, points, axis, named, "rate")]), head + _RATE)


def _rate_name(frame: Frame, top: float) -> Iterator[Markup]:
    if not frame.gutter:
        yield words_at("writes per second", 1, top + 13, "lane", "start")
    else:
        yield words_at("writes", frame.gutter - 54, top + _RATE / 2 + 1, "lane", "end")
        yield words_at("per second", frame.gutter - 54, top + _RATE / 2 + 16, "tick", "end")


def _in_words(report: Report) -> str:
    """The picture for who does not see it."""
    zero = report.started_at
    lines = []
    for service in services_of(report):
        steps = [
            f"{p.phase.lower()} at {span(max(p.begin - zero, 0))}"
            for p in report.phases
            if p.service == service
        ]
        lines.append(f"{service}: {', '.join(steps) or 'no phases'}.")
    lines += [f"Write pause {words(p)}, at {span(max(p.begin - zero, 0))}." for p in report.pauses]
    return " ".join(lines) or "Nothing was recorded."
