"""Partitions that are made later, of tables whose old rows have to be logged in full."""

# ruff: noqa: S608 - names of this file are put together

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.following import DEADLINE_S, Following, following
from tests.verbs import Verbs
from toolkit.servers import Server
from toolkit.servers_watchdog import wait_until

SCHEMA = """
CREATE SCHEMA odd;
CREATE TABLE keyless (n int, v text) PARTITION BY RANGE (n);
CREATE TABLE keyless_0 PARTITION OF keyless FOR VALUES FROM (0) TO (10);
CREATE TABLE later (n int PRIMARY KEY DEFERRABLE, v text) PARTITION BY RANGE (n);
CREATE TABLE later_0 PARTITION OF later FOR VALUES FROM (0) TO (10);
CREATE TABLE keyed (n int PRIMARY KEY, v text) PARTITION BY RANGE (n);
CREATE TABLE keyed_0 PARTITION OF keyed FOR VALUES FROM (0) TO (10);
INSERT INTO keyless SELECT n, 'old' FROM generate_series(0, 9) n;
INSERT INTO later SELECT * FROM keyless;
INSERT INTO keyed SELECT * FROM keyless;
"""
TABLES = ("keyless", "later", "keyed")
PLAN = "keyless: a\nlater: a\nkeyed: a\n"
IDENTITIES = (
    "SELECT c.oid::regclass::text, relreplident::text FROM pg_class AS c"
    " WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') ORDER BY 1"
)


def make(split: Following, place: str, number: int) -> None:
    """A partition of each table."""
    for table in TABLES:
        split.execute_on(
            place,
            f"CREATE TABLE {table}_{number} PARTITION OF {table}"
            f" FOR VALUES FROM ({number}0) TO ({number + 1}0)",
        )


def fill(split: Following, place: str, number: int) -> None:
    for table in TABLES:
        split.execute_on(
            place, f"INSERT INTO {table} SELECT {number}0 + n, 'new' FROM generate_series(0, 9) n"
        )


def change(split: Following, place: str, number: int) -> None:
    for table in TABLES:
        split.execute_on(
            place,
            f"UPDATE {table} SET v = 'changed' WHERE n = {number}0",
            f"DELETE FROM {table} WHERE n = {number}1",
        )


def identity(split: Following, place: str, partition: str) -> str:
    return str(dict(split.rows(place, IDENTITIES)).get(partition))


def wait_for_identities(split: Following, place: str, number: int) -> None:
    assert wait_until(
        lambda: all(identity(split, place, f"{t}_{number}") == "f" for t in ("keyless", "later")),
        timeout_s=DEADLINE_S,
    ), split.rows(place, IDENTITIES)
    assert identity(split, place, f"keyed_{number}") == "d"


@pytest.fixture
def split(source_server: Server, target_server: Server, tmp_path: Path) -> Iterator[Following]:
    with following(source_server, target_server, tmp_path, tables=PLAN) as one:
        one.execute(SCHEMA)
        yield one


def test_may_be_changed_while_the_stream_runs_and_are_as_they_were_after_an_abort(
    split: Following,
) -> None:
    before = dict(split.rows("source", IDENTITIES))
    split.prepare()
    split.copy()
    verbs = Verbs(split.path, dict(os.environ))
    with verbs.stream(split.source):
        make(split, "source", 1)
        make(split, "source", 2)
        fill(split, "source", 1)
        wait_for_identities(split, "source", 1)
        wait_for_identities(split, "source", 2)
        change(split, "source", 1)
    split.stream()
    for table in TABLES:
        rows = f"SELECT n, v FROM {table} ORDER BY n"
        assert split.rows("a", rows) == split.rows("source", rows)
    split.execute(*(f"DROP TABLE {table}_2" for table in TABLES))
    verbs("abort", "--yes")
    made = {f"{t}_1": "d" for t in TABLES}
    assert dict(split.rows("source", IDENTITIES)) == before | made


def test_are_seen_by_a_refresh_and_a_prepare_that_goes_on(split: Following) -> None:
    split.prepare()
    split.copy()
    make(split, "source", 1)
    fill(split, "source", 1)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        split.execute("UPDATE keyless SET v = 'refused' WHERE n = 10")
    verbs = Verbs(split.path, dict(os.environ))
    told = verbs("doctor", code=4)
    assert "public.keyless_1" in told.out + told.err
    assert "public.later_1" in told.out + told.err
    verbs("plan", "refresh")
    assert identity(split, "source", "keyless_1") == identity(split, "source", "later_1") == "f"
    change(split, "source", 1)
    split.execute("ALTER TABLE keyless_1 REPLICA IDENTITY DEFAULT")
    verbs("prepare")
    assert identity(split, "source", "keyless_1") == "f"
    split.stream()
    for table in TABLES:
        rows = f"SELECT n, v FROM {table} ORDER BY n"
        assert split.rows("a", rows) == split.rows("source", rows)


def test_one_that_is_locked_is_waited_for_beside_the_stream_and_told(split: Following) -> None:
    split.prepare()
    split.copy()
    verbs = Verbs(split.path, dict(os.environ))
    with (
        verbs.stream(split.source),
        psycopg.connect(split.source, application_name="a report") as one,
    ):
        split.execute("CREATE TABLE keyless_1 PARTITION OF keyless FOR VALUES FROM (10) TO (20)")
        one.execute("SELECT FROM keyless_1")
        assert wait_until(
            lambda: any(
                "keyless_1" in said and "(a report)" in said
                for said in verbs.json("status")["stream"].get("alerts", ())
            ),
            timeout_s=DEADLINE_S,
        )
        assert identity(split, "source", "keyless_1") == "d"
        split.execute("INSERT INTO keyless VALUES (10, 'not held up')")
        assert wait_until(
            lambda: split.rows("a", "SELECT FROM keyless WHERE n = 10") != [],
            timeout_s=DEADLINE_S,
        )
        one.rollback()
        assert wait_until(
            lambda: identity(split, "source", "keyless_1") == "f", timeout_s=DEADLINE_S
        )
        split.execute("UPDATE keyless SET v = 'changed' WHERE n = 10")


def test_made_by_a_service_that_has_moved(split: Following) -> None:
    split.prepare()
    split.copy()
    verbs = Verbs(split.path, dict(os.environ))
    with verbs.stream(split.source):
        verbs("cutover", "--yes")
        make(split, "source", 1)
        make(split, "a", 1)
        fill(split, "a", 1)
        wait_for_identities(split, "a", 1)
        change(split, "a", 1)
        split.execute_on("a", "UPDATE keyless SET v = 'changed' WHERE n = 3")
