"""What an administrator sets for applications does not keep the stream from its work."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from cdc.connect import connect, not_reachable
from cdc.replication import ReplicationConnection
from plans.errors import Unreachable
from tests.following import DEADLINE_S, following
from tests.verbs import Verbs
from toolkit.control.schema import install_control, remove_control
from toolkit.servers import Server
from toolkit.servers_watchdog import wait_until

LOCKED_S = 4.0
LIMITS = {
    "statement_timeout": "1500ms",
    "idle_in_transaction_session_timeout": "1500ms",
    "transaction_timeout": "1500ms",  # since 17
    "lock_timeout": "1s",
    "default_transaction_isolation": "serializable",
}
IDLE_S = 0.5
WRITES_S = 1.5
SHORT = {
    "statement_timeout": "100ms",
    "idle_session_timeout": "100ms",
    "idle_in_transaction_session_timeout": "100ms",
    "transaction_timeout": "100ms",  # since 17
}


def limit(dsn: str, **limits: str) -> None:
    name = sql.Identifier(str(conninfo_to_dict(dsn)["dbname"]))
    with psycopg.connect(dsn, autocommit=True) as connection:
        known = {one for (one,) in connection.execute("SELECT name FROM pg_settings")}
        for setting in limits.keys() & known:
            connection.execute(
                sql.SQL("ALTER DATABASE {} SET {} = {}").format(
                    name, sql.Identifier(setting), sql.Literal(limits[setting])
                )
            )


@contextmanager
def writing(dsn: str) -> Iterator[None]:
    """Somebody who has written something, which a slot that is made has to wait for."""
    with psycopg.connect(dsn) as somebody:
        somebody.execute("SELECT pg_current_xact_id()")
        end = Timer(WRITES_S, somebody.rollback)
        end.start()
        yield
        assert end.finished.is_set(), "nobody has waited for the end of this"
        end.join()


def waits(dsn: str) -> bool:
    """Whether somebody waits for another's row there."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        (count,) = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND wait_event_type = 'Lock'"
        ).fetchone() or (0,)
    return bool(count)


def test_a_batch_may_take_longer_than_an_application_may(
    source_server: Server, target_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("follow", "sink"):  # what fails is told, and not tried again
        monkeypatch.setattr(f"cdc.{module}.TRANSIENT", ())
    with following(source_server, target_server, tmp_path, tables="small: a\n") as databases:
        databases.execute("CREATE SCHEMA odd", "CREATE TABLE small (id int PRIMARY KEY, v int)")
        databases.prepare()
        databases.copy()
        with psycopg.connect(databases.targets["a"]) as other:
            limit(databases.targets["a"], **LIMITS)
            other.execute("LOCK TABLE small IN SHARE MODE")
            with databases.live() as live:
                databases.execute("INSERT INTO small VALUES (1)")
                time.sleep(LOCKED_S)
                other.rollback()
                databases.execute("INSERT INTO small VALUES (2)")
                # A row that somebody else writes meanwhile is waited for, too.
                arrived = wait_until(
                    lambda: databases.rows("a", "SELECT count(*) FROM small") == [(2,)],
                    timeout_s=DEADLINE_S,
                )
                assert arrived
                other.execute("UPDATE small SET v = 0")
                databases.execute("UPDATE small SET v = 3")
                assert wait_until(lambda: waits(databases.targets["a"]), timeout_s=DEADLINE_S)
                other.commit()
                done = wait_until(
                    lambda: (
                        bool(live.failure)
                        or databases.rows("a", "SELECT v FROM small") == [(3,), (3,)]
                    ),
                    timeout_s=DEADLINE_S,
                )
                assert done
                assert live.failure is None
        databases.stream()
        assert databases.rows("a", "SELECT v FROM small") == [(3,), (3,)]


def test_a_slot_waits_for_transactions_for_longer_than_an_application_may(
    source_server: Server, target_server: Server, tmp_path: Path
) -> None:
    with following(source_server, target_server, tmp_path, tables="small: a\n") as databases:
        databases.execute("CREATE SCHEMA odd", "CREATE TABLE small (id int PRIMARY KEY, v int)")
        for dsn in (databases.source, databases.targets["a"]):
            limit(dsn, lock_timeout="200ms")
        verbs = Verbs(databases.path, dict(os.environ))
        with writing(databases.source):
            verbs("prepare")
        with writing(databases.source):
            verbs("copy")
        with verbs.stream(databases.source), writing(databases.targets["a"]):
            verbs("cutover", "--yes")


def test_a_target_that_lets_applications_only_read_is_followed_but_not_moved_to(
    source_server: Server, target_server: Server, tmp_path: Path
) -> None:
    """So nobody writes there too early."""
    with following(source_server, target_server, tmp_path, tables="small: a\n") as databases:
        databases.execute("CREATE SCHEMA odd", "CREATE TABLE small (id int PRIMARY KEY, v int)")
        databases.prepare()
        databases.execute("INSERT INTO small VALUES (1)")
        limit(databases.targets["a"], default_transaction_read_only="on")
        verbs = Verbs(databases.path, dict(os.environ))
        verbs("copy")
        databases.execute("INSERT INTO small VALUES (2)")
        with verbs.stream(databases.source):
            verbs("validate")
            verbs.refused(
                "cutover",
                "--yes",
                code=4,
                says="service a: takes writes: default_transaction_read_only is on",
                hint="RESET",
            )
        assert databases.rows("a", "SELECT id FROM small ORDER BY id") == [(1,), (2,)]
        verbs("abort", "--yes")
        assert databases.rows("a", "SELECT to_regclass('small')") == [(None,)]


def test_a_stream_that_may_not_stage_rows_is_told_so_when_it_begins(
    source_server: Server, target_server: Server, tmp_path: Path
) -> None:
    """It would else be told when a table first changes."""
    with following(source_server, target_server, tmp_path, tables="small: a\n") as databases:
        databases.execute("CREATE SCHEMA odd", "CREATE TABLE small (id int PRIMARY KEY, v int)")
        databases.prepare()
        databases.copy()
        verbs, plan = Verbs(databases.path, {}), databases.path.read_text()
        for dsn in (databases.source, databases.targets["a"]):
            databases.path.write_text(plan.replace(dsn, make_conninfo(dsn, user="stages_nothing")))
            with psycopg.connect(dsn, autocommit=True) as connection:
                name = connection.info.dbname
                connection.execute(f"REVOKE TEMPORARY ON DATABASE {name} FROM PUBLIC".encode())
                connection.execute(
                    "CREATE ROLE stages_nothing LOGIN IN ROLE pg_read_all_data, pg_write_all_data"
                )
                try:
                    verbs.refused(
                        "stream",
                        code=4,
                        says=f"stages_nothing lacks TEMPORARY on database {name}",
                        hint=f"GRANT TEMPORARY ON DATABASE {name} TO stages_nothing",
                    )
                finally:
                    connection.execute("DROP ROLE stages_nothing")


@pytest.mark.long
def test_a_backlog_that_the_server_may_not_lay_out_is_streamed(
    source_server: Server, target_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is pulled lies in temporary files of the source's, which may be limited."""
    monkeypatch.setattr("cdc.follow.PULL_BYTES_MIN", -1)
    with following(source_server, target_server, tmp_path, tables="small: a\n") as databases:
        databases.execute("CREATE SCHEMA odd", "CREATE TABLE small (id int PRIMARY KEY, v text)")
        databases.prepare()
        databases.copy()
        limit(databases.source, temp_file_limit="64kB")
        rows = "SELECT n, repeat('v', 200) FROM generate_series(1, 30000) n"
        databases.execute(f"INSERT INTO small {rows}")
        databases.stream()
        assert databases.rows("a", "SELECT count(*) FROM small") == [(30_000,)]


def test_a_session_may_rest_longer_than_one_of_an_application(source_db: str) -> None:
    """The one that holds a verb's lock rests as long as the verb takes."""
    limit(source_db, **SHORT)
    with connect(source_db) as connection:
        time.sleep(IDLE_S)
        connection.execute("BEGIN")
        time.sleep(IDLE_S)
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_role_whose_connections_are_all_taken_is_told_so(source_db: str) -> None:
    with psycopg.connect(source_db, autocommit=True) as connection:
        connection.execute("CREATE ROLE limited LOGIN CONNECTION LIMIT 1")
        try:
            dsn = make_conninfo(source_db, user="limited")
            with connect(dsn), pytest.raises(Unreachable) as refused:
                connect(dsn)
        finally:
            connection.execute("DROP ROLE limited")
    assert "none that this role may have" in (refused.value.hint or "")


@pytest.mark.parametrize(
    "said",
    [  # of PostgreSQL 15 to 18, where the server's own connections are taken
        "sorry, too many clients already",
        "remaining connection slots are reserved for non-replication superuser connections",
        "remaining connection slots are reserved for roles with the SUPERUSER attribute",
    ],
)
def test_so_is_one_that_finds_a_full_server(said: str) -> None:
    refused = psycopg.OperationalError(f'connection to server at "db" failed: FATAL:  {said}')
    assert "none of its connections is free" in (not_reachable("host=db", refused).hint or "")


def test_a_snapshot_that_others_are_to_take_outlives_the_limits_of_applications(
    source_db: str,
) -> None:
    """Who exports it is in a transaction, and rests: the limits of both would end the copy."""
    limit(source_db, **SHORT)
    with ReplicationConnection(source_db, name="dbsplit test") as exporter:
        _, snapshot = exporter.create_temporary_slot("limits_of_others", timeout_s=DEADLINE_S)
        time.sleep(IDLE_S)
        with connect(source_db, autocommit=False) as connection:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            connection.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot)))
            connection.execute("SELECT pg_sleep(%s)", [IDLE_S])


def test_nobody_stands_in_for_the_servers_own_names(source_db: str) -> None:
    """A database whose path has pg_catalog behind a schema in which others may create."""
    with psycopg.connect(source_db, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA evil")
        for table in ("pg_class", "pg_namespace", "pg_proc"):
            connection.execute(
                sql.SQL("CREATE TABLE evil.{} (x int)").format(sql.Identifier(table))
            )
        connection.execute(
            "CREATE FUNCTION evil.equal(text, text) RETURNS boolean LANGUAGE sql"
            " AS 'SELECT true'; CREATE OPERATOR evil.="
            " (leftarg = text, rightarg = text, function = evil.equal)"
        )
        name = sql.Identifier(str(conninfo_to_dict(source_db)["dbname"]))
        connection.execute(
            sql.SQL("ALTER DATABASE {} SET search_path = evil, pg_catalog, public").format(name)
        )
    install_control(source_db, "source")
    with connect(source_db) as connection:
        row = connection.execute(
            "SELECT 'a'::text = 'b'::text, (SELECT count(*) > 0 FROM pg_class),"
            " current_setting('search_path')"
        ).fetchone()
    assert row == (False, True, "evil, public")
    remove_control(source_db)


def test_names_and_arrays_are_read_alike_whatever_a_database_sets(source_db: str) -> None:
    limit(
        source_db,
        quote_all_identifiers="on",
        array_nulls="off",
        standard_conforming_strings="off",
        xmloption="document",
    )
    with connect(source_db) as connection:
        row = connection.execute(
            "SELECT format_type('bytea'::regtype, NULL), ('{NULL}'::text[])[1],"
            r" length('\('), current_setting('xmloption')"
        ).fetchone()
    assert row == ("bytea", None, 2, "content")
