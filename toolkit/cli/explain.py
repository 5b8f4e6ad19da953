"""``dbsplit plan explain`` for a person: the stages, and what crosses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from plans.findings import Severity, has_blocker
from plans.printable import printable
from toolkit.explain.crossings import Crossing, Sort
from toolkit.explain.outlook import Outlook
from toolkit.explain.predictions import Predicted, about
from toolkit.explain.stage_details import Detail
from toolkit.report.amounts import count, many, size
from toolkit.stages import Stage, not_reversible

_TITLES = {
    Sort.KEY: "foreign keys",
    Sort.CODE: "views, functions and triggers",
    Sort.COPY: "read-only copies",
    Sort.DERIVED: "derived rows",
    Sort.SHARED: "shared tables",
}


def explanation(
    outlook: Outlook, stages: Sequence[Stage], crossings: Sequence[Crossing], *, with_sql: bool
) -> dict[str, Any]:
    """The result object that scripts read."""
    return {
        "ok": not has_blocker(outlook.findings),
        "split": outlook.split.name,
        "stages": [stage.as_dict(with_sql=with_sql) for stage in stages],
        "crosses": [_crossing(one) for one in crossings],
        "left_out": [
            {"service": service, "object": one.object, "reason": one.reason}
            for service, schema in outlook.schemas.items()
            for one in schema.left_out
        ],
        "not_reversible": list(not_reversible(outlook)),
        "unknown": list(outlook.unknown),
        "findings": [asdict(one) for one in outlook.findings],
    }


def _crossing(one: Crossing) -> dict[str, Any]:
    return {
        "sort": one.sort.value,
        "name": one.name,
        "from": {"service": one.begin.service or None, "table": str(one.begin.table)},
        "to": {"service": one.end.service or None, "table": str(one.end.table)},
        "how": one.how,
        "said": one.said,
        "place": one.place or None,
    }


def explanation_text(
    outlook: Outlook, stages: Sequence[Stage], crossings: Sequence[Crossing], *, with_sql: bool
) -> str:
    """The same for a person."""
    lines = [printable(_opening(outlook))]
    for number, stage in enumerate(stages, 1):
        lines += ["", *map(printable, _stage(number, stage, str(outlook.split.plan.path)))]
        lines += _statements(stage) if with_sql else []
    after = ["", "What crosses", *_crosses(crossings)]
    if left := list(_left_out(outlook)):
        after += ["", "Left out", *left]
    after += ["", "Not reversible", *(f"  {one}" for one in not_reversible(outlook))]
    if outlook.unknown:
        after += ["", "Not known", *(f"  {one}" for one in outlook.unknown)]
    lines += map(printable, [*after, "", *_findings(outlook)])
    return "\n".join(lines)


def _opening(outlook: Outlook) -> str:
    tables = {route.source.name for route in outlook.split.routes}
    services = ", ".join(outlook.split.plan.services)
    return (
        f"split {outlook.split.name}: {many(len(tables), 'table', 'tables')} of database"
        f" {outlook.split.catalog.database} to {services}"
    )


def _stage(number: int, stage: Stage, plan: str) -> Iterator[str]:
    runs = "" if stage.until is None else ", by dbsplit run"
    if stage.until:
        runs += f" --until {stage.until}"
    done = " [done]" if stage.done else ""
    yield f"{number}. {stage.name}{done}: {stage.verb} {plan}{runs}"
    yield f"   {stage.what.replace('`', '')}"
    if predicted := _predicted(stage.predicted):
        yield f"   {predicted}"
    yield from (f"   not known: {one}" for one in stage.unknown)
    yield from _details(stage.details)


def _predicted(one: Predicted) -> str:
    parts = [
        about(one.seconds) if one.seconds else "",
        f"about {many(one.rows, 'row', 'rows')}" if one.rows is not None else "",
        size(one.size_bytes) if one.size_bytes is not None else "",
        f"{size(one.disk_bytes)} on the targets' disks" if one.disk_bytes is not None else "",
    ]
    return ", ".join(part for part in parts if part)


def _details(details: Sequence[Detail]) -> Iterator[str]:
    listed = [one for one in details if not one.one_of]
    widest = max((len(one.what) for one in listed), default=0)
    for what, number in Counter(one.one_of for one in details if one.one_of).items():
        yield f"     {number} {what}"
    for one in listed:
        numbers = ""
        if one.rows is not None:
            numbers = f"{count(one.rows):>12} rows {size(one.size_bytes or 0):>8}"
        note = f"  {one.note}" if one.note else ""
        done = "  [done]" if one.done else ""
        yield f"     {one.what:<{widest}}{numbers}{note}{done}".rstrip()


def _statements(stage: Stage) -> Iterator[str]:
    for (where, about_), some in groupby(stage.statements, key=lambda s: (s.where, s.about)):
        yield printable(f"   -- {stage.name}, {where}{f': {about_}' if about_ else ''}")
        for statement in some:
            text = statement.sql.rstrip()
            yield from (f"   {line}" for line in text.splitlines())
            if not text.endswith(";"):
                yield "   ;"


def _crosses(crossings: Sequence[Crossing]) -> Iterator[str]:
    if not crossings:
        yield "  nothing"
    for sort, some in groupby(crossings, key=lambda one: one.sort):
        yield f"  {_TITLES[sort]}"
        for name, ends in groupby(some, key=lambda one: one.name):
            found = list(ends)
            ways = dict.fromkeys(
                f"{one.begin.service}:{one.begin.table.name}"
                f" → {one.end.service or 'left behind'}:{one.end.table.name}"
                for one in found
            )
            said = "; ".join(dict.fromkeys(one.how for one in found))
            place = f" ({found[0].place})" if found[0].place else ""
            yield f"    {name}: {', '.join(ways)}"
            yield f"      {said}{place}"


def _left_out(outlook: Outlook) -> Iterator[str]:
    for service, schema in outlook.schemas.items():
        for one in schema.left_out:
            yield f"  {service}: {one.object}: {one.reason}"


def _findings(outlook: Outlook) -> Iterator[str]:
    counts = [
        many(number, severity.value, f"{severity.value}s")
        for severity in Severity
        if (number := sum(one.severity is severity for one in outlook.findings))
    ]
    if not counts:
        yield "plan check found nothing"
        return
    yield f"{', '.join(counts)}: see dbsplit plan check {outlook.split.plan.path}"
    for one in outlook.findings:
        if one.severity is Severity.BLOCKER:
            yield f"  {one.place}: {one.object}: {one.message}"
