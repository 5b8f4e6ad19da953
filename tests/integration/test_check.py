"""What a check finds on a real server, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from plans.check import check_source
from plans.findings import Finding, Severity
from plans.lists import run_lists
from plans.load import Plan, load_plan

SCHEMA = """
CREATE TABLE customers (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, full_name text, email text);
CREATE TABLE visits (id int PRIMARY KEY, channel text, customer bigint REFERENCES customers);
CREATE TABLE products (id int PRIMARY KEY, name text);
CREATE TABLE leads (
    id int PRIMARY KEY, product int REFERENCES products ON DELETE CASCADE,
    customer bigint REFERENCES customers
);
CREATE TABLE orders (id int PRIMARY KEY, lead int REFERENCES leads, status text);
"""  # noqa: E501
HEAD = """\
split: crm-shop
source: {dsn: dbname=shared}
services:
  crm: {dsn: dbname=crm}
  shop: {dsn: dbname=shop}
"""
TABLES = {
    "customers": "{split_columns: {crm: [id, full_name], shop: [id, email]}}",
    "visits": """{split_rows: {crm: "channel <> 'web'", shop: "channel = 'web'"}}""",
    "products": "shop",
    "leads": "crm",
    "orders": "shop",
}
KEYS = """\
foreign_keys:
  leads_product_fkey: {replace_with: none, reason: "the CRM asks the shop"}
  public.orders.orders_lead_fkey: {replace_with: orphan_check}
"""
QUIET = {"sequence-shared"}  # of customers.id, whatever else is looked at


@pytest.fixture
def source(source_db: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(source_db, autocommit=True) as connection:
        connection.execute(SCHEMA)
        yield connection


MakePlan = Callable[..., Plan]


@pytest.fixture
def plan_of(tmp_path: Path) -> MakePlan:
    def plan_of(more: str = KEYS, head: str = HEAD, **tables: str) -> Plan:
        path = tmp_path / "plan.yaml"
        lines = [f"  {name}: {entry}\n" for name, entry in (TABLES | tables).items()]
        path.write_text(head + "tables:\n" + "".join(lines) + more, encoding="utf-8")
        return load_plan(path, {})

    return plan_of


def found(plan: Plan, conn: psycopg.Connection) -> dict[str, Finding]:
    findings = check_source(plan, conn)
    assert all("plan.yaml:" in finding.place for finding in findings)
    return {finding.code: finding for finding in findings if finding.code not in QUIET}


def test_a_plan_that_says_everything(source: psycopg.Connection, plan_of: MakePlan) -> None:
    assert found(plan_of(), source) == {}


def test_a_key_that_is_cut_without_a_word(source: psycopg.Connection, plan_of: MakePlan) -> None:
    findings = check_source(plan_of(more=""), source)
    cut = [finding for finding in findings if finding.code == "foreign-key-cut"]
    assert [finding.object for finding in cut] == [
        "public.leads.leads_product_fkey", "public.orders.orders_lead_fkey"
    ]  # fmt: skip
    assert "ON DELETE CASCADE no longer happens" in cut[0].why
    assert {finding.severity for finding in cut} == {Severity.WARNING}


def test_words_about_keys_that_are_not_cut(source: psycopg.Connection, plan_of: MakePlan) -> None:
    more = KEYS + (
        "  leads_custmer_fkey: {replace_with: none}\n  leads_customer_fkey: {replace_with: none}\n"
    )
    findings = found(plan_of(more=more), source)
    unknown, kept = findings["foreign-key-unknown"], findings["foreign-key-kept"]
    assert (unknown.severity, kept.severity) == (Severity.BLOCKER, Severity.WARNING)
    assert unknown.remedy == "did you mean 'leads_customer_fkey'?"
    assert kept.object == "leads_customer_fkey"


def test_a_key_to_a_copy_needs_the_copy(source: psycopg.Connection, plan_of: MakePlan) -> None:
    more = KEYS.replace("none", "reference")
    missing = found(plan_of(more=more), source)["foreign-key-reference"]
    assert "crm has no read-only copy of public.products" in missing.message
    copied = plan_of(more=more, products="{owner: shop, reference_in: [crm]}")
    assert found(copied, source) == {}


@pytest.mark.parametrize(
    ("rows", "code", "count"),
    [
        ("(1, 'web'), (2, 'phone')", None, 0),
        ("(1, 'web'), (2, NULL), (3, NULL)", "rows-unowned", 2),
    ],
)
def test_each_row_has_an_owner(
    source: psycopg.Connection, plan_of: MakePlan, rows: str, code: str | None, count: int
) -> None:
    source.execute(f"INSERT INTO visits (id, channel) VALUES {rows}")  # noqa: S608
    findings = found(plan_of(), source)
    assert set(findings) == ({code} if code else set())
    if code:
        assert findings[code].severity is Severity.BLOCKER
        assert f"{count} rows" in findings[code].message
        assert "id = 2 has 0" in findings[code].message


def test_no_row_has_two_owners(source: psycopg.Connection, plan_of: MakePlan) -> None:
    source.execute("INSERT INTO visits (id, channel) VALUES (1, 'web'), (2, 'phone')")
    both = """{split_rows: {crm: "id > 0", shop: "channel = 'web'"}}"""
    assert "1 row " in found(plan_of(visits=both), source)["rows-shared"].message
    left = """{split_rows: {crm: "channel <> 'web'", drop: "channel = 'web'"}}"""
    assert "rows-unowned" not in found(plan_of(visits=left), source)


def test_predicates_that_cannot_be_proven(source: psycopg.Connection, plan_of: MakePlan) -> None:
    source.execute("INSERT INTO visits (id, channel) VALUES (0, 'web')")
    odd = '{split_rows: {crm: "1 / id = 1", shop: "1 / id <> 1"}}'
    unproven = found(plan_of(visits=odd), source)["rows-unverified"]
    assert unproven.severity is Severity.BLOCKER
    assert "division by zero" in unproven.message


def test_expressions_that_the_source_refuses(source: psycopg.Connection, plan_of: MakePlan) -> None:
    source.execute("CREATE FUNCTION odd(text) RETURNS text LANGUAGE sql VOLATILE AS 'SELECT $1'")
    for expression, code in [
        ("status + 1", "expression-refused"),
        ("no_such_function(status)", "expression-refused"),
        ("odd(status)", "function-volatile"),
        ("to_char(id, '999')", "function-stable"),
        ("upper(status)", "route-derived"),
    ]:
        derive = f'{{into: crm.o, key: {{id: id}}, columns: {{s: "{expression}"}}}}'
        plan = plan_of(orders=f"{{owner: shop, derive: [{derive}]}}")
        assert set(found(plan, source)) == {code, "route-derived"}, expression


def test_tables_that_cannot_be_followed(source: psycopg.Connection, plan_of: MakePlan) -> None:
    source.execute("CREATE UNLOGGED TABLE scratch (id int PRIMARY KEY)")
    source.execute("CREATE TABLE log (line text)")
    source.execute("CREATE TABLE later (id int PRIMARY KEY DEFERRABLE)")
    findings = found(plan_of(scratch="crm", log="crm", later="crm"), source)
    assert {code: finding.object for code, finding in findings.items()} == {
        "table-unlogged": "public.scratch",
        "table-keyless": "public.log",
        "table-identity": "public.later",
    }
    assert findings["table-unlogged"].severity is Severity.BLOCKER
    assert found(plan_of(scratch="drop", log="drop", later="drop"), source) == {}


def test_inserts_that_cannot_travel_back(source: psycopg.Connection, plan_of: MakePlan) -> None:
    source.execute("ALTER TABLE customers ALTER full_name SET NOT NULL")
    finding = found(plan_of(), source)["insert-incomplete"]
    assert finding.object == "shop:public.customers"
    assert finding.message.startswith("full_name: NOT NULL without default")
    source.execute("ALTER TABLE customers ALTER full_name SET DEFAULT ''")
    assert found(plan_of(), source) == {}


def test_what_reads_across_the_boundary(source: psycopg.Connection, plan_of: MakePlan) -> None:
    source.execute("""
        CREATE VIEW one AS SELECT id, full_name FROM customers;
        CREATE VIEW both_parts AS SELECT full_name, email FROM customers;
        CREATE VIEW above AS SELECT o.id, one.full_name FROM orders o JOIN one USING (id);
        CREATE MATERIALIZED VIEW sums AS SELECT count(*) FROM leads, products;
        CREATE FUNCTION across() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN UPDATE orders SET status = NULL WHERE lead = NEW.id; RETURN NEW; END';
        CREATE FUNCTION within() RETURNS int LANGUAGE sql AS 'SELECT count(*)::int FROM leads';
        CREATE TRIGGER tell BEFORE UPDATE ON leads FOR EACH ROW EXECUTE FUNCTION across();
    """)
    findings = check_source(plan_of(), source)
    assert {(one.code, one.object) for one in findings if one.code.endswith("-across")} == {
        ("view-across", "public.both_parts"),
        ("view-across", "public.above"),
        ("view-across", "public.sums"),
        ("trigger-across", "tell on public.leads"),
    }


def test_sequences_that_services_share(source: psycopg.Connection, plan_of: MakePlan) -> None:
    shared = [one for one in check_source(plan_of(), source) if one.code == "sequence-shared"]
    assert [one.object for one in shared] == ["public.customers_id_seq"]


def test_roles_large_objects_and_the_switch(source: psycopg.Connection, plan_of: MakePlan) -> None:
    source.execute("SELECT lo_create(0)")
    head = HEAD.replace("dbname=crm}", "dbname=crm, roles: [postgres, nobody_here]}")
    more = KEYS + "switch: {kind: pgbouncer, admin_dsn: dbname=b, databases: {crm: crm}}\n"
    findings = found(plan_of(more=more, head=head), source)
    assert findings["role-unknown"].object == "nobody_here"
    assert "1 large object" in findings["large-objects"].message
    assert findings["switch-unsupported"].severity is Severity.BLOCKER
    source.execute("SELECT lo_unlink(oid) FROM pg_largeobject_metadata")


def test_a_plan_that_does_not_compile_has_its_other_findings_too(
    source: psycopg.Connection, plan_of: MakePlan
) -> None:
    source.execute("CREATE TABLE log (line text); CREATE TABLE forgotten (id int)")
    findings = found(plan_of(log="crm"), source)
    assert set(findings) == {"plan-invalid", "table-keyless"}
    assert "public.forgotten has no owner" in findings["plan-invalid"].message


LISTS = """\
lists:
  odd: {on: source, query: "SELECT id, status FROM orders WHERE status LIKE 'o%' ORDER BY id;"}
  none: {on: source, query: "SELECT 1 WHERE false -- nobody"}
  broken: {on: source, query: "SELECT nothing"}
  writes: {on: source, query: "DELETE FROM orders"}
  sly: {on: source, query: "WITH d AS (DELETE FROM orders RETURNING id) SELECT id FROM d"}
  slyer: {on: source, query: "SELECT nextval('customers_id_seq')"}
  far: {on: crm, query: "SELECT 1"}
"""


def test_lists(source: psycopg.Connection, source_db: str, plan_of: MakePlan) -> None:
    source.execute("INSERT INTO orders (id, status) SELECT g, 'odd' FROM generate_series(1, 30) g")
    plan = plan_of(more=KEYS + LISTS)
    counts = [one for one in check_source(plan, source) if one.code.startswith("list")]
    assert [(one.object, one.severity.value) for one in counts] == [
        ("broken", "blocker"), ("sly", "blocker"), ("slyer", "blocker"), ("writes", "blocker"),
        ("odd", "note"),
    ]  # fmt: skip
    nowhere = make_conninfo(host="/nowhere", password="hunter2")  # noqa: S106
    shown = {
        one.name: one
        for one in run_lists(plan, {"source": source_db, "crm": nowhere}.__getitem__, rows_max=2)
    }
    assert shown["odd"].columns == ("id", "status")
    assert (shown["odd"].total, shown["odd"].rows) == (30, (("1", "odd"), ("2", "odd")))
    assert (shown["none"].total, shown["none"].error) == (0, "")
    assert shown["writes"].error == "isn't one SELECT"
    assert shown["far"].error == "crm's database doesn't answer"
    assert source.execute("SELECT count(*) FROM orders").fetchone() == (30,)
