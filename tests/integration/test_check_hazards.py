"""What would hurt a split, all of it in one database: each finding has object, place and remedy."""

# ruff: noqa: E501 - a table is read by its columns

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from plans.check import check_source, check_split
from plans.findings import Finding, Severity
from plans.load import Plan, load_plan
from tests.conftest import fresh_database
from toolkit.servers import Server

BLOCKER, WARNING, NOTE = Severity.BLOCKER, Severity.WARNING, Severity.NOTE
ROLES = ("hazard_crm", "hazard_shop", "hazard_stranger", "hazard_split")

SCHEMA = """
CREATE SCHEMA aside;
CREATE TYPE kind AS ENUM ('a', 'b', 'c');

-- split by columns
CREATE TABLE customers (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, full_name text, email text, zip text, town text,
    CONSTRAINT reachable CHECK (full_name IS NOT NULL OR email IS NOT NULL),
    CONSTRAINT has_email CHECK (email IS NOT NULL), CONSTRAINT short CHECK (length(email) < 99)
);
CREATE TABLE towns (zip text, town text, PRIMARY KEY (zip, town));
ALTER TABLE customers ADD CONSTRAINT in_town FOREIGN KEY (zip, town) REFERENCES towns;

-- split by rows
CREATE TABLE visits (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, kind kind NOT NULL, ref text,
    CONSTRAINT ref_key UNIQUE (ref), CONSTRAINT kind_ref_key UNIQUE (kind, ref)
);
CREATE TABLE calls (id uuid PRIMARY KEY, loud boolean NOT NULL);
CREATE TABLE letters (id uuid PRIMARY KEY, kind kind, CHECK (kind IN ('a', 'b')), CHECK (kind IS NOT NULL));

-- relations
CREATE TABLE ruled (id int PRIMARY KEY);
CREATE RULE changes AS ON UPDATE TO ruled DO ALSO NOTHING;
CREATE TABLE replicated (id int PRIMARY KEY);
CREATE RULE always AS ON INSERT TO replicated DO ALSO NOTHING;
ALTER TABLE replicated ENABLE ALWAYS RULE always;
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TABLE watched (id int PRIMARY KEY);
CREATE TRIGGER watch BEFORE INSERT ON watched FOR EACH ROW EXECUTE FUNCTION nothing();
ALTER TABLE watched ENABLE ALWAYS TRIGGER watch;
CREATE TRIGGER usual BEFORE INSERT ON watched FOR EACH ROW EXECUTE FUNCTION nothing();
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE aside.child () INHERITS (parent);
CREATE TABLE years (id int, y int, PRIMARY KEY (id, y)) PARTITION BY LIST (y);
CREATE TABLE years_1 PARTITION OF years FOR VALUES IN (1);
CREATE TABLE years_2 (y int NOT NULL, id int NOT NULL);
ALTER TABLE years ATTACH PARTITION years_2 FOR VALUES IN (2);
ALTER TABLE years_1 REPLICA IDENTITY NOTHING;
CREATE TABLE doubled (id int, twice int GENERATED ALWAYS AS (id * 2) STORED PRIMARY KEY);
CREATE TABLE things (id int PRIMARY KEY, what regclass, amounts oid);

-- sequences
CREATE TABLE rounds (id int GENERATED ALWAYS AS IDENTITY (CYCLE) PRIMARY KEY);
CREATE TABLE small (id smallserial PRIMARY KEY);
SELECT setval('small_id_seq', 28000);
CREATE TABLE full_up (id serial PRIMARY KEY);
ALTER SEQUENCE full_up_id_seq AS bigint;
SELECT setval('full_up_id_seq', 2147483000);
CREATE TABLE falling (id int GENERATED ALWAYS AS IDENTITY (INCREMENT -1 MINVALUE -100000 START -1) PRIMARY KEY);
SELECT setval('falling_id_seq', -90000);
CREATE SEQUENCE hibernate_sequence;

-- keys
CREATE TABLE products (id int PRIMARY KEY);
CREATE TABLE lines (
    id int PRIMARY KEY, product int CONSTRAINT of_product REFERENCES products ON DELETE CASCADE ON UPDATE SET NULL,
    other int CONSTRAINT of_other REFERENCES products ON DELETE SET NULL
);
CREATE TABLE aside.notes (product int CONSTRAINT about_product REFERENCES products);

-- derived
CREATE TABLE orders (id int PRIMARY KEY, number int, state text);
INSERT INTO orders VALUES (1, 7, 'x'), (2, 7, NULL), (3, 8, 'y');

-- code
CREATE FUNCTION count_products() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT count(*)::int FROM products';
CREATE TABLE coded (
    id int PRIMARY KEY, n int DEFAULT count_products(), m int CONSTRAINT few CHECK (m < count_products())
);
ALTER TABLE coded ENABLE ROW LEVEL SECURITY;
ALTER TABLE coded FORCE ROW LEVEL SECURITY;
CREATE FUNCTION talks() RETURNS int LANGUAGE plpgsql AS
    $$BEGIN -- of products and towns
      RETURN (SELECT count(*) FROM towns WHERE town <> 'products'); END$$;
CREATE FUNCTION meets() RETURNS int LANGUAGE plpgsql AS
    $$BEGIN RETURN (SELECT count(*) FROM towns, products); END$$;
CREATE FUNCTION writes() RETURNS void LANGUAGE sql AS 'DELETE FROM products';
CREATE FUNCTION builds(what text) RETURNS void LANGUAGE plpgsql AS
    $$BEGIN EXECUTE 'DELETE FROM ' || what; END$$;
CREATE FUNCTION built() RETURNS trigger LANGUAGE plpgsql AS
    $$BEGIN EXECUTE TG_ARGV[0]; RETURN NEW; END$$;
CREATE TRIGGER built BEFORE INSERT ON lines FOR EACH ROW EXECUTE FUNCTION built('SELECT 1');
CREATE POLICY own ON coded TO hazard_stranger USING (true);
CREATE FUNCTION told() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';

-- others
GRANT USAGE ON SCHEMA public TO PUBLIC;
GRANT INSERT ON products TO hazard_stranger;
GRANT UPDATE (id) ON lines TO hazard_shop;
GRANT DELETE ON products TO hazard_crm;
CREATE PUBLICATION everything FOR ALL TABLES;
CREATE PUBLICATION a_few FOR TABLE products;
SELECT lo_create(0);
"""

PLAN = """\
split: hazards
source: {dsn: "${SOURCE}"}
services:
  crm: {dsn: "${CRM}", roles: [hazard_crm]}
  shop: {dsn: "${SHOP}", roles: [hazard_shop]}
tables:
  customers: {split_columns: {crm: [id, full_name, zip], shop: [id, email, town]}}
  visits: {split_rows: {crm: "kind = 'a'", shop: "kind = 'b'"}}
  calls: {split_rows: {crm: "loud", shop: "NOT loud"}}
  letters: {split_rows: {crm: "kind = 'a'", shop: "kind = 'b'"}}
  towns: crm
  products: shop
  lines: crm
  coded: crm
  orders:
    owner: shop
    derive:
      - {into: crm.by_number, key: {n: number}}
      - {into: crm.by_state, key: {s: state}}
      - {into: crm.by_id, key: {id: id, kind: "'o'"}}
      - {into: crm.by_text, key: {n: "id::text"}}
"""
WHOLE = [
    "ruled",
    "replicated",
    "watched",
    "parent",
    "years",
    "doubled",
    "things",
    "rounds",
    "small",
    "full_up",
    "falling",
]
KEYS = "foreign_keys:\n  of_other: {replace_with: none}\n"


class Expected(NamedTuple):
    severity: Severity
    code: str
    object: str
    line: str  # what the line of its place begins with
    says: str  # in its message or why
    remedy: str


FOUND = [
    Expected(WARNING, "check-across", "crm: reachable on public.customers", "customers", "email", "default"),
    Expected(WARNING, "check-across", "shop: reachable on public.customers", "customers", "full_name", "default"),
    Expected(WARNING, "check-across", "crm: has_email on public.customers", "customers", "email", "columns"),
    Expected(WARNING, "foreign-key-split", "public.customers.in_town", "customers", "zip, town", "one service"),
    Expected(WARNING, "rows-future", "public.visits", "visits", "kind = 'c' would have 0 owners", "CHECK"),
    Expected(WARNING, "unique-across", "ref_key on public.visits", "visits", "(ref) is unique over", "add kind"),
    Expected(BLOCKER, "rule-on-update", "changes on public.ruled", "ruled", "ON CONFLICT", "trigger"),
    Expected(BLOCKER, "rule-always", "always on public.replicated", "replicated", "rewrites", "ENABLE RULE"),
    Expected(WARNING, "trigger-always", "watch on public.watched", "watched", "both sides", "ENABLE TRIGGER"),
    Expected(BLOCKER, "inherited-elsewhere", "aside.child", "parent", "inherits from public.parent", "NO INHERIT"),
    Expected(BLOCKER, "partition-identity", "public.years_1", "years", "public.years", "IDENTITY DEFAULT"),
    Expected(BLOCKER, "key-generated", "public.doubled", "doubled", "twice is generated", "USING INDEX"),
    Expected(WARNING, "column-object", "public.things.what", "things", "regclass", "text"),
    Expected(WARNING, "large-objects", "", "source", "public.things.amounts may point", "bytea"),
    Expected(WARNING, "sequence-cycles", "public.rounds_id_seq", "rounds", "begins anew", "NO CYCLE"),
    Expected(WARNING, "sequence-nearly-exhausted", "public.small_id_seq", "small", "28,000 of 32,767", "bigint"),
    Expected(BLOCKER, "sequence-exhausted", "public.full_up_id_seq", "full_up", "of 2,147,483,647", "gap"),
    Expected(WARNING, "sequence-nearly-exhausted", "public.falling_id_seq", "falling", "90,000 of 100,000", "gap"),
    Expected(WARNING, "sequence-unowned", "public.hibernate_sequence", "tables", "hibernate_sequence", "OWNED BY"),
    Expected(WARNING, "foreign-key-cut", "public.lines.of_product", "lines",
             "ON DELETE CASCADE and ON UPDATE SET NULL no longer happens", "replace_with"),
    Expected(NOTE, "foreign-key-action", "of_other", "of_other", "ON DELETE SET NULL", "applications"),
    Expected(WARNING, "foreign-key-outside", "aside.notes.about_product", "products", "aside.notes", "schemas"),
    Expected(BLOCKER, "derive-key-shared", "crm:public.orders>public.by_number", "by_number", "2 rows", "where"),
    Expected(BLOCKER, "derive-key-null", "crm:public.orders>public.by_state", "by_state", "NULL", "coalesce"),
    Expected(NOTE, "derive-key-assumed", "crm:public.orders>public.by_text", "by_text", "unique", "constraint"),
    Expected(NOTE, "function-definer", "public.count_products()", "source", "postgres", "OWNER TO"),
    Expected(WARNING, "function-across", "public.meets()", "products", "public.products, public.towns", "application"),
    Expected(NOTE, "code-unproven", "public.builds(what text)", "source", "cannot be known", "read it"),
    Expected(WARNING, "code-unproven", "built on public.lines", "lines", "cannot be known", "read it"),
    Expected(WARNING, "event-trigger", "tell", "source", "ddl_command_end", "disable"),
    Expected(WARNING, "writer-unclaimed", "hazard_stranger", "services", "public.products", "REVOKE"),
    Expected(WARNING, "writer-elsewhere", "hazard_shop", "shop", "public.lines", "REVOKE"),
    Expected(WARNING, "writer-elsewhere", "hazard_crm", "crm", "public.products", "owner"),
    Expected(WARNING, "publication-all-tables", "everything", "source", "FOR ALL TABLES", "list"),
    Expected(WARNING, "publication-other", "a_few", "products", "public.products", "before complete"),
    Expected(WARNING, "slot-ahead", "hazards_standby", "source", "synchronized_standby_slots is empty", "ALTER SYSTEM"),
    Expected(WARNING, "slot-other", "hazards_other", "source", "pgoutput", "drop the slot"),
]  # fmt: skip

QUIET = {
    ("rows-future", "public.calls"),
    ("rows-future", "public.letters"),
    ("unique-across", "kind_ref_key on public.visits"),
    ("unique-across", "visits_pkey on public.visits"),
    ("unique-across", "calls_pkey on public.calls"),
    ("check-across", "crm: short on public.customers"),
    ("check-across", "shop: has_email on public.customers"),
    ("partition-identity", "public.years_2"),
    ("trigger-always", "usual on public.watched"),
    ("derive-key-assumed", "crm:public.orders>public.by_id"),
    ("function-across", "public.talks()"),
    ("function-across", "public.writes()"),
}


@pytest.fixture(scope="module")
def roles(source_server: Server, target_server: Server) -> Iterator[None]:
    with psycopg.connect(source_server.dsn(), autocommit=True) as admin:
        for role in ROLES:
            admin.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
        yield
        for role in ROLES:
            admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


@pytest.fixture(scope="module")
def database(source_server: Server, roles: None) -> Iterator[str]:
    with fresh_database(source_server) as dsn:
        with psycopg.connect(dsn, autocommit=True) as admin:
            admin.execute(SCHEMA)
            admin.execute("CREATE EVENT TRIGGER tell ON ddl_command_end EXECUTE FUNCTION told()")
            admin.execute("SELECT pg_create_logical_replication_slot('hazards_other', 'pgoutput')")
            admin.execute("SELECT pg_create_physical_replication_slot('hazards_standby')")
        yield dsn
        with psycopg.connect(dsn, autocommit=True) as admin:
            admin.execute("SELECT pg_drop_replication_slot('hazards_standby')")
            admin.execute("SELECT lo_unlink(oid) FROM pg_largeobject_metadata")


@pytest.fixture(scope="module")
def target(target_server: Server) -> Iterator[str]:
    with fresh_database(target_server) as dsn:
        yield dsn


@pytest.fixture(scope="module")
def plan(database: str, target: str, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    path = tmp_path_factory.mktemp("hazards") / "plan.yaml"
    path.write_text(PLAN + "".join(f"  {name}: crm\n" for name in WHOLE) + KEYS, encoding="utf-8")
    silent = make_conninfo(host="127.0.0.1", port=1, dbname="shop")
    return load_plan(path, {"SOURCE": database, "CRM": target, "SHOP": silent})


@pytest.fixture(scope="module")
def findings(database: str, plan: Plan) -> list[Finding]:
    with psycopg.connect(database, autocommit=True) as source:
        return check_split(plan, source)


@pytest.mark.parametrize("expected", FOUND, ids=lambda one: f"{one.code} {one.object}")
def test_it_is_found(
    expected: Expected, findings: list[Finding], plan: Plan, pg_version: str
) -> None:
    if expected.code == "slot-ahead" and int(pg_version) < 17:
        assert expected.code not in {one.code for one in findings}
        return
    (one,) = [
        f for f in findings
        if f.code == expected.code and f.object == (expected.object or f.object)
    ]  # fmt: skip
    assert one.severity is expected.severity
    assert expected.says in f"{one.message}. {one.why}"
    assert expected.remedy in one.remedy
    file, line, column = one.place.rsplit(":", 2)
    text = Path(file).read_text().splitlines()[int(line) - 1]
    assert expected.line in text
    assert 1 <= int(column) <= len(text)


def test_what_hurts_nobody_is_not_told(findings: list[Finding]) -> None:
    assert {(one.code, one.object) for one in findings} & QUIET == set()


def test_each_finding_is_told_once(findings: list[Finding]) -> None:
    told = [(one.code, one.object) for one in findings]
    assert sorted(told) == sorted(set(told))


def test_what_the_targets_do_not_get(findings: list[Finding]) -> None:
    left = {one.object: one for one in findings if one.code.endswith("left-out")}
    assert left["crm: check few on public.coded"].code == "check-left-out"
    assert left["crm: policy own on public.coded"].severity is WARNING
    assert "count_products" in left["crm: default for public.coded.n"].message
    assert all(" foreign key " not in one for one in left)


def test_a_target_that_does_not_answer_is_a_note(findings: list[Finding]) -> None:
    silent = {one.object: one for one in findings if one.code == "target-silent"}
    assert set(silent) == {"shop"}
    assert silent["shop"].severity is NOTE
    assert "doctor" in silent["shop"].remedy


def test_roles_that_the_target_lacks(findings: list[Finding]) -> None:
    (absent,) = [one for one in findings if one.code == "role-absent"]
    assert absent.object == "hazard_crm"
    assert "CREATE ROLE" in absent.remedy


def test_a_target_with_other_rules_for_text_and_rights(
    database: str, plan: Plan, target_server: Server, tmp_path: Path
) -> None:
    with psycopg.connect(target_server.dsn(), autocommit=True) as admin:
        admin.execute("CREATE ROLE hazard_poor LOGIN")
        admin.execute(
            "CREATE DATABASE hazard_posix TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'POSIX'"
        )
        try:
            there = make_conninfo(target_server.dsn("hazard_posix"), user="hazard_poor")
            env = {"SOURCE": database, "CRM": there, "SHOP": plan.services["shop"].dsn}
            with psycopg.connect(database, autocommit=True) as source:
                found = {one.code: one for one in check_split(load_plan(plan.path, env), source)}
        finally:
            admin.execute("DROP DATABASE hazard_posix WITH (FORCE)")
            admin.execute("DROP ROLE hazard_poor")
    assert found["collation-differs"].severity is WARNING
    assert "by libc C there" in found["collation-differs"].message
    assert "public.towns" in found["collation-differs"].why
    assert found["row-security-forced"].object == "public.coded"
    assert "ALTER ROLE hazard_poor BYPASSRLS" in found["row-security-forced"].remedy


def test_rows_that_are_hidden_from_us(database: str, plan: Plan) -> None:
    with psycopg.connect(database, autocommit=True) as admin:
        admin.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO hazard_split")
        try:
            with psycopg.connect(
                make_conninfo(database, user="hazard_split"), autocommit=True
            ) as poor:
                hidden = [one for one in check_source(plan, poor) if one.code == "row-security"]
        finally:
            admin.execute("REVOKE SELECT ON ALL TABLES IN SCHEMA public FROM hazard_split")
    (one,) = hidden
    assert one.object == "public.coded"
    assert one.severity is BLOCKER
    assert "ALTER ROLE hazard_split BYPASSRLS" in one.remedy


def test_the_rule_on_update_is_a_blocker_because_the_stream_could_not_write(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as source:
        source.execute("SET session_replication_role = replica")
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="rules"):
            source.execute("INSERT INTO ruled VALUES (1) ON CONFLICT (id) DO NOTHING")
        source.execute("ALTER TABLE ruled DISABLE RULE changes")
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="rules"):
            source.execute("INSERT INTO ruled VALUES (1) ON CONFLICT (id) DO NOTHING")
