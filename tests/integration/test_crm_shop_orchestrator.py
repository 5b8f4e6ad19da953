"""The orchestrator's schema: what it accepts, what it refuses, and how it is fed."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg import sql
from psycopg.errors import (
    CheckViolation,
    FeatureNotSupported,
    InsufficientPrivilege,
    SerializationFailure,
)
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

import plans.crm_shop
from plans.catalog_read import read_catalog
from plans.compile import compile_routes
from plans.crm_shop.generate import create, load
from plans.crm_shop.order_lives import order
from plans.load import Plan, load_plan
from plans.routes import Kind, Route

pytestmark = pytest.mark.integration

CASE = Path(str(plans.crm_shop.__file__)).parent
ORDERS = 500
LOCK_WAIT_S_MAX = 20.0
Connection = psycopg.Connection[Any]


def migrate(dsn: str, to: str) -> None:
    """Run the revisions up to `to`, or down to the base."""
    directory = str(CASE / "orchestrator")
    script = ScriptDirectory(directory, version_locations=[f"{directory}/versions"])

    def revisions(current: Any, _context: MigrationContext) -> Any:
        if to == "base":
            return script._downgrade_revs(to, current)
        return script._upgrade_revs(to, current)

    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(dsn), poolclass=NullPool
    )
    with engine.begin() as connection:
        context = MigrationContext.configure(connection, opts={"fn": revisions})
        with Operations.context(context):
            context.run_migrations()


def objects(connection: Connection) -> set[str]:
    rows = connection.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        " UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
    )
    return {name for (name,) in rows} - {"alembic_version", "alembic_version_pkc"}


@pytest.fixture
def orchestrator(target_db: str) -> Iterator[Connection]:
    """A session of the orchestrator's own."""
    migrate(target_db, "head")
    with psycopg.connect(target_db, autocommit=True) as connection:
        yield connection


@pytest.fixture
def feed(target_db: str, orchestrator: Connection) -> Iterator[Connection]:
    """A session that writes claims as the applier of the stream does."""
    assert orchestrator.info.status is not None
    with psycopg.connect(target_db, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        yield connection


def claim(feed: Connection, number: int, system: str, state: str, precedence: int) -> None:
    feed.execute(
        "INSERT INTO order_claim VALUES (%s, %s, %s, %s, '2025-01-01 00:00+00')"
        " ON CONFLICT (order_id, system) DO UPDATE"
        " SET state = excluded.state, precedence = excluded.precedence",
        [number, system, state, precedence],
    )


def facts(feed: Connection, number: int, priority: int) -> None:
    feed.execute(
        "INSERT INTO order_facts VALUES (%s, %s, '2025-02-01 00:00+00', '2025-01-01 00:00+00')"
        " ON CONFLICT (order_id) DO UPDATE SET priority = excluded.priority",
        [number, priority],
    )


def state_of(connection: Connection, number: int) -> tuple[Any, ...] | None:
    row: tuple[Any, ...] | None = connection.execute(
        "SELECT state, priority, led_by FROM order_state WHERE order_id = %s", [number]
    ).fetchone()
    return row


def in_background(dsn: str, work: Callable[[], object]) -> Callable[[], Exception | None]:
    """Start `work` and return once it waits for a lock.

    What is returned waits for its end, and says how it failed if it did.
    """
    failures: list[Exception] = []

    def run() -> None:
        try:
            work()
        except psycopg.Error as error:
            failures.append(error)

    def end() -> Exception | None:
        thread.join(LOCK_WAIT_S_MAX)
        assert not thread.is_alive()
        return failures[0] if failures else None

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    deadline = time.monotonic() + LOCK_WAIT_S_MAX
    with psycopg.connect(dsn, autocommit=True) as watcher:
        waiting = (
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        while watcher.execute(waiting).fetchone() == (0,):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    return end


# Revisions --------------------------------------------------------------------------------


def test_down_leaves_nothing_and_up_again_works(target_db: str) -> None:
    migrate(target_db, "head")
    with psycopg.connect(target_db) as connection:
        made = objects(connection)
    assert {"order_state", "legal_transition", "outbox", "mes_queue_page"} <= made
    migrate(target_db, "base")
    with psycopg.connect(target_db) as connection:
        assert objects(connection) == set()
    migrate(target_db, "head")
    with psycopg.connect(target_db) as connection:
        assert objects(connection) == made


def test_the_role_may_move_orders_but_not_rewrite_what_happened(target_db: str) -> None:
    with psycopg.connect(target_db, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS orchestrator")
        connection.execute("CREATE ROLE orchestrator LOGIN")
        try:
            migrate(target_db, "head")
            connection.execute("SET ROLE orchestrator")
            connection.execute("INSERT INTO order_state (order_id, state) VALUES (1, 'INITIATED')")
            connection.execute("SELECT move_order(1, 'SUBMITTED', 1)")
            connection.execute("UPDATE outbox SET published_at = now()")
            for forbidden in (
                "DELETE FROM order_transition",
                "INSERT INTO order_claim VALUES (1, 'crm', 'QUOTED', 50, now())",
                "UPDATE order_state SET led_by = 'claims', version = 3",
                "INSERT INTO legal_transition VALUES ('CLOSED', 'SUBMITTED', 'please')",
            ):
                with pytest.raises(InsufficientPrivilege):
                    connection.execute(forbidden.encode())
        finally:
            connection.execute("RESET ROLE")
            connection.execute("DROP OWNED BY orchestrator")
            connection.execute("DROP ROLE orchestrator")


# Moves of its own -------------------------------------------------------------------------


def test_a_legal_move_is_recorded_and_announced_with_it(orchestrator: Connection) -> None:
    orchestrator.execute("INSERT INTO order_state (order_id, state) VALUES (1, 'INITIATED')")
    orchestrator.execute(
        "UPDATE order_state SET state = 'SUBMITTED', version = 2 WHERE order_id = 1"
    )
    assert orchestrator.execute("SELECT move_order(1, 'QUOTED', 2)").fetchone() == (3,)
    history = orchestrator.execute(
        "SELECT from_state, to_state, version, actor = session_user"
        " FROM order_transition ORDER BY id"
    ).fetchall()
    assert history == [
        (None, "INITIATED", 1, True),
        ("INITIATED", "SUBMITTED", 2, True),
        ("SUBMITTED", "QUOTED", 3, True),
    ]
    messages = orchestrator.execute(
        "SELECT payload ->> 'from', payload ->> 'to' FROM outbox"
        " WHERE published_at IS NULL ORDER BY id"
    ).fetchall()
    assert messages == [(None, "INITIATED"), ("INITIATED", "SUBMITTED"), ("SUBMITTED", "QUOTED")]


def test_exactly_the_transitions_of_the_table_are_legal(
    orchestrator: Connection, feed: Connection
) -> None:
    states = [code for (code,) in orchestrator.execute("SELECT code FROM state")]
    legal = set(orchestrator.execute("SELECT from_state, to_state FROM legal_transition"))
    accepted = set()
    number = 0
    for before in states:
        for after in states:
            number += 1
            claim(feed, number, "crm", before, 50)
            try:
                orchestrator.execute("SELECT move_order(%s, %s, 1)", [number, after])
            except CheckViolation:
                continue
            if before != after:
                accepted.add((before, after))
    assert accepted == legal


def test_an_illegal_move_is_refused_with_what_would_be_legal(orchestrator: Connection) -> None:
    orchestrator.execute("INSERT INTO order_state (order_id, state) VALUES (42, 'SUBMITTED')")
    with pytest.raises(CheckViolation, match="order 42 cannot go from SUBMITTED to CLOSED") as hit:
        orchestrator.execute("SELECT move_order(42, 'CLOSED', 1)")
    assert hit.value.diag.message_hint == "It can go to: CANCELLED, ON_HOLD, QUOTED"
    assert orchestrator.execute("SELECT count(*) FROM outbox").fetchone() == (1,)


def test_an_order_begins_in_an_initial_state(orchestrator: Connection) -> None:
    with pytest.raises(CheckViolation, match="order 1 cannot begin in state PACKING") as refused:
        orchestrator.execute("INSERT INTO order_state (order_id, state) VALUES (1, 'PACKING')")
    assert refused.value.diag.message_hint == "Orders begin in: INITIATED, SUBMITTED"


def test_a_stale_version_is_refused(orchestrator: Connection) -> None:
    orchestrator.execute("INSERT INTO order_state (order_id, state) VALUES (1, 'SUBMITTED')")
    orchestrator.execute("SELECT move_order(1, 'QUOTED', 1)")
    with pytest.raises(SerializationFailure, match="order 1 is at version 2, so the next one is 3"):
        orchestrator.execute("SELECT move_order(1, 'CANCELLED', 1)")
    with pytest.raises(SerializationFailure):
        orchestrator.execute("UPDATE order_state SET priority = 1 WHERE order_id = 1")


def test_of_two_who_decide_on_one_version_the_second_is_refused(
    orchestrator: Connection, target_db: str
) -> None:
    orchestrator.execute("INSERT INTO order_state (order_id, state) VALUES (1, 'SUBMITTED')")
    with psycopg.connect(target_db) as first:
        first.execute("SELECT move_order(1, 'QUOTED', 1)")
        second = in_background(
            target_db, lambda: orchestrator.execute("SELECT move_order(1, 'CANCELLED', 1)")
        )
        first.commit()
    assert isinstance(second(), SerializationFailure)


def test_history_is_only_added_to(orchestrator: Connection) -> None:
    orchestrator.execute("INSERT INTO order_state (order_id, state) VALUES (1, 'SUBMITTED')")
    for rewriting in (
        "UPDATE order_transition SET actor = 'nobody'",
        "DELETE FROM order_transition",
        "TRUNCATE order_transition",
    ):
        with pytest.raises(CheckViolation, match="only ever added to"):
            orchestrator.execute(rewriting.encode())


# The MES's queue --------------------------------------------------------------------------

PAGE = "SELECT * FROM mes_queue_page(%s, %s, %s, %s, %s)"
PAGE_BY_DUE = "SELECT * FROM mes_queue_page_by_due(%s, '2026-01-01', %s, %s, %s)"


@pytest.fixture
def queue(orchestrator: Connection, feed: Connection) -> Connection:
    """10,000 orders, a fifth of them in the queue, many with the same priority and date."""
    feed.execute(
        "INSERT INTO order_facts"
        " SELECT i, 1 + i % 5, CASE WHEN i % 7 > 0 THEN"
        " timestamptz '2025-01-01 00:00+00' + (i * 37 % 90) * interval '1 day' END, '2025-01-01'"
        " FROM generate_series(1, 10000) AS i"
    )
    feed.execute(
        "INSERT INTO order_claim"
        " SELECT i, 'mes', CASE WHEN i % 5 > 0 THEN 'CLOSED' ELSE"
        " (array['APPROVED', 'PRODUCTION', 'PACKING', 'ON_HOLD'])[1 + i / 5 % 4] END, 50, now()"
        " FROM generate_series(1, 10000) AS i"
    )
    orchestrator.execute("VACUUM ANALYZE order_state")
    return orchestrator


def test_pages_are_the_whole_queue_in_order(queue: Connection) -> None:
    states = ["APPROVED", "PACKING"]
    after: tuple[Any, ...] = (None, None, None)
    paged = []
    while page := queue.execute(PAGE, [states, *after, 37]).fetchall():
        paged += [row[0] for row in page]
        after = (page[-1][2], page[-1][3], page[-1][0])
    whole = queue.execute(
        "SELECT order_id FROM order_state WHERE state = ANY (%s)"
        " ORDER BY priority, due_at NULLS LAST, order_id",
        [states],
    ).fetchall()
    assert len(paged) == 1000
    assert paged == [number for (number,) in whole]


def test_pages_by_due_date_are_what_is_due(queue: Connection) -> None:
    after: tuple[Any, ...] = (None, None)
    paged = []
    while page := queue.execute(PAGE_BY_DUE, [["PRODUCTION"], *after, 50]).fetchall():
        paged += [row[0] for row in page]
        after = (page[-1][3], page[-1][0])
    whole = queue.execute(
        "SELECT order_id FROM order_state WHERE state = 'PRODUCTION' AND due_at < '2026-01-01'"
        " ORDER BY due_at, order_id"
    ).fetchall()
    assert 0 < len(paged) < 500  # those without a date are not among them
    assert paged == [number for (number,) in whole]


@pytest.mark.parametrize(
    ("page", "after", "index"),
    [
        (PAGE, (None, None, None), "mes_queue_by_priority_idx"),
        (PAGE, (3, "2025-02-01 00:00+00", 512), "mes_queue_by_priority_idx"),
        (PAGE_BY_DUE, (None, None), "mes_queue_by_due_idx"),
        (PAGE_BY_DUE, ("2025-02-01 00:00+00", 512), "mes_queue_by_due_idx"),
    ],
)
def test_a_page_is_read_from_its_index_without_sorting(
    queue: Connection, page: str, after: tuple[Any, ...], index: str
) -> None:
    states = ["APPROVED", "PRODUCTION", "PACKING", "ON_HOLD"]
    with psycopg.ClientCursor(queue) as cursor:
        explained = cursor.execute(
            sql.SQL("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) ") + sql.SQL(page),
            [states, *after, 20],
        )
        steps = "\n".join(line for (line,) in explained)
    assert f"Index Only Scan using {index}" in steps
    assert "Sort" not in steps
    assert re.search(r"Index Cond: .*ROW\(", steps)


# The feed ---------------------------------------------------------------------------------


def test_the_claim_with_the_highest_precedence_wins(
    orchestrator: Connection, feed: Connection
) -> None:
    claim(feed, 1, "shop", "APPROVED", 30)
    assert state_of(orchestrator, 1) == ("APPROVED", 3, "claims")
    claim(feed, 1, "crm", "QUOTED", 50)
    assert state_of(orchestrator, 1) == ("QUOTED", 3, "claims")
    claim(feed, 1, "mes", "PRODUCTION", 80)
    assert state_of(orchestrator, 1) == ("PRODUCTION", 3, "claims")
    claim(feed, 1, "mes", "SHIPPING", 20)
    assert state_of(orchestrator, 1) == ("QUOTED", 3, "claims")
    contradiction = ("APPROVED", "QUOTED", "SHIPPING", "QUOTED")
    assert orchestrator.execute("SELECT * FROM contradiction").fetchall() == [(1, *contradiction)]


def test_at_a_tie_the_mes_is_believed_then_the_shop(
    orchestrator: Connection, feed: Connection
) -> None:
    claim(feed, 1, "crm", "QUOTED", 50)
    claim(feed, 1, "shop", "APPROVED", 50)
    assert state_of(orchestrator, 1) == ("APPROVED", 3, "claims")
    claim(feed, 1, "mes", "PRODUCTION", 50)
    assert state_of(orchestrator, 1) == ("PRODUCTION", 3, "claims")


def test_claims_and_facts_come_and_go_in_any_order(
    orchestrator: Connection, feed: Connection
) -> None:
    facts(feed, 1, 1)
    assert state_of(orchestrator, 1) is None
    claim(feed, 1, "crm", "QUOTED", 50)
    assert state_of(orchestrator, 1) == ("QUOTED", 1, "claims")
    claim(feed, 2, "crm", "QUOTED", 50)
    facts(feed, 2, 5)
    assert state_of(orchestrator, 2) == ("QUOTED", 5, "claims")

    claim(feed, 1, "mes", "PRODUCTION", 80)
    feed.execute("DELETE FROM order_claim WHERE order_id = 1 AND system = 'mes'")
    assert state_of(orchestrator, 1) == ("QUOTED", 1, "claims")
    feed.execute("DELETE FROM order_facts WHERE order_id = 1")
    assert state_of(orchestrator, 1) == ("QUOTED", 3, "claims")
    feed.execute("DELETE FROM order_claim WHERE order_id = 1")
    assert state_of(orchestrator, 1) is None
    feed.execute("TRUNCATE order_facts")
    assert state_of(orchestrator, 2) == ("QUOTED", 3, "claims")
    feed.execute("TRUNCATE order_claim")
    assert state_of(orchestrator, 2) is None


def test_a_move_of_its_own_is_not_overridden(orchestrator: Connection, feed: Connection) -> None:
    claim(feed, 1, "crm", "QUOTED", 50)
    orchestrator.execute("SELECT move_order(1, 'APPROVED', 1)")
    claim(feed, 1, "crm", "CANCELLED", 100)
    assert state_of(orchestrator, 1) == ("APPROVED", 3, "orchestrator")
    stale = orchestrator.execute("SELECT order_id, state, system, claimed FROM stale_claim")
    assert stale.fetchall() == [(1, "APPROVED", "crm", "CANCELLED")]
    feed.execute("DELETE FROM order_claim")
    assert state_of(orchestrator, 1) == ("APPROVED", 3, "orchestrator")


def test_the_shop_sets_priorities_whoever_leads_but_only_when_it_changes_them(
    orchestrator: Connection, feed: Connection
) -> None:
    claim(feed, 1, "crm", "QUOTED", 50)
    facts(feed, 1, 4)
    orchestrator.execute("UPDATE order_state SET priority = 1, version = version + 1")
    facts(feed, 1, 4)  # as a row is that comes a second time
    assert state_of(orchestrator, 1) == ("QUOTED", 1, "claims")
    orchestrator.execute("UPDATE order_state SET state = 'APPROVED', version = version + 1")
    facts(feed, 1, 2)
    assert state_of(orchestrator, 1) == ("APPROVED", 2, "orchestrator")


def test_a_claim_makes_a_decision_stale_but_is_not_announced(
    orchestrator: Connection, feed: Connection
) -> None:
    claim(feed, 1, "crm", "QUOTED", 50)
    claim(feed, 1, "crm", "CANCELLED", 100)
    with pytest.raises(SerializationFailure):
        orchestrator.execute("SELECT move_order(1, 'APPROVED', 1)")
    assert orchestrator.execute("SELECT count(*) FROM outbox").fetchone() == (0,)


def test_a_claim_that_says_nothing_new_changes_nothing(
    orchestrator: Connection, feed: Connection
) -> None:
    claim(feed, 1, "crm", "QUOTED", 50)
    claim(feed, 1, "crm", "QUOTED", 50)
    assert orchestrator.execute("SELECT version FROM order_state").fetchone() == (1,)


def test_two_feeds_of_one_order_at_the_same_time_are_both_heard(
    orchestrator: Connection, feed: Connection, target_db: str
) -> None:
    with psycopg.connect(target_db) as other:
        other.execute("SET session_replication_role = replica")
        claim(other, 1, "mes", "PRODUCTION", 80)
        facts(other, 1, 1)
        late = in_background(target_db, lambda: claim(feed, 1, "crm", "QUOTED", 50))
        other.commit()
    assert late() is None
    assert state_of(orchestrator, 1) == ("PRODUCTION", 1, "claims")


def test_a_feed_that_could_miss_another_one_is_refused(feed: Connection) -> None:
    feed.execute("SET default_transaction_isolation = 'repeatable read'")
    with pytest.raises(FeatureNotSupported, match="isolation level repeatable read"):
        claim(feed, 1, "crm", "QUOTED", 50)


# The plan ---------------------------------------------------------------------------------


@pytest.fixture
def plan(source_db: str, target_db: str) -> Plan:
    return load_plan(
        CASE / "plan.yaml",
        {
            "DBSPLIT_SOURCE_DSN": source_db,
            "DBSPLIT_CRM_DSN": "dbname=crm",
            "DBSPLIT_SHOP_DSN": "dbname=shop",
            "DBSPLIT_ORCHESTRATOR_DSN": target_db,
        },
    )


@pytest.fixture
def seeded(plan: Plan, orchestrator: Connection, feed: Connection) -> Connection:
    """The orchestrator after the copy of its derived routes."""
    create(plan.source.dsn)
    load(plan.source.dsn, scale=ORDERS / 100_000)
    with psycopg.connect(plan.source.dsn) as source:
        routes = compile_routes(
            plan,
            read_catalog(source, plan.source.schemas),
            {"orchestrator": read_catalog(orchestrator, ["public"])},
        )
        derived = [route for route in routes if route.kind is Kind.DERIVED]
        assert len(derived) == 7
        for route in derived:
            copy(route, source, feed)
    return orchestrator


def copy(route: Route, source: Connection, feed: Connection) -> None:
    columns = sql.SQL(", ").join(sql.Identifier(column.name) for column in route.columns)
    expressions = sql.SQL(", ").join(sql.SQL(column.expression) for column in route.columns)
    read = sql.SQL("COPY (SELECT {} FROM {}) TO STDOUT").format(
        expressions, route.source.name.identifier
    )
    write = sql.SQL("COPY {} ({}) FROM STDIN").format(route.target.identifier, columns)
    with source.cursor().copy(read) as rows, feed.cursor().copy(write) as copied:
        for block in rows:
            copied.write(block)


def listed(plan: Plan, name: str) -> set[int]:
    with psycopg.connect(plan.source.dsn) as source:
        return {row[0] for row in source.execute(plan.lists[name].query.encode())}


def test_the_source_and_the_orchestrator_list_the_same_trouble(
    plan: Plan, seeded: Connection
) -> None:
    contradictions = {row[0] for row in seeded.execute("SELECT order_id FROM contradiction")}
    assert contradictions == listed(plan, "contradictions")
    assert len(contradictions) == 3 * ORDERS // 100
    illegal = {row[0] for row in seeded.execute("SELECT order_id FROM illegal_claim")}
    assert illegal == listed(plan, "illegal_transitions")
    assert len(illegal) == ORDERS // 100


def test_an_order_without_contradiction_is_in_the_state_that_it_really_is_in(
    seeded: Connection,
) -> None:
    contradictory = {row[0] for row in seeded.execute("SELECT order_id FROM contradiction")}
    states = dict(seeded.execute("SELECT order_id, state FROM order_state"))
    assert len(states) == ORDERS
    for number in range(1, ORDERS + 1):
        really = order(number, orders=ORDERS, products=200 + ORDERS // 100, seed=1).stage.upper()
        if number not in contradictory:
            assert states[number] == really
    assert set(states.values()) >= {"QUOTED", "PRODUCTION", "ON_HOLD", "CLOSED", "CANCELLED"}


def test_every_contradiction_is_resolved_to_one_of_the_claims(seeded: Connection) -> None:
    rows = seeded.execute("SELECT shop, crm, mes, resolved FROM contradiction").fetchall()
    assert rows
    for *claimed, resolved in rows:
        assert resolved in claimed
