"""A validation as a page, as JUnit XML, as annotations, as files: true, whole and escaped."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from tests.chromium import MISSING, PROGRAM, opened
from tests.invented_validation import DIFFERENCES, HOSTILE, ROUTES, invented, result
from tests.unit.test_report import checked, words
from toolkit.annotations import annotation_lines
from toolkit.cli.comparing import comparison_reporter
from toolkit.cli.main import cli
from toolkit.cli.talk import Talk
from toolkit.difference_files import COLUMNS, Csv, JsonLines
from toolkit.differences import KEPT_MAX, Shown, Way
from toolkit.junit import write_junit
from toolkit.report.validation import judge_validation, render_validation
from toolkit.report.verdict import Standing
from toolkit.state import Direction
from validators.causes import CAUSES, cause_of
from validators.masks import Masks
from validators.repair_sql import head
from validators.results import ColumnDifference, Difference, Written

WAY = Way(ROUTES[0], Direction.CUTOVER)


@pytest.mark.parametrize("equal", [True, False])
def test_the_page_is_whole_loads_nothing_and_escapes_everything(*, equal: bool) -> None:
    document = render_validation(invented(equal=equal))
    page = checked(document)
    assert page.open == []
    assert page.outside == []
    assert HOSTILE not in document
    assert "<script" not in document
    assert HOSTILE in words(document)


def test_the_page_tells_both_sides_of_each_differing_column() -> None:
    shown = words(render_validation(invented()))
    for said in (
        *("1,206 rows differ", "1 rule is broken", "5 of 6", "no row", "NULL", "changed again"),
        *("anna.m", "somebody else 2026-03-05 14:02:01", "1,200 more are in dbsplit.difference"),
        *(CAUSES["outdated"], "Not compared in this run: mes.queue", "1.1e-13", "Signature"),
    ):
        assert said in shown, said


def test_what_was_not_compared_is_never_said_to_be_proven() -> None:
    whole = invented(equal=True, rules=())
    assert judge_validation(replace(whole, planned=ROUTES)).standing is Standing.PROVEN
    assert judge_validation(whole).headline == "Every row of these tables is equal"
    assert judge_validation(replace(whole, results=())).standing is Standing.UNPROVEN
    empty = tuple(replace(one, rows=0) for one in whole.results)
    assert judge_validation(replace(whole, results=empty)).standing is Standing.UNPROVEN
    doubtful = (*whole.results[1:], result(ROUTES[0], state="unverified", reason="no"))
    assert judge_validation(replace(whole, results=doubtful)).standing is Standing.UNPROVEN
    assert judge_validation(invented()).standing is Standing.BROKEN


@pytest.mark.skipif(PROGRAM is None, reason=MISSING)
def test_the_page_fits_a_desk_a_phone_and_paper(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(render_validation(invented()), encoding="utf-8")
    with opened(path, tmp_path / "profile") as page:
        for width, media, scheme in (
            *((1280, "screen", "light"), (1280, "screen", "dark"), (390, "screen", "light")),
            (720, "print", "light"),
        ):
            page.call(
                "Emulation.setDeviceMetricsOverride",
                width=width, height=900, deviceScaleFactor=1, mobile=False,
            )  # fmt: skip
            feature = {"name": "prefers-color-scheme", "value": scheme}
            page.call("Emulation.setEmulatedMedia", media=media, features=[feature])
            assert page.value("document.documentElement.scrollWidth") <= width
            clipped = (
                "[...document.querySelectorAll('h1, h2, .figures dd, .how, .value')].filter("
                "e => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display != 'inline'"
                ").map(e => e.textContent)"
            )
            assert page.value(clipped) == []
        assert page.said == []


def test_junit_has_a_case_for_each_table_and_rule_and_is_xml_whatever_rows_hold(
    tmp_path: Path,
) -> None:
    validated = invented()
    nasty = Difference(("\x00\x1b]]>",), "different", (ColumnDifference("a", "\ud800", None),))
    broken = replace(validated.results[0], examples=(nasty, *DIFFERENCES))
    path = tmp_path / "deep" / "rows.xml"
    write_junit((broken, *validated.results[1:]), path, rules=validated.rules)
    suites = ElementTree.parse(path).getroot()  # noqa: S314 - we have written it
    tables, rules = suites
    assert [suites.tag, tables.tag, rules.tag] == ["testsuites", "testsuite", "testsuite"]
    assert (tables.get("tests"), tables.get("failures"), tables.get("errors")) == ("5", "1", "1")
    assert (rules.get("tests"), rules.get("failures")) == ("2", "1")
    failure = tables.find("testcase/failure")
    assert failure is not None
    assert "1 missing, 1 extra, 1204 different" in str(failure.get("message"))
    assert "\\x00\\x1b]]>" in str(failure.text)
    assert "where it leads, NULL where it follows" in str(failure.text)
    assert "missing: id: '1019'; email: 'x@y\\n' [" in str(failure.text), "no row has no NULL"
    assert HOSTILE in str(failure.text)


def test_annotations_stand_at_the_plans_line_and_in_one_line_each() -> None:
    validated = invented()
    bad = replace(validated.results[3], reason="first\nsecond, %")
    lines = list(
        annotation_lines(
            replace(validated, results=(*validated.results[:3], bad)), Path("ci/plan.yaml")
        )
    )
    assert len(lines) == 3
    assert lines[0].startswith("::error file=ci/plan.yaml,line=12,title=shop%3A public.orders is d")
    assert "first%0Asecond, %25" in lines[1]
    (notice,) = annotation_lines(invented(equal=True), Path("plan.yaml"))
    assert notice.startswith("::notice ")
    assert "every row is equal" in notice
    (none,) = annotation_lines(replace(validated, results=(), rules=()), Path("plan.yaml"))
    assert none.startswith("::error ")


def test_csv_holds_no_formula_and_all_columns() -> None:
    file = io.StringIO()
    sheet = Csv(file)
    evil = Difference(
        ("1",), "different", (ColumnDifference("a", "=HYPERLINK(1)", "-12.5"),), cause="outdated"
    )
    sheet.take(WAY, [*DIFFERENCES, evil])
    lines = list(csv.DictReader(io.StringIO(file.getvalue())))
    assert tuple(lines[0]) == COLUMNS
    assert len(lines) == sum(max(1, len(one.columns)) for one in (*DIFFERENCES, evil))
    assert lines[-1]["source"] == "'=HYPERLINK(1)"
    assert lines[-1]["target"] == "-12.5"
    assert json.loads(lines[0]["key"]) == {"id": "1017"}


def test_csv_tells_null_from_an_empty_text() -> None:
    file = io.StringIO()
    columns = (ColumnDifference("a", None, ""), ColumnDifference("b", 'say "x", y\n', "\r"))
    Csv(file).take(WAY, [Difference(("1",), "different", columns, cause="outdated")])
    assert ',a,,"",' in file.getvalue()
    line = list(csv.DictReader(io.StringIO(file.getvalue(), newline="")))[-1]
    assert (line["source"], line["target"]) == ('say "x", y\n', "'\r")


def test_a_scripts_head_names_split_and_variable() -> None:
    assert "for split saas.\n" in head("saas")
    assert '-f THIS_FILE "$DBSPLIT_…_DSN"' in head("saas")


def test_sides_keep_their_names_whichever_leads() -> None:
    for direction, source in ((Direction.CUTOVER, "1249.90"), (Direction.ROLLBACK, "1249.9")):
        file = io.StringIO()
        JsonLines(file).take(Way(ROUTES[0], direction), DIFFERENCES[:1])
        column = json.loads(file.getvalue())["columns"][1]
        assert column["source"] == source


def test_masked_values_are_hashes_that_tell_equal_from_different() -> None:
    masks = Masks()
    shown = masks.difference(DIFFERENCES[0], ("id",), {"email", "id"})
    email, total = shown.columns
    assert "anna" not in repr(shown)
    assert "1017" not in repr(shown)
    assert email.leader != email.follower
    assert email.leader == masks.value("anna.müller@example.org")
    assert email.leader != Masks().value("anna.müller@example.org")  # no dictionary helps
    assert (total.leader, total.follower) == ("1249.90", "1249.9")
    assert masks.value(None) is None


def test_all_are_counted_though_few_are_shown() -> None:
    shown = Shown(most=2)
    shown.begin(WAY)
    shown.take(WAY, DIFFERENCES)
    assert len(shown.by_route[WAY.route.id]) == 2
    assert sum(shown.classes[WAY.route.id].values()) == len(DIFFERENCES)
    assert KEPT_MAX == 10_000_000


@pytest.mark.parametrize(
    ("cause", "how", "ours", "theirs", "by"),
    [
        ("not-arrived", "missing", "a", None, "unknown"),
        ("written-there", "different", "a ", "a", "other"),
        ("written-there", "extra", None, "a", "other"),
        ("not-removed", "extra", None, "a", "applier"),
        ("unknown", "extra", None, "a", "unknown"),
        ("white-space", "different", "a b", "a  b ", "applier"),
        ("encoding", "different", "müller", "mÃ¼ller", "applier"),
        ("encoding", "different", "é", "e\u0301", "unknown"),
        ("precision", "different", "1.239", "1.24", "applier"),
        ("outdated", "different", "1.239", "2.24", "applier"),
        ("outdated", "different", "1.25", "1.26", "applier"),
        ("precision", "different", "2024-01-01 10:00:00.123456+00", "2024-01-01 10:00:00+00", "x"),
        ("outdated", "different", "12", "1", "applier"),
        ("outdated", "different", "new", "old", "before"),
        ("unknown", "different", "new", "old", "unknown"),
    ],
)
def test_the_likely_cause(cause: str, how: str, ours: str, theirs: str, by: str) -> None:
    column = ColumnDifference("a", ours, theirs)
    one = Difference(("1",), how, (column,))  # type: ignore[arg-type]
    assert cause_of(one, Written(by), ()) == cause  # type: ignore[arg-type]
    assert cause in CAUSES


def test_only_computed_columns_point_to_the_expression() -> None:
    one = Difference(("1",), "different", (ColumnDifference("state", "OPEN", "PAID"),))
    assert cause_of(one, Written("applier"), {"state"}) == "expression"
    assert cause_of(one, Written("applier"), {"other"}) == "outdated"


def test_a_file_that_cannot_be_written_is_told_before_anything_is_compared(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text("split: x\n")
    path = plan / "rows.html"  # a file is no directory
    done = CliRunner().invoke(cli, ["validate", str(plan), "--html", str(path)])
    assert done.exit_code == 2
    assert "cannot write" in done.output


def test_progress_on_a_terminal_shows_rows_and_what_is_rechecked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with comparison_reporter(Talk(as_json=False), ROUTES) as say:
        for route in ROUTES:
            told = {"route": route.id, "rows": 1_000, "found": 7, "settled": 7}
            say("comparing", told)
            say("compared", told)
        say("repaired", {"route": "x"})
    shown = capsys.readouterr().err
    assert "5,000 of ~5,000 rows" in shown
    assert "35 rechecked" in shown
    assert "repaired" in shown
