"""`validate --snapshot` or the stream is killed while the stream stands still."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from cdc.lsn import LSN
from tests.crash.line import Line
from tests.crash.points import POSITION
from tests.processes import VERB_S_MAX, Running
from toolkit.one_position import STAND_S_MAX
from toolkit.servers_watchdog import wait_until

SLACK_S = 20.0  # a busy machine
TRANSACTION_S = 1.5
NOT_READY = 4


def applied(line: Line) -> tuple[int, ...]:
    """How many transactions each target has."""
    counts = []
    for dsn in line.targets.values():
        with psycopg.connect(dsn) as connection:
            row = connection.execute("SELECT sum(transactions) FROM dbsplit.progress").fetchone()
        assert row is not None
        counts.append(int(row[0]))
    return tuple(counts)


def goes_on(line: Line, within_s: float) -> None:
    """The stream brings more to every target within so many seconds."""
    before = applied(line)
    assert wait_until(
        lambda: all(now > then for now, then in zip(applied(line), before, strict=True)),
        timeout_s=within_s,
    )


def is_wanted(line: Line) -> bool:
    """Whether the stream is to stand: until then, what had begun is still written."""
    with psycopg.connect(line.source) as connection:
        return connection.execute("SELECT FROM dbsplit.stop").fetchone() is not None


@contextmanager
def long_transactions(line: Line) -> Iterator[None]:
    """Somebody always has one open: making a slot takes seconds, and the stream stands so long."""
    stop = threading.Event()

    def write(begin_s: float) -> None:
        stop.wait(begin_s)
        with psycopg.connect(line.source, autocommit=True) as connection:
            while not stop.is_set():
                with connection.transaction():
                    connection.execute("SELECT pg_current_xact_id()")
                    stop.wait(TRANSACTION_S)

    threads = [threading.Thread(target=write, args=[n * TRANSACTION_S / 2]) for n in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@contextmanager
def stopped_while_it_stands(line: Line) -> Iterator[Running]:
    """A validation that is stopped, by SIGSTOP, while the stream stands still for it."""
    query = "SELECT FROM dbsplit.stop WHERE state = 'held'"
    with (
        psycopg.connect(line.source, autocommit=True) as somebody,
        line.running("validate", "--snapshot") as validate,
    ):
        with long_transactions(line):
            assert wait_until(
                lambda: somebody.execute(query).fetchone() is not None, timeout_s=VERB_S_MAX
            )
            validate.send_signal(signal.SIGSTOP)
        yield validate


@pytest.mark.parametrize("point", POSITION)
def test_the_stream_goes_on_when_the_validation_is_killed(following: Line, point: str) -> None:
    following.killed_at(point, "validate", "--snapshot")
    goes_on(following, STAND_S_MAX / 2)
    assert following.done("validate", "--snapshot").result["consistent"]
    following.prove()


def proven(following: Line) -> list[tuple[Any, ...]]:
    """What is noted as proven, of tables and of parts of them."""
    with psycopg.connect(following.source) as somebody:
        return somebody.execute(
            "SELECT 'table', v::text FROM dbsplit.validated AS v UNION ALL"
            " SELECT 'unit', c::text FROM dbsplit.comparing AS c ORDER BY 1, 2"
        ).fetchall()


def test_one_that_is_killed_while_it_compares_begins_anew_at_a_later_position(
    following: Line,
) -> None:
    before = proven(following)
    killed = following.killed_at("validate.range", "validate", "--snapshot", "--table", "ledger")
    assert proven(following) == before, killed
    with psycopg.connect(following.source) as somebody:
        (end,) = somebody.execute("SELECT pg_current_wal_lsn()::text").fetchall()
    told = following.done("validate", "--snapshot").result
    assert told["consistent"]
    (position,) = {table["position"] for table in told["tables"]}
    assert LSN.parse(position) >= LSN.parse(end[0])
    following.prove()


def test_the_stream_goes_on_when_its_time_is_over_and_nothing_is_proven(following: Line) -> None:
    with stopped_while_it_stands(following) as validate:
        assert wait_until(lambda: not is_wanted(following), timeout_s=STAND_S_MAX + SLACK_S)
        goes_on(following, SLACK_S)
        validate.send_signal(signal.SIGCONT)
        assert validate.wait() == NOT_READY
    following.prove()


def test_a_stream_that_is_killed_while_it_stands_is_told_and_goes_on_afterwards(
    following: Line,
) -> None:
    with stopped_while_it_stands(following) as validate:
        following.kill_stream()
        validate.send_signal(signal.SIGCONT)
        assert validate.wait() == NOT_READY
    following.start_stream()
    goes_on(following, SLACK_S)
    following.prove()
