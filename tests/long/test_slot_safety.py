# ruff: noqa: S608 -- all of the SQL is the tests' own
"""What happens to a slot, and to the log that it keeps, is noticed and never passed over."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

import toolkit.slot_health
from plans import names
from plans.errors import NotReady, StreamBroken
from tests.following import Following, following
from toolkit.abort import abort as abort_split
from toolkit.opened import open_split
from toolkit.servers import Server, running_server
from toolkit.servers_watchdog import wait_until
from toolkit.status import read_status

SLOT = names.slot("traps")
WAIT_S_MAX = 60.0
SCHEMA = (
    "CREATE SCHEMA odd",
    "CREATE TABLE t (id int PRIMARY KEY, v text)",
    "INSERT INTO t VALUES (1, 'one')",
)
FILL = (
    "SELECT pg_logical_emit_message(false, 'noise', repeat('x', 1000000))"
    " FROM generate_series(1, {})"
)
SMALL_LOG = {
    "max_slot_wal_keep_size": "48MB",
    "min_wal_size": "32MB",
    "max_wal_size": "64MB",
}


@pytest.fixture
def databases(source_server: Server, target_server: Server, tmp_path: Path) -> Iterator[Following]:
    with following(source_server, target_server, tmp_path, tables="t: a\n") as one:
        one.execute(*SCHEMA)
        one.prepare()
        one.copy()
        one.stream()
        yield one


def breaks(databases: Following) -> StreamBroken:
    with pytest.raises(StreamBroken) as caught:
        databases.stream()
    assert caught.value.hint
    return caught.value


def retained(databases: Following) -> int:
    [(size,)] = databases.rows(
        "source",
        "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint"
        f" FROM pg_replication_slots WHERE slot_name = '{SLOT}'",
    )
    return int(size)


def slots(databases: Following) -> list[tuple[object, ...]]:
    return databases.rows(
        "source", "SELECT FROM pg_replication_slots WHERE database = current_database()"
    )


def drop_slot(databases: Following) -> None:
    databases.execute(
        f"SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"
        f" WHERE slot_name = '{SLOT}' AND active_pid IS NOT NULL"
    )

    def is_dropped() -> bool:
        try:
            databases.execute(f"SELECT pg_drop_replication_slot('{SLOT}')")
        except psycopg.errors.ObjectInUse:
            return False
        return True

    assert wait_until(is_dropped, timeout_s=WAIT_S_MAX)


def test_an_idle_database_keeps_no_log_of_its_neighbours(
    databases: Following, source_server: Server
) -> None:
    """Only another database of the instance is written; the slot goes on nevertheless."""
    with databases.live(), psycopg.connect(source_server.dsn(), autocommit=True) as other:
        other.execute(FILL.format(60).encode())

        def is_let_go() -> bool:
            other.execute("CHECKPOINT")  # what restart_lsn moves with
            return retained(databases) < 20_000_000

        assert wait_until(is_let_go, timeout_s=WAIT_S_MAX), retained(databases)


def test_a_dropped_slot_ends_the_stream_at_its_start(databases: Following) -> None:
    drop_slot(databases)
    assert "does not exist any more" in str(breaks(databases))


def test_a_slot_that_is_dropped_while_it_is_read_ends_the_stream(databases: Following) -> None:
    with databases.live() as live:
        drop_slot(databases)
        error = live.broken()
    assert isinstance(error, StreamBroken)
    assert "does not exist any more" in str(error)


def test_a_recreated_slot_is_not_taken_for_the_old_one(databases: Following) -> None:
    drop_slot(databases)
    databases.execute("INSERT INTO t VALUES (2, 'lost')")
    databases.execute(f"SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput')")
    assert "the slot was recreated or advanced" in str(breaks(databases))


def test_another_server_is_not_taken_for_the_old_one(databases: Following) -> None:
    databases.execute_on(
        "a",
        "UPDATE dbsplit.split SET settings = jsonb_set(settings, '{servers,source,0}', '\"1\"')",
    )
    assert "another server than it was made on" in str(breaks(databases))


def test_a_server_that_went_back_is_noticed(databases: Following) -> None:
    databases.execute_on("a", "UPDATE dbsplit.progress SET lsn = '7F000000/0'")
    assert "it was restored from a copy" in str(breaks(databases))


def test_status_tells_when_the_log_reaches_its_limit(
    databases: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody streams: what was noted last, and what is retained now, make the forecast."""
    monkeypatch.setattr(toolkit.slot_health, "WINDOW_S_MIN", 0.01)
    databases.execute(FILL.format(30))
    databases.execute("INSERT INTO t VALUES (3, 'three')")  # a commit: what is before it is written
    time.sleep(0.1)
    status = read_status(open_split(databases.path, tolerant=True))
    (slot,) = status.slots
    assert slot.slot == SLOT
    assert slot.retained_bytes > 30_000_000
    assert slot.growth_bytes_s is not None
    assert slot.growth_bytes_s > 0
    assert slot.forecast.startswith("full in ")
    gates = {gate.gate: gate for gate in status.gates}
    assert gates["slots"].ok
    assert gates["wal_full"].observed.startswith("in ")


def test_a_split_over_its_budget_is_given_up_and_frees_the_log(databases: Following) -> None:
    with databases.path.open("a") as plan:
        plan.write("limits: {wal_retained_bytes_max: 20000000}\nslots: {over_budget: give_up}\n")
    # A target that is held up: the stream cannot go on, and the log stays.
    with psycopg.connect(databases.targets["a"]) as held:
        held.execute("LOCK TABLE t IN SHARE MODE")
        with databases.live() as live:
            databases.execute("INSERT INTO t VALUES (2, 'two')", FILL.format(40))
            assert wait_until(lambda: not slots(databases), timeout_s=WAIT_S_MAX)
            held.rollback()
            error = live.broken()
    assert "was given up, as the plan wants it" in str(error)
    assert not slots(databases)
    assert "was given up" in str(breaks(databases)), "and it is not started over"
    with pytest.raises(StreamBroken, match="was given up"):
        databases.prepare()
    abort(databases)
    databases.prepare()
    databases.copy()
    databases.stream()
    assert databases.rows("a", "SELECT count(*) FROM t") == [(2,)]


def test_the_copy_gives_up_too(
    source_server: Server, target_server: Server, tmp_path: Path
) -> None:
    with following(source_server, target_server, tmp_path, tables="t: a\n") as databases:
        databases.execute(*SCHEMA)
        with databases.path.open("a") as plan:
            plan.write(
                "limits: {wal_retained_bytes_max: 20000000}\nslots: {over_budget: give_up}\n"
            )
        databases.prepare()
        databases.execute(FILL.format(40))
        with pytest.raises(StreamBroken, match="was given up"):
            databases.copy()
        assert databases.rows("source", "SELECT slot_name FROM pg_replication_slots") == []
        with pytest.raises(StreamBroken, match="was given up"):
            databases.copy()


def test_over_budget_is_an_alert_unless_the_plan_says_otherwise(databases: Following) -> None:
    with databases.path.open("a") as plan:
        plan.write("limits: {wal_retained_bytes_max: 20000000}\n")
    databases.execute(FILL.format(40))
    with psycopg.connect(databases.targets["a"]) as held, databases.live():
        held.execute("LOCK TABLE t IN SHARE MODE")

        def is_told() -> bool:
            return (
                databases.rows(
                    "source", "SELECT details ->> 'alerts' FROM dbsplit.event WHERE kind = 'alert'"
                )
                != []
            )

        assert wait_until(is_told, timeout_s=WAIT_S_MAX)


def test_an_invalidated_slot_is_told_and_not_started_over(
    target_server: Server, tmp_path: Path, pg_version: str
) -> None:
    with (
        running_server(version=pg_version, settings=SMALL_LOG) as source,
        following(source, target_server, tmp_path, tables="t: a\n") as one,
    ):
        one.execute(*SCHEMA)
        one.prepare()
        one.copy()
        one.stream()
        one.execute(*(FILL.format(40) for _ in range(4)), "CHECKPOINT")
        assert "was invalidated" in str(breaks(one))
        (slot,) = read_status(open_split(one.path, tolerant=True)).slots
        assert slot.wal_status == "lost"


def test_abort_frees_the_source_though_a_target_does_not_answer(
    source_server: Server, tmp_path: Path, pg_version: str
) -> None:
    with (
        running_server(version=pg_version) as target,
        following(source_server, target, tmp_path, tables="t: a\n") as one,
    ):
        one.execute(*SCHEMA)
        one.prepare()
        one.copy()
        target.stop()
        with pytest.raises(NotReady, match="service a did not answer"):
            abort(one)
        assert not slots(one)
        assert one.rows("source", "SELECT FROM pg_publication") == []
        assert one.rows("source", "SELECT to_regnamespace('dbsplit')") == [(None,)]
        target.start()
        abort(one)
        assert one.rows("a", "SELECT to_regclass('t')") == [(None,)]
        assert one.rows("a", "SELECT to_regnamespace('dbsplit')") == [(None,)]


def abort(databases: Following) -> None:
    abort_split(open_split(databases.path, tolerant=True), dry_run=False, say=lambda _s, _d: None)


def test_standbys_get_our_slot_where_the_server_can(databases: Following, pg_version: str) -> None:
    if int(pg_version) < 17:
        return
    found = databases.rows(
        "source", "SELECT failover FROM pg_replication_slots WHERE database = current_database()"
    )
    assert found == [(True,)]


def test_a_promotion_goes_on_if_nothing_was_lost_and_not_otherwise(
    target_server: Server, tmp_path: Path, pg_version: str
) -> None:
    """A server that was a standby for a moment: its slots and its log are its own."""
    with (
        running_server(version=pg_version) as source,
        following(source, target_server, tmp_path, tables="t: a\n") as one,
    ):
        one.execute(*SCHEMA)
        one.prepare()
        one.copy()
        one.stream()
        promote(source)
        one.execute("INSERT INTO t VALUES (2, 'after')")
        one.stream()
        assert one.rows("a", "SELECT count(*) FROM t") == [(2,)]
        [(noted,)] = one.rows("a", "SELECT settings -> 'servers' -> 'source' FROM dbsplit.split")
        assert noted[1] == 2
        one.stream()
        promote(source)
        # The target has something that only the server before had.
        one.execute_on("a", "UPDATE dbsplit.progress SET lsn = lsn + 100000000")
        assert "was promoted or restored at" in str(breaks(one))


def promote(server: Server) -> None:
    server.stop()
    (server.data_dir / "standby.signal").touch()
    server.start()
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        assert connection.execute("SELECT pg_promote()").fetchone() == (True,)
