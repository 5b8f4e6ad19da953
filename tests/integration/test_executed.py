"""Since when no statement has crossed, by pg_stat_statements of a real server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest

from plans.catalog_read import read_catalog
from plans.compile import compile_routes
from plans.load import load_plan
from tests.conftest import fresh_database
from tests.small_shop import small_shop
from toolkit.control.schema import install_control
from toolkit.executed import Clean, Unreadable, Watcher
from toolkit.servers import Server, running_server

pytestmark = pytest.mark.integration

PLAN = """\
split: two
source: {dsn: "${SOURCE}"}
services:
  crm: {dsn: "postgresql:///crm", roles: [watched_crm]}
  shop: {dsn: "postgresql:///shop", roles: [watched_shop]}
tables: {leads: crm, orders: shop, products: {owner: shop, reference_in: [crm]}}
"""
TABLES = """
CREATE TABLE leads (id int PRIMARY KEY);
CREATE TABLE orders (id int PRIMARY KEY);
CREATE TABLE products (id int PRIMARY KEY);
GRANT ALL ON ALL TABLES IN SCHEMA public TO watched_crm, watched_shop;
CREATE EXTENSION pg_stat_statements;
"""


@dataclass
class Watched:
    """A source, and what watches it."""

    dsn: str
    plan: Path

    def run(self, role: str, statement: LiteralString) -> None:
        with psycopg.connect(self.dsn, user=role, autocommit=True) as connection:
            connection.execute(statement)

    def look(self) -> Clean:
        """As another process would."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            plan = load_plan(self.plan, {"SOURCE": self.dsn})
            catalog = read_catalog(connection, plan.source.schemas)
            return Watcher(plan, catalog, compile_routes(plan, catalog)).look(connection)


@pytest.fixture(scope="module")
def counting_server() -> Iterator[Server]:
    settings = {"shared_preload_libraries": "pg_stat_statements"}
    with running_server(version="15", settings=settings) as server:
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute("CREATE ROLE watched_crm LOGIN; CREATE ROLE watched_shop LOGIN")
        yield server


@pytest.fixture
def watched(counting_server: Server, tmp_path: Path) -> Iterator[Watched]:
    with fresh_database(counting_server) as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(TABLES)
            connection.execute("SELECT pg_stat_statements_reset()")
        install_control(dsn, "source")
        plan = tmp_path / "plan.yaml"
        plan.write_text(PLAN)
        yield Watched(dsn, plan)


def test_only_statements_that_cross_begin_the_time_anew(watched: Watched) -> None:
    first = watched.look()
    assert first.since == first.counts.reset_at
    watched.run("watched_shop", "SELECT * FROM orders JOIN products USING (id)")
    watched.run("watched_crm", "SELECT * FROM leads JOIN products USING (id)")
    assert watched.look().since == first.since

    watched.run("watched_crm", "SELECT * FROM leads JOIN orders USING (id)")
    crossed = watched.look()
    assert crossed.since == crossed.counts.at
    assert crossed.last == "watched_crm: SELECT * FROM leads JOIN orders USING (id)"
    assert watched.look().since == crossed.since

    watched.run("watched_crm", "SELECT * FROM orders")  # another service's alone
    elsewhere = watched.look()
    assert elsewhere.since > crossed.since
    assert "SELECT * FROM orders" in elsewhere.last


def test_what_the_splits_own_role_runs_is_no_applications(watched: Watched) -> None:
    first = watched.look()
    with psycopg.connect(watched.dsn, autocommit=True) as connection:
        connection.execute("SELECT * FROM leads JOIN orders USING (id)")
    assert watched.look().since == first.since


def test_after_a_reset_only_what_was_seen_counts(watched: Watched) -> None:
    first = watched.look()
    with psycopg.connect(watched.dsn, autocommit=True) as connection:
        connection.execute("SELECT pg_stat_statements_reset()")
    again = watched.look()
    assert again.since == again.counts.reset_at > first.since


def test_an_allowed_statement_does_not_count(watched: Watched) -> None:
    first = watched.look()
    watched.run("watched_crm", "SELECT * FROM leads JOIN orders USING (id)")
    (watched.plan.parent / "allowed-queries.yaml").write_text(
        "allow: [{tables: [leads, orders], reason: a report, expires: 2999-12-31}]"
    )
    assert watched.look().since == first.since


def test_without_statistics_it_says_what_to_do(watched: Watched) -> None:
    with psycopg.connect(watched.dsn, autocommit=True) as connection:
        connection.execute("DROP EXTENSION pg_stat_statements")
    with pytest.raises(Unreadable, match="CREATE EXTENSION"):
        watched.look()


@pytest.mark.long
@pytest.mark.release
def test_the_gate_of_a_cutover_asks(
    counting_server: Server, target_server: Server, tmp_path: Path
) -> None:
    def asking(plan: str) -> str:
        return plan + "limits: {crossing_free_days_min: 7}\n"

    with small_shop(counting_server, target_server, tmp_path, edit=asking) as shop:
        shop.ask("source", "CREATE EXTENSION pg_stat_statements")
        shop.follow()
        with shop.verbs.stream(shop.source):
            gates = shop.verbs("cutover", "--dry-run", "--json", code=6).result["gates"]
            (gate,) = [one for one in gates if one["gate"] == "boundary"]
            assert not gate["ok"]
            assert gate["limit"] == "7 days"
            told = shop.verbs("status", "--json").result["gates"]
            assert "boundary" in [one["gate"] for one in told if not one["ok"]]
