# ruff: noqa: S608 -- all of the SQL is the tests' own
"""Where copy and stream meet: transactions in progress, prepared ones, interrupted copies."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from tests.following import Following, following
from tests.processes import KILLED, start
from toolkit.servers import Server, running_server

TABLES = [f"t{n}" for n in range(6)]
PLAN = "".join(
    f"{name}: {{owner: {service}, reference_in: [hub]}}\n"
    for name, service in zip(TABLES, "ababab", strict=True)
)
SCHEMA = "CREATE SCHEMA odd;" + "".join(
    f"CREATE TABLE {name} (id int PRIMARY KEY, v int, w text);"
    f" INSERT INTO {name} SELECT n, 0, 'w' FROM generate_series(1, 300) n;"
    for name in TABLES
)
HELD_S = 0.5


@pytest.fixture
def databases(source_server: Server, target_server: Server, tmp_path: Path) -> Iterator[Following]:
    with following(source_server, target_server, tmp_path, tables=PLAN) as one:
        one.execute(SCHEMA)
        yield one


def is_equal(databases: Following) -> None:
    split = databases.open()
    for route in split.routes:
        assert databases.differences(split, route) == ([], []), route.id


class Writer(threading.Thread):
    """Transactions of all lengths, over all tables."""

    def __init__(self, dsn: str, seed: int, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.failure: BaseException | None = None
        self._dsn = dsn
        self._dice = random.Random(seed)  # noqa: S311 - not a secret
        self._halt = stop

    def run(self) -> None:
        try:
            with psycopg.connect(self._dsn, autocommit=True) as connection:
                while not self._halt.is_set():
                    with suppress(psycopg.errors.DeadlockDetected, psycopg.errors.UniqueViolation):
                        self._transaction(connection)
        except BaseException as error:  # noqa: BLE001 - raised by the test's thread
            self.failure = error

    def _transaction(self, connection: psycopg.Connection) -> None:
        dice = self._dice
        with connection.transaction(force_rollback=dice.random() < 0.2):
            for _ in range(dice.randint(1, 4)):
                connection.execute(self._statement().encode())
                if dice.random() < 0.3:
                    time.sleep(dice.random() * 0.2)

    def _statement(self) -> str:
        dice = self._dice
        table, key, other = dice.choice(TABLES), dice.randint(1, 400), dice.randint(1, 400)
        return dice.choice(
            [
                f"INSERT INTO {table} VALUES ({key}, 1, 'new') ON CONFLICT DO NOTHING",
                f"UPDATE {table} SET v = v + 1 WHERE id = {key}",
                f"UPDATE {table} SET id = {other} WHERE id = {key}"
                f" AND NOT EXISTS (SELECT FROM {table} WHERE id = {other})",
                f"DELETE FROM {table} WHERE id = {key}",
            ]
        )


@contextmanager
def writing(dsn: str, writers: int = 3) -> Iterator[None]:
    """Writers are at work while the block runs."""
    stop = threading.Event()
    threads = [Writer(dsn, seed, stop) for seed in range(writers)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert [thread.failure for thread in threads] == [None] * writers


@contextmanager
def held_up(work: Callable[[], object]) -> Iterator[None]:
    """`work` runs in a thread, waits for what the block does, and then ends well."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised by the test's thread
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(HELD_S)
    assert thread.is_alive(), failures or "it did not wait"
    yield
    thread.join()
    assert not failures, failures


def test_transactions_in_progress_at_the_slot_and_at_the_snapshot(databases: Following) -> None:
    with writing(databases.source):
        databases.prepare()
        databases.copy()
        databases.stream()
    databases.stream()
    is_equal(databases)


def test_tables_that_were_copied_at_different_times(databases: Following) -> None:
    databases.prepare()
    with writing(databases.source):
        for passes in (3, 4):
            killed = start(
                ("copy", str(databases.path)),
                {**os.environ, "DBSPLIT_CRASH_AT": f"copy.table:{passes}"},
                databases.path.with_name(f"killed-{passes}.log"),
            )
            assert killed.wait() == KILLED, killed.said()
        databases.copy()
        databases.stream()
    query = "SELECT horizon::text FROM dbsplit.copied"
    horizons = {row for service in databases.targets for row in databases.rows(service, query)}
    assert len(horizons) == 3
    databases.stream()
    is_equal(databases)


def test_a_row_that_the_target_has_already(databases: Following) -> None:
    databases.prepare()
    databases.copy()
    databases.stream()
    databases.execute_on(
        "a",
        "BEGIN; SET LOCAL session_replication_role = replica;"
        " INSERT INTO t0 VALUES (500, 7, 'foreign'), (501, 7, 'foreign'); COMMIT",
    )
    databases.execute(
        "INSERT INTO t0 VALUES (500, 1, 'ours')",
        "INSERT INTO t0 VALUES (501, 1, 'ours')",
        "UPDATE t0 SET id = 502 WHERE id = 501",
    )
    databases.stream()
    query = "SELECT * FROM t0 WHERE id >= 500 ORDER BY id"
    assert (500, 1, "ours") in databases.rows("a", query)
    assert (502, 1, "ours") in databases.rows("a", query)


@pytest.fixture(scope="module")
def two_phase_server(pg_version: str) -> Iterator[Server]:
    settings = {"max_prepared_transactions": "10"}
    with running_server(version=pg_version, settings=settings) as server:
        yield server


def prepare_transaction(databases: Following, name: str, *statements: str) -> None:
    databases.execute(f"BEGIN; {'; '.join(statements)}; PREPARE TRANSACTION '{name}'")


def test_two_phase_transactions_across_each_step(
    two_phase_server: Server, target_server: Server, tmp_path: Path
) -> None:
    with following(two_phase_server, target_server, tmp_path, tables=PLAN) as databases:
        databases.execute(SCHEMA)
        prepare_transaction(databases, "before", "UPDATE t0 SET v = 1 WHERE id <= 10")
        with held_up(databases.prepare):
            databases.execute("COMMIT PREPARED 'before'")
        prepare_transaction(databases, "at copy", "UPDATE t0 SET v = 2 WHERE id <= 5")
        prepare_transaction(databases, "given up", "DELETE FROM t1")
        with held_up(databases.copy):
            databases.execute("COMMIT PREPARED 'at copy'", "ROLLBACK PREPARED 'given up'")
        prepare_transaction(databases, "streamed", "INSERT INTO t2 VALUES (900, 9, 'x')")
        prepare_transaction(databases, "not streamed", "INSERT INTO t2 VALUES (901, 9, 'x')")
        databases.execute("UPDATE t0 SET v = 3 WHERE id = 1")
        databases.stream()
        assert databases.rows("a", "SELECT count(*) FROM t2 WHERE id >= 900") == [(0,)]
        databases.execute("COMMIT PREPARED 'streamed'", "ROLLBACK PREPARED 'not streamed'")
        databases.stream()
        assert databases.rows("a", "SELECT id FROM t2 WHERE id >= 900") == [(900,)]
        is_equal(databases)


WITH_CONTRIB = "15"  # Debian's
EXTENDED = "extended: {owner: a, reference_in: [b]}\n"


def test_types_of_extensions(tmp_path: Path) -> None:
    with (
        running_server(version=WITH_CONTRIB) as source,
        running_server(version=WITH_CONTRIB) as target,
        following(
            source, target, tmp_path, tables="extended: {owner: a, reference_in: [b]}\n"
        ) as d,
    ):
        d.execute(
            "CREATE SCHEMA odd; CREATE EXTENSION citext; CREATE EXTENSION hstore;"
            " CREATE TABLE extended (id citext PRIMARY KEY, h hstore, c citext[]);"
            " INSERT INTO extended SELECT 'Key ' || n, hstore('a', n::text), '{x,NULL}'"
            " FROM generate_series(1, 9) n"
        )
        d.prepare()
        d.copy()
        d.execute(
            "INSERT INTO extended VALUES ('NEW', 'a=>NULL, \"b, c\"=>\"\\\"\"', '{}')",
            "UPDATE extended SET h = h || 'b=>2', c = NULL WHERE id = 'key 1'",
            "UPDATE extended SET id = 'KEY 2' WHERE id = 'key 2'",  # equal, and written otherwise
            "DELETE FROM extended WHERE id = 'KEY 3'",
            "BEGIN; DELETE FROM extended WHERE id = 'key 4';"
            " INSERT INTO extended VALUES ('KEY 4', '', '{a,A}'); COMMIT",
        )
        d.stream()
        is_equal(d)
        assert d.rows("b", "SELECT id::text FROM extended WHERE id = 'key 4'") == [("KEY 4",)]
