# ruff: noqa: S608 -- all of the SQL is the tests' own
"""Rows from one server's COPY to another's, by both ways, and what comes in between."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from benchmarks.contest import encrypt
from cdc.copy_session import Snapshot
from cdc.copy_transfer import Exchange, Moved, transfer
from plans.errors import NotReady, Unreachable
from tests.conftest import fresh_database
from toolkit.binaries import find_binaries
from toolkit.servers import Server, running_server
from toolkit.servers_watchdog import wait_until

Connection = psycopg.Connection[tuple[Any, ...]]


@dataclass
class Pair:
    """A source and a target, connected in one of the ways."""

    source: Connection
    target: Connection

    def run(
        self,
        reads: list[str],
        writes: list[str],
        moving: Callable[[int, int, int], None] = lambda *_: None,
    ) -> list[Moved]:
        return transfer(
            self.source,
            self.target,
            Exchange(
                reading=[read.encode() for read in reads],
                release=b"SELECT 1",
                writing="; ".join(["BEGIN", *writes]).encode(),
                moving=moving,
            ),
        )

    def copy(self, *tables: str, form: str = "binary", **more: Any) -> list[Moved]:
        return self.run(
            [f"COPY (SELECT * FROM {t}) TO STDOUT (FORMAT {form})" for t in tables],
            [f"COPY {t} FROM STDIN (FORMAT {form})" for t in tables],
            **more,
        )


@pytest.fixture(scope="module")
def encrypted() -> Iterator[Server]:
    """A server that takes TLS; the embedded ones are built without it."""
    try:
        find_binaries("15")
    except NotReady as why:
        pytest.skip(f"no PostgreSQL that takes TLS: {why}; apt-get install postgresql-15")
    with running_server(version="15") as server:
        assert encrypt(server)
        yield server


@pytest.fixture(params=["sockets", "libpq", "tls"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def pair(
    way: str, source_server: Server, target_server: Server, request: pytest.FixtureRequest
) -> Iterator[Pair]:
    servers = [source_server, target_server]
    parameters = "gssencmode=disable" if way == "sockets" else "gssencmode=prefer"
    if way == "tls":
        servers = [request.getfixturevalue("encrypted")] * 2
        parameters = "sslmode=require&gssencmode=disable"
    with (
        fresh_database(servers[0]) as source,
        fresh_database(servers[1]) as target,
        left_by_all(servers[0], source),
        closing(psycopg.connect(f"{source}?{parameters}", autocommit=True)) as one,
        closing(psycopg.connect(f"{target}?{parameters}", autocommit=True)) as other,
    ):
        assert one.pgconn.ssl_in_use == (way == "tls")
        yield Pair(one, other)


@contextmanager
def left_by_all(server: Server, dsn: str) -> Iterator[None]:
    """End what a broken connection has left behind.

    Its session may send for minutes yet, and while it does the server drops no database.
    """
    try:
        yield
    finally:
        with psycopg.connect(server.dsn(), autocommit=True) as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s",
                [conninfo_to_dict(dsn)["dbname"]],
            )


def both(pair: Pair, ddl: LiteralString) -> None:
    for connection in (pair.source, pair.target):
        connection.execute(ddl)


FILL = "INSERT INTO t SELECT n, repeat(md5(n::text), n %% 40) FROM generate_series(1, %s) AS n"


@pytest.mark.parametrize("form", ["binary", "text"])
def test_several_tables_go_in_one_exchange_and_empty_ones_too(pair: Pair, form: str) -> None:
    both(pair, "CREATE TABLE t (id int, body text); CREATE TABLE none (id int)")
    both(pair, "CREATE TABLE last (a text, b bytea)")
    pair.source.execute(FILL, [20_000])
    pair.source.execute(
        "INSERT INTO last VALUES (E'a\\tb\\\\\\n', '\\x00ff'), (NULL, ''), ('', NULL)"
    )
    seen: list[tuple[int, int, int]] = []
    moved = pair.copy("none", "t", "last", "none", form=form, moving=lambda *now: seen.append(now))
    assert [(one.read, one.written) for one in moved] == [(0, 0), (20_000, 20_000), (3, 3), (0, 0)]
    assert moved[1].size_bytes > 10_000_000
    sizes = [size for number, _, size in seen if number == 1]
    assert len(sizes) > 5
    assert sizes == sorted(sizes)
    pair.target.execute("COMMIT")
    for table in ("t", "last", "none"):
        query = f"SELECT count(*), sum(hashtextextended(x::text, 0)) FROM {table} AS x"
        assert pair.source.execute(query).fetchall() == pair.target.execute(query).fetchall()
    # Both connections go on.
    assert pair.source.execute("SELECT 2").fetchone() == (2,)


def test_what_the_source_objects_to_in_the_middle_is_raised_and_nothing_stays(pair: Pair) -> None:
    both(pair, "CREATE TABLE t (id int, body text)")
    pair.source.execute(FILL, [20_000])
    read = "COPY (SELECT 1 / (19000 - id), body FROM t) TO STDOUT (FORMAT binary)"
    with pytest.raises(psycopg.errors.DivisionByZero, match="division by zero"):
        pair.run([read], ["COPY t FROM STDIN (FORMAT binary)"])


def test_what_the_target_objects_to_in_the_middle_is_raised(pair: Pair) -> None:
    both(pair, "CREATE TABLE t (id int, body text)")
    pair.target.execute("ALTER TABLE t ADD CHECK (id <> 300)")
    pair.source.execute(FILL, [60_000])
    with pytest.raises(psycopg.errors.CheckViolation, match="t_id_check"):
        pair.copy("t")


def test_what_the_target_objects_to_at_once_is_raised(pair: Pair) -> None:
    both(pair, "CREATE TABLE t (id int, body text)")
    pair.source.execute(FILL, [20_000])
    with pytest.raises(psycopg.errors.UndefinedTable, match="elsewhere"):
        pair.run(["COPY t TO STDOUT"], ["TRUNCATE elsewhere", "COPY t FROM STDIN"])


def test_what_the_source_objects_to_at_once_is_raised(pair: Pair) -> None:
    both(pair, "CREATE TABLE t (id int, body text)")
    with pytest.raises(psycopg.errors.UndefinedTable, match="elsewhere"):
        pair.run(["COPY elsewhere TO STDOUT"], ["COPY t FROM STDIN"])


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_session_that_is_ended_by_somebody_ends_it(pair: Pair, side: str) -> None:
    both(pair, "CREATE TABLE t (id int, body text)")
    pair.source.execute(FILL, [100_000])
    ended = getattr(pair, side)
    pid, dsn = ended.info.backend_pid, ended.info.dsn

    def kill(*_: int) -> None:
        with psycopg.connect(dsn, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s)", [pid])

    with pytest.raises(psycopg.OperationalError):
        pair.copy("t", moving=kill)


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_connection_that_breaks_ends_it(pair: Pair, side: str) -> None:
    both(pair, "CREATE TABLE t (id int, body text)")
    pair.source.execute(FILL, [100_000])
    broken = getattr(pair, side).pgconn

    def cut(*_: int) -> None:
        with (
            socket.socket(fileno=os.dup(broken.socket)) as wire,
            contextlib.suppress(OSError),  # it is cut already
        ):
            wire.shutdown(socket.SHUT_RDWR)

    with pytest.raises(psycopg.OperationalError):
        pair.copy("t", moving=cut)


ROW_MB = 48
CHILD = """
import resource, sys
import psycopg
from cdc.copy_session import Snapshot
from cdc.copy_transfer import Exchange, transfer
with psycopg.connect(sys.argv[1], autocommit=True) as source, \\
        psycopg.connect(sys.argv[2], autocommit=True) as target:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (moved,) = transfer(source, target, Exchange(
        reading=[b"COPY t TO STDOUT (FORMAT binary)"], release=b"SELECT 1",
        writing=b"BEGIN; COPY t FROM STDIN (FORMAT binary)", moving=lambda *_: None))
    assert moved.written == 4, moved
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_huge_rows_do_not_need_huge_memory(pair: Pair, way: str) -> None:
    both(pair, "CREATE TABLE t (id int, body bytea); ALTER TABLE t ALTER body SET STORAGE EXTERNAL")
    pair.source.execute(
        "INSERT INTO t SELECT n, convert_to(repeat('x', %s << 20), 'UTF8')"
        " FROM generate_series(1, 4) AS n",
        [ROW_MB],
    )
    dsns = [connection.info.dsn for connection in (pair.source, pair.target)]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *dsns], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    # By way of libpq a row is there two or three times; from socket to socket never in full.
    assert int(done.stdout) < (16 if way == "sockets" else 4.5 * ROW_MB)


def test_a_snapshot_that_went_with_its_connection_is_told_and_no_bug(source_db: str) -> None:
    snapshot = Snapshot(source_db, 2)
    snapshot.close()
    with psycopg.connect(source_db, autocommit=True) as source:
        query = "SELECT count(*) FROM pg_replication_slots WHERE slot_name ~ '^dbsplit_copy_'"
        assert wait_until(lambda: source.execute(query).fetchone() == (0,), timeout_s=10)
    with pytest.raises(Unreachable, match="snapshot is gone"):
        snapshot.session()
