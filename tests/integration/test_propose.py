"""`dbsplit plan propose` on real servers: from statistics, from logs, from an owners file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result
from ruamel.yaml import YAML

from plans.check import check_source
from plans.crm_shop.generate import create, load
from plans.crm_shop.workload.routing import write_routing
from plans.crm_shop.workload.service import make_crew
from plans.findings import has_blocker
from plans.load import load_plan
from tests.conftest import fresh_database, require_version
from toolkit.cli.main import cli
from toolkit.servers import running_server
from toolkit.servers_watchdog import wait_until

BUNDLED = Path(__file__).parents[2] / "plans/crm_shop/plan.yaml"
WRITES = 1_000
WORK_S_MAX = 120.0


def propose(source: str, *words: str, services: str = "crm,shop") -> Result:
    result = CliRunner().invoke(
        cli, ["plan", "propose", "--source", source, "--services", services, *words]
    )
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


def result_of(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def plan_at(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = YAML(typ="safe").load(path.read_text())
    return data


@pytest.fixture
def worked_on() -> Iterator[tuple[str, Path]]:
    """The bundled case after its applications have worked on it, and the server's log.

    The embedded builds have no contrib modules; Debian's PostgreSQL has.
    """
    require_version("15")
    settings = {
        "shared_preload_libraries": "pg_stat_statements",
        "logging_collector": "on",
        "log_destination": "jsonlog",
        "log_filename": "server.log",
        "log_statement": "mod",
    }
    with running_server(version="15", settings=settings) as server, fresh_database(server) as dsn:
        create(dsn)
        load(dsn, scale=0.001)
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("CREATE SCHEMA tools")
            connection.execute("CREATE EXTENSION pg_stat_statements SCHEMA tools")
            connection.execute("SELECT tools.pg_stat_statements_reset()")
        work(dsn, server.root / "work")
        yield dsn, server.data_dir / "log/server.json"


def work(dsn: str, place: Path) -> None:
    """Have the applications write, each as its role, until nothing that they do is missing."""
    place.mkdir()
    write_routing(place / "routing.json", {"crm": dsn, "shop": dsn})
    with (
        psycopg.connect(dsn, autocommit=True) as connection,
        make_crew(place / "routing.json", place, rate=400, as_roles=True),
    ):
        assert wait_until(lambda: _writes(connection) >= WRITES, timeout_s=WORK_S_MAX)


def _writes(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute(
        "SELECT coalesce(sum(calls), 0) FROM tools.pg_stat_statements"
        " WHERE query ~* '^ *(insert|update|delete)'"
    ).fetchone()
    return int((row or (0,))[0])


# One test, since each would need a server of its own: they run on several workers.
def test_the_bundled_plan_is_found_from_statistics_and_its_rows_from_the_log(
    worked_on: tuple[str, Path], tmp_path: Path
) -> None:
    dsn, log = worked_on
    path = tmp_path / "plan.yaml"
    result = propose(dsn, "-o", str(path), "--json")
    assert result.exit_code == 0, result.output
    told = result_of(result)
    expect_owners(path, told)
    expect_columns(path)
    expect_rows_suggested(path, told)
    expect_roles_and_cost(path, told)
    result = propose(dsn, "--usage", str(log), "-o", str(path), "--force")
    assert result.exit_code == 0, result.output
    assert plan_at(path)["tables"]["interactions"] == {
        "split_rows": {"shop": "channel = 'web'", "crm": "channel <> 'web'"}
    }


def expect_owners(path: Path, told: dict[str, Any]) -> None:
    """Every table of one service has the owner of the bundled plan."""
    meant = {
        name: entry if isinstance(entry, str) else entry.get("owner")
        for name, entry in plan_at(BUNDLED)["tables"].items()
    }
    whole = {name: owner for name, owner in meant.items() if owner}
    found = plan_at(path)["tables"]
    assert {name: found[name] for name in whole} == whole
    by_name = {one["table"]: one for one in told["tables"]}
    assert by_name["orders"]["confidence"] > 0.9
    assert any("shop_api" in reason for reason in by_name["orders"]["reasons"])


def expect_columns(path: Path) -> None:
    split = plan_at(path)["tables"]["customers"]["split_columns"]
    meant = plan_at(BUNDLED)["tables"]["customers"]["split_columns"]
    assert {name: set(columns) for name, columns in split.items()} == {
        name: set(columns) for name, columns in meant.items()
    }


def expect_rows_suggested(path: Path, told: dict[str, Any]) -> None:
    """Statistics have lost the values, so a person has to finish the predicates."""
    assert isinstance(plan_at(path)["tables"]["interactions"], str)
    (found,) = [one for one in told["tables"] if one["table"] == "interactions"]
    assert found["candidates"][0].startswith("split_rows: {")
    assert "channel IN" in found["candidates"][0]
    assert "'email', 'phone', 'visit', 'web'" in found["candidates"][0]
    assert found["candidates"][0] in path.read_text()
    assert "interactions" in {one["about"] for one in told["decide"]}


def expect_roles_and_cost(path: Path, told: dict[str, Any]) -> None:
    services = plan_at(path)["services"]
    assert services["crm"]["roles"] == ["crm_api"]
    assert services["shop"]["roles"] == ["mes_api", "shop_api"]
    assert "role mes_api" in {one["about"] for one in told["decide"]}
    assert any({"order_status_history", "orders"} <= set(group) for group in told["groups"])
    assert {one["who"] for one in told["cut"]["statements"]} <= {"crm_api", "shop_api"}
    assert told["cut"]["calls_per_day"] > 0
    keys = set(plan_at(path)["foreign_keys"])
    assert keys == {one["written"] for one in told["cut"]["foreign_keys"]}
    assert "orders_manager_id_fkey" in keys
    assert "reference_in: [crm]  # would keep leads_product_id_fkey" in path.read_text()


def test_a_proposed_plan_passes_the_check_and_is_the_same_each_time(
    source_db: str, tmp_path: Path
) -> None:
    create_small_shop(source_db)
    (tmp_path / "owners.yaml").write_text(OWNERS)
    words = ("--owners", str(tmp_path / "owners.yaml"))
    texts = []
    for name in ("one.yaml", "two.yaml"):
        result = propose(source_db, *words, "-o", str(tmp_path / name))
        assert result.exit_code == 0, result.output
        texts.append((tmp_path / name).read_text())
    assert texts[0] == texts[1] == propose(source_db, *words, "-o", "-").stdout
    plan = plan_at(tmp_path / "one.yaml")
    assert plan["tables"] == {
        "Order": "shop", "order_items": "shop", "page_views": "shop", "leads": "crm",
        "country": {"owner": "shop", "reference_in": ["crm"]}, "legacy": "drop",
        "null": "crm", "alembic_version": "shop",
        "calls": {"split_rows": {"crm": "channel <> 'web'", "shop": "channel = 'web'"}},
    }  # fmt: skip
    assert plan["foreign_keys"] == {
        "leads_country_fkey": {"replace_with": "reference", "reason": "country is copied to crm"},
        "leads_order_fkey": {"replace_with": "none", "reason": "Order is shop's"},
    }
    env = {
        "DBSPLIT_SOURCE_DSN": source_db,
        "DBSPLIT_CRM_DSN": "dbname=a",
        "DBSPLIT_SHOP_DSN": "dbname=b",
    }
    with psycopg.connect(source_db, autocommit=True) as connection:
        findings = check_source(load_plan(tmp_path / "one.yaml", env), connection)
    assert not has_blocker(findings)


def test_without_owners_it_says_how_little_is_known(source_db: str, tmp_path: Path) -> None:
    create_small_shop(source_db)
    result = propose(source_db, "-o", str(tmp_path / "plan.yaml"), "--json")
    assert result.exit_code == 3  # for the unlogged table
    told = result_of(result)
    assert {one["owner"] for one in told["tables"]} == {"crm"}
    assert len(told["decide"]) == len(told["tables"])
    assert any("nothing tells the services apart" in note for note in told["notes"])


def test_what_the_check_refuses_is_written_with_the_reason(source_db: str, tmp_path: Path) -> None:
    with psycopg.connect(source_db, autocommit=True) as connection:
        connection.execute("CREATE UNLOGGED TABLE sessions (id int PRIMARY KEY)")
    path = tmp_path / "plan.yaml"
    result = propose(source_db, "-o", str(path))
    assert result.exit_code == 3
    assert "[table-unlogged]" in path.read_text().partition("refuses this plan")[2]
    assert f"{path}:" in result.stderr
    assert plan_at(path)["tables"] == {"sessions": "crm"}


def test_a_wrong_owners_file_ends_it_with_nothing_written(source_db: str, tmp_path: Path) -> None:
    create_small_shop(source_db)
    owners, path = tmp_path / "owners.yaml", tmp_path / "plan.yaml"
    owners.write_text("ledas: crm\nOrder: orchestrator\ncountry: shpo\n")
    result = propose(source_db, "--owners", str(owners), "-o", str(path))
    assert result.exit_code == 3
    assert not path.exists()
    for said in (":1:1: tables.ledas", "'leads'", ":2:8: tables.Order", "--services", "'shop'"):
        assert said in result.stderr


def test_a_file_that_cannot_be_written_is_a_usage_error(source_db: str) -> None:
    create_small_shop(source_db)
    result = propose(source_db, "-o", "/proc/plan.yaml")  # where root cannot write, either
    assert result.exit_code == 2
    assert "cannot write /proc/plan.yaml: No such file" in result.stderr


def test_a_file_that_is_there_stays_unless_forced(source_db: str, tmp_path: Path) -> None:
    create_small_shop(source_db)
    path = tmp_path / "plan.yaml"
    path.write_text("mine")
    result = propose(source_db, "-o", str(path))
    assert result.exit_code == 2
    assert "--force" in result.stderr
    assert path.read_text() == "mine"
    assert propose(source_db, "-o", str(path), "--force").exit_code == 3
    assert path.read_text() != "mine"


@pytest.mark.parametrize(
    "words",
    [
        ("-o", "-", "--json"),
        ("--roles", "x=y"),
        ("--roles", "crm="),
        ("--usage", "nothing/there"),
        ("-o", "no/dir/x"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(words: tuple[str, ...]) -> None:
    assert propose("dbname=x", *words).exit_code == 2
    assert propose("nonsense").exit_code == 2
    assert propose("dbname=x", services="crm,Shop").exit_code == 2


def create_small_shop(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(SMALL_SHOP)


SMALL_SHOP = """
CREATE SCHEMA "Billing Data";
CREATE TABLE country (code text PRIMARY KEY, legacy_id int);
CREATE TABLE "Order" (id int PRIMARY KEY, country text REFERENCES country);
CREATE TABLE order_items (
    "order" int REFERENCES "Order" ON DELETE CASCADE, line int, PRIMARY KEY ("order", line));
CREATE TABLE leads (
    id int PRIMARY KEY, "order" int CONSTRAINT leads_order_fkey REFERENCES "Order",
    country text REFERENCES country);
CREATE TABLE calls (id int PRIMARY KEY, channel text NOT NULL);
INSERT INTO calls VALUES (1, 'web'), (2, 'fax');
CREATE TABLE page_views (day date, id int, PRIMARY KEY (day, id)) PARTITION BY RANGE (day);
CREATE TABLE page_views_2025 PARTITION OF page_views
    FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE UNLOGGED TABLE legacy (id int PRIMARY KEY);
CREATE TABLE "Billing Data"."null" (id int PRIMARY KEY);
CREATE TABLE alembic_version (version_num text PRIMARY KEY);
"""
OWNERS = """\
case: small
tables:
  public."Order": shop
  order_items: shop
  public.leads: crm
  page_views: {owner: shop}
  country: shop
  alembic_version: shop
  '"Billing Data"."null"': crm
  legacy: drop
  calls: {split_rows: {crm: "channel <> 'web'", shop: "channel = 'web'"}}
reference: [public.country]
infra: [alembic_version]
"""
