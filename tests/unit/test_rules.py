"""Rules without a server: what results say, how names are found, and what documents may be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from plans.catalog import Column, Table, TableName
from plans.routes import Kind, Route, RouteColumn
from tests.invented_validation import invented
from toolkit.annotations import annotation_lines
from toolkit.cli.main import cli
from toolkit.cli.rules import rules_text
from toolkit.junit import write_junit
from toolkit.rules import follows
from toolkit.state import Phase
from validators.rules.data_docs import is_ours, write_offline
from validators.rules.rows import ServiceTable, with_tables
from validators.rules.rule import Outcome, RuleResult, Severity, hold, tally


def result(outcome: Outcome, severity: Severity = "error") -> RuleResult:
    return RuleResult(
        rule="totals",
        service="shop",
        table="public.orders",
        side="target",
        outcome=outcome,
        severity=severity,
        unexpected=2 if outcome == "failed" else 0,
        examples=({"id": "7", "note": None},) if outcome == "failed" else (),
        reason="too slow" if outcome == "unverified" else "",
        meaning="totals are sums",
    )


def test_only_what_is_broken_or_untold_keeps_rules_from_holding() -> None:
    assert hold([result("passed"), result("failed", "warning")])
    assert not hold([result("passed"), result("failed")])
    assert not hold([result("unverified", "warning")])


def test_warnings_are_counted_apart() -> None:
    results = [result("passed"), result("failed"), result("failed", "warning")]
    assert tally(results) == {"passed": 1, "failed": 1, "warnings": 1, "unverified": 0}


def test_a_side_follows_where_a_stream_writes_any_of_its_tables() -> None:
    own, *_ = invented().routes
    own = replace(own, service="crm", owner="crm", kind=Kind.WHOLE)
    copy = replace(own, owner="shop", kind=Kind.REFERENCE)
    both, moved = Phase.FOLLOWING, Phase.MOVED
    assert follows("target", [own], {"crm": both})
    assert not follows("source", [own], {"crm": both})
    assert not follows("target", [own], {"crm": moved})
    assert follows("source", [own], {"crm": moved})
    # The service leads, and what it reads of another one still comes by a stream.
    assert follows("target", [own, copy], {"crm": moved, "shop": both})
    assert follows("source", [own, copy], {"crm": both, "shop": moved})
    assert not follows("source", [own, copy], {"crm": both, "shop": both})


def test_the_terminal_shows_what_is_not_as_it_should_be() -> None:
    text = rules_text([result("passed"), result("failed"), result("unverified")])
    assert "rules: 1 passed, 1 failed, 0 warnings, 1 unverified" in text
    assert "failed  shop target: totals: 2 rows break it; totals are sums" in text
    assert "id 7, note NULL" in text
    assert "unverified  shop target: totals: too slow" in text


def test_a_warning_fails_no_case_and_is_a_warning_among_annotations(tmp_path: Path) -> None:
    warned, failed = result("failed", "warning"), result("failed")
    write_junit((), tmp_path / "rules.xml", rules=[warned, failed, result("unverified")])
    suite = ElementTree.parse(tmp_path / "rules.xml").getroot()[1]  # noqa: S314 - ours
    assert (suite.get("failures"), suite.get("errors")) == ("1", "1")
    assert [[child.tag for child in case] for case in suite] == [
        ["system-out"],
        ["failure"],
        ["error"],
    ]
    assert suite[0].get("classname") == "shop.rules.target"
    validated = replace(invented(equal=True), rules=(warned, failed))
    warning, error = annotation_lines(validated, Path("plan.yaml"))
    assert warning.startswith("::warning file=plan.yaml,title=shop%2C target%3A totals failed")
    assert error.startswith("::error ")
    assert not validated.consistent
    assert validated.equal
    assert replace(validated, rules=(warned,)).consistent


def table(name: str, *, routed: bool = True) -> ServiceTable:
    here = TableName("public", name)
    columns = (Column(name="id", type="bigint", is_portable=True),)
    target = Table(name=here, kind="r", columns=columns, primary_key=("id",))
    route = Route(
        id=f"shop:{name}",
        service="shop",
        owner="shop",
        kind=Kind.ROWS,
        source=target,
        target=here,
        columns=(
            RouteColumn(
                name="id",
                expression='"id"',
                reads=frozenset({"id"}),
                type="bigint",
                plain="id",
                binary=True,
            ),
        ),
        key=("id",),
        where="id > 0 -- all",
    )
    return ServiceTable(service="shop", name=here, target=target, routes=(route,) if routed else ())


@pytest.mark.parametrize(
    ("query", "used"),
    [
        ("SELECT id FROM orders", ["orders"]),
        ("SELECT id FROM ORDERS", ["orders"]),
        ('SELECT id FROM "Order Lines" AS l', ["Order Lines"]),
        ('SELECT id FROM "Order Lines", orders', ["orders", "Order Lines"]),
        ("SELECT id FROM public.orders", []),
        ("SELECT o.orders, my_orders, orders_2 FROM my_orders AS o", []),
        ("SELECT id FROM state", []),  # the source has no such table
    ],
)
def test_bare_names_mean_what_the_routes_make_of_the_source(query: str, used: list[str]) -> None:
    tables = [table("orders"), table("Order Lines"), table("state", routed=False)]
    asked = with_tables(query, tables, "source")
    views = [t.name.name for t in tables if f'"{t.name.name}" AS NOT MATERIALIZED' in asked]
    assert views == used
    assert "AS NOT MATERIALIZED" not in with_tables(query, tables, "target")


@pytest.mark.parametrize("option", ["--suites", "--docs"])
def test_options_of_rules_say_nothing_without_them(option: str, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").touch()
    words = ["validate", str(tmp_path / "plan.yaml"), option, str(tmp_path)]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 2
    assert "says nothing without --rules" in done.output


PAGE = """<html><head><link rel="stylesheet" href="https://cdn.example/x.css">
<style>@import url(https://cdn.example/y.css)</style></head><body>
<script src="https://cdn.example/x.js"></script><img src="https://cdn.example/logo.png">
<script>$("x").table([1])</script><a href="https://example.com">Great Expectations</a>
<a href="../index.html">Home</a> Status: <i class="x"></i> Failed</body></html>"""


def test_pages_lose_what_they_would_load_and_keep_what_they_say(tmp_path: Path) -> None:
    site, docs = tmp_path / "site", tmp_path / "docs"
    place = Path("validations/shop-target/run/20260101T000000Z/rules.html")
    (site / place).parent.mkdir(parents=True)
    (site / place).write_text(PAGE)
    (site / "index.html").write_text(PAGE)
    assert is_ours(docs)
    write_offline(site, docs)
    page, index = (docs / place).read_text(), (docs / "index.html").read_text()
    for text in (page, index):
        assert "http" not in text.replace("http-equiv", "")
        assert "<script" not in text
        assert "default-src 'none'" in text
    assert "Great Expectations" in page
    assert '<a href="../index.html">Home</a>' in page
    assert f'href="{place}"' in index
    assert "Failed" in index
    assert is_ours(docs)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").touch()
    assert not is_ours(tmp_path / "other")
