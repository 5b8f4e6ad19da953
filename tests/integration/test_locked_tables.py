"""Tables that somebody locks: who only looks does without them, and says who it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from plans.catalog_read import read_catalog
from plans.holders import shut
from tests.following import Following, following
from tests.verbs import Verbs
from toolkit.servers import Server
from toolkit.servers_watchdog import wait_until

WAITS_S_MAX = 30.0
WHO = "a long ALTER"
TABLES = (
    "CREATE SCHEMA odd; CREATE TABLE t (id int PRIMARY KEY, at date DEFAULT '2024-02-29',"
    " twice int GENERATED ALWAYS AS (id * 2) STORED); CREATE VIEW seen AS SELECT id FROM t"
)


@contextmanager
def locked(dsn: str, table: str = "t") -> Iterator[None]:
    with psycopg.connect(dsn, application_name=WHO) as somebody:
        somebody.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE".encode())
        yield
        somebody.rollback()


@pytest.fixture
def split(
    source_server: Server,
    target_server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Following]:
    for module in ("plans.holders", "toolkit.status"):  # a lock counts from its first moment on
        monkeypatch.setattr(f"{module}.MOMENT_S", 0.0)
    with following(source_server, target_server, tmp_path, tables="t: a\n") as one:
        one.execute(TABLES)
        # What waited for a lock is not to keep the test waiting.
        one.execute("DO $$BEGIN EXECUTE format('ALTER DATABASE %I SET lock_timeout = ''2s''',"
                    " current_database()); END$$")  # fmt: skip
        yield one


def test_status_and_doctor_come_while_a_table_is_locked(split: Following) -> None:
    split.prepare()
    split.copy()
    verbs = Verbs(split.path, {})
    assert verbs.json("status")["locked"] == []
    for place in ("source", "a"):
        with locked(split.source if place == "source" else split.targets[place]):
            told = verbs.json("status")
            (found,) = told["locked"]
            assert found.startswith(f"{place}: table public.t is locked by process ")
            assert WHO in found
            (gate,) = told["gates"]
            assert not gate["ok"]
            assert WHO in gate["observed"]
            without_its_time = found.rpartition(" for ")[0]
            assert f"LOCKED  {without_its_time} for " in verbs("status").out
            assert verbs.json("doctor")["ok"]
    assert len(verbs.json("status")["gates"]) > 1


@pytest.mark.parametrize("verb", ["check", "explain"])
def test_what_reads_rows_refuses_and_says_who_locks_them(split: Following, verb: str) -> None:
    verbs = Verbs(split.path, {})
    with locked(split.source):
        verbs.refused("plan", verb, code=4, says=f"({WHO})", hint="wait for the end")


def test_a_comparison_says_who_locked_what_it_could_not_read(
    split: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    split.execute("ALTER TABLE t DROP twice")
    split.prepare()
    split.copy()
    monkeypatch.setattr("validators.session.LOCK_S_MAX", 0.2)
    with locked(split.targets["a"]):
        told = Verbs(split.path, {}).json("validate", code=5)
    (table,) = told["tables"]
    assert table["state"] == "unverified"
    assert "table public.t is locked by process" in table["reason"]
    assert WHO in table["reason"]


def test_a_catalog_is_read_alike_while_its_tables_are_locked(split: Following) -> None:
    split.execute("CREATE TABLE plain (id int PRIMARY KEY, at date DEFAULT '2024-02-29')")
    with psycopg.connect(split.source, autocommit=True) as conn:
        before = read_catalog(conn, ["public"])
        with locked(split.source, "plain"):
            found = read_catalog(conn, ["public"])
        assert [t.columns for t in found.tables.values()] == [
            t.columns for t in before.tables.values()
        ]
        with locked(split.source):
            assert (
                read_catalog(conn, ["public"], patient=False).tables.keys() == before.tables.keys()
            )


def test_who_waits_for_a_lock_shuts_a_table_too(split: Following) -> None:
    waiting = psycopg.connect(make_conninfo(split.source, application_name=WHO), autocommit=False)
    with (
        psycopg.connect(split.source) as reader,
        psycopg.connect(split.source, autocommit=True) as looks,
        waiting,
    ):
        reader.execute("SELECT FROM t")
        waiting.execute("SET lock_timeout = 0")
        thread = Thread(target=waiting.execute, args=("LOCK TABLE t",))
        thread.start()
        assert wait_until(lambda: bool(shut(looks)), timeout_s=WAITS_S_MAX)
        (told,) = shut(looks)
        assert told.endswith("keeps table public.t from a lock")
        assert f"process {reader.info.backend_pid} " in told
        assert f"process {waiting.info.backend_pid} " not in told
        reader.rollback()
        thread.join(WAITS_S_MAX)
        waiting.rollback()
