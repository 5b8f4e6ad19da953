"""Connections that break, are taken or are refused in the middle: told, and gone on from."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from cdc.replication import ConnectionLost, ReplicationConnection
from plans import names
from plans.errors import NotReady, StreamBroken
from tests.chaos.proxy import Proxy
from tests.conftest import fresh_database, require_version
from tests.following import Following
from tests.verbs import Verbs
from toolkit.accounts import choose_account, give
from toolkit.servers import Server, running_server
from toolkit.servers_watchdog import wait_until

PLAN = """\
split: traps
source: {dsn: "${DBSPLIT_SOURCE_DSN}", schemas: [public]}
services:
  a: {dsn: "${DBSPLIT_A_DSN}"}
tables: {large: a}
"""
LARGE = """
CREATE TABLE large (id int PRIMARY KEY, body text);
INSERT INTO large SELECT n, repeat(md5(n::text), 10) FROM generate_series(1, 20000) AS n;
"""
COUNT = "SELECT count(*), sum(hashtext(t::text)) FROM large AS t"
WITH_TLS = "15"  # Debian's


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN)
    return path


@pytest.fixture
def encrypted() -> Iterator[Server]:
    """A server with TLS."""
    require_version(WITH_TLS)
    with running_server(version=WITH_TLS) as server:
        key, certificate = server.data_dir / "server.key", server.data_dir / "server.crt"
        words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test"]
        words += ["-keyout", str(key), "-out", str(certificate)]
        subprocess.run(words, check=True, capture_output=True, timeout=60)
        key.chmod(0o600)
        for one in (key, certificate):
            give(one, choose_account())
        with psycopg.connect(server.dsn(), autocommit=True) as admin:
            admin.execute("ALTER SYSTEM SET ssl = on")
            admin.execute("SELECT pg_reload_conf()")

        def speaks_tls() -> bool:
            try:
                psycopg.connect(server.dsn() + "?sslmode=require").close()
            except psycopg.OperationalError:
                return False
            return True

        assert wait_until(speaks_tls, timeout_s=10)
        yield server


@pytest.mark.parametrize("after_bytes", [200_000, 3_000_000])
def test_a_copy_through_tls_that_breaks_in_the_middle(
    encrypted: Server, plan: Path, after_bytes: int
) -> None:
    with (
        fresh_database(encrypted) as source,
        fresh_database(encrypted) as target,
        Proxy(encrypted.port) as proxy,
    ):
        with psycopg.connect(source, autocommit=True) as connection:
            connection.execute(LARGE)
        environment = {
            "DBSPLIT_SOURCE_DSN": proxy.dsn(source) + "?sslmode=require",
            "DBSPLIT_A_DSN": target + "?sslmode=require",
        }
        verbs = Verbs(plan, environment)
        verbs("prepare")
        proxy.truncate(after_bytes)
        broken = verbs.tried("copy")
        assert broken.code == 4, broken
        proxy.heal()
        verbs("copy")
        with psycopg.connect(source) as there, psycopg.connect(target) as here:
            assert there.execute(COUNT).fetchall() == here.execute(COUNT).fetchall()
        verbs("abort", "--yes")


@pytest.fixture
def databases(source_server: Server, target_server: Server, plan: Path) -> Iterator[Following]:
    """A split that follows, of a role that has a password of its own."""
    with fresh_database(source_server) as source, fresh_database(target_server) as target:
        text = PLAN.replace("${DBSPLIT_SOURCE_DSN}", source).replace("${DBSPLIT_A_DSN}", target)
        plan.write_text(text)
        databases = Following(source, {"a": target}, plan)
        databases.execute("CREATE TABLE large (id int PRIMARY KEY)")
        databases.prepare()
        databases.copy()
        yield databases


def test_a_slot_that_somebody_else_reads_is_told(
    databases: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdc.follow.RETRY_S_MAX", 1.0)
    slot = sql.Literal(names.slot("traps")).as_string(None)
    publication = names.publication("traps")
    other = psycopg.pq.PGconn.connect(f"{databases.source}?replication=database".encode())
    command = f"START_REPLICATION SLOT {slot.strip(chr(39))} LOGICAL 0/0"
    other.exec_(f"{command} (proto_version '1', publication_names '{publication}')".encode())
    try:
        with databases.live() as live:
            failure = live.broken()
        assert "is active for PID" in str(failure)
        assert "could not be continued" in str(failure)
    finally:
        other.finish()
    databases.execute("INSERT INTO large VALUES (1)")
    databases.stream()
    assert databases.rows("a", "SELECT * FROM large") == [(1,)]


def test_a_session_that_is_ended_as_it_begins_to_stream_has_not_lost_its_slot(
    databases: Following,
) -> None:
    """What the server says then is the answer to START_REPLICATION."""
    slot, publication = names.slot("traps"), names.publication("traps")
    ours = sql.SQL("FROM pg_stat_activity WHERE application_name = 'ended'")
    with (
        ReplicationConnection(databases.source, name="ended") as connection,
        psycopg.connect(databases.source, autocommit=True) as admin,
    ):
        admin.execute(sql.SQL("SELECT pg_terminate_backend(pid) {}").format(ours))
        count = sql.SQL("SELECT count(*) {}").format(ours)
        assert wait_until(lambda: admin.execute(count).fetchone() == (0,), timeout_s=10)
        with pytest.raises(ConnectionLost, match="terminating connection"):
            connection.start(slot, publication, binary=True)


def test_a_slot_that_is_gone_is_no_matter_of_the_connection(databases: Following) -> None:
    with (
        ReplicationConnection(databases.source, name="test") as connection,
        pytest.raises(StreamBroken, match="does not exist"),
    ):
        connection.start("none_such", names.publication("traps"), binary=True)


def test_a_password_that_is_changed_meanwhile(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream ends with what the server says, without the password, and goes on later."""
    monkeypatch.setattr("cdc.follow.RETRY_S_MAX", 1.0)
    with (
        running_server(auth="scram") as server,
        fresh_database(server) as source,
        fresh_database(server) as target,
    ):
        monkeypatch.setenv("DBSPLIT_SOURCE_DSN", source)
        monkeypatch.setenv("DBSPLIT_A_DSN", target)
        databases = Following(source, {"a": target}, plan)
        databases.execute("CREATE TABLE large (id int PRIMARY KEY)")
        databases.prepare()
        databases.copy()
        with psycopg.connect(server.dsn(), autocommit=True) as admin, databases.live() as live:
            set_password(admin, "another")
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE backend_type = 'walsender' OR application_name LIKE 'dbsplit stream %'"
                " AND application_name NOT LIKE '%@%'"
            )
            failure = live.broken()
            assert "password authentication failed" in str(failure)
            assert str(server.password) not in str(failure)
            set_password(admin, str(server.password))
        databases.execute("INSERT INTO large VALUES (1)")
        databases.stream()
        assert databases.rows("a", "SELECT * FROM large") == [(1,)]


def set_password(admin: psycopg.Connection, password: str) -> None:
    admin.execute(sql.SQL("ALTER ROLE postgres PASSWORD {}").format(sql.Literal(password)))


def test_a_server_that_does_not_answer_is_not_told_to_lack_a_privilege() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host, port = silent.getsockname()
        dsn = f"host={host} port={port} dbname=x user=u connect_timeout=2"
        with pytest.raises(NotReady, match="timeout expired") as caught:
            ReplicationConnection(dsn, name="dbsplit test")
    assert "did not answer" in caught.value.hint
    assert "REPLICATION" not in caught.value.hint


def test_a_role_that_may_not_replicate_is_told_so(source_db: str) -> None:
    with psycopg.connect(source_db, autocommit=True) as admin:
        admin.execute("CREATE ROLE dbsplit_plain LOGIN")
        try:
            with pytest.raises(NotReady) as caught:
                ReplicationConnection(
                    make_conninfo(source_db, user="dbsplit_plain"), name="dbsplit test"
                )
        finally:
            admin.execute("DROP ROLE dbsplit_plain")
    assert "the role needs REPLICATION" in caught.value.hint
