"""Findings for people, programs and CI systems."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from plans import check
from plans.finding_codes import CODES, table
from plans.findings import Finding, Severity, has_blocker, ordered
from plans.findings_written import render_findings
from plans.printable import printable_lines
from plans.sarif import repository_of

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


def test_sarif_is_what_code_scanning_reads() -> None:
    written = json.loads(render_findings([BLOCKER, NOTE], "sarif"))
    assert (written["version"], len(written["runs"])) == ("2.1.0", 1)
    (run,) = written["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == ["list", "rows-shared"]
    for rule in rules:
        assert rule["shortDescription"]["text"]
        assert rule["help"]["text"]
        assert rule["defaultConfiguration"]["level"] in ("error", "warning", "note")
    assert [result["level"] for result in run["results"]] == ["error", "note"]
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["message"]["text"]
        assert all(isinstance(value, str) for value in result["partialFingerprints"].values())
    place = run["results"][0]["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "plans/a%2Cb.yaml"
    assert place["region"] == {"startLine": 12, "startColumn": 5}


def test_a_region_begins_at_one_at_least() -> None:
    nowhere = Finding(Severity.NOTE, "list", "odd", "plan.yaml:0:0", "2 rows")
    (result,) = json.loads(render_findings([nowhere], "sarif"))["runs"][0]["results"]
    region = result["locations"][0]["physicalLocation"]["region"]
    assert region == {"startLine": 1, "startColumn": 1}


@pytest.mark.parametrize("kind", ["sarif", "github"])
def test_files_are_named_below_the_repository(tmp_path: Path, kind: str) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "db").mkdir()
    plan = tmp_path / "db" / "my plan.yaml"
    one = Finding(Severity.NOTE, "list", "odd", f"{plan}:3:4", "2 rows")
    root = repository_of(plan)
    assert root == tmp_path
    name = "db/my%20plan.yaml" if kind == "sarif" else "file=db/my plan.yaml,"
    assert name in render_findings([one], kind, root)  # type: ignore[arg-type]
    assert str(tmp_path) not in render_findings([one], kind, root)  # type: ignore[arg-type]


def test_a_file_elsewhere_is_named_in_full(tmp_path: Path) -> None:
    one = Finding(Severity.NOTE, "list", "odd", f"{tmp_path}/plan.yaml:3:4", "2 rows")
    assert f'"file://{tmp_path}/plan.yaml"' in render_findings([one], "sarif", tmp_path / "below")


RUNBOOK = Path(__file__).parents[2] / "docs" / "runbook.md"
PLANS = Path(str(check.__file__)).parent


def codes_in_the_source() -> set[str]:
    """Every text constant of the checks that looks like a code and stands where one does."""
    found = set()
    for path in [*PLANS.glob("check*.py"), *PLANS.glob("lists.py"), *PLANS.glob("findings.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call | ast.Tuple | ast.Assign | ast.IfExp):
                found |= {
                    str(part.value)
                    for part in ast.iter_child_nodes(node)
                    if isinstance(part, ast.Constant) and _is_code(part.value)
                }
    return found


def _is_code(value: object) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(r"[a-z]+(-[a-z]+)+", value))


def test_every_code_of_the_source_is_explained() -> None:
    of_one_word = {code for code in CODES if "-" not in code}
    assert of_one_word == {"list", "orphans", "subscription"}
    assert codes_in_the_source() == set(CODES) - of_one_word
    assert list(CODES) == sorted(CODES)
    assert all(one.means.endswith(".") and one.do.endswith(".") for one in CODES.values())


def test_every_code_is_in_the_runbook() -> None:
    assert table() in RUNBOOK.read_text(), "run python -m plans.finding_codes, and put it there"


def test_what_users_named_commands_no_terminal_and_no_runner() -> None:
    one = replace(BLOCKER, object="\x1b]0;x\x07", message="ends\n::error ::\u202eplanted 5%")
    text = render_findings([one], "text")
    assert r"\x1b]0;x\x07" in text
    assert "\n  \\x3a:error ::\\u202eplanted 5%" in text
    (line,) = render_findings([one], "github").splitlines()
    assert r"\x1b]0;x\x07" in line
    assert r"%0A\x3a:error ::\u202eplanted 5%25" in line


def test_what_is_printable_stays_so_when_it_is_asked_for_twice() -> None:
    once = printable_lines("\tplain é\n \t::error ::a ##[group] \x00\u2028")
    assert once == "\tplain é\n \t\\x3a:error ::a \\x23#[group] \\x00\\u2028"
    assert printable_lines(once) == once
