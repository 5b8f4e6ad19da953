"""Rules: on rows that are right none is broken, and what is planted breaks the rules it must.

Here the rules' queries are run as they are; that Great Expectations runs these very queries,
and counts as they do, is shown in tests/long/test_rules.py.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import psycopg
import pytest
from psycopg import sql

import plans.crm_shop
from cdc.connect import connect
from plans.crm_shop import generate
from plans.crm_shop.order_lives import CONTRADICTORY
from plans.errors import PlanInvalid
from plans.yaml_file import read_yaml
from tests.conftest import fresh_database
from toolkit import initial
from toolkit.opened import Split, open_split
from toolkit.prepare import prepare
from toolkit.rules import Chosen, check_rules, rules_of
from toolkit.servers import Server
from validators.canonical import trusted
from validators.orphans import OrphanResult
from validators.rules.rule import Rule, Side

PLAN = Path(str(plans.crm_shop.__file__)).parent / "plan.yaml"
SUITES = PLAN.parent / "rules"
ORDERS = 300
KNOWN = {"systems-agree", "histories-are-legal"}
"""Of these the bundled rows have some on purpose; both are warnings."""


@dataclass(frozen=True)
class Case:
    """The bundled case, copied and caught up, and its rules."""

    split: Split
    rules: tuple[Rule, ...]

    def dsn(self, service: str, side: Side) -> str:
        return self.split.plan.source.dsn if side == "source" else self.split.dsn(service)

    def broken(self, connection: psycopg.Connection, service: str, side: Side) -> Mapping[str, int]:
        """How many rows break each of the service's rules, as this session sees them."""
        found = Counter[str]()
        for rule in self.rules:
            if rule.service == service and side in rule.queries:
                counted = sql.SQL("SELECT count(*) FROM ({}) AS u")
                query = counted.format(trusted(rule.queries[side]))
                ((count,),) = connection.execute(query).fetchall()
                found[rule.name] += count
        return +found


@pytest.fixture(scope="module")
def case(source_server: Server, target_server: Server) -> Iterator[Case]:
    with (
        fresh_database(source_server) as source,
        fresh_database(target_server) as crm,
        fresh_database(target_server) as shop,
        fresh_database(target_server) as orchestrator,
    ):
        with psycopg.connect(crm) as connection:
            connection.execute((PLAN.parent / "roles.sql").read_bytes())
        generate.create(source)
        generate.load(source, scale=ORDERS / generate.ORDERS_AT_SCALE_1)
        dsns = {"SOURCE": source, "CRM": crm, "SHOP": shop, "ORCHESTRATOR": orchestrator}
        with mock.patch.dict(os.environ, {f"DBSPLIT_{n}_DSN": dsn for n, dsn in dsns.items()}):
            prepare(PLAN, lambda _step, _details: None)
            initial.copy(open_split(PLAN), lambda _: None, jobs=2)
            split = open_split(PLAN)
            with connect(source) as connection:
                yield Case(split, tuple(rules_of(split, None, connection)))


@pytest.mark.parametrize("side", ["source", "target"])
def test_the_bundled_rows_keep_all_rules_but_the_two_that_warn(case: Case, side: Side) -> None:
    found = Counter[str]()
    for service in case.split.plan.services:
        with psycopg.connect(case.dsn(service, side)) as connection:
            found.update(case.broken(connection, service, side))
    assert set(found) == KNOWN
    assert found["systems-agree"] == ORDERS * len(CONTRADICTORY) / 100
    assert {rule.severity for rule in case.rules if rule.name in KNOWN} == {"warning"}


# What is planted, by service; each rule of the suites is broken by one of these, on each side
# on which it is asked, and by none of the others.
PLANTED: Mapping[str, Mapping[str, tuple[str, Mapping[str, int]]]] = {
    "shop": {
        "a total that is a cent off": (
            "UPDATE orders SET net_total = net_total + 0.01"
            " WHERE id = (SELECT min(id) FROM orders WHERE status = 'new')",
            {"order-total-is-sum-of-items": 1},
        ),
        "a payment that is a cent off": (
            "UPDATE payments SET amount = amount - 0.01"
            " WHERE ctid = (SELECT min(ctid) FROM payments)",
            {"payments-add-up": 1},
        ),
        "a payment that is gone": (
            "DELETE FROM payments"
            " WHERE order_id = (SELECT min(id) FROM orders WHERE status = 'paid')",
            {"paid-orders-have-payments": 1},
        ),
        "an invoice of another amount": (
            "UPDATE invoices SET net = net + 1 WHERE ctid = (SELECT min(ctid) FROM invoices)",
            {"invoices-are-of-the-order": 1},
        ),
        "a status without a history": (
            "UPDATE orders SET status = 'shipped'"
            " WHERE id = (SELECT min(id) FROM orders WHERE status = 'closed')",
            {"shop-history-ends-in-status": 1},
        ),
        "a state without a history": (
            "UPDATE production_jobs SET state = 'blocked'"
            " WHERE ctid = (SELECT min(ctid) FROM production_jobs)",
            {"mes-history-ends-in-state": 1},
        ),
        "a job's history of another order": (
            "UPDATE production_job_history SET order_id = order_id + 1 WHERE id = 1",
            {"mes-history-is-of-the-order": 1},
        ),
        "more shipped than ordered": (
            "UPDATE shipment_items SET quantity = quantity + 1"
            " WHERE ctid = (SELECT min(ctid) FROM shipment_items)",
            {"shipped-is-what-was-ordered": 1},
        ),
        "a NULL": (
            "ALTER TABLE orders ALTER customer_id DROP NOT NULL;"
            "UPDATE orders SET customer_id = NULL WHERE id <= 3",
            {"not-null orders": 3},
        ),
        "a value beyond a CHECK": (
            "ALTER TABLE orders DROP CONSTRAINT orders_priority_check;"
            "UPDATE orders SET priority = 9 WHERE id <= 2",
            {"check orders.orders_priority_check": 2},
        ),
        "a value outside of a domain": (
            "ALTER DOMAIN sku DROP CONSTRAINT sku_check;"
            "UPDATE products SET sku = 'AB-1' WHERE id = 1",
            {"domain products.sku sku_check": 1},
        ),
        "a label that the enum lacks": (
            "ALTER TABLE payments ALTER method TYPE text;"
            "UPDATE payments SET method = 'iou' WHERE ctid = (SELECT min(ctid) FROM payments)",
            {"one-of payments.method": 1},
        ),
        "a value twice under an expression": (
            "DROP INDEX customers_email_key;"
            "UPDATE customers SET email = 'A@x' WHERE id IN (1, 2);"
            "UPDATE customers SET email = 'a@X' WHERE id IN (3, 4)",
            {"unique customers.customers_email_key": 1},
        ),
        "NULLs that are not distinct": (
            "ALTER TABLE categories DROP CONSTRAINT categories_parent_id_slug_key;"
            "INSERT INTO categories (id, parent_id, slug, title)"
            " VALUES (9001, NULL, 'x', 'x'), (9002, NULL, 'x', 'y'), (9003, NULL, 'z', 'z')",
            {"unique categories.categories_parent_id_slug_key": 1},
        ),
        "a row that refers to nothing": (
            "UPDATE job_steps SET job_id = -1 WHERE (job_id, step_no) IN"
            " (SELECT job_id, step_no FROM job_steps WHERE step_no = 1 ORDER BY job_id LIMIT 1)",
            {"foreign-key job_steps.job_steps_job_id_fkey": 1},
        ),
        "a row that refers to nothing by two columns": (
            "UPDATE shipment_items SET line_no = 99"
            " WHERE ctid = (SELECT min(ctid) FROM shipment_items)",
            {"foreign-key shipment_items.shipment_items_order_id_line_no_fkey": 1},
        ),
    },
    "crm": {
        "a stage without a history": (
            "UPDATE crm_orders SET stage = 'on_hold'"
            " WHERE order_id = (SELECT min(order_id) FROM crm_orders WHERE stage = 'won')",
            {"crm-history-ends-in-stage": 1},
        ),
        "a discount of more than everything": (
            "UPDATE opportunity_items SET discount = 1.001"
            " WHERE ctid = (SELECT min(ctid) FROM opportunity_items)",
            {"discounts-are-shares": 1},
        ),
        "a value twice": (
            "ALTER TABLE managers DROP CONSTRAINT managers_email_key;"
            "UPDATE managers SET email = 'same' WHERE id <= 3",
            {"unique managers.managers_email_key": 1},
        ),
        "a value beyond a range": (
            "ALTER TABLE leads DROP CONSTRAINT leads_score_check;"
            "UPDATE leads SET score = 101 WHERE id <= 4",
            {"check leads.leads_score_check": 4},
        ),
        "a row that refers to no row of a copy": (
            "UPDATE leads SET product_id = -1 WHERE id = 1",
            {"foreign-key leads.leads_product_id_fkey": 1},
        ),
        "a row that refers to no part of a row": (
            "UPDATE tickets SET customer_id = -1 WHERE ctid = (SELECT min(ctid) FROM tickets)",
            {"foreign-key tickets.tickets_customer_id_fkey": 1},
        ),
    },
}


# One test for many, since each worker that has a part of them copies the case for itself.
@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("service", PLANTED)
def test_what_is_planted_breaks_its_rule_and_no_other(case: Case, service: str, side: Side) -> None:
    expected = {what: counts for what, (_, counts) in PLANTED[service].items()}
    found = {what: planted(case, service, side, do) for what, (do, _) in PLANTED[service].items()}
    assert found == expected


# Only in the orchestrator's own database.
IN_THE_ORCHESTRATOR = {
    "a word that the system does not have": (
        "UPDATE order_claim SET state = 'ON_HOLD' WHERE system = 'shop' AND order_id = 1",
        {
            "claims-are-in-words-of-their-system",
            "claims-are-the-last-of-their-history",
            "systems-agree",
            "state-is-the-winning-claim",  # it was this claim
        },
    ),
    "a claim that means nothing": (
        "ALTER TABLE order_claim ALTER precedence DROP NOT NULL;"
        "UPDATE order_claim SET precedence = NULL WHERE system = 'crm' AND order_id = 1",
        {"states-are-mapped", "not-null order_claim", "state-is-the-winning-claim"},
    ),
    "a move that is not allowed": (
        "INSERT INTO order_transition (order_id, from_state, to_state, version)"
        " VALUES (1, 'CLOSED', 'PRODUCTION', 2)",
        {"moves-are-legal"},
    ),
    "a move that begins in the middle": (
        "INSERT INTO order_transition (order_id, from_state, to_state, version)"
        " VALUES (1, NULL, 'PRODUCTION', 1)",
        {"moves-are-legal"},
    ),
    "a step out of a final state": (
        "INSERT INTO claim_history (system, entry_id, order_id, from_state, to_state, changed_at,"
        " actor) VALUES ('shop', -1, 1, 'CLOSED', 'PRODUCTION', now(), 'x')",
        {"histories-are-legal"},
    ),
    "an order without a state": (
        "DELETE FROM order_state WHERE order_id = 1",
        {"one-state-per-order"},
    ),
    "a state without an order": (
        "DELETE FROM order_claim WHERE order_id = 1",
        {"one-state-per-order"},
    ),
    "two states of an order": (
        "ALTER TABLE order_state DROP CONSTRAINT order_state_pkey;"
        "INSERT INTO order_state (order_id, state, priority, due_at, placed_at, changed_at, led_by)"
        " SELECT order_id, state, priority, due_at, placed_at, changed_at, led_by"
        " FROM order_state WHERE order_id = 1",
        {"unique order_state.order_state_pkey"},
    ),
    "two claims of one system": (
        "ALTER TABLE order_claim DROP CONSTRAINT order_claim_pkey;"
        "INSERT INTO order_claim SELECT * FROM order_claim WHERE order_id = 1 AND system = 'crm'",
        {"one-claim-per-system", "unique order_claim.order_claim_pkey"},
    ),
    "a state that nobody claims": (
        "UPDATE order_state SET state = 'PACKING' WHERE order_id = 1",
        {"state-is-the-winning-claim"},
    ),
    "a contradiction resolved out of thin air": (
        "UPDATE order_state SET state = 'INITIATED' WHERE order_id = 117",
        {"state-is-the-winning-claim", "contradictions-are-resolved"},
    ),
    "a priority that the shop does not know of": (
        "UPDATE order_state SET priority = priority + 1 WHERE order_id = 1",
        {"facts-are-the-shops"},
    ),
    "a state that is none": (
        "UPDATE order_state SET state = 'LIMBO' WHERE order_id = 1",
        {"foreign-key order_state.order_state_state_fkey", "state-is-the-winning-claim"},
    ),
}


def test_what_is_planted_in_the_orchestrator(case: Case) -> None:
    off = "ALTER TABLE order_claim DISABLE TRIGGER ALL;"
    found = {
        what: planted(case, "orchestrator", "target", off + do)
        for what, (do, _) in IN_THE_ORCHESTRATOR.items()
    }
    assert found == {
        what: dict.fromkeys(rules, 1) for what, (_, rules) in IN_THE_ORCHESTRATOR.items()
    }


def test_every_rule_of_the_bundled_suites_was_planted_against() -> None:
    written = {name for file in SUITES.glob("*.yaml") for name in read_yaml(file)[0]["rules"]}
    planted_for = {
        name for some in PLANTED.values() for _, counts in some.values() for name in counts
    }
    planted_for |= {name for _, rules in IN_THE_ORCHESTRATOR.values() for name in rules}
    assert written <= planted_for


def test_the_orchestrators_rules_are_asked_of_what_the_source_will_become(case: Case) -> None:
    jump = "UPDATE orders SET status = 'draft' WHERE id = 1"  # it was closed
    assert planted(case, "orchestrator", "source", jump) == {
        "claims-are-the-last-of-their-history": 1,
        "systems-agree": 1,
    }


def test_rows_of_no_part_are_found_on_the_source(case: Case) -> None:
    nowhere = (
        "ALTER TABLE interactions ALTER channel DROP NOT NULL;"
        "UPDATE interactions SET channel = NULL WHERE id <= 2"
    )
    for service in ("crm", "shop"):
        assert planted(case, service, "source", nowhere) == {"row-part interactions": 2}


def test_rows_of_another_part_are_found_on_the_target(case: Case) -> None:
    stray = (
        "INSERT INTO interactions (id, channel, customer_id, subject)"
        " VALUES (900001, 'phone', 1, 'x'), (900002, 'web', 1, 'x')"
    )
    assert planted(case, "shop", "target", stray) == {"row-part interactions": 1}
    assert planted(case, "crm", "target", stray) == {"row-part interactions": 1}


def test_orphans_across_services_are_found_on_the_source(case: Case) -> None:
    orphan = "UPDATE opportunities SET order_id = -1 WHERE id IN (1, 2)"
    assert planted(case, "crm", "source", orphan) == {
        "no-orphans opportunities.opportunities_order_id_fkey": 2
    }


def test_orphans_across_databases_are_results_of_rules_on_the_target(case: Case) -> None:
    found = OrphanResult(
        foreign_key="public.tickets.tickets_order_id_fkey",
        service="crm",
        references="public.orders",
        state="checked",
        orphans=2,
        sample=(("7",), ("9",)),
    )
    looked_at = [
        found,
        replace(found, orphans=0, sample=()),
        replace(found, state="unverified", orphans=0, sample=(), reason="the stream is behind"),
    ]
    with connect(case.split.plan.source.dsn) as source:
        told = check_rules(case.split, [], Chosen(), source, looked_at, lambda _, __: None)
        other = Chosen(tables=["orders"])
        assert not check_rules(case.split, [], other, source, looked_at, lambda _, __: None)
    asked = {(rule.name, rule.service, rule.table) for rule in case.rules}
    assert {(one.rule, one.service, one.table) for one in told} <= asked
    assert [(one.outcome, one.unexpected, one.shown, one.side) for one in told] == [
        ("failed", 2, ("refers to 7", "refers to 9"), "target"),
        ("passed", 0, (), "target"),
        ("unverified", 0, (), "target"),
    ]
    assert told[2].reason == "the stream is behind"


def planted(case: Case, service: str, side: Side, statements: str) -> Mapping[str, int]:
    """What is broken besides, once something was done that is undone again."""
    with psycopg.connect(case.dsn(service, side)) as connection:
        before = Counter(case.broken(connection, service, side))
        # As the applier and a restored dump write: neither triggers nor foreign keys are asked.
        connection.execute("SET LOCAL session_replication_role = replica")
        connection.execute(statements.encode())
        after = Counter(case.broken(connection, service, side))
        connection.rollback()
    return after - before


WRONG = {
    "shop.yaml": (
        "service: shop\nrules:\n  a:\n    table: ordres\n    meaning: m\n"
        "    unexpected: SELECT 1\n",
        ["shop.yaml:4:12", "shop has no table 'ordres'", "did you mean 'orders'?"],
    ),
    "syntax.yaml": (
        "service: shop\nrules:\n  a:\n    table: orders\n    meaning: m\n    unexpected: |\n"
        "      SELECT id\n      FROM orders WHERE WHERE\n",
        ["syntax.yaml:8:1", "isn't SQL", 'at or near "WHERE"'],
    ),
    "writes.yaml": (
        "service: shop\nrules:\n  a:\n    table: orders\n    meaning: m\n"
        "    unexpected: DELETE FROM orders\n",
        ["writes.yaml:6:17", "isn't one SELECT"],
    ),
    "unknown.yaml": (
        "service: shop\nrules:\n  a:\n    table: orders\n    meaning: m\n    unexpected: SELECT 1\n"
        "    severety: warning\n",
        ["unknown.yaml:7:5", "unknown key 'severety'", "did you mean 'severity'?"],
    ),
    "service.yaml": (
        "service: shoop\nrules:\n  a: {table: orders, meaning: m, unexpected: SELECT 1}\n",
        ["service.yaml:1:10", "the plan has no service 'shoop'", "did you mean 'shop'?"],
    ),
    "side.yaml": (
        "service: shop\nrules:\n"
        "  a: {table: orders, meaning: m, unexpected: SELECT 1, on: [targets]}\n",
        ["side.yaml:3:61", "found 'targets'", "did you mean 'target'?"],
    ),
    "broken.json": (
        '{"name": "x",\n "expectations": [}',
        ["broken.json:2:19", "isn't readable JSON"],
    ),
    "about.json": (
        '{"name": "x", "meta": {},\n'
        ' "expectations": [{"type": "expect_table_row_count_to_equal", "kwargs": {"value": 1}}]}',
        ["about.json:1:23", "names no service", "one of: crm, orchestrator, shop"],
    ),
    "sampled.json": (
        '{"name": "x", "meta": {"dbsplit": {"service": "shop", "table": "orders"}},\n'
        ' "expectations": [\n  {"type": "expect_query_results_to_match_comparison"}]}',
        ["sampled.json:3:12", "compares 200 rows", "write the rule as a SELECT"],
    ),
    "brace.json": (
        '{"name": "x", "meta": {"dbsplit": {"service": "shop", "table": "orders"}},\n'
        ' "expectations": [{"type": "unexpected_rows_expectation",\n'
        """  "kwargs": {"unexpected_rows_query": "SELECT '{' FROM {batch}"}}]}""",
        ["brace.json:3:39", "holds a brace"],
    ),
}


def test_what_is_wrong_in_suites_is_said_with_its_place_all_at_once(
    case: Case, tmp_path: Path
) -> None:
    for name, (text, _) in WRONG.items():
        (tmp_path / name).write_text(text)
    with connect(case.split.plan.source.dsn) as source, pytest.raises(PlanInvalid) as error:
        rules_of(case.split, tmp_path, source)
    for name, (_, said) in WRONG.items():
        lines = [line for line in str(error.value).splitlines() if name in line]
        assert any(all(text in line for text in said) for line in lines), (name, said, lines)


def test_two_rules_of_a_name_and_an_empty_directory_are_refused(case: Case, tmp_path: Path) -> None:
    with connect(case.split.plan.source.dsn) as source:
        with pytest.raises(PlanInvalid, match="has no suites"):
            rules_of(case.split, tmp_path, source)
        rule = "service: shop\nrules:\n  a: {table: orders, meaning: m, unexpected: SELECT 1}\n"
        for name in ("one", "two"):
            (tmp_path / f"{name}.yaml").write_text(rule)
        with pytest.raises(PlanInvalid, match=r"two.yaml:3:3: shop has a rule 'a' at .*one.yaml:3"):
            rules_of(case.split, tmp_path, source)


def test_a_suite_of_great_expectations_is_asked_of_the_services_table(
    case: Case, tmp_path: Path
) -> None:
    (tmp_path / "shop.json").write_text(
        '{"name": "x", "meta": {"dbsplit": {"service": "shop", "table": "customers"}},'
        ' "expectations": [{"type": "unexpected_rows_expectation", "kwargs":'
        ' {"unexpected_rows_query":'
        """ "SELECT id FROM {batch} WHERE email ~ 'x{{9}}' OR id = 7"}},"""
        ' {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "email"},'
        ' "severity": "warning"}]}'
    )
    with connect(case.split.plan.source.dsn) as source:
        rules = rules_of(case.split, tmp_path, source)
    query, nulls = (rule for rule in rules if rule.place.startswith(str(tmp_path)))
    for side in query.queries:
        with psycopg.connect(case.dsn("shop", side)) as connection:
            assert connection.execute(query.queries[side].encode()).fetchall() == [(7,)]
            # The rows that the expectation is about are the shop's part of a customer.
            (cursor := connection.cursor()).execute(nulls.queries[side].encode())
            columns = {column.name for column in cursor.description or ()}
            assert "email" in columns
            assert "full_name" not in columns
    assert nulls.severity == "warning"
    assert nulls.expectation == {
        "type": "expect_column_values_to_not_be_null",
        "kwargs": {"column": "email"},
    }
