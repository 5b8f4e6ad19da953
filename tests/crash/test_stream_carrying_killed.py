# ruff: noqa: S608 -- all of the SQL is the tests' own
"""kill -9 of a stream that carries a change by itself: the same command goes on with it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from tests.crash.busy import busy, family
from tests.crash.line import new_line
from tests.crash.points import BESIDE, REFRESH
from tests.crash.traffic import BOOKS
from tests.following import Following, following
from tests.processes import KILLED, start
from toolkit.servers import Server

RUN = ("refresh.noted", "refresh.decided")
SETS = range(max(len(REFRESH), len(RUN)))
TABLES = "".join(
    f"CREATE TABLE parents_{n} (id int PRIMARY KEY, code varchar(9));"
    f"CREATE TABLE children_{n} (id int PRIMARY KEY, parent int REFERENCES parents_{n}, n int,"
    f" secret text);"
    f"INSERT INTO parents_{n} SELECT i, i FROM generate_series(1, 2000) i;"
    f"INSERT INTO children_{n} SELECT i, i, i FROM generate_series(1, 2000) i;"
    for n in SETS
)
ENTRIES = "".join(
    f"parents_{n}: {{owner: a, reference_in: [b]}}\nchildren_{n}: {{owner: a, drop: [secret]}}\n"
    for n in SETS
)
# One is copied anew, one is changed in place; the plan is edited.
CHANGES = (
    "ALTER TABLE parents_{n} ALTER code TYPE int USING code::int",
    "ALTER TABLE children_{n} ADD added int DEFAULT 7; ALTER TABLE children_{n} DROP secret",
)
CARRY = "ddl: {added_columns: carry, dropped_columns: carry, changed_columns: carry}\n"

# More than is copied while the stream stands.
WIDE = "".join(
    f"CREATE TABLE wide_{n} (id int PRIMARY KEY, v text, n int) WITH (fillfactor = 80);"
    f"INSERT INTO wide_{n} SELECT i, repeat(md5(i::text), 10), 0 FROM generate_series(1, 40000) i;"
    for n in range(len(BESIDE))
)
WIDENED = "ALTER TABLE wide_{n} ALTER n TYPE text USING 'n' || n"


@contextmanager
def prepared(
    source: Server, target: Server, directory: Path, tables: str, entries: str
) -> Iterator[Following]:
    with following(source, target, directory, tables=entries) as one:
        one.execute("CREATE SCHEMA odd", tables)
        with one.path.open("a") as plan:
            plan.write(CARRY)
        one.prepare()
        one.copy()
        one.stream()
        yield one


def ends(databases: Following, *words: str, code: int = 0, at: str = "") -> str:
    """Run a verb; what it says at its end."""
    verb, plan = words[0], str(databases.path)
    words = ("plan", "refresh", plan, *words[1:]) if verb == "refresh" else (verb, plan, *words[1:])
    environment = {**os.environ, **({"DBSPLIT_CRASH_AT": at} if at else {})}
    done = start(words, environment, databases.path.with_name(f"{uuid4().hex}.log"))
    assert done.wait() == code, f"{done} {at}: {done.process.exitcode}\n{done.said()}"
    return done.said()


def same(databases: Following, table: str, *places: str, when: str) -> None:
    query = f"SELECT * FROM {table} ORDER BY 1"
    for place in places:
        assert databases.rows(place, query) == databases.rows("source", query), (when, place, table)


def is_refreshing(databases: Following) -> bool:
    query = "SELECT settings ? 'refreshing' FROM dbsplit.split"
    return databases.rows("source", query) == [(True,)]


def change(databases: Following, number: int) -> None:
    databases.execute(*(text.format(n=number) for text in CHANGES))


def carried(databases: Following, number: int, when: str) -> None:
    """Nothing of the refresh is left, and targets, plan and keys are as the source is."""
    assert not is_refreshing(databases)
    same(databases, f"parents_{number}", "a", "b", when=when)
    same(databases, f"children_{number}", "a", when=when)
    plan = databases.path.read_text()
    (entry,) = (line for line in plan.splitlines() if f"children_{number}:" in line)
    assert "secret" not in entry, when
    keys = (
        "SELECT conname FROM pg_constraint WHERE contype IN ('p', 'f') AND conrelid IN"
        f" ('parents_{number}'::regclass, 'children_{number}'::regclass) ORDER BY 1"
    )
    assert databases.rows("a", keys) == databases.rows("source", keys), when


def test_a_stream_killed_at_every_point_of_a_refresh_goes_on_with_it(
    source_server: Server, target_server: Server, tmp_path: Path
) -> None:
    with prepared(source_server, target_server, tmp_path, TABLES, ENTRIES) as databases:
        for number, point in enumerate(REFRESH):
            with busy(databases, *family(number)):
                time.sleep(0.2)
                change(databases, number)
                ends(databases, "stream", "--until-caught-up", code=KILLED, at=point)
                assert is_refreshing(databases), point
                ends(databases, "stream", "--until-caught-up")
            ends(databases, "stream", "--until-caught-up")
            carried(databases, number, point)
        assert not list(databases.path.parent.glob(f".{databases.path.name}.*"))


def test_a_stream_killed_while_it_copies_beside_goes_on_with_it(
    source_server: Server, target_server: Server, tmp_path: Path
) -> None:
    entries = "".join(f"wide_{n}: {{owner: a, reference_in: [b]}}\n" for n in range(len(BESIDE)))
    with prepared(source_server, target_server, tmp_path, WIDE, entries) as databases:
        for number, point in enumerate(BESIDE):
            some = (
                f"INSERT INTO wide_{number} VALUES ({{row}}, 'new')",
                f"UPDATE wide_{number} SET v = v || '!' WHERE id = {{row}} % 40000 + 1",
                f"UPDATE wide_{number} SET id = -id WHERE id = {{row}} % 39000 + 7",
                f"DELETE FROM wide_{number} WHERE id = {{row}} - 3",
            )
            with busy(databases, *some):
                databases.execute(WIDENED.format(n=number))
                ends(databases, "stream", "--until-caught-up", code=KILLED, at=point)
                ends(databases, "stream", "--until-caught-up")
            ends(databases, "stream", "--until-caught-up")
            assert not is_refreshing(databases)
            same(databases, f"wide_{number}", "a", "b", when=point)


def test_a_stream_killed_twice_and_a_run_go_on(
    source_server: Server, target_server: Server, tmp_path: Path
) -> None:
    """`run` begins with what is done already, and which would refuse the tables of now."""
    with prepared(source_server, target_server, tmp_path, TABLES, ENTRIES) as databases:
        for number, point in enumerate(RUN):
            with busy(databases, *family(number)):
                change(databases, number)
                ends(databases, "run", "--until", "following", code=KILLED, at=point)
                ends(databases, "stream", code=KILLED, at="refresh.copied")
                assert is_refreshing(databases), point
                ends(databases, "run", "--until", "following")
            ends(databases, "stream", "--until-caught-up")
            carried(databases, number, point)


def test_a_refresh_begun_by_hand_that_the_plan_stops_is_left_to_plan_refresh(
    source_server: Server, target_server: Server, tmp_path: Path
) -> None:
    with prepared(source_server, target_server, tmp_path, TABLES, ENTRIES) as databases:
        text = databases.path.read_text()
        databases.path.write_text(text.replace("dropped_columns: carry", "dropped_columns: stop"))
        for number, point in enumerate(("refresh.noted", "refresh.decided")):
            change(databases, number)
            ends(databases, "stream", "--until-caught-up", code=7)
            ends(databases, "refresh", code=KILLED, at=point)
            left = ends(databases, "stream", "--until-caught-up", code=4)
            assert "a refresh of split traps was begun and has not ended" in left
            assert "dbsplit plan refresh" in left
            assert is_refreshing(databases), point
            ends(databases, "refresh")
            ends(databases, "stream", "--until-caught-up")
            carried(databases, number, point)


@pytest.mark.release
def test_a_stream_killed_while_one_service_has_moved_goes_on_with_the_refresh(
    source_server: Server, target_server: Server, tmp_path: Path
) -> None:
    with new_line(source_server, target_server, tmp_path) as line:
        line.follow()
        line.done("cutover", "--service", BOOKS)
        with line.plan.open("a") as plan:
            plan.write("ddl: {added_columns: carry}\n")
        for number, point in enumerate(one for one in REFRESH if one != "refresh.plan"):
            line.kill_stream()
            with psycopg.connect(line.source) as source:
                source.execute(f"ALTER TABLE sheet ADD r_{number} float DEFAULT random()".encode())
            line.stream_killed_at(point, 1)
            line.start_stream()
            line.writes_flow()
        line.prove()
        line.done("rollback", "--service", BOOKS)
        line.prove()
        assert set(line.phases().values()) == {"following"}
