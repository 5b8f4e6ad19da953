"""The bundled shared database: it loads everywhere, is always the same, and is in the state that
its documentation says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

import plans.crm_shop
from plans.crm_shop.generate import create, load
from plans.load import Plan, load_plan

pytestmark = pytest.mark.integration

SCALE = 0.003
ORDERS = 300
PLAN = Path(str(plans.crm_shop.__file__)).with_name("plan.yaml")

# Of scale 0.001 and seed 1, whatever the version of PostgreSQL and of Python.  Another value
# means that everybody's bundled database is another one now.
CHECKSUM = "3735979e236fc7210c7392a9a93bbab9"


@pytest.fixture
def plan() -> Plan:
    names = ("SOURCE", "CRM", "SHOP", "ORCHESTRATOR")
    return load_plan(PLAN, {f"DBSPLIT_{name}_DSN": f"dbname={name.lower()}" for name in names})


@pytest.fixture
def shared(source_db: str) -> Iterator[psycopg.Connection[Any]]:
    """The loaded database."""
    create(source_db)
    load(source_db, scale=SCALE)
    with psycopg.connect(source_db, autocommit=True) as connection:
        yield connection


def tables(connection: psycopg.Connection[Any]) -> list[str]:
    rows = connection.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        " AND relkind IN ('r', 'p') AND NOT relispartition ORDER BY relname"
    )
    return [name for (name,) in rows]


def checksum(dsn: str) -> str:
    """Of all rows of all tables, as text in no time zone's own way."""
    digest = "md5(string_agg(row_digest, '' ORDER BY row_digest COLLATE \"C\"))"
    with psycopg.connect(dsn) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET DateStyle = 'ISO'")
        digests = [
            connection.execute(
                sql.SQL(
                    "SELECT {} FROM (SELECT md5(t::text) FROM {} AS t) AS r (row_digest)"
                ).format(sql.SQL(digest), sql.Identifier(table))
            ).fetchone()
            for table in tables(connection)
        ]
        combined = connection.execute(
            "SELECT md5(%s)", ["".join(row[0] for row in digests if row)]
        ).fetchone()
    assert combined is not None
    return str(combined[0])


def test_every_table_is_filled_with_the_rows_that_load_says(source_db: str) -> None:
    create(source_db)
    rows = load(source_db, scale=SCALE)
    with psycopg.connect(source_db) as connection:
        assert set(rows) == set(tables(connection))
        for table, count in rows.items():
            counted = connection.execute(
                sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))
            ).fetchone()
            assert counted == (count,), table
            assert count > 0, table
    assert rows["orders"] == ORDERS
    assert 30 <= len(rows) <= 40


def test_the_same_seed_gives_the_same_rows_everywhere(source_db: str, target_db: str) -> None:
    for dsn in (source_db, target_db):
        create(dsn)
        load(dsn, scale=0.001)
    assert checksum(source_db) == checksum(target_db) == CHECKSUM


def test_another_seed_gives_other_rows(source_db: str) -> None:
    create(source_db)
    load(source_db, scale=0.001, seed=2)
    assert checksum(source_db) != CHECKSUM


def test_a_connection_is_left_as_it_was_found(source_db: str) -> None:
    with psycopg.connect(source_db) as connection:
        create(connection)
        load(connection, scale=0.001)
        assert connection.execute("SHOW session_replication_role").fetchone() == ("origin",)
        assert connection.execute("SHOW client_min_messages").fetchone() == ("notice",)
        connection.rollback()
        assert tables(connection)  # both have committed


def test_roles_may_exist_already(source_db: str, target_db: str) -> None:
    create(source_db)
    with psycopg.connect(target_db) as connection:
        create(connection)
        create_roles = PLAN.with_name("roles.sql").read_bytes()
        connection.execute(create_roles)
        roles = connection.execute(
            "SELECT rolname FROM pg_roles WHERE rolname LIKE '%\\_api' AND rolcanlogin ORDER BY 1"
        ).fetchall()
    assert roles == [("crm_api",), ("mes_api",), ("shop_api",)]


def test_three_orders_in_a_hundred_are_contradictory(
    shared: psycopg.Connection[Any], plan: Plan
) -> None:
    listed = shared.execute(plan.lists["contradictions"].query.encode()).fetchall()
    assert len(listed) == 3 * ORDERS // 100
    assert {row[0] % 100 for row in listed} == {17, 51, 84}


def test_one_order_in_a_hundred_has_an_illegal_step_in_its_history(
    shared: psycopg.Connection[Any], plan: Plan
) -> None:
    listed = shared.execute(plan.lists["illegal_transitions"].query.encode()).fetchall()
    assert {row[0] for row in listed} == {23, 123, 223}


def test_histories_end_where_the_orders_are(shared: psycopg.Connection[Any]) -> None:
    for table, key, history, now, then in (
        ("orders", "id", "order_status_history", "status", "new_status"),
        ("crm_orders", "order_id", "crm_order_history", "stage", "new_stage"),
        ("production_jobs", "order_id", "production_job_history", "state", "new_state"),
    ):
        last = sql.SQL(
            "SELECT DISTINCT ON (order_id) order_id, {then} AS last, changed_at FROM {history}"
            " ORDER BY order_id, changed_at DESC"
        ).format(then=sql.Identifier(then), history=sql.Identifier(history))
        wrong = shared.execute(
            sql.SQL(
                "SELECT count(*) FROM {table} AS t LEFT JOIN ({last}) AS h ON h.order_id = t.{key}"
                " WHERE h.last IS DISTINCT FROM t.{now} OR h.changed_at <> t.{since}"
            ).format(
                table=sql.Identifier(table),
                last=last,
                key=sql.Identifier(key),
                now=sql.Identifier(now),
                since=sql.Identifier(f"{now}_since"),
            )
        ).fetchone()
        assert wrong == (0,), table


def test_every_foreign_key_holds_although_it_was_not_checked_by_the_load(
    shared: psycopg.Connection[Any],
) -> None:
    keys = shared.execute(
        "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE contype = 'f' AND connamespace = 'public'::regnamespace AND conparentid = 0"
    ).fetchall()
    assert len(keys) > 40
    for table, name, definition in keys:
        # ADD CONSTRAINT reads every row, which VALIDATE CONSTRAINT on a valid one does not
        shared.execute(
            sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {}").format(
                sql.SQL(table), sql.Identifier(f"{name}_again"), sql.SQL(definition)
            )
        )


def test_all_partitions_have_rows(shared: psycopg.Connection[Any]) -> None:
    counts = dict(
        shared.execute("SELECT tableoid::regclass::text, count(*) FROM page_views GROUP BY 1")
    )
    assert set(counts) == {"page_views_2024", "page_views_2025", "page_views_rest"}


def test_each_application_can_do_its_work(shared: psycopg.Connection[Any]) -> None:
    """Sequences stand behind the ids that were loaded, and privileges suffice."""
    shared.execute("SET ROLE shop_api")
    customer = shared.execute(
        "INSERT INTO customers (email) VALUES ('new@shop.example') RETURNING id"
    ).fetchone()
    assert customer is not None
    cart = shared.execute(
        "INSERT INTO carts (customer_id) VALUES (%s) RETURNING id", customer
    ).fetchone()
    assert cart is not None
    shared.execute("INSERT INTO cart_items VALUES (%s, 1, 7, NULL, 3, NULL)", cart)
    placed = shared.execute("SELECT place_order(%s)", cart).fetchone()
    assert placed == (ORDERS + 1,)
    number = shared.execute("SELECT number FROM orders WHERE id = %s", placed).fetchone()
    assert number == (f"S-{ORDERS + 1:08d}",)

    shared.execute("SET ROLE crm_api")
    shared.execute("UPDATE customers SET full_name = 'Ada' WHERE id = %s", customer)
    shared.execute("INSERT INTO crm_orders (order_id) VALUES (%s)", placed)
    shared.execute("UPDATE crm_orders SET stage = 'quote_sent' WHERE order_id = %s", placed)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        shared.execute("UPDATE orders SET status = 'paid' WHERE id = %s", placed)

    shared.execute("SET ROLE mes_api")
    shared.execute("INSERT INTO production_jobs (order_id) VALUES (%s)", placed)
    shared.execute("UPDATE production_jobs SET state = 'printing' WHERE order_id = %s", placed)

    histories = (
        "SELECT (SELECT count(*) FROM order_status_history WHERE order_id = %(order)s),"
        " (SELECT count(*) FROM crm_order_history WHERE order_id = %(order)s),"
        " (SELECT count(*) FROM production_job_history WHERE order_id = %(order)s)"
    )
    assert shared.execute(histories, {"order": placed[0]}).fetchone() == (1, 2, 2)


def test_what_crosses_the_boundary_works_as_long_as_there_is_none(
    shared: psycopg.Connection[Any],
) -> None:
    overview = shared.execute("SELECT customer_overview(1)").fetchone()
    assert overview is not None
    assert set(overview[0]) == {"name", "email", "orders", "revenue", "open_tickets"}
    assert shared.execute("SELECT count(*) FROM customer_360").fetchone() == (ORDERS * 2 // 5,)
    assert shared.execute("SELECT count(*) FROM manager_revenue").fetchone() == (30,)
