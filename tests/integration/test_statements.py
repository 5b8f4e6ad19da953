"""What statements touch, on a real schema: against labels made by hand, and the server's plans."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from plans.catalog import TableName
from plans.catalog_read import read_catalog
from plans.statements.explained import explained_tables
from plans.statements.objects import read_objects
from plans.statements.read import read_statements
from plans.statements.scope import Scope, read_scope
from tests.conftest import fresh_database
from tests.statement_corpus import CASES, SCHEMA, SCHEMAS, Case, tables
from toolkit.servers import Server


@pytest.fixture(scope="module")
def conn(source_server: Server) -> Iterator[psycopg.Connection]:
    with fresh_database(source_server) as dsn, psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(SCHEMA)
        yield connection


@pytest.fixture(scope="module")
def scope(conn: psycopg.Connection) -> Scope:
    return read_scope(conn, read_catalog(conn, SCHEMAS))


def found(case: Case, scope: Scope) -> tuple[frozenset[TableName], frozenset[TableName], bool]:
    (statement,) = read_statements(case.text, scope, search_path=case.path)
    return statement.reads, statement.writes, bool(statement.unproven)


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 120
    assert len({(case.text, case.path) for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.text[:60])
def test_the_tables_are_those_of_the_label(case: Case, scope: Scope) -> None:
    reads, writes, doubt = found(case, scope)
    assert (reads, writes, doubt) == (case.reads, case.writes, case.doubt)


def test_precision_and_recall_are_one(scope: Scope) -> None:
    labelled, reported, right = 0, 0, 0
    for case in CASES:
        reads, writes, _ = found(case, scope)
        ours = {(table, False) for table in reads} | {(table, True) for table in writes}
        label = {(t, False) for t in case.reads} | {(t, True) for t in case.writes}
        labelled, reported = labelled + len(label), reported + len(ours)
        right += len(ours & label)
    assert labelled > 200
    assert (right / reported, right / labelled) == (1.0, 1.0)


def test_a_plan_of_the_server_names_nothing_that_is_not_found(
    conn: psycopg.Connection, scope: Scope
) -> None:
    if conn.info.server_version < 160000:
        assert explained_tables(conn, "SELECT * FROM orders") is None
        return
    confirmed = 0
    for case in CASES:
        path = sql.SQL(", ").join(map(sql.Identifier, case.path))
        conn.execute(sql.SQL("SET search_path = {}").format(path))
        explained = explained_tables(conn, case.text)
        if explained is not None:
            reads, writes, _ = found(case, scope)
            planned = explained & scope.catalog.tables.keys()
            assert planned <= reads | writes, case.text
            confirmed += bool(planned)
    conn.execute("RESET search_path")
    assert confirmed > 90


def test_explaining_runs_nothing(conn: psycopg.Connection) -> None:
    if conn.info.server_version < 160000:
        assert explained_tables(conn, "INSERT INTO managers VALUES (77, 'x')") is None
        return
    assert explained_tables(conn, "INSERT INTO managers VALUES (77, 'x')") == tables("managers")
    assert explained_tables(conn, "SELECT 1; DELETE FROM managers") is None
    assert explained_tables(conn, "SELECT broken") is None
    assert explained_tables(conn, "SELECT * FROM orders WHERE id = ? AND status = ?") == tables(
        "orders"
    )
    assert conn.execute("SELECT count(*) FROM managers").fetchone() == (0,)
    assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def test_the_source_s_own_objects(scope: Scope) -> None:
    objects = {(one.kind, one.name): one for one in read_objects(scope)}
    big = objects["view", "public.big_orders"].statement
    assert big.tables == tables("orders order_items")
    assert {touch.via for touch in big.touches} == {("public.order_totals",)}
    placed = objects["function", "public.place_order(who integer, what integer)"].statement
    assert placed.writes == tables("orders order_items managers audit_log stats")
    assert not placed.unproven
    anything = objects["function", "public.any_table(t text)"].statement
    assert anything.unproven == ("dynamic SQL in public.any_table()",)
    logged = objects["trigger", "orders_logged on public.orders"]
    assert (logged.table, logged.statement.writes) == (
        TableName("public", "orders"), tables("audit_log"),
    )  # fmt: skip
    assert objects["procedure", "public.forget(IN who integer)"].statement.writes == tables(
        "payments"
    )
    assert objects["materialized view", "public.sales"].statement.reads == tables(
        "products order_items"
    )
