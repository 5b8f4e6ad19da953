# ruff: noqa: S608 -- all of the SQL is the tests' own
"""kill -9 of a refresh that copies tables beside the stream: the same command goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import psycopg
import pytest

from plans import names
from tests.crash.busy import busy
from tests.crash.points import BESIDE
from tests.crash.test_refresh_killed import verb
from tests.following import Following, following
from tests.processes import KILLED
from toolkit.servers import Server

POINTS = (*BESIDE, "refresh.copied")
TABLES = """
CREATE TABLE old (id int PRIMARY KEY, v int);
INSERT INTO old SELECT n, 0 FROM generate_series(1, 500) n;
CREATE TABLE other (id int PRIMARY KEY, v int);
"""
# More than is copied while the stream stands.
NEW = """
CREATE TABLE fresh_{n} (id int PRIMARY KEY, v text, old int REFERENCES old) WITH (fillfactor = 80);
INSERT INTO fresh_{n} SELECT i, repeat(md5(i::text), 10), i % 500 + 1
    FROM generate_series(1, 40000) i;
CREATE INDEX ON fresh_{n} (old);
CREATE TABLE bag_{n} (v int, w text);
INSERT INTO bag_{n} SELECT i % 20, repeat('w', 500) FROM generate_series(1, 8000) i;
"""


@pytest.fixture
def databases(source_server: Server, target_server: Server, tmp_path: Path) -> Iterator[Following]:
    plan = "old: {owner: a, reference_in: [b]}\nother: b\n"
    with following(source_server, target_server, tmp_path, tables=plan) as one:
        one.execute("CREATE SCHEMA odd", TABLES)
        one.prepare()
        one.copy()
        one.stream()
        yield one


# What comes twice, or not at all, is seen in `bag`.
WRITES = """
BEGIN;
INSERT INTO fresh_{n} VALUES ({row}, 'new', 1);
UPDATE fresh_{n} SET v = v || '!' WHERE id = {row} % 40000 + 1;
UPDATE fresh_{n} SET id = -id WHERE id = {row} % 39000 + 7;
DELETE FROM fresh_{n} WHERE id = {row} - 3;
INSERT INTO bag_{n} VALUES ({row} % 20, 'again');
DELETE FROM bag_{n} WHERE ctid IN
    (SELECT ctid FROM bag_{n} WHERE v = {row} % 20 ORDER BY ctid LIMIT 1);
UPDATE old SET v = v + 1 WHERE id = {row} % 500 + 1;
INSERT INTO other VALUES ({row}, 1);
COMMIT
"""


def written(databases: Following, number: int) -> AbstractContextManager[None]:
    """Somebody writes to all tables, in a range of numbers of each."""
    after = number * 1_000_000 + 100_000
    return busy(databases, WRITES.replace("{n}", str(number)), after=after, pause_s=0.003)


def equal(databases: Following, number: int, when: str) -> None:
    bag = f"SELECT v, w, count(*) FROM bag_{number} GROUP BY v, w ORDER BY v, w"
    for place, query in (
        ("a", f"SELECT * FROM fresh_{number} ORDER BY id"),
        ("b", bag),
        ("a", "SELECT * FROM old ORDER BY id"),
        ("b", "SELECT * FROM old ORDER BY id"),
        ("b", "SELECT * FROM other ORDER BY id"),
    ):
        assert databases.rows(place, query) == databases.rows("source", query), (when, query)
    keys = (
        "SELECT conname::text FROM pg_constraint WHERE contype IN ('p', 'f')"
        f" AND conrelid = 'fresh_{number}'::regclass ORDER BY 1"
    )
    assert databases.rows("a", keys) == databases.rows("source", keys), when


def test_a_refresh_killed_while_the_stream_goes_on_beside_it(databases: Following) -> None:
    """Nothing is lost or doubled: of the tables that come in, and of those that are there."""
    plan, slot = str(databases.path), names.refresh_slot("traps")
    there = f"SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{slot}'"
    for number, point in enumerate(POINTS):
        databases.execute(NEW.format(n=number))
        owners = ("--owner", f"fresh_{number}=a", "--owner", f"bag_{number}=b")
        words = ("plan", "refresh", plan, *owners)
        with written(databases, number):
            verb(databases, *words, code=KILLED, at=point)
            assert databases.rows("source", there) == [(1,)], point
            verb(databases, "stream", plan, "--until-caught-up", code=4)
            verb(databases, *words)
            assert databases.rows("source", there) == [(0,)], point
        verb(databases, "stream", plan, "--until-caught-up")
        equal(databases, number, point)


@pytest.mark.release
def test_what_a_lost_slot_has_kept_is_copied_once_more(databases: Following) -> None:
    point = "refresh.brought_up"
    plan, slot = str(databases.path), names.refresh_slot("traps")
    databases.execute(NEW.format(n=0))
    words = ("plan", "refresh", plan, "--owner", "fresh_0=a", "--owner", "bag_0=b")
    with written(databases, 0):
        verb(databases, *words, code=KILLED, at=point)
        drop_slot(databases, slot)
        verb(databases, *words)
    verb(databases, "stream", plan, "--until-caught-up")
    equal(databases, 0, point)


def drop_slot(databases: Following, slot: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            databases.execute(f"SELECT pg_drop_replication_slot('{slot}')")
        except psycopg.errors.ObjectInUse:  # the killed process's session ends in a moment
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            return
