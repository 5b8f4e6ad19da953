# ruff: noqa: S608 -- all of the SQL is the tests' own
"""Rows in the log under a name, or of a partition, that came and went again."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

import cdc.relations
import cdc.watch
from cdc.connect import connect
from cdc.relations import NewPartition, Relations
from plans.catalog import TableName
from plans.errors import StreamBroken
from tests.following import DEADLINE_S, Following, following
from tests.small_shop import small_shop
from toolkit.evolving import carry, follow
from toolkit.refresh import refresh
from toolkit.refresh_edits import Answers
from toolkit.servers import Server
from toolkit.servers_watchdog import wait_until

CASES = {
    "renamed": (
        "ALTER TABLE {t} RENAME TO {t}_9",
        "UPDATE {t}_9 SET v = 'other' WHERE id < 3",
        "ALTER TABLE {t}_9 RENAME TO {t}",
    ),
    "moved": (
        "ALTER TABLE {t} SET SCHEMA nowhere",
        "DELETE FROM nowhere.{t} WHERE id = 2",
        "ALTER TABLE nowhere.{t} SET SCHEMA public",
    ),
    "exchanged": (
        "ALTER TABLE {t} RENAME TO {t}_9; ALTER TABLE {t}_too RENAME TO {t}",
        "UPDATE {t} SET v = 'of the other'; INSERT INTO {t}_9 VALUES (70, 'own')",
        "ALTER TABLE {t} RENAME TO {t}_too; ALTER TABLE {t}_9 RENAME TO {t}",
    ),
    "emptied": (
        "ALTER TABLE {t} RENAME TO {t}_9",
        "TRUNCATE {t}_9",
        "ALTER TABLE {t}_9 RENAME TO {t}",
        "INSERT INTO {t} VALUES (5, 'after')",
    ),
    "leaf_renamed": (
        "ALTER TABLE {t}_1 RENAME TO {t}_9",
        "UPDATE {t} SET v = 'other' WHERE id < 3; UPDATE {t} SET id = 15 WHERE id = 4",
        "ALTER TABLE {t}_9 RENAME TO {t}_1",
    ),
    "leaf_moved": (
        "ALTER TABLE {t}_1 SET SCHEMA nowhere",
        "UPDATE {t} SET v = 'other' WHERE id < 3",
        "ALTER TABLE nowhere.{t}_1 SET SCHEMA public",
    ),
    "leaf_emptied": (
        "ALTER TABLE {t}_1 RENAME TO {t}_9",
        "TRUNCATE {t}_9",
        "ALTER TABLE {t}_9 RENAME TO {t}_1",
        "INSERT INTO {t} VALUES (5, 'after')",
    ),
    "leaf_made_and_dropped": (
        "CREATE TABLE {t}_9 PARTITION OF {t} FOR VALUES FROM (20) TO (30)",
        "INSERT INTO {t} VALUES (20, 'gone'), (21, 'goes on'), (3, 'stays')",
        "UPDATE {t} SET id = 16 WHERE id = 21; UPDATE {t} SET id = 22 WHERE id = 11",
        "DROP TABLE {t}_9",
    ),
    "leaf_made_and_detached": (
        "CREATE TABLE {t}_9 PARTITION OF {t} FOR VALUES FROM (20) TO (30)",
        "INSERT INTO {t} VALUES (20, 'gone'), (21, 'goes on'), (3, 'stays')",
        "UPDATE {t} SET id = 16 WHERE id = 21; UPDATE {t} SET id = 22 WHERE id = 11",
        "ALTER TABLE {t} DETACH PARTITION {t}_9",
        "UPDATE {t}_9 SET v = 'elsewhere'",
    ),
    "leaf_made_and_emptied": (
        "CREATE TABLE {t}_9 PARTITION OF {t} FOR VALUES FROM (20) TO (30)",
        "INSERT INTO {t} VALUES (20, 'gone'); TRUNCATE {t}_9; INSERT INTO {t} VALUES (3, 'x')",
        "DROP TABLE {t}_9",
    ),
    "leaf_made_and_divided": (
        "CREATE TABLE {t}_9 PARTITION OF {t} FOR VALUES FROM (20) TO (30) PARTITION BY RANGE (id)",
        "CREATE TABLE {t}_90 PARTITION OF {t}_9 FOR VALUES FROM (20) TO (25)",
        "INSERT INTO {t} VALUES (20, 'gone'), (3, 'stays')",
        "ALTER TABLE {t} DETACH PARTITION {t}_9",
    ),
}
WAYS = ("standing", "at_once", "running")
TABLES = [f"{case}_{way}" for case in CASES for way in WAYS]
PLAIN = (
    "CREATE TABLE {t} (id int PRIMARY KEY, v text);"
    "INSERT INTO {t} VALUES (1, 'one'), (2, 'two'), (4, 'four'), (11, 'eleven');"
)
PARTED = (
    "CREATE TABLE {t} (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);"
    "CREATE TABLE {t}_1 PARTITION OF {t} FOR VALUES FROM (0) TO (10);"
    "CREATE TABLE {t}_2 PARTITION OF {t} FOR VALUES FROM (10) TO (20);"
    "INSERT INTO {t} VALUES (1, 'one'), (2, 'two'), (4, 'four'), (11, 'eleven');"
)


def made(table: str) -> str:
    return (PARTED if table.startswith("leaf") else PLAIN).format(t=table)


SHAPES = {
    "called": (
        "ALTER TABLE {t} RENAME v TO w",
        "UPDATE {t} SET w = 'other' WHERE id < 3",
        "ALTER TABLE {t} RENAME w TO v",
    ),
    "retyped": (
        "ALTER TABLE {t} ALTER v TYPE varchar(9)",
        "UPDATE {t} SET v = 'other' WHERE id < 3",
        "ALTER TABLE {t} ALTER v TYPE text",
    ),
    "labelled": (
        "ALTER TYPE {t}_mood RENAME VALUE 'calm' TO 'wild'",
        "INSERT INTO {t} VALUES (6, 'other', 'wild')",
        "ALTER TYPE {t}_mood RENAME VALUE 'wild' TO 'calm'",
    ),
}
SHAPED = [f"{case}_{way}" for case in SHAPES for way in ("told", "carried")]
WITH_DEFAULT = ("lost", "short_lived")
MOODS = "".join(
    f"CREATE TYPE {t}_mood AS ENUM ('calm'); ALTER TABLE {t} ADD m {t}_mood;"
    for t in SHAPED
    if t.startswith("labelled")
)
OTHERS = (*WITH_DEFAULT, *SHAPED, "remade")
REMADE = "CREATE TABLE remade (id int PRIMARY KEY, v text);"
EXCHANGED = [f"{table}_too" for table in TABLES if table.startswith("exchanged")]


@pytest.fixture(scope="module")
def databases(
    source_server: Server, target_server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Following]:
    plan = "".join(f"{table}: a\n" for table in (*TABLES, *EXCHANGED, *OTHERS))
    with (
        pytest.MonkeyPatch.context() as patch,
        following(
            source_server, target_server, tmp_path_factory.mktemp("between"), tables=plan
        ) as one,
    ):
        patch.setattr(cdc.watch, "CHECK_S", 0.2)
        one.execute("CREATE SCHEMA odd; CREATE SCHEMA nowhere")
        one.execute("".join(made(table) for table in (*TABLES, *EXCHANGED)))
        one.execute("".join(PARTED.format(t=table) for table in WITH_DEFAULT) + REMADE)
        one.execute("".join(PLAIN.format(t=table) for table in SHAPED) + MOODS)
        one.execute(*(f"CREATE TABLE {t}_rest PARTITION OF {t} DEFAULT" for t in WITH_DEFAULT))
        one.prepare()
        one.copy()
        one.stream()
        yield one


def say(_step: str, _details: object) -> None:
    """Nobody listens."""


def followed(databases: Following) -> None:
    """Follow until all is applied, as the verb does, carrying what the plan says."""
    stop = threading.Event()
    alarm = threading.Timer(DEADLINE_S, stop.set)
    alarm.start()
    try:
        follow(databases.path, stop=stop, until_caught_up=True, report=lambda _p: None, say=say)
    finally:
        alarm.cancel()
    assert not stop.is_set()


def rows(databases: Following, place: str, table: str) -> list[tuple[object, ...]]:
    return databases.rows(place, f"SELECT * FROM {table} ORDER BY 1")


def same(databases: Following, *tables: str) -> bool:
    return all(rows(databases, "a", one) == rows(databases, "source", one) for one in tables)


def done(databases: Following, way: str, table: str, statements: Sequence[str]) -> None:
    """Run them, and follow; a stream that runs goes on by itself."""
    texts = [text.format(t=table) for text in statements]
    if way == "at_once":
        texts = ["; ".join(texts)]
    if way == "standing":
        databases.execute(*texts)
        followed(databases)
        return
    with databases.live() as live:
        databases.execute(*texts, f"INSERT INTO {table} VALUES (9, 'last')")
        wait_until(lambda: live.failure is not None or same(databases, table), timeout_s=DEADLINE_S)
    if way == "at_once":
        assert live.failure is None, live.failure
    followed(databases)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES)
def test_rows_go_where_they_are_now(databases: Following, case: str, way: str) -> None:
    table = f"{case}_{way}"
    done(databases, way, table, CASES[case])
    assert rows(databases, "a", table) == rows(databases, "source", table)
    if case == "exchanged":
        assert same(databases, f"{table}_too")


def test_a_partition_that_is_lost_while_nobody_follows_is_told(databases: Following) -> None:
    """Nothing in the log says so."""
    databases.execute("DROP TABLE lost_2")
    with pytest.raises(StreamBroken, match=r"has lost partition public\.lost_2"):
        followed(databases)
    refresh(databases.path, Answers(), say)
    followed(databases)
    assert same(databases, "lost")


def test_a_new_partition_is_made_before_others_take_its_rows(databases: Following) -> None:
    """Or nobody would know which they were, once it is dropped."""
    databases.execute(
        "CREATE TABLE short_lived_3 PARTITION OF short_lived FOR VALUES FROM (20) TO (30)",
        "INSERT INTO short_lived VALUES (20, 'gone')",
    )
    with databases.live() as live:
        assert isinstance(live.broken(), NewPartition)
    followed(databases)
    assert rows(databases, "a", "short_lived_3") == [(20, "gone")]
    databases.execute("INSERT INTO short_lived VALUES (21, 'too')", "DROP TABLE short_lived_3")
    with pytest.raises(StreamBroken, match="has lost partition"):
        followed(databases)
    refresh(databases.path, Answers(), say)
    followed(databases)
    assert same(databases, "short_lived")


def test_a_new_partition_that_has_gone_before_the_stream_made_it_is_no_matter(
    databases: Following,
) -> None:
    carry(
        databases.path,
        NewPartition(TableName("public", "gone"), TableName("public", "short_lived")),
        say,
        threading.Event(),
    )


def test_a_table_made_again_and_published_by_hand_is_another_one(databases: Following) -> None:
    databases.execute(
        "INSERT INTO remade VALUES (1, 'old')",
        f"DROP TABLE remade; {REMADE} ALTER PUBLICATION dbsplit_traps ADD TABLE remade",
        "INSERT INTO remade VALUES (2, 'new')",
    )
    with pytest.raises(StreamBroken, match="was dropped and created again"):
        followed(databases)
    assert refresh(databases.path, Answers(), say).copied == ("a:public.remade",)
    followed(databases)
    assert same(databases, "remade")


@pytest.mark.parametrize("case", SHAPES)
def test_rows_of_another_shape_are_told_with_the_way_out(databases: Following, case: str) -> None:
    table = f"{case}_told"
    databases.execute(*(text.format(t=table) for text in SHAPES[case]))
    with pytest.raises(StreamBroken) as stopped:
        followed(databases)
    name = "TABLE" if case == "labelled" else f"public.{table}"
    assert f"dbsplit plan refresh --anew {name}" in stopped.value.hint
    refresh(databases.path, Answers(anew=frozenset({table})), say)
    followed(databases)
    assert same(databases, table)


@pytest.mark.parametrize("case", ["called", "retyped"])
def test_rows_of_another_shape_are_carried_where_the_plan_says_so(
    databases: Following, case: str
) -> None:
    table, before = f"{case}_carried", databases.path.read_text()
    databases.path.write_text(before + "ddl: {changed_columns: carry}\n")
    databases.execute(*(text.format(t=table) for text in SHAPES[case]))
    followed(databases)
    assert same(databases, table)
    databases.path.write_text(before)
    followed(databases)


def test_what_is_in_the_log_and_not_seen_yet_is_waited_for(
    databases: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit that waits for a standby is decoded, and its locks are held."""
    table, leaf = TableName("public", "short_lived"), TableName("public", "short_lived_4")
    with (
        connect(databases.source) as watching,
        psycopg.connect(databases.source) as making,
        ThreadPoolExecutor() as pool,
    ):
        relations = Relations(watching, "dbsplit_traps", [table])
        making.execute(
            "CREATE TABLE short_lived_4 PARTITION OF short_lived FOR VALUES FROM (40) TO (50)"
        )
        row = making.execute("SELECT 'short_lived_4'::regclass::oid::bigint").fetchone()
        assert row is not None
        found = pool.submit(relations.found, row[0], leaf)
        with pytest.raises(TimeoutError):
            found.result(timeout=0.5)
        making.commit()
        assert found.result() == (leaf, table)
        making.execute("DROP TABLE short_lived_4")
        monkeypatch.setattr(cdc.relations, "LOCK_S_MAX", 0.1)
        with pytest.raises(StreamBroken, match="it is locked"):
            relations.found(row[0], leaf)
        making.commit()


def test_everything_is_proven_equal(databases: Following) -> None:
    with databases.live():
        results = databases.validated()
    assert {result.state for result in results.values()} == {"equal"}, results


def test_on_the_way_back_too(source_server: Server, target_server: Server, tmp_path: Path) -> None:
    with small_shop(source_server, target_server, tmp_path) as shop:
        shop.follow()
        with shop.verbs.stream(shop.source):
            shop.verbs("cutover", "--yes", "--service", "shop")
        shop.ask("shop", "ALTER TABLE events_2024 RENAME TO events_then")
        shop.ask("shop", "ALTER TABLE orders RENAME TO orders_then")
        shop.ask("shop", "UPDATE events SET what = 'renamed' WHERE id < 9")
        shop.ask("shop", "UPDATE orders_then SET state = 'sent' WHERE id < 5")
        shop.ask("shop", "ALTER TABLE events_then RENAME TO events_2024")
        shop.ask("shop", "ALTER TABLE orders_then RENAME TO orders")
        shop.ask(
            "shop",
            "CREATE TABLE events_2030 PARTITION OF events"
            " FOR VALUES FROM ('2030-01-01') TO ('2031-01-01')",
        )
        shop.ask("shop", "INSERT INTO events VALUES ('2030-05-05', 9001, 'gone')")
        shop.ask("shop", "UPDATE events SET at = '2030-05-06' WHERE id = 20")
        shop.ask("shop", "DROP TABLE events_2030")
        with shop.verbs.stream(shop.source):
            assert shop.verbs.json("validate")["consistent"]
            shop.verbs("rollback", "--yes")
        found = shop.ask("source", "SELECT count(*) FROM events WHERE what = 'renamed'")
        assert found == [(8,)]
        assert shop.ask("source", "SELECT FROM events WHERE id = 20") == []
