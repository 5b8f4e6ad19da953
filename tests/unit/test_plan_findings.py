"""Findings for people, programs and CI systems."""

from __future__ import annotations

import json

from plans.findings import Finding, Severity, has_blocker, ordered, render_findings

NOTE = Finding(Severity.NOTE, "list", "odd", "plan.yaml:9:1", "2 rows")
BLOCKER = Finding(
    Severity.BLOCKER, "rows-shared", "public.visits", "plans/a,b.yaml:12:5",
    "3 rows: 100%", why="each row\nhas one owner", remedy="correct it",
)  # fmt: skip


def test_blockers_come_first() -> None:
    assert ordered([NOTE, BLOCKER]) == [BLOCKER, NOTE]
    assert has_blocker([NOTE, BLOCKER])
    assert not has_blocker([NOTE])


def test_text() -> None:
    assert render_findings([BLOCKER, NOTE], "text").splitlines() == [
        "blocker: plans/a,b.yaml:12:5: public.visits: 3 rows: 100% [rows-shared]",
        "  each row",
        "  has one owner",
        "  -> correct it",
        "note: plan.yaml:9:1: odd: 2 rows [list]",
        "1 blocker, 1 note",
    ]
    assert render_findings([], "text") == "nothing found"


def test_json() -> None:
    (one,) = json.loads(render_findings([BLOCKER], "json"))
    assert one["severity"] == "blocker"
    assert set(one) == {
        "severity", "code", "object", "place", "message", "why", "remedy"
    }  # fmt: skip


def test_github_escapes_what_would_end_the_command() -> None:
    assert render_findings([BLOCKER], "github") == (
        "::error file=plans/a%2Cb.yaml,line=12,col=5,title=rows-shared public.visits"
        "::3 rows: 100%25. each row%0Ahas one owner. correct it"
    )


def test_sarif() -> None:
    sarif = json.loads(render_findings([BLOCKER, NOTE], "sarif"))
    assert sarif["version"] == "2.1.0"
    (run,) = sarif["runs"]
    assert [result["level"] for result in run["results"]] == ["error", "note"]
    place = run["results"][0]["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "plans/a,b.yaml"
    assert place["region"] == {"startLine": 12, "startColumn": 5}
    assert {rule["id"] for rule in run["tool"]["driver"]["rules"]} == {"list", "rows-shared"}
