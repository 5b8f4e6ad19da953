"""The report of one split as one HTML file: a person sees at a glance what happened when."""

from __future__ import annotations

from collections.abc import Iterator

from toolkit.report.amounts import count, many, milliseconds, moment, span, time_of_day
from toolkit.report.listings import (
    contradictions_section,
    events_section,
    next_section,
    proof_section,
    servers_section,
    tables_section,
    transitions_section,
)
from toolkit.report.markup import Markup, element
from toolkit.report.model import Figures, Report
from toolkit.report.opening import about, figure, figure_list, must_be_zero, verdict_box
from toolkit.report.page import WIDTHS, fitted, page, section
from toolkit.report.pauses import pause_bars, pause_table
from toolkit.report.timeline import PHASE_KINDS, services_of, timeline
from toolkit.report.verdict import Standing, judge

_PAUSE_PROMISED_MS = 1000  # writers wait less than a second
_LEGEND = {
    "early": "being prepared",
    "copying": "rows are copied",
    "following": "the source is written, the service's database follows",
    "paused": "nobody may write",
    "moved": "the service's own database is written, the source follows",
    "completed": "the source's tables are retired",
}


def render_report(report: Report) -> str:
    """A self-contained document: it loads and runs nothing."""
    verdict = judge(report)
    next_steps = next_section(report)
    is_good = verdict.standing is Standing.PROVEN
    parts = [
        _about(report),
        verdict_box(verdict),
        figure_list(_figure_list(report.figures)),
        None if is_good else next_steps,
        _timeline(report),
        _pauses(report),
        tables_section(report),
        contradictions_section(report),
        transitions_section(report),
        events_section(report),
        proof_section(report),
        servers_section(report),
        next_steps if is_good else None,
        element("footer", f"Written by dbsplit for the split “{report.split}”. All times are UTC."),
    ]
    return page(f"{report.split}: {verdict.headline}", *parts)


def _about(report: Report) -> Markup:
    lasted = span(max(report.ended_at - report.started_at, 0))
    return about(report.split, f"{moment(report.started_at)} to {_end(report)} UTC", lasted)


def _end(report: Report) -> str:
    begin, end = moment(report.started_at), moment(report.ended_at)
    return time_of_day(report.ended_at) if begin[:10] == end[:10] else end


def _figure_list(figures: Figures) -> Iterator[Markup]:
    if figures.acknowledged is not None:
        yield figure("writes acknowledged meanwhile", count(figures.acknowledged))
        yield must_be_zero("of them missing", figures.missing)
        yield must_be_zero("of them doubled", figures.doubled)
        if figures.otherwise_wrong:
            yield must_be_zero("of them otherwise wrong", figures.otherwise_wrong)
    yield must_be_zero("rows that differ", figures.differences)
    yield figure("rows copied", count(figures.rows))
    yield figure("changes followed", count(figures.changes))
    pauses = figures.write_pause_ms
    told = " · ".join(f"{ms:,.0f}" for ms in pauses) + " ms" if pauses else "—"
    label = "write pause" if len(pauses) < 2 else "write pauses, one after the other"
    tone = "doubt" if any(ms >= _PAUSE_PROMISED_MS for ms in pauses) else None
    yield figure(label, told, tone, is_long=len(pauses) > 1)
    yield figure("contradictions resolved", count(figures.contradictions))


def _timeline(report: Report) -> Markup:
    title = "What happened when"
    if not (services_of(report) or report.writes):
        return section(title, lead="No phase and no sample was recorded.")
    kinds = {PHASE_KINDS.get(phase.phase.lower(), "other") for phase in report.phases}
    legend = [
        element("li", element("span", class_=f"swatch {kind}", aria_hidden="true"), meaning)
        for kind, meaning in _LEGEND.items()
        if kind in kinds
    ]
    below = "the bytes that its follower is behind (logarithmic)" if report.lag else None
    lead = "Time from left to right, a row for each service" + (
        f"; below it, {below}." if below else "."
    )
    pictures = {name: timeline(report, width=width) for name, width in WIDTHS.items()}
    return section(
        title,
        element("ul", *legend, class_="legend") if legend else None,
        fitted(pictures),
        lead=lead,
    )


def _pauses(report: Report) -> Markup:
    title = "How long writers waited"
    if not report.pauses:
        return section(title, lead="There was no write pause.")
    longest = max(pause.total_ms for pause in report.pauses)
    times = many(len(report.pauses), "pause", "pauses")
    lead = f"{times}, the longest {milliseconds(longest)}, and what each was spent on."
    bars = {name: pause_bars(report.pauses, width=width) for name, width in WIDTHS.items()}
    return section(title, fitted(bars), pause_table(report.pauses), lead=lead)
