"""`validate --rules` with Great Expectations: exact, read-only, offline, and without secrets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest

from tests.small_shop import PASSWORD, SmallShop, small_shop
from toolkit.servers import Server

# Not imported here: its import takes seconds, and warns.
pytestmark = pytest.mark.skipif(
    find_spec("great_expectations") is None, reason="needs pip install 'dbsplit[quality]'"
)

BROKEN = 777  # far more than the 200 rows that Great Expectations looks at elsewhere

SUITE = """\
service: shop
rules:
  orders-are-old:
    table: orders
    meaning: "no order is of today; $HOME ${PATH} {batch} :name 100% is said as it stands"
    unexpected: |
      SELECT id, 'C:\\x $HOME ${PATH} {batch} {3} :name 100%s' AS odd
      FROM orders WHERE placed_at > '2020-01-01T00:00:00Z' AND state::text ~ '^[a-z'' ]{3,}$'
  part-names:
    table: Products
    on: [source]
    meaning: a product's name is not empty
    unexpected: SELECT "Id" FROM "Products" WHERE "Name" = ''
  writes:
    table: orders
    meaning: a rule that writes is refused
    unexpected: SELECT clear_orders()
  sleeps:
    table: orders
    on: [target]
    meaning: a rule that takes too long is unverified
    unexpected: SELECT pg_sleep(60)
  lacks-a-table:
    table: orders
    on: [target]
    meaning: a rule that cannot be run is unverified
    unexpected: |
      SELECT 1 FROM no_such_table
  only-warns:
    table: orders
    on: [target]
    severity: warning
    meaning: there is no order 1
    unexpected: SELECT id FROM orders WHERE id = 1
"""

# As Great Expectations writes a suite.
EXPECTATIONS = {
    "name": "customers",
    "meta": {"dbsplit": {"service": "crm", "table": "customers"}},
    "expectations": [
        {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "phone"}},
        {
            "type": "expect_column_values_to_match_regex",
            "kwargs": {"column": "full_name", "regex": "^Customer [0-9]{1,4}$"},
        },
        {"type": "expect_table_row_count_to_equal", "kwargs": {"value": 3}},
        {"type": "expect_no_such_thing", "kwargs": {}},
    ],
}

Told = dict[tuple[str, str], dict[str, Any]]


@pytest.fixture(scope="module")
def shop(
    source_server: Server, target_server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SmallShop]:
    directory = tmp_path_factory.mktemp("rules")
    with small_shop(source_server, target_server, directory) as shop:
        shop.ask(
            "source",
            "INSERT INTO customers (full_name, phone) SELECT 'Customer x', NULL"
            " FROM generate_series(1, 777)",
        )
        shop.follow()
        for place in ("source", "shop"):
            shop.ask(
                place,
                "CREATE FUNCTION clear_orders() RETURNS int LANGUAGE sql AS"
                """ 'DELETE FROM "Order Lines" RETURNING 1'""",
            )
        yield shop


@pytest.fixture(scope="module")
def told(shop: SmallShop) -> Told:
    """What one run says of each rule, by name and side."""
    shop.ask(
        "shop",
        "ALTER TABLE orders DROP CONSTRAINT orders_pkey CASCADE;"
        "INSERT INTO orders (id, customer_id) SELECT 10000 + n, 1"
        " FROM generate_series(1, 777) AS n, generate_series(1, 2)",
    )
    directory = shop.verbs.plan.parent
    suites = directory / "rules"  # beside the plan: found without an option
    suites.mkdir()
    (suites / "shop.yaml").write_text(SUITE)
    (suites / "crm.json").write_text(json.dumps(EXPECTATIONS, indent=2))
    result = shop.verbs.json("validate", "--rules", "--docs", "docs", "--rule-timeout", "5", code=5)
    assert result["rules_hold"] is False
    assert sum(result["rules_told"].values()) == len(result["rules"])
    return {(one["rule"], one["side"]): one for one in result["rules"]}


@pytest.mark.release
def test_unexpected_rows_are_counted_exactly_beyond_the_librarys_limits(told: Told) -> None:
    old = told["orders-are-old", "target"]
    assert (old["outcome"], old["unexpected"]) == ("failed", 500 + 2 * BROKEN)
    assert told["orders-are-old", "source"]["unexpected"] == 500
    repeated = told["unique orders.orders_pkey", "target"]
    assert (repeated["outcome"], repeated["unexpected"]) == ("failed", BROKEN)
    assert len(repeated["examples"]) == 20
    assert set(repeated["examples"][0]) == {"id", "rows"}
    assert told["unique orders.orders_pkey", "source"]["outcome"] == "passed"
    nulls = told["customers expect_column_values_to_not_be_null phone", "source"]
    assert (nulls["outcome"], nulls["unexpected"]) == ("failed", BROKEN)
    assert len(nulls["examples"]) == 20
    names = told["customers expect_column_values_to_match_regex full_name", "target"]
    assert (names["unexpected"], names["examples"][0]) == (BROKEN, {"value": "Customer x"})


def test_nothing_in_a_query_is_taken_for_something_else(told: Told) -> None:
    for side in ("source", "target"):
        example = told["orders-are-old", side]["examples"][0]
        assert example["odd"] == "C:\\x $HOME ${PATH} {batch} {3} :name 100%s"


def test_what_cannot_be_asked_is_unverified_with_the_reason(told: Told, shop: SmallShop) -> None:
    for side in ("source", "target"):
        writes = told["writes", side]
        assert writes["outcome"] == "unverified"
        assert "read-only transaction" in writes["reason"]
    assert shop.value("source", 'SELECT count(*) FROM "Order Lines"') == 1500
    assert "statement timeout" in told["sleeps", "target"]["reason"]
    lacks = told["lacks-a-table", "target"]
    assert lacks["reason"] == 'relation "no_such_table" does not exist'
    assert re.search(r"rules/shop.yaml:\d+:3$", lacks["place"])
    unknown = told["customers expect_no_such_thing", "source"]
    assert unknown["outcome"] == "unverified"
    assert "expect_no_such_thing" in unknown["reason"]


def test_what_holds_passes_and_a_warning_is_told_apart(told: Told) -> None:
    assert told["only-warns", "target"]["outcome"] == "failed"
    assert told["only-warns", "target"]["severity"] == "warning"
    assert ("part-names", "target") not in told
    assert told["part-names", "source"]["outcome"] == "passed"
    count = told["customers expect_table_row_count_to_equal", "target"]
    assert (count["outcome"], count["reason"]) == ("failed", "observed 977")
    broken = {name for (name, _), one in told.items() if one["outcome"] != "passed"}
    assert broken == {
        "orders-are-old",
        "unique orders.orders_pkey",
        "writes",
        "sleeps",
        "lacks-a-table",
        "only-warns",
        *(name for name, _ in told if name.startswith("customers expect")),
    }
    assert len(told) > 60


def test_documents_load_nothing_and_hold_no_secret(told: Told, shop: SmallShop) -> None:
    docs = shop.verbs.plan.parent / "docs"
    pages = list(docs.rglob("*"))
    index = (docs / "index.html").read_text()
    assert "shop-target" in index
    assert told
    for page in pages:
        if page.is_file():
            text = page.read_text()
            assert PASSWORD not in text, page
            assert "postgresql" not in text, page
            assert page.suffix == ".html"
            assert not re.search(r"""(src|href|action)\s*=\s*["']?\s*(https?:)?//""", text), page
            assert not re.search(r"url\(\s*[\"']?(https?:)?//|@import|<script|<iframe", text), page
            assert "default-src 'none'" in text
    shown = next(docs.glob("validations/shop-target/*/*/*.html")).read_text()
    assert "orders-are-old" in shown
    assert str(500 + 2 * BROKEN) in shown.replace(",", "")
    for page in shop.verbs.plan.parent.rglob("*"):
        if page.is_file():
            assert PASSWORD.encode() not in page.read_bytes(), page


@pytest.mark.release
def test_a_second_run_adds_to_the_documents_and_foreign_ones_are_left_alone(
    told: Told, shop: SmallShop
) -> None:
    assert told
    verb = ("validate", "--rules", "--service", "billing")
    directory = shop.verbs.plan.parent
    before = len(list((directory / "docs").rglob("*.html")))
    result = shop.verbs.json(*verb, "--docs", "docs")
    assert result["rules_hold"] is True
    assert {one["service"] for one in result["rules"]} == {"billing"}
    assert len(list((directory / "docs").rglob("*.html"))) == before + 2  # results of two sides
    (directory / "other").mkdir()
    (directory / "other" / "index.html").write_text("mine")
    shop.verbs.refused(*verb, "--docs", "other", code=3, says="holds something else")
    assert (directory / "other" / "index.html").read_text() == "mine"


def test_a_broken_rule_is_told_apart_from_rows_that_differ(shop: SmallShop, told: Told) -> None:
    assert told
    (extra := shop.verbs.plan.parent / "extra").mkdir()
    (extra / "billing.yaml").write_text(
        "service: billing\nrules:\n  few:\n    table: order_overview\n    meaning: orders are few\n"
        "    unexpected: SELECT order_id FROM order_overview\n"
    )
    verb = ("validate", "--rules", "--service", "billing", "--suites", "extra")
    said = shop.verbs(*verb, code=5)
    assert re.search(r"billing +public.order_overview +500 +0 +0 +0 +equal", said.out)
    assert "failed  billing target: few" in said.out
    assert "500 rows break it; orders are few" in said.out
    assert "rules are broken: 2 failed, 0 unverified; every row that was compared" in said.err
    result = shop.verbs.json(*verb, code=5)
    assert (result["rows_equal"], result["rules_hold"]) == (True, False)
    assert result["consistent"] is False


def test_without_the_library_the_verb_says_how_to_get_it(
    shop: SmallShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("validators.rules.process.LIBRARY", "no_such_library")
    shop.verbs.refused(
        "validate", "--rules", code=4, says="not installed", hint="pip install 'dbsplit[quality]'"
    )
