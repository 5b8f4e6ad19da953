# ruff: noqa: S608 -- all of the SQL is the tests' own
"""The source fails over to a standby that has our slot: the stream goes on, or says why not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from plans import names
from plans.errors import StreamBroken
from tests.following import Following, following
from tests.history import LedgerWriters, check_ledger, setup_ledger
from tests.standby import standby_of
from tests.verbs import Verbs
from toolkit.servers import Server, running_server
from toolkit.servers_watchdog import wait_until

WAIT_S_MAX = 90.0
SLOT = names.slot("traps")
SYNCED = (
    f"SELECT 1 FROM pg_replication_slots WHERE slot_name = '{SLOT}' AND synced AND NOT temporary"
)


@pytest.fixture
def databases(
    target_server: Server, tmp_path: Path, pg_version: str
) -> Iterator[tuple[Server, Following]]:
    with (
        running_server(version=pg_version) as primary,
        following(primary, target_server, tmp_path, tables="ledger: a\naccount: a\n") as one,
    ):
        one.execute("CREATE SCHEMA odd")
        setup_ledger(one.source)
        one.prepare()
        one.copy()
        one.stream()
        yield primary, one


def test_a_stream_goes_on_after_a_failover_with_nothing_lost_or_doubled(
    databases: tuple[Server, Following], tmp_path: Path, pg_version: str
) -> None:
    if int(pg_version) < 17:
        return  # no such slots
    primary, before = databases
    database = before.source.rpartition("/")[2]
    history = tmp_path / "history"
    history.mkdir()
    with standby_of(primary, synchronized=True) as standby:
        place = [before.source]
        with LedgerWriters(lambda: place[0], history, retry_s_max=WAIT_S_MAX) as writers:
            with before.live() as live:
                assert wait_until(lambda: has(standby, SYNCED), timeout_s=WAIT_S_MAX)
                wanted = writers.tally().acknowledged + 200
                assert wait_until(
                    lambda: writers.tally().acknowledged > wanted, timeout_s=WAIT_S_MAX
                )
                primary.stop("immediate")
                live.end()
            promote(standby)
            place[0] = standby.dsn(database)
            after = moved(before, standby.dsn(database))
            with after.live():
                wanted = writers.tally().acknowledged + 200
                assert wait_until(
                    lambda: writers.tally().acknowledged > wanted, timeout_s=WAIT_S_MAX
                )
            writers.pause()
            after.stream()
            for dsn in (after.source, after.targets["a"]):
                report = check_ledger(dsn, history)
                assert report.whole, report
        # A standby that had not got the slot yet is told from one that had.
        execute(standby, f"SELECT pg_drop_replication_slot('{SLOT}')")
        with pytest.raises(StreamBroken, match="promoted without it") as caught:
            after.stream()
        assert "dbsplit abort" in caught.value.hint


def test_a_standby_that_the_stream_does_not_wait_for_is_told(
    databases: tuple[Server, Following], pg_version: str
) -> None:
    if int(pg_version) < 17:
        return
    primary, one = databases
    with standby_of(primary, synchronized=False), one.live():
        said = "standby standby is not in synchronized_standby_slots"
        status = Verbs(one.path, {})
        assert wait_until(lambda: said in status("status").out, timeout_s=WAIT_S_MAX)


def moved(before: Following, dsn: str) -> Following:
    """The same split, with its source elsewhere."""
    before.path.write_text(before.path.read_text().replace(before.source, dsn))
    return Following(dsn, before.targets, before.path)


def has(server: Server, query: str) -> bool:
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        return connection.execute(query.encode()).fetchone() is not None


def execute(server: Server, query: str) -> None:
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(query.encode())


def promote(server: Server) -> None:
    execute(server, "SELECT pg_promote()")
