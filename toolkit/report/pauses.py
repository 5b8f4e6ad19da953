"""What a write pause was spent on: a stacked bar for each, and its steps in milliseconds."""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.report.amounts import milliseconds
from toolkit.report.axis import Axis, round_ticks
from toolkit.report.markup import Markup, element, join
from toolkit.report.model import Pause, PauseStep

_COLOURS = 10
_REST = "between the steps"
_REST_MIN_MS = 1.0
_BAR, _ROW = 30, 46
_LETTER_WIDTH = 7.0


def pause_bars(pauses: Sequence[Pause], *, width: int, name: str = "pauses") -> Markup:
    """One bar per pause on a common scale; `name` keeps ids apart within a page."""
    longest = max((_length(pause) for pause in pauses), default=0.0)
    gutter = 0 if width < 500 else 196
    ticks = round_ticks(longest, at_most=max(3, (width - gutter) // 130))
    axis = Axis(0, ticks[-1], gutter or 1, width - 24)
    row = _ROW if gutter else _ROW + 22
    bottom = row * len(pauses) + 6
    parts = [_grid(axis, ticks, bottom)]
    parts += [
        _bar(pause, pauses, axis, i * row, has_gutter=gutter > 0) for i, pause in enumerate(pauses)
    ]
    return element(
        "svg",
        element("title", "What each write pause was spent on", id=f"{name}-{width}-title"),
        element("desc", _in_words(pauses), id=f"{name}-{width}-desc"),
        *parts,
        viewBox=f"0 0 {width} {bottom + 24}",
        role="img",
        aria_labelledby=f"{name}-{width}-title {name}-{width}-desc",
        class_="picture",
    )


def pause_table(pauses: Sequence[Pause]) -> Markup:
    """The legend of the bars and their numbers in one: a row per step, a column per pause."""
    head = element(
        "tr",
        element("th", "Step", scope="col"),
        *(element("th", pause.what, scope="col", class_="number") for pause in pauses),
    )
    rows = [
        element(
            "tr",
            element("th", _swatch(pauses, step), step, scope="row"),
            *(_cell(pause, step) for pause in pauses),
        )
        for step in _step_names(pauses)
    ]
    total = element(
        "tr",
        element("th", "The whole pause", scope="row"),
        *(element("td", milliseconds(p.total_ms), class_="number") for p in pauses),
        class_="total",
    )
    table = element("table", element("thead", head), element("tbody", *rows, total), class_="steps")
    return element("div", table, class_="scroll")


def _steps(pause: Pause) -> list[PauseStep]:
    """The steps, and what the clock says beyond them."""
    rest = pause.total_ms - sum(step.ms for step in pause.steps)
    if rest < _REST_MIN_MS:
        return list(pause.steps)
    return [*pause.steps, PauseStep(name=_REST, ms=rest)]


def _length(pause: Pause) -> float:
    return sum(step.ms for step in _steps(pause))


def _step_names(pauses: Sequence[Pause]) -> list[str]:
    named = dict.fromkeys(step.name for pause in pauses for step in _steps(pause))
    had_rest = named.pop(_REST, False) is None
    return [*named, *([_REST] if had_rest else [])]


def _colour(pauses: Sequence[Pause], step: str) -> str:
    return "rest" if step == _REST else f"step-{_step_names(pauses).index(step) % _COLOURS}"


def _swatch(pauses: Sequence[Pause], step: str) -> Markup:
    return element("span", class_=f"swatch {_colour(pauses, step)}", aria_hidden="true")


def _cell(pause: Pause, step: str) -> Markup:
    spent = [part.ms for part in _steps(pause) if part.name == step]
    return element("td", milliseconds(sum(spent)) if spent else "—", class_="number")


def _grid(axis: Axis, ticks: Sequence[float], bottom: float) -> Markup:
    parts = []
    for tick in ticks:
        x = axis.at(tick)
        anchor = "start" if x < 20 else "middle"
        label = milliseconds(tick) if tick else "0"
        parts.append(element("line", x1=x, x2=x, y1=0, y2=bottom, class_="grid"))
        parts.append(element("text", label, x=x, y=bottom + 18, class_="tick", text_anchor=anchor))
    return join(parts)


def _bar(
    pause: Pause, pauses: Sequence[Pause], axis: Axis, top: float, *, has_gutter: bool
) -> Markup:
    y = top + 8 if has_gutter else top + 26
    parts = list(_title(pause, axis, top, has_gutter=has_gutter))
    begin = 0.0
    for step in _steps(pause):
        x, stop = axis.at(begin), axis.at(begin + step.ms)
        begin += step.ms
        parts.append(
            element(
                "rect",
                element("title", f"{step.name}: {milliseconds(step.ms)}"),
                x=x,
                y=y,
                width=max(stop - x - 1, 0.75),
                height=_BAR,
                class_=f"step {_colour(pauses, step.name)}",
            )
        )
        label = milliseconds(step.ms)
        if stop - x > len(label) * _LETTER_WIDTH + 8:
            middle = (x + stop) / 2
            parts.append(_text(label, middle, y + 19, "step-ms", "middle"))
    return element("g", *parts)


def _title(pause: Pause, axis: Axis, top: float, *, has_gutter: bool) -> list[Markup]:
    total = milliseconds(pause.total_ms)
    if not has_gutter:
        return [_text(f"{pause.what} · {total}", 1, top + 17, "lane", "start")]
    return [
        _text(pause.what, axis.start - 86, top + 27, "lane", "end"),
        _text(total, axis.start - 14, top + 27, "lane-ms", "end"),
    ]


def _text(words: str, x: float, y: float, kind: str, anchor: str) -> Markup:
    return element("text", words, x=x, y=y, class_=kind, text_anchor=anchor)


def _in_words(pauses: Sequence[Pause]) -> str:
    told = []
    for pause in pauses:
        steps = ", ".join(f"{step.name} {milliseconds(step.ms)}" for step in _steps(pause))
        told.append(
            f"{pause.what}: {milliseconds(pause.total_ms)}" + (f" ({steps})." if steps else ".")
        )
    return " ".join(told) or "There was no pause."
