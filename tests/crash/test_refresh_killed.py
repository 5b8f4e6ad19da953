# ruff: noqa: S608 -- all of the SQL is the tests' own
"""kill -9 of `plan refresh` and of giving up: the same command again goes on."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from tests.crash.busy import busy, family
from tests.crash.line import Ended, Line, new_line
from tests.crash.points import BUDGET, REFRESH
from tests.crash.traffic import BOOKS, DESK
from tests.following import Following, following
from tests.processes import KILLED, start
from toolkit.servers import Server
from toolkit.servers_watchdog import wait_until

SETS = range(len(REFRESH))

TABLES = "".join(
    f"CREATE TABLE parents_{n} (id int PRIMARY KEY, code varchar(9));"
    f"CREATE TABLE children_{n} (id int PRIMARY KEY, parent int REFERENCES parents_{n}, n int);"
    f"INSERT INTO parents_{n} SELECT i, i FROM generate_series(1, 2000) i;"
    f"INSERT INTO children_{n} SELECT i, i, i FROM generate_series(1, 2000) i;"
    for n in SETS
)
PLAN = "".join(f"parents_{n}: {{owner: a, reference_in: [b]}}\nchildren_{n}: a\n" for n in SETS)
CHANGES = """
ALTER TABLE parents_{n} ALTER code TYPE int USING code::int;
ALTER TABLE children_{n} ADD added int DEFAULT 7;
CREATE TABLE new_{n} (id int PRIMARY KEY, child int REFERENCES children_{n});
INSERT INTO new_{n} SELECT i, i FROM generate_series(1, 500) i;
"""


def verb(databases: Following, *words: str, code: int = 0, at: str = "") -> None:
    environment = {**os.environ, **({"DBSPLIT_CRASH_AT": at} if at else {})}
    done = start(words, environment, databases.path.with_name(f"{uuid4().hex}.log"))
    assert done.wait() == code, f"{done} {at}: {done.process.exitcode}\n{done.said()}"


@pytest.fixture
def databases(source_server: Server, target_server: Server, tmp_path: Path) -> Iterator[Following]:
    with following(source_server, target_server, tmp_path, tables=PLAN) as one:
        one.execute("CREATE SCHEMA odd", TABLES)
        one.prepare()
        one.copy()
        one.stream()
        yield one


def test_a_refresh_killed_at_every_point_under_load(databases: Following) -> None:
    plan = str(databases.path)
    for number, point in enumerate(REFRESH):
        with busy(databases, *family(number)):
            time.sleep(0.2)
            databases.execute(CHANGES.format(n=number))
            words = ("plan", "refresh", plan, "--owner", f"new_{number}=a")
            verb(databases, *words, code=KILLED, at=point)
            verb(databases, "stream", plan, "--until-caught-up", code=4)
            verb(databases, *words)
        verb(databases, "stream", plan, "--until-caught-up")
        for table in (f"parents_{number}", f"children_{number}", f"new_{number}"):
            query = f"SELECT * FROM {table} ORDER BY 1"
            assert databases.rows("a", query) == databases.rows("source", query), point
        query = f"SELECT * FROM parents_{number} ORDER BY 1"
        assert databases.rows("b", query) == databases.rows("source", query), point
        keys = (
            "SELECT conname FROM pg_constraint WHERE contype IN ('p', 'f') AND conrelid IN"
            f" ('parents_{number}'::regclass, 'children_{number}'::regclass,"
            f" 'new_{number}'::regclass) ORDER BY 1"
        )
        assert databases.rows("a", keys) == databases.rows("source", keys), point


@pytest.mark.parametrize("point", BUDGET)
def test_giving_up_that_was_killed_is_finished_by_the_next(
    databases: Following, point: str
) -> None:
    with databases.path.open("a") as plan:
        plan.write("limits: {wal_retained_bytes_max: 1000000}\nslots: {over_budget: give_up}\n")
    path = str(databases.path)
    databases.execute(
        "SELECT pg_logical_emit_message(false, 'noise', repeat('x', 1000000))"
        " FROM generate_series(1, 5)"
    )
    slots = "SELECT slot_name FROM pg_replication_slots WHERE database = current_database()"
    verb(databases, "stream", path, code=KILLED, at=point)
    assert databases.rows("source", slots) != []
    verb(databases, "stream", path, code=7)
    assert wait_until(lambda: databases.rows("source", slots) == [], timeout_s=30)


WITH_ONE_MOVED = ("refresh.target", "refresh.decided", "refresh.copied")
ON_SHEETS = (
    "ALTER TABLE sheet ADD extra_{n} int NOT NULL DEFAULT {n}",
    "CREATE TABLE new_{n} (id int PRIMARY KEY, v text);"
    " INSERT INTO new_{n} SELECT i, 'v' FROM generate_series(1, 500) i",
)


@pytest.mark.release
def test_a_refresh_while_one_service_has_moved(
    source_server: Server, target_server: Server, tmp_path: Path
) -> None:
    """What follows is refreshed, killed on the way; what leads has to agree; then all go back."""
    with new_line(source_server, target_server, tmp_path) as line:
        line.follow()
        line.done("cutover", "--service", BOOKS)
        for number, point in enumerate(WITH_ONE_MOVED):
            execute(line.source, *(text.format(n=number) for text in ON_SHEETS))
            assert line.await_stream() == 7
            words = ("plan refresh", "--owner", f"new_{number}={DESK}")
            line.killed_at(point, *words)
            line.done(*words)
            line.start_stream()
            line.writes_flow()
        _changed_on_the_source_alone(line)
        _changed_by_the_leader_alone(line)
        line.prove()
        line.done("rollback", "--service", BOOKS)
        line.prove()
        assert hints(line.source) == hints(line.targets[BOOKS]) != []
        assert set(line.phases().values()) == {"following"}


def _changed_on_the_source_alone(line: Line) -> None:
    """It is undone, or made by the leader as well."""
    execute(line.source, "ALTER TABLE ledger ADD memo text", "ALTER TABLE reading ADD oops int")
    assert line.await_stream() == 7
    refused = line.run("plan refresh")
    assert refused.code == 6, refused
    assert (
        'in the database of books: ALTER TABLE "public"."ledger" ADD COLUMN "memo" text'
        in (refused.result["hint"])
    ), refused
    assert line.run("stream", "--until-caught-up").code == 7
    execute(line.source, "ALTER TABLE reading DROP oops")
    execute(line.targets[BOOKS], "ALTER TABLE ledger ADD memo text")
    repaired(line, "ledger", line.done("plan refresh"))


def _changed_by_the_leader_alone(line: Line) -> None:
    """What was written meanwhile comes to the source nevertheless."""
    execute(
        line.targets[BOOKS],
        "ALTER TABLE account ADD hint text",
        # The writers each change two accounts: nobody waits for a row while holding another.
        "BEGIN; LOCK TABLE account IN SHARE ROW EXCLUSIVE MODE;"
        " UPDATE account SET hint = 'of ' || name; COMMIT",
    )
    assert line.await_stream() == 7
    stopped = line.run("stream", "--until-caught-up")
    assert stopped.code == 7, stopped
    remedy = 'on the source, nullable: ALTER TABLE "public"."account" ADD COLUMN "hint" text'
    assert remedy in stopped.result["hint"], stopped
    execute(line.source, "ALTER TABLE account ADD hint text")
    refreshed = line.done("plan refresh", "--anew", "account")
    assert refreshed.result["copied"] == ["desk:public.account:reference"]
    repaired(line, "account", refreshed)


def repaired(line: Line, table: str, refreshed: Ended) -> None:
    assert refreshed.result["to_repair"] == [f"books:public.{table}"]
    line.start_stream()
    line.done("validate", "--table", table, "--repair", "--direction", "source", "--yes")


def execute(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def hints(dsn: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute("SELECT name, hint FROM account ORDER BY 1").fetchall()
