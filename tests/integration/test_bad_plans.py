"""Bad plans, one kind each: the message, the place and the remedy; one database for all."""

# ruff: noqa: E501 - a table is read by its columns

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest

from plans.check import also_wrong, check_source
from plans.findings import Finding, Severity
from plans.load import load_plan, without_wrong
from plans.problems import PlanProblems
from tests.conftest import fresh_database
from toolkit.servers import Server

SCHEMA = """
CREATE SCHEMA sales;
CREATE SCHEMA bare;
CREATE TYPE state AS ENUM ('new', 'done');
CREATE TABLE customers (id bigint PRIMARY KEY, name text, email text, lower_name text GENERATED ALWAYS AS (lower(name)) STORED);
CREATE TABLE visits (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, channel text);
INSERT INTO visits (channel) VALUES ('web'), ('phone'), (NULL);
CREATE TABLE products (id int PRIMARY KEY, name text);
CREATE TABLE orders (id int PRIMARY KEY, product int CONSTRAINT of_product REFERENCES products, number int, state state);
INSERT INTO products VALUES (1, 'a'); INSERT INTO orders VALUES (1, 1, 7, 'new'), (2, 1, 7, 'done');
CREATE TABLE keyless (a int, b int);
CREATE TABLE later (id int PRIMARY KEY DEFERRABLE, a int, b int);
CREATE TABLE years (y int PRIMARY KEY) PARTITION BY RANGE (y);
CREATE TABLE years_1 PARTITION OF years DEFAULT;
CREATE TABLE base (id int PRIMARY KEY);
CREATE TABLE heir () INHERITS (base);
CREATE TABLE hollow ();
CREATE VIEW open_orders AS SELECT id FROM orders;
CREATE UNLOGGED TABLE scratch (id int PRIMARY KEY);
CREATE TABLE sales.deals (id int PRIMARY KEY);
CREATE TABLE far_away (id int PRIMARY KEY);
CREATE FUNCTION dice() RETURNS int LANGUAGE sql VOLATILE AS 'SELECT 4';
"""
FOREIGN = "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w; CREATE FOREIGN TABLE abroad (id int) SERVER s;"

HEAD = """\
split: bad-plans
source: {dsn: "${SOURCE}"}
services:
  crm: {dsn: "dbname=crm"}
  shop: {dsn: "dbname=shop"}
tables:
"""
TABLES = {
    "customers": "crm", "visits": "crm", "products": "shop", "orders": "shop", "keyless": "crm", "later": "crm",
    "years": "shop", "base": "drop", "heir": "drop", "hollow": "drop", "scratch": "drop", "far_away": "crm",
}  # fmt: skip


class Bad(NamedTuple):
    """What is changed in a good plan, and what is said about it."""

    kind: str
    change: dict[str, str]  # table -> entry
    place: str  # "LINE:COLUMN", the line by what it begins with
    says: str  # in path, message or why
    remedy: str
    code: str = "plan-invalid"
    head: tuple[str, str] = ("", "")  # what is replaced in the head
    more: str = ""  # at the end


GONE = "-"  # an entry that is taken out
REFUSED = "expression-refused"


def derive(into: str = "crm.o", key: str = "{id: id}", rest: str = "") -> str:
    return f"{{owner: shop, derive: [{{into: {into}, key: {key}{rest}}}]}}"


def rows(first: str, second: str) -> str:
    return f'{{split_rows: {{crm: "{first}", shop: "{second}"}}}}'


BAD = [
    # the file
    Bad("unknown key", {"orders": "{ownr: shop}"}, "orders:12", "unknown key 'ownr'", "did you mean 'owner'"),
    Bad("wrong type", {"orders": "[shop]"}, "orders:11", "found a list", "expected a mapping"),
    Bad("unknown service", {"orders": "shp"}, "orders:11", "no service 'shp'", "did you mean 'shop'"),
    Bad("key twice", {"keyless": "crm\n  orders: crm"}, "  orders: crm:3", "stands here twice", "keep one"),
    Bad("limit out of range", {}, "limits:25", "found 0", "greater than 0", more="limits: {lag_bytes_max: 0}"),
    Bad("limit unknown", {}, "limits:10", "unknown key 'lag_byte_max'", "lag_bytes_max", more="limits: {lag_byte_max: 1}"),
    Bad("switch kind", {}, "switch:9", "unknown kind 'haproxy'", "command", more="switch: {kind: haproxy}"),
    Bad("switch by pgbouncer", {}, "switch:16", "PgBouncer isn't supported", "kind: command", "switch-unsupported",
        more="switch: {kind: pgbouncer, admin_dsn: dbname=p, databases: {crm: c}}"),
    Bad("variable missing", {}, "crm: {dsn:14", "variable NOWHERE is not set", "export NOWHERE=", head=("dbname=crm", "${NOWHERE}")),
    Bad("secret in dsn", {}, "crm: {dsn:14", "holds a password", "${VARIABLE}", head=("dbname=crm", "dbname=crm password=hunter2")),
    Bad("broken dsn", {}, "crm: {dsn:14", "isn't a connection string", "postgresql://", head=("dbname=crm", "crm")),
    Bad("same database", {}, "shop: {dsn:15", "the same database as services.crm", "of its own", head=("dbname=shop", "dbname=crm")),
    Bad("split name", {}, "split:8", "'Bad Plans'", "lower-case", head=("bad-plans", "Bad Plans")),
    Bad("names too long", {}, "crmcrm:3", "characters too long", "shorter",
        head=("bad-plans", "b" * 31), more="services_too_long: 1"),
    Bad("reserved name", {}, "source: {dsn: \"dbname=shop:11", "a meaning of its own", "otherwise", head=("  shop:", "  source:")),
    Bad("revisions missing", {}, "shop: {dsn:41", "no directory", "relative to the plan", head=("dbname=shop\"", "dbname=shop\", revisions: nowhere")),
    Bad("no services", dict.fromkeys(TABLES, "drop"), "{}:3", "found a mapping", "at least 1",
        head=('  crm: {dsn: "dbname=crm"}\n  shop: {dsn: "dbname=shop"}\n', "  {}\n")),
    Bad("foreign key word", {}, "foreign_keys:43", "found 'nothing'", "orphan_check", more="foreign_keys: {of_product: {replace_with: nothing}}"),
    Bad("list on nobody", {}, "lists:19", "no service 'sorce'", "source", more="lists: {odd: {on: sorce, query: SELECT 1}}"),
    # owners
    Bad("unknown table", {"ordrs": "shop"}, "ordrs:3", "no table 'ordrs'", "did you mean 'orders'"),
    Bad("table in other schema", {"deals": "shop"}, "deals:3", "schemas: public", "under source.schemas"),
    Bad("table by nobody", {"orders": GONE}, "tables:1", "public.orders has no owner", "orders: SERVICE"),
    Bad("no tables", dict.fromkeys(TABLES, GONE), "tables:1", "found nothing", "expected a mapping"),
    Bad("named twice", {"public.orders": "crm"}, "public.orders:3", "assigned twice, as 'orders'", "one of the two"),
    Bad("a partition", {"years_1": "shop"}, "years_1:3", "a partition of public.years", "assign public.years"),
    Bad("a view", {"open_orders": "shop"}, "open_orders:3", "is a view", "take it out"),
    Bad("a foreign table", {"abroad": "shop"}, "abroad:3", "foreign table", "take it out"),
    Bad("without columns", {"hollow": "crm"}, "hollow:3", "has no column that can be written", "drop it"),
    Bad("an heir", {"base": "crm", "heir": "crm"}, "heir:3", "inherits from public.base", "NO INHERIT"),
    Bad("unlogged", {"scratch": "crm"}, "scratch:12", "unlogged", "SET LOGGED", "table-unlogged"),
    Bad("owner and split", {"orders": "{owner: shop, split_rows: {crm: 'id = 1', shop: 'id <> 1'}}"}, "orders:11",
        "has owner and split_rows", "one owner"),
    Bad("drop and owner", {"orders": "{owner: drop, drop: [number]}"}, "orders:31", "left behind already", "take"),
    Bad("copy at home", {"orders": "{owner: shop, reference_in: [shop]}"}, "orders:39", "shop owns the table", "others"),
    Bad("copy of nothing", {"orders": "{owner: drop, reference_in: [crm]}"}, "orders:39", "a table with one owner", "owner:"),
    Bad("copy with split", {"visits": "{split_rows: {crm: \"channel = 'web'\", shop: \"channel IS DISTINCT FROM 'web'\"}, reference_in: [shop]}"},
        "visits:104", "a table with one owner", "owner:"),
    Bad("schema unknown", {}, "source:46", "no schema 'slaes'", "did you mean 'sales'", head=("${SOURCE}\"", "${SOURCE}\", schemas: [public, slaes]")),
    # columns
    Bad("columns without a key", {"keyless": "{split_columns: {crm: [a], shop: [b]}}"}, "keyless:28", "no key", "primary key"),
    Bad("columns with a key that may be double", {"later": "{split_columns: {crm: [id, a], shop: [id, b]}}"},
        "later:26", "deferrable key", "NOT DEFERRABLE"),
    Bad("column twice", {"customers": "{split_columns: {crm: [id, name, lower_name, email], shop: [id, email]}}"},
        "customers:78", "'email' is in crm too", "one owner"),
    Bad("column by nobody", {"customers": "{split_columns: {crm: [id, name, lower_name], shop: [id]}}"},
        "customers:30", "'email' is in no part", "drop"),
    Bad("column unknown", {"customers": "{split_columns: {crm: [id, nmae, name, lower_name], shop: [id, email]}}"},
        "customers:41", "no column 'nmae'", "did you mean 'name'"),
    Bad("part without key", {"customers": "{split_columns: {crm: [name, lower_name], shop: [id, email]}}"},
        "customers:36", "'id' is missing", "every part"),
    Bad("generated apart", {"customers": "{split_columns: {crm: [id, name], shop: [id, email, lower_name]}}"},
        "customers:54", "generated from 'name'", "leave"),
    Bad("dropped unknown", {"orders": "{owner: shop, drop: [numbr]}"}, "orders:32", "no column 'numbr'", "number"),
    Bad("key dropped", {"orders": "{owner: shop, drop: [id]}"}, "orders:11", "'id' is missing", "every part"),
    # rows
    Bad("overlapping", {"visits": rows("channel IS NOT NULL", "true")}, "visits:24", "has 2", "exclude each other", "rows-shared"),
    Bad("not total", {"visits": rows("channel = 'web'", "channel = 'fax'")}, "visits:24", "has 0", "cover NULL", "rows-unowned"),
    Bad("null", {"visits": rows("channel = 'web'", "channel <> 'web'")}, "visits:24", "NULL is not true", "cover NULL", "rows-unowned"),
    Bad("subquery", {"visits": rows("id IN (SELECT id FROM orders)", "true")}, "visits:30", "a subquery reads other rows", "one source row"),
    Bad("volatile", {"visits": rows("random() < 1", "true")}, "visits:30", "another value each time", "immutable"),
    Bad("volatile of theirs", {"visits": rows("dice() = 4", "dice() <> 4")}, "visits:30", "dice() is volatile", "immutable", "function-volatile"),
    Bad("unknown column", {"visits": rows("chanel = 'web'", "true")}, "visits:30", "no column 'chanel'", "did you mean 'channel'"),
    Bad("syntax error", {"visits": rows("channel = ", "true")}, "visits:30", "syntax error", "immutable SQL"),
    Bad("aggregate", {"visits": rows("count(*) > 1", "true")}, "visits:30", "an aggregate", "one source row"),
    Bad("no boolean", {"visits": rows("id", "channel")}, "visits:30", "boolean", "SELECT", REFUSED),
    Bad("other row", {"visits": rows("orders.id = 1", "true")}, "visits:30", "is qualified", "one source row"),
    Bad("generated in predicate", {"customers": "{split_rows: {crm: \"lower_name = 'a'\", shop: \"lower_name <> 'a'\"}}"},
        "customers:33", "generated column", "its expression instead"),
    # derived
    Bad("derived nowhere", {"orders": derive("nobody.o")}, "orders:41", "no service 'nobody'", "crm"),
    Bad("derived without table", {"orders": derive("crm")}, "orders:41", "'crm'", "service.table"),
    Bad("derived key not unique", {"orders": derive(key="{n: number}")}, "orders:34", "2 rows of public.orders", "more columns", "derive-key-shared"),
    Bad("derived twice", {"orders": derive(key="{id: id}, columns: {s: state}}, {into: crm.o, key: {id: id}")}, "orders:34",
        "nothing tells their rows apart", "constant"),
    Bad("derived expression", {"orders": derive(rest=", columns: {s: 'sum(id)'}")}, "orders:76", "aggregate", "one source row"),
    Bad("derived type", {"orders": derive(rest=", columns: {s: 'state + 1'}")}, "orders:34", "operator does not exist", "cast", REFUSED),
    Bad("derived where", {"orders": derive(rest=", where: 'nmber = 1'")}, "orders:70", "no column 'nmber'", "number"),
    Bad("column in key too", {"orders": derive(rest=", columns: {id: id}")}, "orders:77", "'id' is in the key too", "one of"),
    # keys and lists
    Bad("key unknown", {}, "of_prodct:14", "no foreign key 'of_prodct'", "did you mean", "foreign-key-unknown",
        more="foreign_keys:\n  of_prodct: {replace_with: none}"),
    Bad("key without copy", {"orders": "crm"}, "of_product:15", "no read-only copy", "reference_in", "foreign-key-reference",
        more="foreign_keys:\n  of_product: {replace_with: reference}"),
    Bad("list fails", {}, "odd:8", "nope", "one SELECT", "list-failed", more="lists:\n  odd: {on: source, query: SELECT nope}"),
    Bad("list writes", {}, "odd:8", "isn't one SELECT", "one SELECT", "list-failed",
        more="lists:\n  odd: {on: source, query: DELETE FROM orders}"),
]  # fmt: skip


@pytest.fixture(scope="module")
def database(source_server: Server) -> Iterator[str]:
    with fresh_database(source_server) as dsn:
        with psycopg.connect(dsn, autocommit=True) as admin:
            admin.execute(SCHEMA)
            admin.execute(FOREIGN)
        yield dsn


def written(bad: Bad) -> str:
    head = HEAD.replace(*bad.head) if bad.head[0] else HEAD
    if bad.kind == "names too long":
        head, more = head.replace("  crm:", f"  {'crm' * 10}:"), ""
    else:
        more = bad.more
    entries = {name: entry for name, entry in (TABLES | bad.change).items() if entry != GONE}
    if bad.kind == "names too long":
        entries = {n: e.replace("crm", "crm" * 10) for n, e in entries.items()}
    return head + "".join(f"  {name}: {entry}\n" for name, entry in entries.items()) + more + "\n"


def told(path: Path, database: str) -> list[Finding]:
    try:
        plan = load_plan(path, {"SOURCE": database})
    except PlanProblems as invalid:
        return [
            Finding(Severity.BLOCKER, "plan-invalid", one.path, one.place, one.message, remedy=one.remedy)
            for one in invalid.problems
        ]  # fmt: skip
    with psycopg.connect(database, autocommit=True) as source:
        return [one for one in check_source(plan, source) if one.severity is Severity.BLOCKER]


def test_the_good_plan_is_good(database: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(written(Bad("", {}, "", "", "")))
    assert told(path, database) == []


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.kind)
def test_what_is_wrong_is_said_with_place_and_remedy(
    database: str, tmp_path: Path, bad: Bad
) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(written(bad))
    findings = told(path, database)
    fitting = [
        one for one in findings
        if one.code == bad.code and bad.says in f"{one.object}: {one.message}. {one.why}"
    ]  # fmt: skip
    assert fitting, findings
    name, _, column = bad.place.rpartition(":")
    lines = path.read_text().splitlines()
    places = [one.place.rsplit(":", 2) for one in fitting]
    assert (name, int(column)) in [
        (name if lines[int(line) - 1].strip().startswith(name.strip()) else lines[int(line) - 1], int(at))
        for _, line, at in places
    ], places  # fmt: skip
    assert any(bad.remedy in one.remedy for one in fitting), fitting
    assert "hunter2" not in str(findings)


def test_what_the_source_says_is_said_with_what_is_wrong_in_itself(
    database: str, tmp_path: Path
) -> None:
    """One look at the file is to be enough to correct it."""
    path, env = tmp_path / "plan.yaml", {"SOURCE": database}
    change = {"orders": "shopp", "visits": "{owner: crm, refrence_in: [shop]}", "later": GONE,
              "keylss": "crm", "keyless": GONE}  # fmt: skip
    more = "limits: {lag_bytes_max: few}\n"
    path.write_text(written(Bad("several", change, "", "", "", more=more)))
    with pytest.raises(PlanProblems) as wrong:
        load_plan(path, env)
    rest = without_wrong(path, env, wrong.value.problems)
    assert rest is not None
    with psycopg.connect(database, autocommit=True) as source:
        all_of_it = also_wrong(rest, wrong.value, source)
    paths = [problem.path for problem in all_of_it.problems]
    assert sorted(paths) == [
        "limits.lag_bytes_max", "tables", "tables", "tables.keylss", "tables.orders.owner",
        "tables.visits.refrence_in",
    ]  # fmt: skip
    assert all("'shopp'" in p.message for p in all_of_it.problems if p.path.endswith("owner"))
    lines = [int(problem.place.split(":")[-2]) for problem in all_of_it.problems]
    assert lines == sorted(lines)
    path.write_text(path.read_text().replace("crm: {dsn", "crm: {dns"))
    with pytest.raises(PlanProblems) as wrong:
        load_plan(path, env)
    assert without_wrong(path, env, wrong.value.problems) is None, "all others hang on it"


def test_the_kinds_are_distinct_and_many() -> None:
    assert len({bad.kind for bad in BAD}) == len(BAD) >= 60
    assert re.fullmatch(r"[a-z -]+", "".join(bad.kind for bad in BAD))
