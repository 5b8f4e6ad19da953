# ruff: noqa: S608 -- all of the SQL is the tests' own
"""Followers of one slot: one that is slow, or away, and the others that go on."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

import cdc.apply
import cdc.follow
import cdc.reader
import cdc.sink
from plans.errors import StreamBroken
from tests.following import Following, following
from tests.verbs import Verbs
from toolkit.links import forward_feed
from toolkit.servers import Server

PLAN = "slow: a\nfast: b\n"
SCHEMA = """
CREATE SCHEMA odd;
CREATE TABLE slow (id int PRIMARY KEY, v text);
CREATE TABLE fast (id int PRIMARY KEY, v text);
"""
WAIT_S = 20.0


@pytest.fixture
def databases(
    source_server: Server,
    target_server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Following]:
    monkeypatch.setattr(cdc.sink, "KNOCK_S", 0.2)
    with following(source_server, target_server, tmp_path, tables=PLAN) as one:
        one.execute(SCHEMA)
        one.prepare()
        one.copy()
        yield one


def write(databases: Following, *tables: str, rows: int = 2_000) -> int:
    """Some transactions; returns how many rows each table then has."""
    for table in tables:
        databases.execute(
            f"INSERT INTO {table} SELECT n + (SELECT count(*) FROM {table}), repeat('v', 100)"
            f" FROM generate_series(1, {rows}) n"
        )
    return count(databases, "source", tables[0])


def count(databases: Following, place: str, table: str) -> int:
    ((rows,),) = databases.rows(place, f"SELECT count(*)::int FROM {table}")
    return int(rows)


def has(databases: Following, place: str, table: str, rows: int) -> bool:
    return count(databases, place, table) == rows


def within(seconds: float, done: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@contextmanager
def locked(databases: Following, place: str, table: str) -> Iterator[None]:
    """The applier waits, and does not fail."""
    with psycopg.connect(databases.targets[place]) as connection:
        connection.execute(sql.SQL("LOCK TABLE {}").format(sql.Identifier(table)))
        yield


@contextmanager
def away(databases: Following, place: str) -> Iterator[None]:
    """The database lets nobody in, and sends away who is there."""
    dsn = databases.targets[place]
    name = sql.Identifier(str(psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]))
    with psycopg.connect(dsn, dbname="postgres", autocommit=True) as admin:
        allow = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
        admin.execute(allow.format(name, sql.SQL("false")))
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
            [name.as_string().strip('"')],
        )
        try:
            yield
        finally:
            admin.execute(allow.format(name, sql.SQL("true")))


def confirmed(databases: Following) -> bool:
    """Whether the slot was confirmed to where the log is now, or close to it."""
    query = "SELECT confirmed_flush_lsn >= pg_current_wal_lsn() - 100000 FROM pg_replication_slots"
    return databases.rows("source", query) == [(True,)]


def is_equal(databases: Following) -> None:
    split = databases.open()
    for route in split.routes:
        assert databases.differences(split, route) == ([], []), route.id


def test_a_slow_follower_does_not_hold_up_the_others(
    databases: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cdc.sink, "QUEUE_BYTES_MAX", 100_000)
    with databases.live():
        with locked(databases, "a", "slow"):
            for _ in range(10):
                rows = write(databases, "fast", "slow")
            assert within(WAIT_S, lambda: count(databases, "b", "fast") == rows)
        assert within(WAIT_S, lambda: count(databases, "a", "slow") == rows)
    is_equal(databases)


def spilled(databases: Following) -> int:
    """What the stream process tells; `status` would wait for the table that is locked."""
    [(behind,)] = databases.rows(
        "source", "SELECT details -> 'behind' FROM dbsplit.heartbeat WHERE role = 'stream'"
    )
    return sum(int(one["spilled_bytes"]) for one in behind)


def test_what_the_slow_one_lags_behind_is_bounded(
    databases: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cdc.sink, "QUEUE_BYTES_MAX", 100_000)
    monkeypatch.setattr(cdc.follow, "SPILL_BYTES_MAX", 300_000)
    monkeypatch.setattr(cdc.apply, "BATCH_BYTES_MAX", 100_000)
    with databases.live():
        with locked(databases, "a", "slow"):
            for _ in range(20):
                write(databases, "slow")
            rows = write(databases, "fast")
            assert not within(2.0, lambda: count(databases, "b", "fast") == rows)
            assert within(WAIT_S, lambda: spilled(databases) > 0)
        assert within(WAIT_S, lambda: count(databases, "b", "fast") == rows)
        assert within(WAIT_S, lambda: spilled(databases) == 0)
    databases.stream()
    is_equal(databases)


def test_a_follower_that_is_away_does_not_stop_the_others(databases: Following) -> None:
    with databases.live():
        write(databases, "fast", "slow")
        with away(databases, "a"):
            for _ in range(5):
                rows = write(databases, "fast", "slow")
                assert within(WAIT_S, partial(has, databases, "b", "fast", rows))
            time.sleep(1.0)
            assert not confirmed(databases), "what the one that is away lacks was given up"
            told = Verbs(databases.path, {})("status").out
            assert re.search(r"AWAY +a for \d+ s: .*not currently accepting connections", told), (
                told
            )
            assert "CLOSED  targets: a away" in told
        assert within(WAIT_S, lambda: count(databases, "a", "slow") == rows)
        rows = write(databases, "fast", "slow")
        assert within(WAIT_S, lambda: count(databases, "a", "slow") == rows)
    is_equal(databases)


def test_what_only_a_database_that_is_away_knows_is_told_to_be_unknown(
    databases: Following,
) -> None:
    verbs = Verbs(databases.path, {})
    with away(databases, "a"):
        told = verbs.json("status")["services"]
        shown = verbs("status").out
    assert (told["a"]["tables"], told["a"]["copied"], told["a"]["lag_s"]) == (1, None, None)
    assert (told["b"]["tables"], told["b"]["copied"], told["b"]["lag_s"]) == (1, 1, 0.0)
    assert re.search(r"^ a +following +1 +unknown +[\d,]+ +unknown *$", shown, re.MULTILINE), shown
    assert verbs.json("status")["services"]["a"]["copied"] == 1


def test_nobody_is_away_for_ever(databases: Following, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cdc.reader, "AWAY_S_MAX", 1.0)
    with databases.live() as live, away(databases, "a"):
        error = live.broken()
    assert isinstance(error, StreamBroken)
    assert "could not be written to for 1 s" in str(error)
    databases.stream()
    is_equal(databases)


@pytest.mark.long
def test_what_keeps_a_follower_from_going_on_is_told_when_it_does_not_pass(
    databases: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can be reached, and fails again each time."""
    monkeypatch.setattr(cdc.follow, "RETRY_S_MAX", 2.0)
    databases.execute_on("a", "CREATE INDEX ON slow (v)")
    with databases.live() as live:
        databases.execute(
            "INSERT INTO slow SELECT 1, string_agg(md5(n::text), '') FROM generate_series(1, 300) n"
        )
        error = live.broken()
    assert "could not be continued for 2 s" in str(error)
    assert "index row" in str(error)
    databases.execute_on("a", "DROP INDEX slow_v_idx")
    databases.stream()
    is_equal(databases)


@pytest.mark.long
def test_servers_that_do_not_answer_end_the_stream_however_long_each_try_takes(
    databases: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cdc.follow, "RETRY_S_MAX", 2.0)
    feed = forward_feed(databases.open())
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        dsn = f"postgresql://u@127.0.0.1:{silent.getsockname()[1]}/d?connect_timeout=2"
        links = tuple(replace(link, follower_dsn=dsn) for link in feed.links)
        follower = cdc.follow.Follower(replace(feed, links=links))
        follower.start()
        follower.join(WAIT_S)
        follower.stop()
    assert "could not be continued for 2 s" in str(follower.failure)


def test_a_backlog_is_not_applied_twice_while_another_follower_is_away(
    source_server: Server, target_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cdc.sink, "KNOCK_S", 0.2)
    monkeypatch.setattr(cdc.follow, "PULL_BYTES_MIN", -1)
    # Without a key, a row that comes twice is there twice.
    tables = "CREATE TABLE slow (n int); ALTER TABLE slow REPLICA IDENTITY FULL;"
    with following(source_server, target_server, tmp_path, tables=PLAN) as databases:
        databases.execute(tables, tables.replace("slow", "fast"), "CREATE SCHEMA odd")
        databases.prepare()
        databases.copy()
        with databases.live() as live, away(databases, "a"):
            databases.execute("INSERT INTO fast VALUES (1)", "INSERT INTO slow VALUES (1)")
            assert within(WAIT_S, partial(has, databases, "b", "fast", 1))
            databases.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE application_name = 'dbsplit stream' AND backend_type = 'walsender'",
                "INSERT INTO fast VALUES (2)",
            )
            # What follows begins where the one that is away was.
            last = "SELECT FROM fast WHERE n = 2"
            assert within(WAIT_S, lambda: databases.rows("b", last) != []), live.failure
            databases.execute("INSERT INTO fast VALUES (3)")
            last = "SELECT FROM fast WHERE n = 3"
            assert within(WAIT_S, lambda: databases.rows("b", last) != []), live.failure
            assert databases.rows("b", "SELECT n FROM fast ORDER BY n") == [(1,), (2,), (3,)]
        databases.stream()
        is_equal(databases)
