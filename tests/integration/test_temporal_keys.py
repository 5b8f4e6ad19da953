# ruff: noqa: S608 -- all of the SQL is the tests' own
"""Keys WITHOUT OVERLAPS: exclusions, which ON CONFLICT does not know, and periods that move on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cdc.write import Way
from cdc.writer import Writer
from plans.catalog import TableName
from tests.conftest import require_version
from tests.following import Following, following
from tests.stream_traps import big
from toolkit.links import forward_feed
from toolkit.servers import Server, running_server

KEY = "room int4range, valid daterange, price int, note text STORAGE EXTERNAL"
TABLES = ("price", "rate", "lease", "stay", "hall")
YEAR = "daterange('2020-01-01', '2021-01-01')"
SCHEMA = (
    f"CREATE TABLE price ({KEY}, PRIMARY KEY (room, valid WITHOUT OVERLAPS))",
    f"CREATE TABLE rate ({KEY}, PRIMARY KEY (room, valid WITHOUT OVERLAPS))",
    f"CREATE TABLE lease ({KEY}, PRIMARY KEY (room, valid WITHOUT OVERLAPS))",
    f"CREATE TABLE stay ({KEY}, CONSTRAINT one UNIQUE (room, valid WITHOUT OVERLAPS));"
    " ALTER TABLE stay ALTER room SET NOT NULL, ALTER valid SET NOT NULL,"
    " REPLICA IDENTITY USING INDEX one",
    f"CREATE TABLE hall ({KEY}, PRIMARY KEY (room, valid WITHOUT OVERLAPS))"
    " PARTITION BY RANGE (room);"
    " CREATE TABLE hall_low PARTITION OF hall FOR VALUES FROM (MINVALUE) TO ('[20,21)');"
    " CREATE TABLE hall_high PARTITION OF hall FOR VALUES FROM ('[20,21)') TO (MAXVALUE)",
    "CREATE TABLE other (id int PRIMARY KEY, place int UNIQUE); INSERT INTO other VALUES (1, 1),"
    " (2, 2)",
    *(
        f"INSERT INTO {table} SELECT int4range(n, n + 1), {YEAR}, n, {big('old')}"
        " FROM generate_series(1, 30) n"
        for table in TABLES
    ),
)
PLAN = """\
price:
  owner: a
  reference_in: [b]
  derive:
    - {into: hub.told, key: {room: room, valid: valid}, columns: {twice: price * 2}}
rate: {split_rows: {a: "price % 2 = 0", b: "price % 2 <> 0"}}
lease: {split_columns: {a: [room, valid, price], b: [room, valid, note]}}
stay: a
hall: a
other: a
"""
DERIVED = (
    "CREATE TABLE public.told (room int4range, valid daterange, twice int,"
    " PRIMARY KEY (room, valid WITHOUT OVERLAPS));"
)
CHANGES = (
    f"INSERT INTO {{t}} VALUES ('[50,51)', {YEAR}, 50, 'new')",
    "UPDATE {t} SET price = price + 1 WHERE price IN (2, 3)",
    "DELETE FROM {t} WHERE price = 5",
    f"BEGIN; DELETE FROM {{t}} WHERE price = 6; INSERT INTO {{t}} VALUES ('[6,7)', {YEAR}, 7, '');"
    " COMMIT",
    # One row's period becomes shorter, and another takes what is free then; there and back.
    "INSERT INTO {t} VALUES ('[8,9)', '[2021-01-01,2022-01-01)', 80, 'later')",
    "BEGIN; UPDATE {t} SET valid = '[2020-01-01,2020-06-01)' WHERE price = 8;"
    " UPDATE {t} SET valid = '[2020-06-01,2022-01-01)' WHERE price = 80; COMMIT",
    "BEGIN; UPDATE {t} SET valid = '[2021-06-01,2022-01-01)' WHERE price = 80;"
    " UPDATE {t} SET valid = '[2020-01-01,2021-06-01)', price = 800 WHERE price = 8; COMMIT",
    # Two rows exchange their rooms by a third one.
    "BEGIN; UPDATE {t} SET room = '[99,100)' WHERE price = 10;"
    " UPDATE {t} SET room = '[10,11)' WHERE price = 11;"
    " UPDATE {t} SET room = '[11,12)', note = 'moved' WHERE price = 10; COMMIT",
    "UPDATE {t} SET room = int4range(lower(room) + 100, upper(room) + 100) WHERE price > 25",
    # A row with another period and the same value out of line, in the place of one that goes.
    "BEGIN; DELETE FROM {t} WHERE price = 12;"
    " UPDATE {t} SET room = '[12,13)' WHERE price = 13; COMMIT",
)
HANDED_ON = (
    "BEGIN; UPDATE other SET place = 9 WHERE id = 1; UPDATE other SET place = 1 WHERE id = 2;"
    " UPDATE other SET place = 2 WHERE id = 1; COMMIT"
)


SIZES = (1, 7, 40_000)
BY_DEFAULT = {(Way.DIRECT, 7), (Way.MERGE, 40_000), (Way.REWRITE, 1)}
RUNS = [
    pytest.param(way, size, id=f"{way.value}, {size} at a time", marks=marks)
    for way in Way
    for size in SIZES
    for marks in [() if (way, size) in BY_DEFAULT else (pytest.mark.long, pytest.mark.release)]
]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    require_version("18")
    with running_server(version="18") as one:
        yield one


@pytest.fixture
def databases(server: Server, tmp_path: Path) -> Iterator[Following]:
    with following(server, server, tmp_path, tables=PLAN, derived=DERIVED) as one:
        one.execute("CREATE SCHEMA odd", *SCHEMA)
        one.prepare()
        one.execute(*(CHANGES[1].format(t=table) for table in TABLES))
        one.copy()
        yield one


def require_equal(databases: Following) -> None:
    split, validated = databases.open(), databases.validated()
    for route in split.routes:
        assert databases.differences(split, route) == ([], []), route.id
        assert validated[route.id].state == "equal", validated[route.id]


@pytest.mark.parametrize(("way", "size"), RUNS)
def test_rows_are_followed_in_every_way(
    databases: Following, monkeypatch: pytest.MonkeyPatch, way: Way, size: int
) -> None:
    monkeypatch.setattr(Writer, "_first_way", lambda _self: way)
    monkeypatch.setattr("cdc.apply.BATCH_CHANGES_MAX", size)
    monkeypatch.setattr("cdc.apply.PART_CHANGES_MAX", size)
    databases.execute(*(text.format(t=table) for text in CHANGES for table in TABLES), HANDED_ON)
    databases.stream()
    require_equal(databases)


def test_the_catalog_and_the_flows_know_them(databases: Following) -> None:
    split = databases.open()
    for table in TABLES:
        assert split.catalog.tables[TableName("public", table)].has_temporal_key
    assert not split.catalog.tables[TableName("public", "other")].has_temporal_key
    for link in forward_feed(split).links:
        for flow in link.flows:
            assert flow.key_arbitrates is (flow.leader.name.name == "other"), flow.route
