"""The demo's report, and what it advises to do next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from toolkit.demo.facts import Facts
from toolkit.demo.telling import Sample
from toolkit.report.html import render_report
from toolkit.report.model import LagSample, RateSample, Report, TableRow

OWN_DATABASE: Final = (
    "Set `DBSPLIT_SOURCE_DSN`, and let a plan for your own database be proposed: "
    "`dbsplit plan propose --services crm,shop -o plan.yaml`; "
    "`{plan}` is an example in which each kind of table occurs",
    "Set `DBSPLIT_<SERVICE>_DSN`, then see what it means and what stands against it: "
    "`dbsplit plan explain plan.yaml --html split.html`, `dbsplit plan check plan.yaml` "
    "and `dbsplit doctor plan.yaml`",
    "Copy, and follow in a second terminal: `dbsplit prepare plan.yaml --create`, "
    "`dbsplit copy plan.yaml`, `dbsplit stream plan.yaml`",
    "Prove it, as often as you like: `dbsplit validate plan.yaml`",
    "Rehearse, then move, and back if you do not like it: `dbsplit cutover plan.yaml --rehearse`, "
    "`dbsplit cutover plan.yaml`, `dbsplit rollback plan.yaml`",
    "End it: `dbsplit complete plan.yaml`, or `dbsplit abort plan.yaml`, which leaves no trace",
)


def next_steps(plan: Path) -> list[str]:
    """What to do with a database of one's own; `backticks` are code."""
    return [step.format(plan=plan) for step in OWN_DATABASE]


def table_rows(comparison: Mapping[str, Any]) -> list[TableRow]:
    """The tables of a result of `validate`."""
    return [
        TableRow(
            service=one["service"],
            table=one["table"].removeprefix("public."),
            kind=one["kind"],
            rows=one["rows"],
            state=one["state"],
            missing=one["missing"],
            extra=one["extra"],
            different=one["different"],
        )
        for one in comparison["tables"]
    ]


def write_report(
    path: Path,
    facts: Facts,
    samples: Sequence[Sample],
    plan: Path,
    *,
    began: float,
    ended: float,
) -> None:
    """Write the HTML file."""
    contradictions = facts.listed("contradictions")
    transitions = facts.listed("illegal_transitions")
    report = Report(
        split=facts.split,
        started_at=began,
        ended_at=ended,
        figures=facts.figures(),
        servers=facts.servers,
        phases=facts.phases,
        lag=[
            LagSample(service=service, at=sample.at, bytes=lag)
            for sample in samples
            for service, lag in sample.lag_bytes.items()
        ],
        writes=[RateSample(at=sample.at, per_s=sample.per_s) for sample in samples],
        pauses=facts.pauses,
        tables=facts.tables,
        contradictions=facts.contradictions,
        contradictions_total=contradictions["total"] if contradictions else 0,
        illegal_transitions=facts.transitions,
        illegal_transitions_total=transitions["total"] if transitions else 0,
        events=facts.events,
        next_steps=next_steps(plan),
    )
    path.write_text(render_report(report), encoding="utf-8")
