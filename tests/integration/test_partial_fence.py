"""Fences around a part of a table, while other services go on writing the rest of it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psycopg
import pytest

from plans.catalog import TableName
from plans.catalog_read import read_catalog
from toolkit import fencing
from toolkit.control.schema import install_control
from toolkit.fence import Fence, Part

SCHEMA = """
CREATE SCHEMA a;
CREATE SCHEMA a_b;
CREATE TABLE a.b_c (id int PRIMARY KEY, kind text);
CREATE TABLE a_b.c (id int PRIMARY KEY, "Kind Of" text, other text);
CREATE TABLE a.parted (id int, kind text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE a.leaf PARTITION OF a.parted FOR VALUES FROM (0) TO (100);
CREATE FUNCTION a.rewrite() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN IF NEW.id > 50 THEN NEW.kind := 'gone'; END IF; RETURN NEW; END $$;
CREATE TRIGGER zzz BEFORE INSERT OR UPDATE ON a.b_c FOR EACH ROW EXECUTE FUNCTION a.rewrite();
INSERT INTO a.b_c VALUES (1, 'gone'), (2, 'here');
INSERT INTO a_b.c VALUES (1, 'x', 'y');
INSERT INTO a.parted VALUES (1, 'gone'), (2, 'here');
"""
ROWS = Part("crm", predicate="kind = 'gone'")
COLUMNS = Part("crm", columns=("Kind Of",))
PARTS = {
    TableName("a", "b_c"): ROWS,
    TableName("a", "parted"): ROWS,
    TableName("a_b", "c"): COLUMNS,
}


@pytest.fixture
def source(source_db: str) -> Iterator[psycopg.Connection]:
    install_control(source_db, "source")
    with psycopg.connect(source_db, autocommit=True) as connection:
        connection.execute(SCHEMA)
        tables = read_catalog(connection, ["a", "a_b"]).tables
        fencing.set_up(connection)
        fencing.raise_fences(
            connection,
            [
                Fence("s", tables[name], f"part of {name} has gone", "go there", (part,))
                for name, part in PARTS.items()
            ],
            lock_timeout_ms=1000,
            deadline=time.monotonic() + 30,
        )
        yield connection


@pytest.mark.parametrize("role", ["origin", "replica"])
def test_only_the_part_is_refused(source: psycopg.Connection, role: str) -> None:
    source.execute("SELECT set_config('session_replication_role', %s, false)", [role])
    for taken in (
        "INSERT INTO a.b_c VALUES (3, 'here')",
        "UPDATE a.b_c SET id = 4 WHERE id = 2",
        "DELETE FROM a.b_c WHERE id = 4",
        "UPDATE a_b.c SET other = 'z', id = 2",
        "INSERT INTO a_b.c VALUES (3, 'given at birth', 'y')",
        "DELETE FROM a_b.c WHERE id = 3",
        "INSERT INTO a.leaf VALUES (3, NULL)",
        "UPDATE a.leaf SET kind = 'stays' WHERE id = 2",
    ):
        source.execute(taken)
    for refused, name in {
        "INSERT INTO a.b_c VALUES (5, 'gone')": "a.b_c",
        "UPDATE a.b_c SET kind = 'here' WHERE id = 1": "a.b_c",
        "UPDATE a.b_c SET kind = 'gone' WHERE id = 3": "a.b_c",
        "DELETE FROM a.b_c WHERE id = 1": "a.b_c",
        "TRUNCATE a.b_c": "a.b_c",
        'UPDATE a_b.c SET "Kind Of" = NULL': "a_b.c",
        "TRUNCATE a_b.c": "a_b.c",
        "UPDATE a.leaf SET kind = 'gone' WHERE id = 2": "a.parted",
        "DELETE FROM a.leaf WHERE id = 1": "a.parted",
        "DELETE FROM a.parted": "a.parted",
        "TRUNCATE a.leaf": "a.parted",
    }.items():
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction, match=f"part of {name} has gone"):
            source.execute(refused)


def test_what_the_tables_own_triggers_make_of_a_row_counts(source: psycopg.Connection) -> None:
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        source.execute("INSERT INTO a.b_c VALUES (60, 'here')")
    source.execute("INSERT INTO a.b_c VALUES (40, 'here')")


def test_our_own_applier_passes(source: psycopg.Connection) -> None:
    source.execute("SELECT set_config('dbsplit.applier', 's', false)")
    source.execute("UPDATE a.b_c SET kind = 'gone'")
    source.execute('UPDATE a_b.c SET "Kind Of" = NULL')
    source.execute("DELETE FROM a.parted")
    source.execute("SELECT set_config('dbsplit.applier', 'another', false)")
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        source.execute("UPDATE a.b_c SET kind = 'here'")


def test_the_rest_may_follow_and_come_back(source: psycopg.Connection) -> None:
    """Leaves that were fenced by themselves get a part's row trigger, and the other way round."""
    parted = read_catalog(source, ["a"]).tables[TableName("a", "parted")]
    whole = Fence("s", parted, "all has gone", "go there")
    part = Fence("s", parted, "a part has gone", "go there", (ROWS,))
    for fences in (whole, part, whole, part):
        fencing.raise_fences(source, [fences], lock_timeout_ms=1000, deadline=time.monotonic() + 30)
        assert fencing.unfenced(source, [fences]) == []
        for write in ("UPDATE a.leaf SET kind = 'x' WHERE id = 1", "TRUNCATE a.leaf"):
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                source.execute(write)
        if fences is part:
            source.execute("UPDATE a.leaf SET kind = 'x' WHERE id = 2")
        else:
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                source.execute("UPDATE a.leaf SET kind = 'x' WHERE id = 2")


def test_nothing_is_left_of_it(source: psycopg.Connection) -> None:
    tables = read_catalog(source, ["a", "a_b"]).tables
    fencing.drop_fences(
        source,
        [tables[name] for name in PARTS],
        lock_timeout_ms=1000,
        deadline=time.monotonic() + 30,
    )
    names = source.execute("SELECT tgname FROM pg_trigger WHERE NOT tgisinternal").fetchall()
    assert [name for (name,) in names if name.startswith("dbsplit")] == []
    source.execute("TRUNCATE a.parted, a.b_c, a_b.c")


def test_whoever_reads_does_not_keep_writers_out(
    source: psycopg.Connection, source_db: str
) -> None:
    """A report that goes on for hours, when a rollback or a given up attempt opens the source."""
    catalog = read_catalog(source, ["a", "a_b"]).tables
    tables = [catalog[name] for name in PARTS]
    whole = Fence("s", catalog[TableName("a", "parted")], "all has gone", "go there")
    fencing.raise_fences(source, [whole], lock_timeout_ms=1000, deadline=time.monotonic() + 30)
    with psycopg.connect(source_db) as reader:
        reader.execute("SELECT FROM a.parted, a.b_c, a_b.c")
        fencing.drop_fences(source, tables, lock_timeout_ms=50, deadline=time.monotonic() + 5)
        source.execute("INSERT INTO a.b_c VALUES (5, 'gone')")
        source.execute('UPDATE a_b.c SET "Kind Of" = NULL')
        source.execute("DELETE FROM a.leaf")
    fencing.raise_fences(source, [whole], lock_timeout_ms=1000, deadline=time.monotonic() + 30)
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        source.execute("DELETE FROM a.leaf")
