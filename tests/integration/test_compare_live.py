# ruff: noqa: S608 -- all of the SQL is the tests' own
"""The comparison while applications write and the follower lags behind."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg import sql

from plans.catalog import TableName
from plans.catalog_read import read_catalog
from plans.routes import Kind, Route, RouteColumn
from tests.unseen import a_commit_that_waits
from validators.compare import compare_routes
from validators.recheck import Limits
from validators.results import TableResult
from validators.sides import pair_of
from validators.tally import HIDDEN

TABLES = (
    "CREATE TABLE public.orders (id int PRIMARY KEY, state text, total numeric, at timestamptz)",
    "CREATE TABLE public.events (kind int, note text)",
    "INSERT INTO public.orders SELECT i, 'new', i / 3.0, '2024-01-01+00' FROM"
    " generate_series(1, 20000) AS i",
    "INSERT INTO public.events SELECT i % 500, 'e' FROM generate_series(1, 5000) AS i",
    "ANALYZE",
)
LAG_S = 0.04
LAGS_S_MAX = 60.0
HOT = 400  # keys 1 to HOT are written to; the rest lie still


class Follower:
    """A writer, and a copier that carries its statements over, late and in order.

    Each transaction of the writer logs its statement, so that the number of the
    last logged statement is a position, as an LSN is.
    """

    def __init__(self, source_dsn: str, target_dsn: str) -> None:
        self.source_dsn, self.target_dsn = source_dsn, target_dsn
        self.applied = 0
        self.failures: list[BaseException] = []
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._guarded, args=[work])
            for work in (self._write, self._copy)
        ]

    def catch_up(self, timeout_s: float) -> bool:
        with psycopg.connect(self.source_dsn, autocommit=True) as conn:
            row = conn.execute("SELECT coalesce(max(position), 0) FROM public.log").fetchone()
            assert row is not None
        deadline = time.monotonic() + timeout_s
        while self.applied < row[0]:
            if time.monotonic() > deadline or self._stop.is_set():
                return False
            time.sleep(0.002)
        return True

    @contextmanager
    def running(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(timeout=20)
        assert not self.failures, self.failures

    def _guarded(self, work: Any) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 -- handed to the test's thread
            self.failures.append(error)

    def _write(self) -> None:
        choice = random.Random(7)  # noqa: S311
        with psycopg.connect(self.source_dsn, autocommit=True) as conn:
            while not self._stop.is_set():
                statement = change(choice)
                with conn.transaction():
                    conn.execute(sql.SQL(statement))
                    conn.execute("INSERT INTO public.log (statement) VALUES (%s)", [statement])
                time.sleep(0.0005)

    def _copy(self) -> None:
        with (
            psycopg.connect(self.source_dsn, autocommit=True) as source,
            psycopg.connect(self.target_dsn, autocommit=True) as target,
        ):
            while not self._stop.is_set():
                batch = source.execute(
                    "SELECT position, statement FROM public.log WHERE position > %s ORDER BY 1",
                    [self.applied],
                ).fetchall()
                time.sleep(LAG_S)
                with target.transaction():
                    for _, statement in batch:
                        target.execute(sql.SQL(statement))
                if batch:
                    self.applied = batch[-1][0]


def change(choice: random.Random) -> str:
    """A statement that does the same wherever and whenever it runs."""
    key, number = choice.randint(1, HOT), choice.randint(0, 9)
    statements = [
        f"UPDATE public.orders SET state = 's{number}' WHERE id = {key}",
        f"UPDATE public.orders SET total = total + 1 WHERE id BETWEEN {key} AND {key + 5}",
        f"DELETE FROM public.orders WHERE id = {key}",
        f"INSERT INTO public.orders VALUES ({key}, 'again', 1.0, NULL) ON CONFLICT DO NOTHING",
        # The same row over and over again, gone and back.
        "DELETE FROM public.orders WHERE id = 1",
        "INSERT INTO public.orders VALUES (1, 'x', 1, NULL) ON CONFLICT DO NOTHING",
        f"UPDATE public.orders SET id = id + 100000 WHERE id = {key}"
        f" AND NOT EXISTS (SELECT FROM public.orders WHERE id = {key + 100000})",
        f"DELETE FROM public.orders WHERE id = {key + 100000}",
        f"INSERT INTO public.events VALUES ({number}, 'new')",
        f"DELETE FROM public.events WHERE kind = {number} AND note = 'new'",
    ]
    return choice.choice(statements)


@pytest.fixture
def follower(source_db: str, target_db: str) -> Follower:
    for dsn in (source_db, target_db):
        with psycopg.connect(dsn, autocommit=True) as conn:
            for statement in TABLES:
                conn.execute(statement)
    with psycopg.connect(source_db, autocommit=True) as conn:
        conn.execute("CREATE TABLE public.log (position bigserial PRIMARY KEY, statement text)")
    return Follower(source_db, target_db)


def compare(follower: Follower, **options: Any) -> dict[str, TableResult]:
    with psycopg.connect(follower.source_dsn, autocommit=True) as conn:
        tables = read_catalog(conn, ["public"]).tables
    pairs = []
    for name in ("orders", "events"):
        table = tables[TableName("public", name)]
        route = Route(
            id=f"shop:{name}",
            service="shop",
            owner="shop",
            kind=Kind.WHOLE,
            source=table,
            target=table.name,
            columns=tuple(
                RouteColumn(c.name, c.name, frozenset([c.name]), c.type, c.name, binary=True)
                for c in table.columns
            ),
            key=table.primary_key,
        )
        pairs.append(pair_of(route, source_dsn=follower.source_dsn, target_dsn=follower.target_dsn))
    results = compare_routes(pairs, follower.catch_up, **options)
    return {result.table.name: result for result in results}


def test_lag_is_no_difference(follower: Follower) -> None:
    healed = {"orders": 0, "events": 0}
    with follower.running():
        deadline = time.monotonic() + LAGS_S_MAX
        while not all(healed.values()) and time.monotonic() < deadline:
            time.sleep(0.15)
            for name, result in compare(follower).items():
                assert (result.state, result.reason, result.examples) == ("equal", "", ())
                healed[name] += result.healed
    # Or there was no lag, and the test shows nothing.
    assert healed["orders"] > 0
    assert healed["events"] > 0


def test_corruption_is_found_among_the_changes(follower: Follower) -> None:
    with follower.running():
        time.sleep(0.2)
        with psycopg.connect(follower.target_dsn, autocommit=True) as conn:
            conn.execute("UPDATE public.orders SET total = total + 0.01 WHERE id IN (777, 778)")
            conn.execute("DELETE FROM public.orders WHERE id = 19999")
            conn.execute("INSERT INTO public.orders VALUES (50000, 'nobody', 0, NULL)")
            conn.execute("INSERT INTO public.events VALUES (499, 'e'), (499, 'e')")
            conn.execute("DELETE FROM public.events WHERE kind = 498")
        results = compare(follower)
    orders, events = results["orders"], results["events"]
    assert (orders.state, orders.unverified) == ("different", 0)
    assert (orders.missing, orders.extra, orders.different) == (1, 1, 2)
    assert {d.key for d in orders.differences} == {("777",), ("778",), ("19999",), ("50000",)}
    assert (events.state, events.unverified) == ("different", 0)
    assert (events.missing, events.extra, events.different) == (10, 2, 0)


def test_row_that_never_lies_still_is_unverified(follower: Follower) -> None:
    stop = threading.Event()

    def spin() -> None:
        with psycopg.connect(follower.source_dsn, autocommit=True) as conn:
            while not stop.is_set():
                conn.execute("UPDATE public.orders SET total = total + 1 WHERE id = 9")

    with psycopg.connect(follower.target_dsn, autocommit=True) as conn:
        conn.execute("UPDATE public.orders SET total = -1 WHERE id = 9")
    spinner = threading.Thread(target=spin)
    spinner.start()
    try:
        result = compare(follower, limits=Limits(rounds=4))["orders"]
    finally:
        stop.set()
        spinner.join()
    assert (result.state, result.unverified, result.different) == ("unverified", 1, 0)
    assert result.reason


def test_stopped_follower_makes_no_difference(follower: Follower) -> None:
    with follower.running():
        time.sleep(0.2)
    # It is behind now, and will stay so.
    with psycopg.connect(follower.source_dsn, autocommit=True) as conn:
        conn.execute("INSERT INTO public.log (statement) VALUES ('never applied')")
        conn.execute("UPDATE public.orders SET state = 'late' WHERE id = 12345")
    result = compare(follower, limits=Limits(catch_up_s=0.2))["orders"]
    assert result.state == "unverified"
    assert result.unverified >= 1
    assert (result.missing, result.extra, result.different) == (0, 0, 0)


class Interleaving:
    """A follower that applies, and a leader that changes, exactly between two readings."""

    def __init__(self, follower: Follower, leader: str = "", follow: str = "") -> None:
        self.steps = ((follower.source_dsn, leader), (follower.target_dsn, follow))
        self.rounds = 0

    def catch_up(self, timeout_s: float) -> bool:
        self.rounds += 1
        for dsn, statements in self.steps:
            with psycopg.connect(dsn, autocommit=True) as conn:
                for statement in filter(None, statements.split(";")):
                    conn.execute(sql.SQL(statement))
        return True


GONE = "DELETE FROM public.orders WHERE id = -1"
BACK = "INSERT INTO public.orders VALUES (-1, 'x', 1, NULL)"
UPDATED = "UPDATE public.orders SET state = 'sold' WHERE id = 3"


def interleaved(follower: Follower, between: Interleaving) -> TableResult:
    follower.catch_up = between.catch_up  # type: ignore[method-assign]
    return compare(follower, limits=Limits(rounds=5))["orders"]


def test_change_that_arrives_after_the_first_look(follower: Follower) -> None:
    execute(follower.source_dsn, UPDATED)
    between = Interleaving(follower, follow=UPDATED)
    result = interleaved(follower, between)
    assert (result.state, result.healed, between.rounds) == ("equal", 1, 1)


def test_follower_that_is_ahead_of_the_first_reading(follower: Follower) -> None:
    execute(follower.source_dsn, UPDATED)
    newer = "UPDATE public.orders SET state = 'sent' WHERE id = 3"
    between = Interleaving(follower, leader=newer, follow=newer)
    result = interleaved(follower, between)
    assert (result.state, result.healed, between.rounds) == ("equal", 1, 1)


def test_row_that_comes_and_goes_between_readings(follower: Follower) -> None:
    """Each time we look the leader has just deleted it, and the follower not yet."""
    execute(follower.target_dsn, BACK)
    between = Interleaving(follower, leader=f"{BACK};{GONE}", follow=f"{GONE};{BACK}")
    result = interleaved(follower, between)
    assert (result.state, result.unverified, between.rounds) == ("unverified", 1, 5)


def test_row_that_is_wrong_and_lies_still(follower: Follower) -> None:
    execute(follower.target_dsn, BACK)
    between = Interleaving(follower)
    result = interleaved(follower, between)
    assert (result.state, result.extra, between.rounds) == ("different", 1, 2)
    assert result.differences[0].key == ("-1",)


def execute(dsn: str, statement: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(sql.SQL(statement))


def test_a_statement_that_takes_long_is_no_commit(follower: Follower) -> None:
    """Whoever waits for a lock, a file or a time has not begun to commit."""
    execute(follower.target_dsn, "DELETE FROM public.orders WHERE id = 5")
    with psycopg.connect(follower.source_dsn) as conn, ThreadPoolExecutor(1) as pool:
        conn.execute("SELECT pg_current_xact_id()")
        asleep = pool.submit(conn.execute, "SELECT pg_sleep(60)")
        try:
            result = compare(follower)["orders"]
        finally:
            conn.cancel_safe()
            assert isinstance(asleep.exception(), psycopg.errors.QueryCanceled)
    assert (result.state, result.missing) == ("different", 1)


def test_a_commit_that_the_leader_does_not_show_yet_is_no_difference(follower: Follower) -> None:
    row = "INSERT INTO public.orders VALUES (100000, 'x', 1, NULL)"
    follower.catch_up = Interleaving(follower).catch_up  # type: ignore[method-assign]
    with a_commit_that_waits(follower.source_dsn, row):
        execute(follower.target_dsn, row)  # as the stream has
        unseen = compare(follower, limits=Limits(rounds=3, visible_s=0.1))["orders"]
    assert (unseen.state, unseen.extra, unseen.unverified) == ("unverified", 0, 1)
    assert unseen.reason == HIDDEN
    assert compare(follower)["orders"].state == "equal"
