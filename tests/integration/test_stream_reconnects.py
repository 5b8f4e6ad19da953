"""A stream whose own sessions are ended goes on by itself, unless it must not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

import toolkit.patience
from plans import names
from plans.errors import NotReady, SplitError, StreamBroken
from tests.chaos.proxy import Proxy
from tests.conftest import fresh_database
from tests.following import Following
from toolkit.evolving import follow
from toolkit.servers import Server
from toolkit.servers_watchdog import wait_until
from toolkit.streaming import StreamProgress

pytestmark = pytest.mark.long

START_S_MAX = 60.0
PLAN = """\
split: traps
source: {{dsn: "{source}", schemas: [public]}}
services:
  a: {{dsn: "{a}"}}
tables: {{t: a}}
"""
OURS = "FROM pg_stat_activity WHERE application_name LIKE 'dbsplit stream%'"
ENDED = f"SELECT count(pg_terminate_backend(pid)) {OURS} AND datname = current_database()"


class Streaming(threading.Thread):
    """What the verb does, until it is stopped or ends by itself."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.said: list[str] = []
        self.stop = threading.Event()
        self.connected = threading.Event()
        self.failure: BaseException | None = None
        self._path = path

    def run(self) -> None:
        """Follow."""
        try:
            follow(
                self._path,
                stop=self.stop,
                until_caught_up=False,
                report=self._report,
                say=lambda step, _details: self.said.append(step),
            )
        except BaseException as error:  # noqa: BLE001 - looked at by the test's thread
            self.failure = error

    def _report(self, progress: StreamProgress) -> None:
        if progress.connected:
            self.connected.set()

    def broken(self) -> SplitError:
        """What has ended it."""
        self.join(START_S_MAX)
        assert not self.is_alive()
        assert isinstance(self.failure, SplitError), repr(self.failure)
        return self.failure


@contextmanager
def streaming(databases: Following) -> Iterator[Streaming]:
    one = Streaming(databases.path)
    one.start()
    try:
        assert one.connected.wait(START_S_MAX), repr(one.failure)
        yield one
    finally:
        one.stop.set()
        one.join(START_S_MAX)


@pytest.fixture
def proxy(source_server: Server) -> Iterator[Proxy]:
    with Proxy(source_server.port) as one:
        yield one


@pytest.fixture
def databases(
    source_server: Server, target_server: Server, proxy: Proxy, tmp_path: Path
) -> Iterator[Following]:
    """The split reaches its source by way of a proxy, the test itself does not."""
    path = tmp_path / "plan.yaml"
    with fresh_database(source_server) as source, fresh_database(target_server) as target:
        path.write_text(PLAN.format(source=proxy.dsn(source), a=target))
        one = Following(source, {"a": target}, path)
        one.execute("CREATE TABLE t (id int PRIMARY KEY)")
        one.prepare()
        one.copy()
        yield one


def arrives(databases: Following, number: int) -> bool:
    databases.execute(f"INSERT INTO t VALUES ({number})")  # noqa: S608
    query = f"SELECT count(*) FROM t WHERE id = {number}"  # noqa: S608
    return wait_until(lambda: databases.rows("a", query) == [(1,)], timeout_s=30)


def test_whatever_session_is_ended_the_stream_goes_on(databases: Following, proxy: Proxy) -> None:
    with streaming(databases) as stream:
        assert arrives(databases, 1)
        for number, place in enumerate(("source", "a"), 2):
            assert databases.rows(place, ENDED) != [(0,)]
            assert arrives(databases, number), repr(stream.failure)
        assert "reconnecting" in stream.said
        before = stream.said.count("reconnecting")
        proxy.cut()
        assert arrives(databases, 4), repr(stream.failure)
        assert wait_until(lambda: stream.said.count("reconnecting") > before, timeout_s=30)
    assert stream.failure is None
    assert databases.rows("a", "SELECT * FROM t ORDER BY 1") == [(1,), (2,), (3,), (4,)]


def test_a_source_that_stays_away_ends_the_stream(
    databases: Following, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolkit.patience, "PATIENT_S_MAX", 1.0)
    with streaming(databases) as stream:
        proxy.refuse()
        proxy.cut()
        failure = stream.broken()
    assert isinstance(failure, StreamBroken)
    assert "could not be continued" in str(failure)
    with pytest.raises(NotReady, match="cannot connect"):  # at the start it is told at once
        follow(
            databases.path,
            stop=threading.Event(),
            until_caught_up=True,
            report=lambda _progress: None,
            say=lambda _step, _details: None,
        )


def test_a_slot_that_is_gone_meanwhile_still_ends_the_stream(databases: Following) -> None:
    drop = f"SELECT pg_drop_replication_slot('{names.slot('traps')}')"
    with streaming(databases) as stream:
        assert arrives(databases, 1)
        assert wait_until(lambda: dropped(databases, drop), timeout_s=30)
        failure = stream.broken()
    assert "does not exist any more" in str(failure) or "invalidated" in str(failure)
    assert isinstance(failure, StreamBroken)


def dropped(databases: Following, drop: str) -> bool:
    try:
        databases.rows("source", ENDED)
        databases.execute(drop)
    except psycopg.errors.ObjectInUse:
        return False
    return True
