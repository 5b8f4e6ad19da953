"""A validation as annotations of GitHub Actions, at the plan's line of each table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from plans.findings_written import github_command
from toolkit.validated import Validated
from validators.results import TableResult
from validators.rules.rule import RuleResult


def annotation_lines(validated: Validated, plan: Path) -> Iterator[str]:
    """A line for each table that is not equal and each rule that is broken, or one for all."""
    told = False
    for one in validated.results:
        if one.state != "equal":
            told = True
            yield _of_table(one, plan, validated.lines.get(one.route, 1))
    for rule in validated.rules:
        if rule.outcome != "passed":
            told = told or rule.counts
            yield _of_rule(rule, plan)
    if not validated.results:
        yield github_command("error", {"file": str(plan), "title": "nothing compared"}, "no table")
    elif not told:
        rows = sum(one.rows for one in validated.results)
        said = f"{len(validated.results)} tables, {rows:,} rows: every row is equal"
        yield github_command("notice", {"file": str(plan), "title": "dbsplit validate"}, said)


def _of_table(one: TableResult, plan: Path, line: int) -> str:
    title = f"{one.service}: {one.table} is {one.state}"
    counts = f"{one.missing:,} missing, {one.extra:,} extra, {one.different:,} different"
    said = counts if one.state == "different" else one.reason or "could not be compared"
    keys = [", ".join("NULL" if part is None else part for part in e.key) for e in one.examples]
    if shown := [key for key in keys[:5] if key]:
        said += f"; such as {'; '.join(shown)}"
    properties = {"file": str(plan), "line": str(line), "title": title}
    return github_command("error", properties, said)


def _of_rule(one: RuleResult, plan: Path) -> str:
    said = one.reason or f"{one.unexpected:,} rows break it"
    properties = {
        "file": str(plan),
        "title": f"{one.service}, {one.side}: {one.rule} {one.outcome}",
    }
    return github_command("error" if one.counts else "warning", properties, said)
