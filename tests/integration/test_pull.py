"""A backlog that is pulled by SQL is what a stream of it would bring, message for message."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg import sql

import cdc.pull
import cdc.pull_line
from cdc.messages import Messages
from cdc.pull import Pull
from cdc.replication import ConnectionLost, Received, ReplicationConnection, plugin_options

SLOT, PUBLICATION = "pulled", "all_of_it"
LOG_BYTES = 1 << 18
"""Of each call, so that there are many."""
END_S_MAX = 60.0


@pytest.fixture
def backlog(source_db: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database with a slot that retains transactions, small, large, and with large rows."""
    monkeypatch.setattr(cdc.pull, "CALL_BYTES_MIN", LOG_BYTES)
    monkeypatch.setattr(cdc.pull, "CALL_BYTES_MAX", LOG_BYTES)
    monkeypatch.setattr(cdc.pull, "LARGE_BYTES", 1 << 30)  # all of it is to be pulled
    with psycopg.connect(source_db, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
        connection.execute(f"CREATE PUBLICATION {PUBLICATION} FOR TABLE t")
        connection.execute(f"SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput')")
        connection.execute(
            "DO $do$ BEGIN FOR i IN 1..2000 LOOP INSERT INTO t VALUES (i, 'v' || i);"
            " COMMIT; END LOOP; END $do$"
        )
        connection.execute("INSERT INTO t SELECT n, 'many' FROM generate_series(10001, 30000) n")
        connection.execute("INSERT INTO t VALUES (0, repeat('large ', 700000))")
        connection.execute("UPDATE t SET v = v || '!' WHERE id <= 500")
        connection.execute("DELETE FROM t WHERE id > 20000")
    return source_db


def messages(some: Messages) -> list[bytes]:
    # The log's end moves while others read; what is no row's or bound's is not compared.
    return [one for one in (some[n] for n in range(len(some))) if one[0] in b"BCIUD"]


def streamed(dsn: str, whole: Callable[[list[bytes]], bool]) -> list[bytes]:
    found: list[bytes] = []
    deadline = time.monotonic() + END_S_MAX
    with ReplicationConnection(dsn, name="test") as connection:
        connection.start(SLOT, PUBLICATION, binary=True)
        while not (found and whole(found)):
            assert time.monotonic() < deadline
            found += messages(connection.read(0.2).messages)
    return found


def pulled(dsn: str) -> Iterator[Received]:
    deadline = time.monotonic() + END_S_MAX
    with Pull(dsn, SLOT, PUBLICATION, binary=True) as pull:
        while not pull.exhausted:
            assert time.monotonic() < deadline
            yield pull.read(0.2)


def slots(dsn: str, wanted: int) -> None:
    """Leave so many slots free."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_create_physical_replication_slot('taken_' || n) FROM generate_series(1,"
            " current_setting('max_replication_slots')::int - %s"
            " - (SELECT count(*)::int FROM pg_replication_slots)) n",
            [wanted],
        )


def free(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
            " WHERE slot_name LIKE 'taken%'"
        )


@pytest.mark.parametrize("way", ["socket", "libpq", "one free slot"])
def test_what_is_pulled_is_what_is_streamed(
    backlog: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "libpq":
        monkeypatch.setattr(cdc.pull_line, "is_plain", lambda _: False)
    if way == "one free slot":
        slots(backlog, 1)
    try:
        found = [one for received in pulled(backlog) for one in messages(received.messages)]
    finally:
        free(backlog)
    assert sum(one[:1] == b"I" for one in found) == 22_001
    last = found[-1]
    assert streamed(backlog, lambda some: some[-1] == last) == found


def test_large_rows_are_left_to_the_stream(backlog: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cdc.pull, "LARGE_BYTES", 2_000)
    with psycopg.connect(backlog, autocommit=True) as connection:
        connection.execute("SELECT pg_replication_slot_advance(%s, pg_current_wal_lsn())", [SLOT])
        connection.execute("ALTER TABLE t ALTER v SET STORAGE EXTERNAL")  # the log has all of it
        connection.execute(
            "DO $do$ BEGIN FOR i IN 1..600 LOOP INSERT INTO t VALUES (-i, repeat('x', 9000));"
            " COMMIT; END LOOP; END $do$"
        )
    found = [one for received in pulled(backlog) for one in messages(received.messages)]
    every = streamed(backlog, lambda some: sum(one[:1] == b"C" for one in some) == 600)
    assert 0 < len(found) < len(every)
    assert found == every[: len(found)]


def test_without_a_free_slot_nothing_is_pulled(backlog: str) -> None:
    slots(backlog, 0)
    try:
        with pytest.raises(psycopg.Error, match="all replication slots are in use"):
            Pull(backlog, SLOT, PUBLICATION, binary=True)
    finally:
        free(backlog)


@pytest.mark.parametrize("way", ["socket", "libpq"])
def test_a_server_that_refuses_or_goes_away_is_told(
    backlog: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "libpq":
        monkeypatch.setattr(cdc.pull_line, "is_plain", lambda _: False)
    reading = pulled(backlog)
    with monkeypatch.context() as patch:
        options = plugin_options(PUBLICATION, binary=True)
        odd = {**options, "odd": sql.Literal("1")}
        patch.setattr(cdc.pull, "plugin_options", lambda *_, **__: odd)
        with pytest.raises(ConnectionLost, match="unrecognized pgoutput option: odd"):
            list(reading)
    reading = pulled(backlog)
    next(reading)
    with psycopg.connect(backlog, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE application_name LIKE 'dbsplit pull%' AND datname = current_database()"
        )
    with pytest.raises((ConnectionLost, psycopg.OperationalError)):
        list(reading)


def test_the_slot_goes_on_only_where_it_is_told(backlog: str) -> None:
    with psycopg.connect(backlog, autocommit=True) as connection:

        def confirmed() -> str:
            (row,) = connection.execute(
                "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = %s",
                [SLOT],
            ).fetchall()
            return str(row[0])

        before = confirmed()
        for _ in pulled(backlog):
            assert confirmed() == before
        deadline = time.monotonic() + END_S_MAX
        left = "SELECT FROM pg_replication_slots WHERE slot_name LIKE 'dbsplit_pull%'"
        while connection.execute(left).fetchall():  # they end with their sessions
            assert time.monotonic() < deadline
            time.sleep(0.05)
