"""Whether the split kept its promise, in one sentence.

Three answers, because "it could not be told" is neither good nor bad: a report that compared
nothing must not look like one that found nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from plans.some import some
from toolkit.report.amounts import count, many
from toolkit.report.model import Figures, Report, TableRow


class Standing(StrEnum):
    """What the evidence allows to say."""

    PROVEN = "proven"
    UNPROVEN = "unproven"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A headline, and the sentences that stand behind it."""

    standing: Standing
    headline: str
    reasons: tuple[str, ...]


def judge(report: Report) -> Verdict:
    """The verdict on a report; damage outweighs doubt, doubt outweighs success."""
    broken = tuple(_damage(report))
    if broken:
        return Verdict(Standing.BROKEN, _sentence(broken), _after_damage(report))
    doubts = tuple(_doubts(report))
    if doubts:
        return Verdict(Standing.UNPROVEN, "Not proven yet", doubts)
    return Verdict(Standing.PROVEN, _success(report.figures), tuple(_evidence(report)))


def _damage(report: Report) -> Iterator[str]:
    figures = report.figures
    if figures.missing:
        yield many(
            figures.missing, "acknowledged write is missing", "acknowledged writes are missing"
        )
    if figures.doubled:
        yield many(figures.doubled, "write is there twice", "writes are there twice")
    if figures.otherwise_wrong:
        yield many(
            figures.otherwise_wrong,
            "write is not as it was made",
            "writes are not as they were made",
        )
    differences = max(figures.differences or 0, sum(table.differences for table in report.tables))
    if differences:
        yield many(differences, "row differs", "rows differ")


def _after_damage(report: Report) -> tuple[str, ...]:
    differing = [_name(table) for table in report.tables if table.differences]
    if not differing:
        return ("Do not complete this split, and keep the source as it is.",)
    return (
        f"Differences in {some(differing, 5)}.",
        "Do not complete this split, and keep the source as it is.",
    )


def _doubts(report: Report) -> Iterator[str]:
    figures = report.figures
    if figures.acknowledged == 0:
        yield "No acknowledged write was recorded, so none could be looked for."
    elif figures.acknowledged is not None and None in (figures.missing, figures.doubled):
        yield "The acknowledged writes were not all looked up in the databases."
    if not report.tables or figures.differences is None:
        yield "The tables were not compared."
    elif not any(table.rows for table in report.tables):
        yield "The comparison met no row."
    unequal = [_name(table) for table in report.tables if not table.is_equal]
    if unequal:
        yield f"Could not be verified: {some(unequal, 5)}."


def _success(figures: Figures) -> str:
    if figures.acknowledged is None:
        return "Every row is there, and equal"
    return "Every acknowledged write is there, once"


def _evidence(report: Report) -> Iterator[str]:
    figures = report.figures
    if figures.acknowledged:
        written = many(figures.acknowledged, "write was", "writes were")
        yield (
            f"{written} acknowledged to applications while the split went on; "
            "each was looked for afterwards, and found exactly once."
        )
    rows = sum(table.rows or 0 for table in report.tables)
    tables = many(len(report.tables), "table", "tables")
    yield f"{count(rows)} rows of {tables} were compared with where they came from: no difference."
    if figures.acknowledged and figures.indeterminate:
        cut = many(figures.indeterminate, "more commit", "more commits")
        yield f"{cut} got no answer (the connection broke); each is there once, or not at all."


def _name(table: TableRow) -> str:
    return f"{table.service}.{table.table}"


def _sentence(parts: tuple[str, ...]) -> str:
    if len(parts) == 1:
        return parts[0]
    return ", ".join(parts[:-1]) + " and " + parts[-1]
