# ruff: noqa: S608 -- all of the SQL is the tests' own
"""Where the log does not tell what happened, the stream stops before it writes a wrong row."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import cdc.watch
from plans.errors import StreamBroken
from tests.following import Following, following
from toolkit.prepared import Drifted
from toolkit.refresh import refresh
from toolkit.refresh_edits import Answers
from toolkit.servers import Server

TABLES = ("added", "dropped", "renamed", "retyped", "relengthed", "moved", "unidentified", "quiet")

SCHEMA = "".join(
    f"CREATE TABLE {name} (id int PRIMARY KEY, v varchar(5), legacy int); "
    f"INSERT INTO {name} VALUES (1, 'one', 1);"
    for name in TABLES
)
PARTED = """
CREATE TYPE mood AS ENUM ('calm');
CREATE TABLE remade (id int PRIMARY KEY, v varchar(5), legacy int DEFAULT 1, m mood);
INSERT INTO remade VALUES (1, 'one');
CREATE TABLE parted (id int PRIMARY KEY, v text) PARTITION BY LIST (id);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1, 2);
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES IN (3, 4);
INSERT INTO parted SELECT n, 'v' FROM generate_series(1, 4) n;
CREATE TABLE derived_parted (id int PRIMARY KEY, v text) PARTITION BY LIST (id);
CREATE TABLE derived_parted_1 PARTITION OF derived_parted FOR VALUES IN (1, 2);
CREATE TABLE derived_parted_2 PARTITION OF derived_parted FOR VALUES IN (3, 4);
INSERT INTO derived_parted VALUES (1, 'v');
"""
DERIVED = """
CREATE TABLE public.known (v text PRIMARY KEY, id int);
CREATE TABLE public.known_part (id int PRIMARY KEY, v text);
"""
PLAN = (
    "".join(f"{name}: a\n" for name in TABLES if name != "unidentified")
    + """\
unidentified:
  owner: a
  derive: [{into: hub.known, key: {v: v}, columns: {id: id}}]
remade: a
parted: a
derived_parted:
  owner: a
  derive: [{into: hub.known_part, key: {id: id}, columns: {v: v}}]
"""
)


@pytest.fixture(scope="module")
def databases(
    source_server: Server, target_server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Following]:
    with (
        pytest.MonkeyPatch.context() as patch,
        following(
            source_server,
            target_server,
            tmp_path_factory.mktemp("stops"),
            tables=PLAN,
            derived=DERIVED,
        ) as one,
    ):
        patch.setattr(cdc.watch, "CHECK_S", 0.2)
        one.execute("CREATE SCHEMA odd", SCHEMA, PARTED)
        one.prepare()
        one.copy()
        yield one


def stops(databases: Following, *transactions: str) -> StreamBroken:
    """The error with which a running stream ends when this is done on the source."""
    with databases.live() as live:
        databases.execute(*transactions)
        error = live.broken()
    assert isinstance(error, StreamBroken), repr(error)
    assert error.exit_code == 7
    assert error.hint
    return error


WITH_ROWS = {
    "added": (
        "ALTER TABLE added ADD extra text DEFAULT 'x'",
        "INSERT INTO added VALUES (2, 'two', 2, 'y')",
        "ALTER TABLE added DROP extra",
        "public.added has a new column extra",
    ),
    "dropped": (
        "ALTER TABLE dropped DROP legacy",
        "UPDATE dropped SET v = 'two'",
        "ALTER TABLE dropped ADD legacy int",
        "public.dropped has lost column legacy",
    ),
    "renamed": (
        "ALTER TABLE renamed RENAME v TO w",
        "UPDATE renamed SET w = 'two'",
        "ALTER TABLE renamed RENAME w TO v",
        "public.renamed has a new column w, has lost column v",
    ),
    "retyped": (
        "ALTER TABLE retyped ALTER legacy TYPE text USING 'n' || legacy",
        "UPDATE retyped SET v = 'two'",
        "ALTER TABLE retyped ALTER legacy TYPE int USING 1",
        "public.retyped has column legacy as text",
    ),
    "relengthed": (
        "ALTER TABLE relengthed ALTER v TYPE varchar(2) USING left(v, 2)",
        "UPDATE relengthed SET legacy = 2",
        "ALTER TABLE relengthed ALTER v TYPE varchar(5)",
        "public.relengthed has column v as character varying(2)",
    ),
    "remade": (
        "CREATE TYPE mood_2 AS ENUM ('calm'); ALTER TABLE remade ALTER m TYPE mood_2"
        " USING 'calm'; DROP TYPE mood; ALTER TYPE mood_2 RENAME TO mood",
        "UPDATE remade SET v = 'two'",
        "ALTER TABLE remade ALTER m TYPE mood",
        "public.remade has column m as ",  # its old type may be gone from the catalog
    ),
    "moved": (
        "ALTER TABLE moved RENAME TO moved_away",
        "UPDATE moved_away SET v = 'two'",
        "ALTER TABLE moved_away RENAME TO moved",
        "",  # found in the stream, or in the catalog
    ),
    "unidentified": (
        "ALTER TABLE unidentified REPLICA IDENTITY DEFAULT",
        "UPDATE unidentified SET v = 'two'",
        "ALTER TABLE unidentified REPLICA IDENTITY FULL",
        "public.unidentified was changed without its old row being told in full",
    ),
}


@pytest.mark.parametrize("table", WITH_ROWS)
def test_a_changed_table_stops_the_stream_before_its_next_row(
    databases: Following, table: str
) -> None:
    change, write, undo, message = WITH_ROWS[table]
    # In one transaction: the announcement in the stream stands before the row.
    error = stops(databases, f"BEGIN; {change}; {write}; COMMIT")
    assert message in str(error)
    if table == "unidentified":  # a key is enough for the whole copy, not for the derived one
        assert databases.rows("hub", "SELECT * FROM known") == [("one", 1)]
    elif table != "moved":  # which is the same table under any name
        assert databases.rows("a", f"SELECT id, v, legacy FROM {table}") == [(1, "one", 1)]
    databases.execute(undo)
    if table == "dropped":  # what the column held is gone: it is another one
        with pytest.raises(Drifted, match="has another column legacy than before"):
            databases.open()
        carried(databases)
        assert databases.rows("a", f"SELECT id, v, legacy FROM {table}") == [(1, "two", None)]
    if table == "unidentified":
        copied_anew(databases, error, table)
        assert databases.rows("hub", "SELECT * FROM known") == [("two", 1)]
        return
    databases.forgive()
    databases.stream()


@pytest.mark.parametrize("table", ["added", "retyped", "relengthed"])
def test_a_stream_that_starts_after_the_change_stops_as_well(
    databases: Following, table: str
) -> None:
    change, write, undo, _ = WITH_ROWS[table]
    databases.execute(change, write.replace("(2,", "(3,"))
    with pytest.raises(Exception, match=table) as raised:
        databases.stream()
    assert raised.value.__class__.__name__ in ("Drifted", "StreamBroken")
    assert databases.rows("a", f"SELECT * FROM {table}") == [(1, "one", 1)]
    databases.execute(undo)
    if table == "added":  # a column that came and went is known to be of no use to anybody
        databases.stream()
        assert databases.rows("a", "SELECT * FROM added WHERE id = 3") == [(3, "two", 2)]
        return
    # Changed back, the catalog is as prepared; the rows in between are not.
    with pytest.raises(StreamBroken, match=table):
        databases.stream()
    assert databases.rows("a", f"SELECT * FROM {table}") == [(1, "one", 1)]
    databases.forgive()
    databases.stream()


WITHOUT_ROWS = {
    "a column is retyped": (
        "ALTER TABLE quiet ALTER v TYPE varchar(5) USING upper(v), ALTER legacy TYPE bigint",
        "ALTER TABLE quiet ALTER legacy TYPE int",
        "public.quiet has column legacy as bigint instead of integer",
    ),
    "a table is renamed": (
        "ALTER TABLE quiet RENAME TO loud",
        "ALTER TABLE loud RENAME TO quiet",
        "table public.quiet is gone or renamed",
    ),
    "a table is taken out of the publication": (
        "ALTER PUBLICATION dbsplit_traps DROP TABLE quiet",
        "ALTER PUBLICATION dbsplit_traps ADD TABLE quiet",
        "publication dbsplit_traps does not publish all of public.quiet",
    ),
    "the publication leaves out rows": (
        "ALTER PUBLICATION dbsplit_traps DROP TABLE quiet;"
        " ALTER PUBLICATION dbsplit_traps ADD TABLE quiet WHERE (id > 1)",
        "ALTER PUBLICATION dbsplit_traps DROP TABLE quiet;"
        " ALTER PUBLICATION dbsplit_traps ADD TABLE quiet",
        "does not publish all of public.quiet",
    ),
    "the publication leaves out deletes": (
        "ALTER PUBLICATION dbsplit_traps SET (publish = 'insert, update, truncate')",
        "ALTER PUBLICATION dbsplit_traps SET (publish = 'insert, update, delete, truncate')",
        "does not publish all of public.added",
    ),
    "a partition is detached": (
        "ALTER TABLE parted DETACH PARTITION parted_2",
        "ALTER TABLE parted ATTACH PARTITION parted_2 FOR VALUES IN (3, 4)",
        "partition public.parted_2 was detached or dropped",
    ),
}


@pytest.mark.parametrize("change", WITHOUT_ROWS)
def test_a_change_that_leaves_no_row_stops_the_stream_too(
    databases: Following, change: str
) -> None:
    do, undo, message = WITHOUT_ROWS[change]
    error = stops(databases, do)
    assert message in str(error)
    databases.execute(undo)
    if "ATTACH" in undo:  # nobody knows what was written to it meanwhile
        with pytest.raises(Drifted, match="detached and attached again"):
            databases.open()
        carried(databases)
    databases.stream()


def carried(databases: Following) -> None:
    refresh(databases.path, Answers(), lambda _step, _details: None)


def copied_anew(databases: Following, error: StreamBroken, table: str) -> None:
    """As the error's hint says."""
    assert f"dbsplit plan refresh --anew public.{table}`" in error.hint
    refresh(databases.path, Answers(anew=frozenset({table})), lambda _step, _details: None)
    databases.stream()


def test_truncating_a_partition_of_derived_rows_stops_the_stream(databases: Following) -> None:
    error = stops(databases, "TRUNCATE derived_parted_1")
    assert "partition public.derived_parted_1 was truncated" in str(error)
    assert databases.rows("hub", "SELECT * FROM known_part") == [(1, "v")]
    copied_anew(databases, error, "derived_parted")
    assert databases.rows("hub", "SELECT * FROM known_part") == []


def test_a_table_that_is_added_to_the_publication_stops_the_stream(databases: Following) -> None:
    error = stops(
        databases,
        "CREATE TABLE stranger (id int PRIMARY KEY);"
        " ALTER PUBLICATION dbsplit_traps ADD TABLE stranger",
        "INSERT INTO stranger VALUES (1)",
    )
    assert "rows of public.stranger, which is no table of the plan" in str(error)
    databases.execute("DROP TABLE stranger")
    databases.forgive()
    databases.stream()


def test_a_new_partition_is_followed_once_the_target_has_it(databases: Following) -> None:
    add = "CREATE TABLE parted_3 PARTITION OF parted FOR VALUES IN (5, 6)"
    error = stops(databases, add, "INSERT INTO parted VALUES (5, 'five')")
    assert "has got partition public.parted_3, which the targets do not have yet" in str(error)
    databases.execute_on("a", add)
    carried(databases)
    with databases.live():
        databases.execute(
            "UPDATE parted SET v = 'FIVE' WHERE id = 5", "INSERT INTO parted_3 VALUES (6, 'six')"
        )
    databases.stream()
    query = "SELECT * FROM parted_3 ORDER BY id"
    assert databases.rows("a", query) == [(5, "FIVE"), (6, "six")]
