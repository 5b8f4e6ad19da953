"""A table that somebody keeps open: what needs its lock waits, and nobody else has to."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from tests.following import Following, following
from tests.verbs import Verbs
from toolkit.servers import Server

SCHEMA = "CREATE SCHEMA odd; CREATE TABLE t (n int); CREATE TABLE u (id int PRIMARY KEY)"
WRITES_S_MAX = 1.5
"""How long a write may take beside a lock that is waited for; it took ten seconds."""


@pytest.fixture
def split(source_server: Server, target_server: Server, tmp_path: Path) -> Iterator[Following]:
    with following(source_server, target_server, tmp_path, tables="t: a\nu: a\n") as one:
        one.execute(SCHEMA)
        yield one


@contextmanager
def holding(dsn: str, name: str, statement: str) -> Iterator[None]:
    with psycopg.connect(dsn, application_name=name) as somebody:
        somebody.execute(statement.encode())
        yield
        somebody.rollback()


@contextmanager
def writing(dsn: str) -> Iterator[list[float]]:
    """Write without a pause; the seconds that each write took."""
    took: list[float] = []
    stop = threading.Event()

    def write() -> None:
        with psycopg.connect(dsn, autocommit=True) as writer:
            while not stop.is_set():
                began = time.monotonic()
                writer.execute("INSERT INTO t VALUES (1)")
                took.append(time.monotonic() - began)
                time.sleep(0.001)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield took
    finally:
        stop.set()
        writer.join()
    assert max(took) < WRITES_S_MAX


def test_an_abort_waits_for_a_reader_and_holds_up_no_writer(
    split: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolkit.removal.LOCK_WAIT_S", 3.0)
    split.prepare()
    verbs = Verbs(split.path, dict(os.environ))
    with holding(split.source, "a report", "SELECT FROM t"), writing(split.source) as took:
        refused = verbs("abort", "--yes", code=4)
        assert 'ALTER TABLE IF EXISTS "public"."t"' in refused.err
        assert "it waits for process " in refused.err
        assert "(a report)" in refused.err
        assert len(took) > 100
    verbs("abort", "--yes")
    assert split.rows("source", "SELECT relreplident::text FROM pg_class WHERE relname = 't'") == [
        ("d",)
    ]


def test_a_prepare_waits_for_a_reader_and_holds_up_no_writer(
    split: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolkit.identities.LOCK_WAIT_S", 3.0)
    verbs = Verbs(split.path, dict(os.environ))
    with holding(split.source, "a report", "SELECT FROM t"), writing(split.source):
        verbs.refused("prepare", code=4, says="identity of public.t", hint="(a report)")
    verbs("prepare")


def test_a_prepare_that_cannot_publish_names_who_vacuums_and_not_who_reads(
    split: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolkit.source_log.LOCK_WAIT_S", 1.0)
    verbs = Verbs(split.path, dict(os.environ))
    vacuum = "LOCK TABLE u IN SHARE UPDATE EXCLUSIVE MODE"
    with holding(split.source, "a report", "SELECT FROM u"):
        with holding(split.source, "a vacuum", vacuum):
            refused = verbs.refused("prepare", code=4, says="published", hint="(a vacuum)")
            assert "a report" not in refused.err
        verbs("prepare")


def test_a_way_back_waits_for_a_reader_and_says_who_it_is(
    split: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    split.prepare()
    split.copy()
    verbs = Verbs(split.path, dict(os.environ))
    with verbs.stream(split.source):
        split.execute_on("a", "ALTER TABLE t REPLICA IDENTITY DEFAULT")
        monkeypatch.setattr("toolkit.back.LOCK_WAIT_S", 1.0)
        with holding(split.targets["a"], "a report", "SELECT FROM t"):
            refused = verbs("cutover", "--yes", code=4)
            assert "service a: the replica identity of public.t" in refused.err
            assert "(a report)" in refused.err
        verbs("cutover", "--yes")
