# ruff: noqa: S608 -- all of the SQL is the tests' own
"""The source's schema changes before the copy has ended: a refresh carries it, and it goes on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from plans.errors import SplitError
from tests.following import Following, following
from tests.processes import KILLED, start
from toolkit import initial
from toolkit.servers import Server
from toolkit.status import read_status

LIVE_S_MAX = 30.0

TABLES = (
    *("nullable", "constant", "volatile", "retyped", "renamed", "dropped", "needed"),
    *("moved", "doomed", "plain", "other", "another"),
)
SCHEMA = (
    "".join(
        f"CREATE TABLE {name} (id int PRIMARY KEY, v varchar(9), n int DEFAULT 1 UNIQUE);"
        f"INSERT INTO {name} SELECT i, i, i FROM generate_series(1, 500) i;"
        f"CREATE TABLE of_{name} (id int PRIMARY KEY, up int REFERENCES {name}, what text);"
        f"INSERT INTO of_{name} SELECT i, i, i FROM generate_series(1, 500) i;"
        for name in TABLES
    )
    + """
CREATE TYPE mood AS ENUM ('calm', 'wild');
CREATE TABLE moods (id int PRIMARY KEY, m mood);
INSERT INTO moods VALUES (1, 'calm');
CREATE TABLE parted (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10);
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (10) TO (20);
CREATE INDEX ON parted (v);
INSERT INTO parted SELECT n, 'v' FROM generate_series(1, 19) n;
CREATE VIEW both_of AS SELECT c.id, c.v, o.what FROM constant c JOIN of_constant o ON o.up = c.id;
"""
)
PLAN = "moods: a\nparted: a\n" + "".join(
    f"{name}: {{owner: a, reference_in: [b]}}\nof_{name}: a\n" for name in TABLES
)
WRITES = "".join(
    f"UPDATE {name} SET v = 'w' || id WHERE id % 50 = 0; DELETE FROM of_{name} WHERE id = 7;"
    for name in TABLES
    if name not in ("retyped", "renamed", "dropped", "doomed", "moved")
)
CHANGES = (
    "ALTER TABLE nullable ADD extra int",
    "INSERT INTO nullable VALUES (1001, 'x', 1001, 4)",
    "ALTER TABLE constant ADD extra int NOT NULL DEFAULT 7",
    "ALTER TABLE volatile ADD extra float DEFAULT random()",
    "DROP VIEW both_of",
    "ALTER TABLE retyped ALTER v TYPE int USING v::int",
    "ALTER TABLE renamed RENAME v TO w",
    "ALTER TABLE dropped DROP v",
    "ALTER TABLE needed ALTER v SET NOT NULL",
    "ALTER TABLE moved RENAME TO arrived",
    "DROP TABLE of_doomed, doomed",
    "ALTER TYPE mood ADD VALUE 'odd'",
    "INSERT INTO moods VALUES (2, 'odd')",
    "CREATE TABLE parted_3 PARTITION OF parted FOR VALUES FROM (20) TO (30)",
    "INSERT INTO parted SELECT n, 'v' FROM generate_series(20, 29) n",
    "ALTER TABLE parted DETACH PARTITION parted_1",
    "CREATE TABLE late (id int PRIMARY KEY, up int REFERENCES constant)",
    "INSERT INTO late SELECT i, i FROM generate_series(1, 100) i",
    "CREATE VIEW both_of AS SELECT c.id, c.v, o.what FROM constant c JOIN of_constant o"
    " ON o.up = c.id",
    WRITES,
)
MOMENTS = (
    (),
    ("copy.table:3",),
    ("copy.built:9",),
    ("copy.table:3", "copy.copied"),
    ("copy.table:3", "copy.keys"),
    ("copy.table:3", "copy.caught_up"),
    ("copy.after_data",),
    ("copy.after_data:2",),
)


def verb(databases: Following, *words: str, code: int = 0, at: str = "") -> str:
    environment = {**os.environ, **({"DBSPLIT_CRASH_AT": at} if at else {})}
    done = start(words, environment, databases.path.with_name(f"{uuid4().hex}.log"))
    assert done.wait() == code, f"{done} {at}: {done.process.exitcode}\n{done.said()}"
    return done.said()


@pytest.fixture
def databases(source_server: Server, target_server: Server, tmp_path: Path) -> Iterator[Following]:
    with following(source_server, target_server, tmp_path, tables=PLAN) as one:
        one.execute("CREATE SCHEMA odd", SCHEMA)
        one.prepare()
        yield one


def require_as_source(databases: Following) -> None:
    plan = str(databases.path)
    verb(databases, "stream", plan, "--until-caught-up")
    verb(databases, "validate", plan)
    keys = (
        "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE contype IN ('p', 'f', 'u') AND connamespace = 'public'::regnamespace"
        " AND (conrelid::regclass::text <> 'parted_1' OR conparentid <> 0) ORDER BY 1, 2"
    )
    assert databases.rows("a", keys) == databases.rows("source", keys)
    indexes = "SELECT indexdef FROM pg_indexes WHERE tablename = 'parted' ORDER BY 1"
    assert databases.rows("a", indexes) == databases.rows("source", indexes)
    views = "SELECT count(*) FROM both_of"
    assert databases.rows("a", views) == databases.rows("source", views)


@pytest.mark.parametrize("killed", MOMENTS, ids=" ".join)
def test_what_has_changed_before_the_copy_has_ended_is_copied_as_it_is_now(
    databases: Following, killed: tuple[str, ...]
) -> None:
    plan = str(databases.path)
    for point in killed:
        verb(databases, "copy", plan, "--jobs", "1", code=KILLED, at=point)
        databases.execute(WRITES)
    databases.execute(*CHANGES)
    for verbs in (("copy",), ("prepare",)):
        assert "plan refresh" in verb(databases, *verbs, plan, code=3)
    verb(databases, "plan", "refresh", plan, "--owner", "late=a")
    databases.execute(WRITES)
    verb(databases, "copy", plan)
    require_as_source(databases)


EARLY = ("refresh.noted", "refresh.plan", "refresh.published", "refresh.target", "refresh.decided")


@pytest.mark.parametrize("point", EARLY)
def test_a_refresh_before_the_copy_has_ended_that_is_killed_goes_on(
    databases: Following, point: str
) -> None:
    plan = str(databases.path)
    verb(databases, "copy", plan, "--jobs", "1", code=KILLED, at="copy.after_data")
    databases.execute(*CHANGES)
    words = ("plan", "refresh", plan, "--owner", "late=a")
    verb(databases, *words, code=KILLED, at=point)
    assert "plan refresh" in verb(databases, "copy", plan, code=4)
    databases.execute("ALTER TABLE other ADD extra int", WRITES)  # after it was decided
    verb(databases, *words)
    verb(databases, "copy", plan)
    require_as_source(databases)


def test_run_carries_by_itself_what_has_changed_before_the_copy_has_ended(
    databases: Following,
) -> None:
    plan = str(databases.path)
    verb(databases, "copy", plan, "--jobs", "1", code=KILLED, at="copy.built:9")
    databases.execute(
        "ALTER TABLE nullable ADD extra int",
        "CREATE TABLE parted_3 PARTITION OF parted FOR VALUES FROM (20) TO (30)",
        "INSERT INTO parted SELECT n, 'v' FROM generate_series(20, 29) n",
    )
    verb(databases, "run", plan, "--until", "ready", code=3)
    with databases.path.open("a") as file:
        file.write("ddl: {added_columns: carry}\n")
    verb(databases, "run", plan, "--until", "ready")
    require_as_source(databases)


def test_run_leaves_to_a_person_what_the_plan_does(databases: Following) -> None:
    plan = str(databases.path)
    verb(databases, "copy", plan, "--jobs", "1", code=KILLED, at="copy.built:9")
    databases.execute("ALTER TABLE retyped ALTER v TYPE int USING v::int")
    said = verb(databases, "run", plan, "--until", "ready", code=3)
    assert "plan refresh" in said, said
    assert "Traceback" not in said
    verb(databases, "plan", "refresh", plan)
    verb(databases, "run", plan, "--until", "ready")
    require_as_source(databases)


def test_a_running_copy_names_the_partition_that_came_meanwhile(databases: Following) -> None:
    plan = str(databases.path)
    split = databases.open()
    databases.execute(
        "CREATE TABLE parted_3 PARTITION OF parted FOR VALUES FROM (20) TO (30)",
        "INSERT INTO parted SELECT n, 'v' FROM generate_series(20, 29) n",
    )
    with pytest.raises(SplitError) as caught:
        initial.copy(split, lambda _progress: None, jobs=2)
    assert "plan refresh" in caught.value.hint, caught.value
    verb(databases, "plan", "refresh", plan)
    verb(databases, "copy", plan)
    require_as_source(databases)


def test_a_prepare_that_was_killed_tells_of_no_refresh(
    source_server: Server, target_server: Server, tmp_path: Path
) -> None:
    with following(source_server, target_server, tmp_path, tables=PLAN) as databases:
        databases.execute("CREATE SCHEMA odd", SCHEMA)
        plan = str(databases.path)
        verb(databases, "prepare", plan, code=KILLED, at="prepare.schema")
        databases.execute("ALTER TABLE nullable ADD extra int")
        assert "plan refresh" not in (said := verb(databases, "prepare", plan, code=3))
        assert "dbsplit abort" in said
        verb(databases, "abort", plan)
        verb(databases, "prepare", plan)
        verb(databases, "copy", plan)
        require_as_source(databases)


def test_a_split_that_was_refreshed_before_the_copy_ends_leaves_nothing(
    databases: Following,
) -> None:
    plan = str(databases.path)
    verb(databases, "copy", plan, "--jobs", "1", code=KILLED, at="copy.built:30")
    databases.execute(*CHANGES)
    verb(databases, "plan", "refresh", plan, "--owner", "late=a")
    verb(databases, "abort", plan)
    tables = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    assert databases.rows("a", tables) == databases.rows("b", tables) == []


def test_a_service_moves_whose_schema_changed_before_the_copy_had_ended(
    databases: Following,
) -> None:
    plan = str(databases.path)
    verb(databases, "copy", plan, "--jobs", "1", code=KILLED, at="copy.built:9")
    databases.execute(*CHANGES)
    verb(databases, "plan", "refresh", plan, "--owner", "late=a", "--owner", "parted_1=drop")
    verb(databases, "copy", plan)
    stream = start(("stream", plan), os.environ, databases.path.with_name("stream.log"))
    deadline = time.monotonic() + LIVE_S_MAX
    try:
        while not read_status(databases.open()).stream["live"]:
            assert time.monotonic() < deadline, stream.said()
            time.sleep(0.1)
        verb(databases, "cutover", plan, "--service", "a")
        databases.execute_on("a", "INSERT INTO parted VALUES (25, 'x') ON CONFLICT DO NOTHING")
        databases.execute_on("a", "INSERT INTO nullable VALUES (2001, 'x', 2001, 5)")
        verb(databases, "rollback", plan, "--service", "a")
    finally:
        stream.send_signal(signal.SIGTERM)
        stream.wait()
    assert databases.rows("source", "SELECT extra FROM nullable WHERE id = 2001") == [(5,)]
    require_as_source(databases)


CHUNKED = """
CREATE TABLE big (id int PRIMARY KEY, body text);
CREATE TABLE large (id int PRIMARY KEY, body text);
INSERT INTO big SELECT n, repeat(md5(n::text), 20) FROM generate_series(1, 6000) n;
INSERT INTO large SELECT * FROM big;
"""
CHUNKS = "SELECT route, chunk, horizon::text FROM dbsplit.copied_chunk WHERE horizon IS NOT NULL"


def test_only_the_table_that_has_changed_loses_its_chunks(
    source_server: Server, target_server: Server, tmp_path: Path
) -> None:
    with following(
        source_server, target_server, tmp_path, tables="big: a\nlarge: a\n"
    ) as databases:
        databases.execute("CREATE SCHEMA odd", CHUNKED)
        databases.prepare()
        words = ("copy", str(databases.path), "--jobs", "8", "--chunk-mb", "1")
        verb(databases, *words, code=KILLED, at="copy.chunk:8")
        before = set(databases.rows("a", CHUNKS))
        assert before
        databases.execute("ALTER TABLE large ADD extra int DEFAULT 4", "DELETE FROM big WHERE id=3")
        verb(databases, "plan", "refresh", str(databases.path))
        kept = {one for one in before if one[0] == "a:public.big"}
        assert set(databases.rows("a", CHUNKS)) == kept
        databases.execute("UPDATE large SET extra = 5 WHERE id < 9")
        verb(databases, *words)
        assert kept <= set(databases.rows("a", CHUNKS))
        verb(databases, "stream", str(databases.path), "--until-caught-up")
        verb(databases, "validate", str(databases.path))
