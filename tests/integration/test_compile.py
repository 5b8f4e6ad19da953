"""Plans against catalogs of a real server: routes, and all that stands against them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from plans.catalog import Catalog, TableName
from plans.catalog_read import read_catalog
from plans.compile import compile_all, compile_routes
from plans.errors import PlanInvalid
from plans.load import Plan, load_plan
from plans.routes import Kind, Route

SCHEMA = """
CREATE TYPE mood AS ENUM ('calm', 'busy');
CREATE TABLE customers (
    id bigint PRIMARY KEY, full_name text, email text, moods mood[],
    upper_name text GENERATED ALWAYS AS (upper(full_name)) STORED
);
CREATE TABLE visits (id int PRIMARY KEY, channel text);
CREATE TABLE "Odd Table" (a int, "B" mood);
CREATE TABLE products (id int PRIMARY KEY, legacy text);
CREATE TABLE events (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE events_all PARTITION OF events DEFAULT;
CREATE TABLE orders (id bigint PRIMARY KEY, status text, at timestamptz);
"""
HEAD = """\
split: crm-shop
source: {dsn: dbname=shared}
services:
  crm: {dsn: dbname=crm}
  shop: {dsn: dbname=shop}
  hub: {dsn: dbname=hub}
tables:
"""
TABLES = {
    "customers": "{split_columns: {crm: [id, full_name, upper_name], shop: [id, email, moods]}}",
    "visits": """{split_rows: {crm: "channel <> 'web'", shop: "channel = 'web'"}}""",
    "Odd Table": "shop",
    "products": "{owner: shop, reference_in: [crm], drop: [legacy]}",
    "events": "crm",
    "orders": """{owner: shop, derive: [{into: hub.claim,
      key: {order_id: id, system: "'shop'"},
      columns: {state: "upper(status)", at: at}, where: "status IS NOT NULL"}]}""",
}


@pytest.fixture
def source(source_db: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(source_db, autocommit=True) as connection:
        connection.execute(SCHEMA)
        yield connection


@pytest.fixture
def catalog(source: psycopg.Connection) -> Catalog:
    return read_catalog(source, ["public"])


MakePlan = Callable[[dict[str, str]], Plan]


@pytest.fixture
def plan_of(tmp_path: Path) -> MakePlan:
    def plan_of(tables: dict[str, str]) -> Plan:
        path = tmp_path / "plan.yaml"
        lines = [f"  {name}: {entry}\n" for name, entry in (TABLES | tables).items() if entry]
        path.write_text(HEAD + "".join(lines), encoding="utf-8")
        return load_plan(path, {})

    return plan_of


def by_id(routes: tuple[Route, ...]) -> dict[str, Route]:
    return {route.id: route for route in routes}


def test_each_kind_of_route(catalog: Catalog, plan_of: MakePlan) -> None:
    routes = by_id(compile_routes(plan_of({}), catalog))
    assert {name: (route.kind, route.owner, route.key) for name, route in routes.items()} == {
        "crm:public.customers": (Kind.COLUMNS, "crm", ("id",)),
        "shop:public.customers": (Kind.COLUMNS, "shop", ("id",)),
        "crm:public.visits": (Kind.ROWS, "crm", ("id",)),
        "shop:public.visits": (Kind.ROWS, "shop", ("id",)),
        "shop:public.Odd Table": (Kind.WHOLE, "shop", ()),
        "shop:public.products": (Kind.WHOLE, "shop", ("id",)),
        "crm:public.products:reference": (Kind.REFERENCE, "shop", ("id",)),
        "crm:public.events": (Kind.WHOLE, "crm", ("id", "at")),
        "shop:public.orders": (Kind.WHOLE, "shop", ("id",)),
        "hub:public.orders>public.claim": (Kind.DERIVED, "hub", ("order_id", "system")),
    }
    customers = routes["crm:public.customers"]
    assert [column.name for column in customers.columns] == ["id", "full_name"]
    assert customers.generated == ("upper_name",)
    visits = routes["shop:public.visits"]
    assert (visits.where, visits.where_reads) == ("channel = 'web'", frozenset({"channel"}))
    assert [column.name for column in routes["crm:public.products:reference"].columns] == ["id"]


def test_columns_of_a_route(catalog: Catalog, plan_of: MakePlan) -> None:
    routes = by_id(compile_routes(plan_of({}), catalog))
    a, b = routes["shop:public.Odd Table"].columns
    assert (b.name, b.expression, b.plain, b.type, b.binary) == (
        "B", '"B"', "B", "public.mood", True
    )  # fmt: skip
    assert a.reads == {"a"}
    assert routes["shop:public.customers"].column("moods").binary
    claim = routes["hub:public.orders>public.claim"]
    state = claim.column("state")
    assert (state.expression, state.reads, state.plain, state.type, state.binary) == (
        "upper(status)", frozenset({"status"}), None, "", False
    )  # fmt: skip
    assert claim.column("at").plain == "at"
    assert claim.fixed == (("system", "'shop'"),)
    assert not claim.needs_full_identity


def test_targets_give_the_types(
    source: psycopg.Connection, target_db: str, catalog: Catalog, plan_of: MakePlan
) -> None:
    with psycopg.connect(target_db, autocommit=True) as conn:
        conn.execute(
            "CREATE TABLE claim (order_id bigint, system text, state varchar(9) NOT NULL,"
            " at timestamptz, note text NOT NULL DEFAULT '', PRIMARY KEY (order_id, system))"
        )
        hub = read_catalog(conn, ["public"])
        conn.execute("ALTER TABLE claim RENAME state TO stated")
        other = read_catalog(conn, ["public"])
    targets = {"hub": hub, "shop": catalog, "crm": catalog}
    routes = by_id(compile_routes(plan_of({}), catalog, targets))
    assert routes["hub:public.orders>public.claim"].column("state").type == "character varying(9)"
    said = [str(one) for one in compile_all(plan_of({}), catalog, {"hub": other}).problems]
    assert len(said) == 2
    assert "public.claim.stated is NOT NULL and has no expression" in said[0]
    assert "public.claim has no column 'state'; did you mean 'stated'?" in said[1]
    source.execute("ALTER TABLE products ALTER id TYPE bigint")
    widened = read_catalog(source, ["public"])
    routes = by_id(compile_routes(plan_of({}), catalog, {"shop": widened}))
    assert not routes["shop:public.products"].column("id").binary


def test_a_target_without_the_table(catalog: Catalog, plan_of: MakePlan, target_db: str) -> None:
    with psycopg.connect(target_db, autocommit=True) as conn:
        empty = read_catalog(conn, ["public"])
    with pytest.raises(PlanInvalid, match=r"has no table public\.products; run dbsplit prepare"):
        compile_routes(plan_of({}), catalog, {"crm": empty})


def test_a_table_to_be_left_behind_need_not_be_there(catalog: Catalog, plan_of: MakePlan) -> None:
    """It may have been dropped since: no verb is to fail for that, a rollback least of all."""
    assert compile_routes(plan_of({"gone": "drop"}), catalog) == compile_routes(
        plan_of({}), catalog
    )


WRONG = [
    ({"products": ""}, "tables: public.products has no owner; write products: SERVICE, or"),
    ({"order": "shop"}, "tables.order: there is no table 'order' in"),
    ({"order": "shop"}, "did you mean 'orders'?"),
    ({"public.orders": "shop"}, "public.orders is assigned twice, as 'orders' too"),
    ({"events_all": "crm"}, "public.events_all is a partition of public.events; assign public.ev"),
    (
        {"products": "{owner: shop, drop: [legcy]}"},
        "drop[0]: public.products has no column 'legcy'; did you mean 'legacy'?",
    ),
    (
        {"products": "{owner: shop, drop: [id]}"},
        "tables.products: 'id' is missing; it belongs to the key of public.products",
    ),
    (
        {"customers": "{split_columns: {crm: [id, full_name], shop: [email, moods]}}"},
        "split_columns.shop: 'id' is missing; it belongs to the key",
    ),
    (
        {"customers": "{split_columns: {crm: [id, full_name], shop: [id, email]}}"},
        "split_columns: 'moods' is in no part; give it to one of the services",
    ),
    (
        {"customers": "{split_columns: {crm: [id, email, full_name], shop: [id, email, moods]}}"},
        "split_columns.shop[1]: 'email' is in crm too; every column but the key has one owner",
    ),
    (
        {"customers": "{split_columns: {crm: [id, full_name, moods, upper_name],"
                      " shop: [id, email]}, drop: [moods]}"},
        "split_columns.crm[2]: 'moods' is dropped too",
    ),
    (
        {"customers": "{split_columns: {crm: [id, full_name], shop: [id, email, moods,"
                      " upper_name]}}"},
        "'upper_name' is generated from 'full_name', which shop doesn't get",
    ),
    (
        {"customers": "{owner: crm, drop: [full_name]}"},
        "'upper_name' is generated from 'full_name', which crm doesn't get",
    ),
    (
        {"Odd Table": "{split_columns: {crm: [a], shop: [B]}}"},
        "public.Odd Table has no key by which the parts of a row belong together",
    ),
    (
        {"visits": '{split_rows: {crm: "chanel = 1", shop: "random() > 0"}}'},
        "public.visits has no column 'chanel'; did you mean 'channel'?",
    ),
    (
        {"visits": '{split_rows: {crm: "chanel = 1", shop: "random() > 0"}}'},
        "random() gives another value each time; an expression is immutable SQL",
    ),
    (
        {"customers": '{owner: crm, derive: [{into: hub.c, key: {n: upper_name}}]}'},
        "'upper_name' is a generated column, which the replication stream doesn't carry; write"
        " its expression instead: upper(full_name)",
    ),
    (
        {"events": '{owner: crm, derive: [{into: hub.claim, key: {order_id: id}}]}'},
        "several routes fill hub.public.claim",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("tables", "message"), WRONG)
def test_what_stands_against_a_plan(
    catalog: Catalog, plan_of: MakePlan, tables: dict[str, str], message: str
) -> None:
    with pytest.raises(PlanInvalid) as raised:
        compile_routes(plan_of(tables), catalog)
    assert message in str(raised.value)
    assert "plan.yaml:" in str(raised.value)


def test_everything_is_said_at_once(catalog: Catalog, plan_of: MakePlan) -> None:
    tables = {"order": "crm", "products": "", "visits": '{split_rows: {crm: "a", shop: "b"}}'}
    assert len(compile_all(plan_of(tables), catalog).problems) == 4


def test_inheritance_is_not_supported(source: psycopg.Connection, plan_of: MakePlan) -> None:
    source.execute("CREATE TABLE child () INHERITS (orders)")
    catalog = read_catalog(source, ["public"])
    for owner in ("shop", "drop"):
        (problem,) = compile_all(plan_of({"child": owner}), catalog).problems
        assert "child inherits from public.orders; inheritance isn't supported" in str(problem)


def test_two_derived_routes_into_one_table(catalog: Catalog, plan_of: MakePlan) -> None:
    claim = "{{into: hub.claim, key: {{order_id: id, system: {!r}}}}}"
    both = f"{{owner: shop, derive: [{claim.format('1')}, {claim.format('2')}]}}"
    routes = by_id(compile_routes(plan_of({"orders": both}), catalog))
    assert routes["hub:public.orders>public.claim#1"].fixed == (("system", "1"),)
    assert routes["hub:public.orders>public.claim#2"].fixed == (("system", "2"),)
    same = f"{{owner: shop, derive: [{claim.format('1')}, {claim.format('1')}]}}"
    with pytest.raises(PlanInvalid, match="nothing tells their rows apart"):
        compile_routes(plan_of({"orders": same}), catalog)


def test_a_dropped_table_may_still_be_derived_from(catalog: Catalog, plan_of: MakePlan) -> None:
    derived = "{owner: drop, derive: [{into: hub.audit.claim, key: {id: id}}]}"
    routes = by_id(compile_routes(plan_of({"orders": derived}), catalog))
    assert "shop:public.orders" not in routes
    assert routes["hub:public.orders>audit.claim"].target == TableName("audit", "claim")


def test_the_bundled_plan(source_db: str) -> None:
    bundled = Path(__file__).parents[2] / "plans" / "crm_shop"
    names = ("SOURCE", "CRM", "SHOP", "ORCHESTRATOR")
    env = {f"DBSPLIT_{name}_DSN": f"dbname={name.lower()}" for name in names}
    plan = load_plan(bundled / "plan.yaml", env)
    with psycopg.connect(source_db, autocommit=True) as conn:
        conn.execute((bundled / "roles.sql").read_bytes())
        conn.execute((bundled / "schema.sql").read_bytes())
    with psycopg.connect(source_db, autocommit=True) as conn:
        routes = compile_routes(plan, read_catalog(conn, plan.source.schemas))
    assert {route.kind for route in routes} == set(Kind)
    assert {route.service for route in routes} == {"crm", "shop", "orchestrator"}
