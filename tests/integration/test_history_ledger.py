from __future__ import annotations

import time
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest

from tests.history import LedgerWriters, check_ledger, setup_ledger
from toolkit.servers import Server

RUN_S = 2.0


@pytest.fixture
def written(source_db: str, tmp_path: Path) -> Path:
    """A directory with the histories of writers that are done."""
    setup_ledger(source_db)
    with LedgerWriters(lambda: source_db, tmp_path) as writers:
        time.sleep(RUN_S)
    tally = writers.tally()
    assert tally.crashed == tally.given_up == 0
    assert tally.acknowledged > 100
    assert tally.rolled_back > 0
    return tmp_path


def change(dsn: str, statement: LiteralString) -> None:
    """Plant a fault in one row."""
    with psycopg.connect(dsn) as connection:
        assert connection.execute(statement).rowcount == 1


def test_all_that_was_acknowledged_is_there_once(source_db: str, written: Path) -> None:
    report = check_ledger(source_db, written)
    assert report.whole, report
    assert report.indeterminate == 0


def test_a_lost_and_a_doubled_row_are_found(source_db: str, written: Path) -> None:
    change(
        source_db,
        "DELETE FROM ledger WHERE id = (SELECT min(id) FROM ledger WHERE note IS NULL)",
    )
    report = check_ledger(source_db, written)
    assert (report.missing, report.doubled, report.faults) == (1, 0, 1)
    with psycopg.connect(source_db) as connection:
        connection.execute("ALTER TABLE ledger DROP CONSTRAINT ledger_token_key")
        connection.execute(
            "INSERT INTO ledger (writer, token, amount)"
            " SELECT writer, token, amount FROM ledger WHERE note IS NULL ORDER BY id LIMIT 1"
        )
    report = check_ledger(source_db, written)
    assert (report.missing, report.doubled, report.faults) == (1, 1, 2)


@pytest.mark.parametrize(("step", "missing", "doubled"), [(-1, 1, 0), (1, 0, 1), (-2, 2, 0)])
def test_lost_and_doubled_increments_are_found(
    source_db: str, written: Path, step: int, missing: int, doubled: int
) -> None:
    with psycopg.connect(source_db) as connection:
        connection.execute(
            "UPDATE account SET revision = revision + %s WHERE name = 'account 1'", (step,)
        )
    report = check_ledger(source_db, written)
    assert (report.missing, report.doubled, report.faults) == (missing, doubled, missing + doubled)


def test_a_value_that_was_not_carried_over_is_found(source_db: str, written: Path) -> None:
    change(
        source_db,
        "UPDATE ledger SET note = '' WHERE id = (SELECT max(id) FROM ledger WHERE n > 0)",
    )
    report = check_ledger(source_db, written)
    assert report.altered == report.faults == 2  # as the row that came, and at its last count


def test_a_history_is_not_whole_if_nothing_was_acknowledged(source_db: str, tmp_path: Path) -> None:
    assert not check_ledger(source_db, tmp_path).whole


def test_connections_that_are_terminated_leave_the_history_whole(
    source_db: str, tmp_path: Path
) -> None:
    setup_ledger(source_db)
    with (
        psycopg.connect(source_db, autocommit=True) as admin,
        LedgerWriters(lambda: source_db, tmp_path, rate=1000) as writers,
    ):
        for _ in range(30):
            time.sleep(0.1)
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name LIKE 'ledger-%'"
            )
    assert writers.tally().retried > 0
    report = check_ledger(source_db, tmp_path)
    assert report.whole, report
    assert report.max_pause_ms > 0


def test_a_server_that_is_killed_leaves_the_history_whole(
    source_server: Server, source_db: str, tmp_path: Path
) -> None:
    setup_ledger(source_db)
    with LedgerWriters(lambda: source_db, tmp_path, rate=1000) as writers:
        for _ in range(2):
            time.sleep(0.5)
            source_server.kill()
            source_server.start()
        time.sleep(0.5)
    assert writers.tally().given_up == 0
    report = check_ledger(source_db, tmp_path)
    assert report.whole, report


def test_writers_go_where_they_are_told_and_rest_when_paused(
    source_db: str, target_db: str, tmp_path: Path
) -> None:
    for dsn in (source_db, target_db):
        setup_ledger(dsn)
    place = source_db

    def entries(dsn: str) -> Any:
        with psycopg.connect(dsn) as connection:
            [row] = connection.execute("SELECT count(*) FROM ledger")
            return row[0]

    with LedgerWriters(lambda: place, tmp_path) as writers:
        time.sleep(0.5)
        writers.pause()
        before = entries(source_db)
        place = target_db
        time.sleep(0.3)
        assert entries(source_db) == before
        assert entries(target_db) == 0
        writers.resume()
        time.sleep(0.5)
    assert entries(source_db) == before
    assert entries(target_db) > 0
    report = check_ledger(target_db, tmp_path)
    assert report.missing > 0  # what was written on the source was not moved
