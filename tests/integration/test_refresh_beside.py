"""While a refresh copies tables, the stream goes on for all others."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psycopg
import pytest

import toolkit.refresh_beside
import toolkit.refresh_copy
from cdc.copying import Copying
from plans import names
from plans.errors import StreamBroken
from tests.following import DEADLINE_S, Following, following
from tests.verbs import Verbs
from toolkit.refresh import Refreshed, refresh
from toolkit.refresh_edits import Answers
from toolkit.servers import Server, running_server
from toolkit.servers_watchdog import wait_until

pytestmark = pytest.mark.long

TABLES = """
CREATE TABLE old (id int PRIMARY KEY, v text);
INSERT INTO old SELECT n, 'old' FROM generate_series(1, 100) n;
CREATE TABLE other (id int PRIMARY KEY, v text);
CREATE TABLE keyed (id int PRIMARY KEY, v text UNIQUE, n int);
INSERT INTO keyed SELECT n, n, 0 FROM generate_series(1, 1000) n;
CREATE INDEX keyed_n ON keyed (n);
"""
NEW = """
CREATE TABLE fresh (id int PRIMARY KEY, old int REFERENCES old, v text);
CREATE INDEX fresh_v ON fresh (v);
CREATE TABLE bag (v int);
INSERT INTO fresh SELECT n, n % 100 + 1, 'v' FROM generate_series(1, 1000) n;
INSERT INTO bag SELECT n % 10 FROM generate_series(1, 1000) n;
ALTER TABLE keyed ALTER n TYPE text USING 'n' || n;
"""
WRITES = """
INSERT INTO fresh SELECT n, 1, 'w' FROM generate_series(1001, 1100) n;
UPDATE fresh SET id = -id WHERE id % 7 = 0;
DELETE FROM fresh WHERE id % 5 = 0;
INSERT INTO bag SELECT 3 FROM generate_series(1, 50);
DELETE FROM bag WHERE ctid IN (SELECT min(ctid) FROM bag WHERE v IN (3, 4) GROUP BY v);
UPDATE keyed SET v = -id WHERE id % 3 = 0;
UPDATE keyed SET n = 'w' WHERE id % 4 = 0;
"""
OWNERS = {"fresh": "a", "bag": "b"}
SNAPSHOT = (  # its slot goes when all workers have it
    "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database()"
    " AND state = 'idle in transaction' AND query LIKE 'SET TRANSACTION SNAPSHOT%'"
)
COPIED = {"a:public.fresh", "b:public.bag", "a:public.keyed"}
SMALL_LOG = {"max_slot_wal_keep_size": "48MB", "min_wal_size": "32MB", "max_wal_size": "64MB"}


@pytest.fixture
def databases(source_server: Server, target_server: Server, tmp_path: Path) -> Iterator[Following]:
    plan = "old: a\nother: b\nkeyed: a\n"
    with following(source_server, target_server, tmp_path, tables=plan) as one:
        one.execute("CREATE SCHEMA odd", TABLES)
        one.prepare()
        one.copy()
        one.stream()
        one.execute(NEW)
        yield one


class Refreshing(threading.Thread):
    """A refresh in the background, and what it says."""

    def __init__(self, databases: Following) -> None:
        super().__init__(daemon=True)
        self.said: list[str] = []
        self.done: Refreshed | None = None
        self.failure: BaseException | None = None
        self._databases = databases

    def run(self) -> None:
        """Refresh."""
        answers = Answers(owners=OWNERS)
        try:
            self.done = refresh(self._databases.path, answers, self._say)
        except BaseException as error:  # noqa: BLE001 - looked at by the test's thread
            self.failure = error

    def _say(self, step: str, _details: object) -> None:
        self.said.append(step)
        # Whatever a refresh has just done, applications write as before.
        self._databases.execute("DELETE FROM bag WHERE ctid IN (SELECT max(ctid) FROM bag)")


@contextmanager
def held_up(databases: Following) -> Iterator[Refreshing]:
    """A refresh whose copy stands until the end of the block, and has ended then."""
    verbs = Verbs(databases.path, {})
    verbs("throttle", "--pause")
    refreshing = Refreshing(databases)
    refreshing.start()
    try:
        yield refreshing
    finally:
        verbs("throttle", "--resume")
        refreshing.join(DEADLINE_S)
    assert refreshing.done is not None, repr(refreshing.failure)


def same(databases: Following) -> None:
    for place, query in (
        ("a", "SELECT * FROM fresh ORDER BY id"),
        ("b", "SELECT v, count(*) FROM bag GROUP BY v ORDER BY v"),
        ("a", "SELECT * FROM keyed ORDER BY id"),
        ("a", "SELECT * FROM old ORDER BY id"),
        ("b", "SELECT * FROM other ORDER BY id"),
    ):
        assert databases.rows(place, query) == databases.rows("source", query), query
    attached = (
        "SELECT conname::text FROM pg_constraint WHERE conrelid IN ('fresh'::regclass,"
        " 'keyed'::regclass) AND contype IN ('p', 'u', 'f') UNION ALL"
        " SELECT indexrelid::regclass::text FROM pg_index"
        " WHERE indrelid IN ('fresh'::regclass, 'keyed'::regclass) ORDER BY 1"
    )
    assert databases.rows("a", attached) == databases.rows("source", attached)


def left(databases: Following) -> list[object]:
    """What there is only until tables have come in."""
    slots = f"SELECT slot_name FROM pg_replication_slots WHERE slot_name = '{_SLOT}'"  # noqa: S608
    progress = "SELECT stream FROM dbsplit.progress WHERE stream LIKE '%:refresh'"
    origins = "SELECT roname FROM pg_replication_origin WHERE roname ~ '^dbsplit_traps_.*refresh$'"
    found: list[object] = [*databases.rows("source", slots)]
    for place in ("a", "b"):
        found += [*databases.rows(place, progress), *databases.rows(place, origins)]
    return found


_SLOT = names.refresh_slot("traps")


def test_others_are_followed_while_tables_are_copied_anew(
    databases: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing that is written to the copied ones meanwhile is lost, or comes twice."""
    monkeypatch.setattr(toolkit.refresh_beside, "SMALL_BYTES", 0)
    arrived = "SELECT count(*) FROM other", "SELECT v FROM old WHERE id = 7"
    with held_up(databases) as refreshing:
        assert wait_until(lambda: "beside" in refreshing.said, timeout_s=60)
        assert wait_until(lambda: databases.rows("source", SNAPSHOT) == [(True,)], timeout_s=60)
        databases.execute(WRITES)
        databases.execute("INSERT INTO other VALUES (1, 'meanwhile')", "UPDATE old SET v = 'new'")
        assert wait_until(lambda: databases.rows("b", arrived[0]) == [(1,)], timeout_s=60)
        assert wait_until(lambda: databases.rows("a", arrived[1]) == [("new",)], timeout_s=60)
        assert refreshing.is_alive()
    assert set(refreshing.done.copied if refreshing.done else ()) == COPIED
    assert "joined" in refreshing.said
    databases.execute("INSERT INTO bag VALUES (99)", "UPDATE fresh SET v = 'last' WHERE id = 1")
    databases.stream()
    same(databases)
    assert left(databases) == []


def test_without_a_slot_the_stream_stands_while_tables_are_copied(
    databases: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolkit.refresh_beside, "SMALL_BYTES", 0)
    with no_slot_but_one(databases.source), held_up(databases) as refreshing:
        assert wait_until(lambda: "standing" in refreshing.said, timeout_s=60)
        assert wait_until(lambda: databases.rows("source", SNAPSHOT) == [(True,)], timeout_s=60)
        databases.execute(WRITES)
    assert "joined" not in refreshing.said
    databases.stream()
    same(databases)
    assert left(databases) == []


def test_chunks_of_several_moments_become_one_table_where_the_stream_stands(
    databases: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that came and went between and behind them is in none of them afterwards."""

    class Killed(Exception):
        pass

    def die(at: str) -> None:
        if at == "copy.chunk":
            raise Killed

    def delete(step: str, _details: object) -> None:
        if step == "copied":
            databases.execute("DELETE FROM fresh WHERE id = 5001")

    small = partial(Copying, chunk_bytes=1 << 13)
    monkeypatch.setattr(toolkit.refresh_copy, "Copying", small)
    with monkeypatch.context() as patch:
        patch.setattr("cdc.copy_load.crash_point", die)
        with pytest.raises(Killed):
            refresh(databases.path, Answers(owners=OWNERS), lambda _step, _details: None)
    databases.execute("INSERT INTO fresh VALUES (5001, 1, 'w'), (5002, 1, 'w')")
    refresh(databases.path, Answers(owners=OWNERS), delete)
    several = "SELECT count(DISTINCT horizon) FROM dbsplit.copied_chunk WHERE route ~ 'fresh'"
    assert databases.rows("a", several) == [(2,)]
    databases.stream()
    same(databases)


@pytest.mark.long
@pytest.mark.release
def test_tables_whose_log_was_removed_meanwhile_are_copied_once_more(
    target_server: Server, tmp_path: Path, pg_version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their slot is invalidated, and that of all others is not."""
    monkeypatch.setattr(toolkit.refresh_beside, "SMALL_BYTES", 0)
    plan = "old: a\nother: b\nkeyed: a\n"

    with (
        running_server(version=pg_version, settings=SMALL_LOG) as source,
        following(source, target_server, tmp_path, tables=plan) as one,
    ):

        def write(at: str, _details: object) -> None:
            if at == "copied":
                one.execute(WRITES)
                assert wait_until(lambda: is_removed(one), timeout_s=60)

        one.execute("CREATE SCHEMA odd", TABLES)
        one.prepare()
        one.copy()
        one.stream()
        one.execute(NEW)
        with pytest.raises(StreamBroken, match="invalidated") as told:
            refresh(one.path, Answers(owners=OWNERS), write)
        assert "copies them once more" in told.value.hint
        refresh(one.path, Answers(owners=OWNERS), lambda _step, _details: None)
        one.stream()
        same(one)
        assert left(one) == []


def is_removed(databases: Following) -> bool:
    """Write, as far as the others follow, and see whether what the refresh's slot keeps is gone."""
    rows = databases.rows(
        "source",
        "SELECT slot_name, wal_status, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) < 1e7"
        " FROM pg_replication_slots WHERE NOT temporary AND database = current_database()",
    )
    slots = {name: (status, near) for name, status, near in rows}
    # The others' slot must not fall so far behind: only what lets it go on, until it has.
    size = 10_000_000 if slots[names.slot("traps")][1] else 1
    noise = f"SELECT pg_logical_emit_message(false, 'noise', repeat('x', {size}))"
    databases.execute(noise, "CHECKPOINT")
    return bool(slots[_SLOT][0] == "lost")


@pytest.mark.parametrize("step", ["schema", "copied"])
def test_ddl_while_a_refresh_is_pending_is_taken_in_when_it_goes_on(
    databases: Following, step: str
) -> None:
    """Whether the shapes of then are noted already, or not."""

    class Killed(Exception):
        pass

    def die(at: str, _details: object) -> None:
        if at == step:
            raise Killed

    with pytest.raises(Killed):
        refresh(databases.path, Answers(owners=OWNERS), die)
    databases.execute(
        "INSERT INTO keyed VALUES (5001, 'a', 'b'); INSERT INTO fresh VALUES (5001, 1, 'w')",
        "ALTER TABLE keyed ADD extra int DEFAULT 7; ALTER TABLE other ADD extra int",
        "ALTER TABLE fresh ALTER v SET NOT NULL; ALTER TABLE old RENAME v TO w",
        "INSERT INTO other VALUES (1, 'v', 2); UPDATE old SET w = 'renamed' WHERE id = 3",
    )
    refresh(databases.path, Answers(owners=OWNERS), lambda _step, _details: None)
    databases.execute("UPDATE keyed SET extra = 9 WHERE id = 7")
    databases.stream()
    same(databases)


@contextmanager
def no_slot_but_one(dsn: str) -> Iterator[None]:
    """Others have taken all but one, which the copy needs for its snapshot."""
    free = (
        "SELECT current_setting('max_replication_slots')::int - count(*) FROM pg_replication_slots"
    )
    take = "SELECT pg_create_physical_replication_slot(%s)"
    taken: list[str] = []
    with psycopg.connect(dsn, autocommit=True) as source:
        try:
            while source.execute(free).fetchone() != (1,):
                taken.append(f"taken_{len(taken)}")
                source.execute(take, [taken[-1]])
            yield
        finally:
            for name in taken:
                source.execute("SELECT pg_drop_replication_slot(%s)", [name])
