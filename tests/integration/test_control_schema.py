from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from cdc.connect import connect
from plans.errors import NotReady
from toolkit import journal
from toolkit.control.schema import (
    SCHEMA,
    VERSION_TABLE,
    Side,
    forget_split,
    install_control,
    remove_control,
)
from toolkit.migrations import current

TABLES = {
    "attempt",
    "boundary",
    "built",
    "compared_unit",
    "comparing",
    "control_version",
    "copied",
    "copied_chunk",
    "difference",
    "dirty",
    "event",
    "heartbeat",
    "identity_before",
    "journal",
    "marker",
    "progress",
    "service",
    "split",
    "stop",
    "throttle",
    "told_difference",
    "tracked",
    "validated",
}
CATALOG = """
SELECT 'relation', relname FROM pg_class WHERE oid >= 16384
UNION ALL SELECT 'schema', nspname FROM pg_namespace WHERE oid >= 16384
UNION ALL SELECT 'function', proname FROM pg_proc WHERE oid >= 16384
"""


def version(dsn: str) -> str | None:
    heads = current(dsn, version_table_schema=SCHEMA, version_table=VERSION_TABLE)
    return heads[0] if heads else None


@pytest.mark.parametrize("side", ["source", "target"])
def test_it_is_installed_once_and_removed_without_a_trace(target_db: str, side: Side) -> None:
    with psycopg.connect(target_db, autocommit=True) as conn:
        before = conn.execute(CATALOG).fetchall()
        assert version(target_db) is None
        install_control(target_db, side)
        install_control(target_db, side)
        tables = conn.execute(
            "SELECT relname FROM pg_class"
            " WHERE relkind = 'r' AND relnamespace = 'dbsplit'::regnamespace"
        ).fetchall()
        assert {name for (name,) in tables} == TABLES
        assert version(target_db) == "control_0035"
        remove_control(target_db)
        remove_control(target_db)
        assert conn.execute(CATALOG).fetchall() == before


def test_installing_from_many_processes_at_once_is_installing_once(target_db: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: install_control(target_db, "target"), range(4)))
    assert version(target_db) == "control_0035"


def test_the_journal_is_append_only(target_db: str) -> None:
    install_control(target_db, "source")
    with psycopg.connect(target_db, autocommit=True) as conn:
        conn.execute(
            "INSERT INTO dbsplit.journal (split, step, state, hash)"
            " VALUES ('a', 'fence', 'begin', '')"
        )
        for statement in (
            "UPDATE dbsplit.journal SET state = 'done'",
            "DELETE FROM dbsplit.journal",
            "TRUNCATE dbsplit.journal",
            "SET session_replication_role = replica; DELETE FROM dbsplit.journal",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"):
                conn.execute(statement)
        assert conn.execute("SELECT count(*) FROM dbsplit.journal").fetchone() == (1,)


def test_a_row_of_the_journal_that_was_changed_shows(target_db: str) -> None:
    install_control(target_db, "source")
    with connect(target_db) as conn:
        for number in range(3):
            journal.record(conn, "a", f"step {number}", details={"seconds": number / 3, "é": None})
            journal.record(conn, "b", "fence")
        assert journal.verify_chain(conn, "a") == (3, None)
        # As the owner of the table could, not by accident.
        conn.execute("ALTER TABLE dbsplit.journal DISABLE TRIGGER USER")
        conn.execute("UPDATE dbsplit.journal SET step = 'another' WHERE step = 'step 1'")
        assert journal.verify_chain(conn, "a") == (1, 3)
        assert journal.verify_chain(conn, "b") == (3, None)
        conn.execute("DELETE FROM dbsplit.journal WHERE step = 'another'")
        assert journal.verify_chain(conn, "a") == (1, 5), "what is gone shows in the next"


def test_a_split_is_forgotten_and_the_others_are_not(target_db: str) -> None:
    install_control(target_db, "source")
    with psycopg.connect(target_db, autocommit=True) as conn:
        for split in ("a", "b"):
            conn.execute("INSERT INTO dbsplit.split (split, plan_digest) VALUES (%s, 'd')", [split])
            conn.execute("INSERT INTO dbsplit.service VALUES (%s, 'crm', 'planned')", [split])
        assert forget_split(target_db, "a") == ("b",)
        assert conn.execute("SELECT split FROM dbsplit.service").fetchall() == [("b",)]
        assert forget_split(target_db, "b") == ()


def test_a_schema_of_somebody_else_is_left_alone(target_db: str) -> None:
    with psycopg.connect(target_db, autocommit=True) as conn:
        conn.execute("CREATE SCHEMA dbsplit; CREATE TABLE dbsplit.theirs ()")
        with pytest.raises(NotReady, match="was not made by this toolkit"):
            install_control(target_db, "target")
        remove_control(target_db)
        assert forget_split(target_db, "a") == ()
        assert conn.execute("SELECT 'dbsplit.theirs'::regclass::text").fetchone() is not None


def test_a_newer_control_schema_is_refused(target_db: str) -> None:
    install_control(target_db, "source")
    with psycopg.connect(target_db, autocommit=True) as conn:
        conn.execute("UPDATE dbsplit.control_version SET version_num = 'control_9999'")
        with pytest.raises(NotReady, match="control_9999"):
            install_control(target_db, "source")
