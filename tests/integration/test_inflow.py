"""Rows copied into several tables in one exchange, and what becomes of it when one fails."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from struct import pack

import psycopg
import pytest
from psycopg import pq, sql

from cdc.inflow import BLOCK_BYTES, Exact, Inflow, Step, Unexpected, exchange, into
from cdc.libpq import await_status, flush, put
from plans.errors import StreamBroken
from tests.conftest import fresh_database
from toolkit.servers import Server

TABLES = ("one", "Two", "three")
LARGE = BLOCK_BYTES * 3
HEAD = pack("!hi", 2, 4)  # of each row


@pytest.fixture
def target(target_server: Server) -> Iterator[psycopg.Connection]:
    with (
        fresh_database(target_server) as dsn,
        psycopg.connect(dsn, autocommit=True) as connection,
    ):
        for name in TABLES:
            statement = sql.SQL("CREATE TABLE {} (id int PRIMARY KEY, body bytea)")
            connection.execute(statement.format(sql.Identifier(name)))
        yield connection


def line(number: int, size: int = 1) -> bytes:
    return pack("!hiii", 2, 4, number, size) + bytes(size)


def inflow(table: str, *lines: bytes) -> Inflow:
    columns = [sql.Identifier("id"), sql.Identifier("body")]
    rows = sum(1 for one in lines for _ in range(one.count(HEAD)))
    return Inflow(into(sql.Identifier(table), columns), lines, rows)


def counts(target: psycopg.Connection) -> list[int]:
    queries = (sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(n)) for n in TABLES)
    rows = (target.execute(query).fetchone() for query in queries)
    return [row[0] for row in rows if row]


def test_each_table_gets_its_rows(target: psycopg.Connection) -> None:
    exchange(target, [])
    given = [
        inflow("one", line(1), line(2) + line(3)),
        inflow("Two"),
        inflow("three", *(line(n, LARGE) for n in range(20))),
    ]
    exchange(target, given)
    assert counts(target) == [3, 0, 20]


def test_statements_run_between_the_tables_and_meet_what_they_must(
    target: psycopg.Connection,
) -> None:
    exchange(
        target,
        [
            inflow("one", line(1), line(2)),
            b"PREPARE moved AS INSERT INTO three SELECT * FROM one",
            Exact(b"EXECUTE moved", 2),
            b"SELECT 1",
            Exact(b"UPDATE one SET id = id + 10 WHERE id > 1", 1),
            inflow("Two", line(5)),
            b"TRUNCATE one",
        ],
    )
    assert counts(target) == [0, 1, 2]
    gone = Exact(b"DELETE FROM three WHERE id = 1", 1)
    exchange(target, [gone])
    with pytest.raises(Unexpected, match="0 rows, not 1"):
        exchange(target, [inflow("one", line(3)), gone])


@pytest.mark.parametrize("before", [(), (inflow("one", line(1)),)], ids=["first", "behind a copy"])
@pytest.mark.parametrize("behind", [(), (inflow("Two", line(1)),)], ids=["last", "before a copy"])
def test_a_statement_that_fails_ends_all_of_it(
    target: psycopg.Connection, before: tuple[Inflow, ...], behind: tuple[Inflow, ...]
) -> None:
    steps: list[Step] = [*before, b"INSERT INTO three VALUES (1), (1)", *behind]
    with target.transaction(force_rollback=True), pytest.raises(psycopg.errors.UniqueViolation):
        exchange(target, steps)
    assert counts(target) == [0, 0, 0]


@pytest.mark.parametrize("size", [1, LARGE])
def test_what_the_server_refuses_is_raised_and_the_session_goes_on(
    target: psycopg.Connection, size: int
) -> None:
    given = [
        inflow("one", line(1)),
        inflow("Two", line(1), line(1), *(line(n, size) for n in range(2, 40))),
        inflow("three", line(1)),
    ]
    with target.transaction(force_rollback=True), pytest.raises(psycopg.errors.UniqueViolation):
        exchange(target, given)
    assert counts(target) == [0, 0, 0]
    with pytest.raises(psycopg.errors.UndefinedTable):
        exchange(target, [inflow("one", line(1)), inflow("missing", line(1))])
    assert counts(target) == [0, 0, 0]


@pytest.mark.parametrize("before", [0, LARGE])
def test_rows_that_cannot_be_made_leave_nothing(target: psycopg.Connection, before: int) -> None:
    def lines() -> Iterator[bytes]:
        yield line(1, before)
        raise ValueError("cannot be made")

    broken = Inflow(inflow("Two").statement, lines(), 1)
    with pytest.raises(ValueError, match="cannot be made"):
        exchange(target, [inflow("one", line(1)), broken, inflow("three", line(1))])
    assert counts(target) == [0, 0, 0]


@pytest.mark.parametrize("place", range(len(TABLES)))
@pytest.mark.parametrize("rows", [1, 3])
def test_a_table_that_takes_more_or_less_than_it_was_to_get_is_told(
    target: psycopg.Connection, place: int, rows: int
) -> None:
    given = [inflow(name, line(1), line(2)) for name in TABLES]
    given[place] = replace(given[place], rows=rows)
    with target.transaction(force_rollback=True), pytest.raises(StreamBroken) as told:
        exchange(target, given)
    assert f"{rows} rows were sent and 2 taken" in str(told.value)
    assert TABLES[place] in str(told.value)
    assert counts(target) == [0, 0, 0]


def test_rows_for_which_there_is_no_memory_are_not_left_out(target: psycopg.Connection) -> None:
    """libpq says no more than that it has taken nothing, and would go on with what follows."""
    large = bytes(300 << 20)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    target.pgconn.send_query(inflow("one").statement)
    flush(target.pgconn)
    await_status(target.pgconn, pq.ExecStatus.COPY_IN)
    at_most = pages * resource.getpagesize() + len(large) // 2
    resource.setrlimit(resource.RLIMIT_AS, (at_most, hard))
    try:
        with pytest.raises(psycopg.OperationalError, match="no memory to send 314,572,800 bytes"):
            put(target.pgconn, large)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        target.close()  # it is in the middle of a copy


def test_a_session_that_is_ended_meanwhile_does_not_hang(
    target: psycopg.Connection, target_server: Server
) -> None:
    def lines() -> Iterator[bytes]:
        yield line(1, LARGE)
        with psycopg.connect(target_server.dsn(), autocommit=True) as admin:
            admin.execute("SELECT pg_terminate_backend(%s)", [target.info.backend_pid])
        for number in range(2, 50):
            yield line(number, LARGE)

    with pytest.raises(psycopg.OperationalError):
        exchange(target, [Inflow(inflow("one").statement, lines(), 49), inflow("Two", line(1))])
    assert target.broken
