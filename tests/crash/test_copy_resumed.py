"""A copy that was killed and goes on, while rows come, go, move and refer to each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.conftest import fresh_database
from tests.crash.restless import Restless
from tests.small_shop import SmallShop, small_shop
from tests.verbs import Verbs
from toolkit.servers import Server
from toolkit.servers_watchdog import wait_until

MORE = """
WITH c AS (INSERT INTO customers (email) VALUES ('new') RETURNING id),
     p AS (INSERT INTO "Products" ("Name", "Unit Price") VALUES ('n', 1) RETURNING "Id"),
     o AS (INSERT INTO orders (customer_id) SELECT id FROM c RETURNING id),
     l AS (INSERT INTO "Order Lines" SELECT o.id, 1, "Id", 1, 1 FROM o, p),
     n AS (INSERT INTO notes (customer_id, channel) SELECT id, 'web' FROM c)
INSERT INTO tickets (customer_id, product, subject) SELECT c.id, "Id", 's' FROM c, p
"""
HORIZONS = "SELECT route, horizon::text FROM dbsplit.copied"


def horizons(shop: SmallShop, service: str) -> dict[str, str]:
    return dict(shop.ask(service, HORIZONS))


@pytest.mark.parametrize("killed_at", [3, 8])
def test_keys_hold_between_tables_that_were_copied_before_and_after(
    source_server: Server, target_server: Server, tmp_path: Path, killed_at: int
) -> None:
    with small_shop(source_server, target_server, tmp_path) as shop:
        shop.verbs("prepare")
        shop.verbs.apart = True
        shop.verbs("copy", "--jobs", "1", code=-9, DBSPLIT_CRASH_AT=f"copy.table:{killed_at}")
        before = {service: horizons(shop, service) for service in shop.targets}
        shop.ask("source", MORE)
        shop.verbs("copy", "--jobs", "1", code=-9, DBSPLIT_CRASH_AT="copy.table:3")
        shop.ask("source", MORE)
        shop.verbs("copy")
        after = {service: horizons(shop, service) for service in shop.targets}
        assert len({at for service in after.values() for at in service.values()}) == 3
        assert all(before[service].items() <= after[service].items() for service in before)
        shop.verbs("stream", "--until-caught-up")
        assert shop.verbs("validate", "--json").result["consistent"]


# Room in the pages, so that rows move from block to block and into blocks before.
TABLES = """
CREATE TABLE big (
    id int PRIMARY KEY, code int NOT NULL UNIQUE, next int REFERENCES big DEFERRABLE,
    size int NOT NULL, body text, EXCLUDE USING gist (place WITH &&), place int4range NOT NULL
) WITH (fillfactor = 90);
CREATE TABLE parts (
    name text COLLATE "C", tag uuid, big_id int NOT NULL REFERENCES big ON UPDATE CASCADE,
    body text, PRIMARY KEY (name, tag)
);
CREATE TABLE journal (at int, what text);
INSERT INTO big (id, code, next, size, body, place)
    SELECT n, -n, NULL, n % 7, repeat(md5(n::text), 4), int4range(10 * n, 10 * n + 5)
    FROM generate_series(1, 24000) AS n;
INSERT INTO parts SELECT 'part ' || n % 100, gen_random_uuid(), n, repeat('x', 250)
    FROM generate_series(1, 6000) AS n;
INSERT INTO journal SELECT n % 10, 'w' FROM generate_series(1, 500) AS n;
ANALYZE;
"""
PLAN = """\
split: chunks
source: {dsn: "${DBSPLIT_SOURCE_DSN}", schemas: [public]}
services:
  one: {dsn: "${DBSPLIT_ONE_DSN}"}
tables: {big: one, parts: one, journal: one}
"""
ROWS = (
    "SELECT * FROM big ORDER BY id",
    "SELECT * FROM parts ORDER BY name, tag",
    "SELECT * FROM journal ORDER BY at, what",
)
FIRST, LAST = 1, 24000


class Writer(Restless):
    """Writes what makes a copy in chunks hard."""

    def __init__(self, dsn: str, seed: int) -> None:
        super().__init__(dsn, seed)
        self._new = LAST

    def write(self, connection: psycopg.Connection[Any]) -> None:
        dice = self.dice
        one, other = dice.randint(FIRST, LAST), dice.randint(FIRST, LAST)
        match dice.randrange(8):
            case 0 | 1:  # larger, so that it moves to another block
                connection.execute(
                    "UPDATE big SET size = size + 1, body = body || 'more' WHERE id %% 400 = %s",
                    [one % 400],
                )
            case 2:
                connection.execute("DELETE FROM parts WHERE big_id = %s", [one])
                connection.execute("UPDATE big SET next = NULL WHERE next = %s", [one])
                connection.execute("DELETE FROM big WHERE id = %s", [one])
            case 3:  # into the room that others left
                self._new += 1
                connection.execute(
                    "INSERT INTO big VALUES (%(n)s, -%(n)s, NULL, 0, 'new',"
                    " int4range(10 * %(n)s, 10 * %(n)s + 5))",
                    {"n": self._new},
                )
                connection.execute("INSERT INTO journal VALUES (%s, 'new')", [self._new % 10])
            case 4:  # unique values change hands, and ranges that exclude each other
                self._swap(connection, one, other)
            case 5:  # keys change, those that refer to them too
                self._new += 1
                connection.execute("UPDATE big SET next = NULL WHERE next = %s", [one])
                connection.execute("UPDATE big SET id = %s WHERE id = %s", [self._new, one])
            case 6:
                connection.execute(
                    "UPDATE big SET next = (SELECT max(id) FROM big) WHERE id = %s", [other]
                )
                connection.execute("DELETE FROM journal WHERE at = %s AND what = 'new'", [one % 10])
            case _:
                connection.execute(
                    "UPDATE parts SET tag = gen_random_uuid(), body = body || 'y'"
                    " WHERE big_id BETWEEN %s AND %s",
                    [one % 6000, one % 6000 + 30],
                )

    def _swap(self, connection: psycopg.Connection[Any], one: int, other: int) -> None:
        with connection.transaction():
            rows = connection.execute(
                "SELECT id, code, place FROM big WHERE id IN (%s, %s) ORDER BY id FOR UPDATE",
                [one, other],
            ).fetchall()
            if len(rows) < 2:
                return
            (a, code_a, place_a), (b, code_b, place_b) = rows
            apart = "UPDATE big SET code = code + 1000000, place = 'empty' WHERE id = %s"
            take = "UPDATE big SET code = %s, place = %s WHERE id = %s"
            connection.execute(apart, [a])
            connection.execute(take, [code_a, place_a, b])
            connection.execute(take, [code_b, place_b, a])


class Chunked:
    """A database with tables that are copied in chunks, and one service that takes all."""

    def __init__(self, source: str, target: str, directory: Path) -> None:
        self.source, self.target = source, target
        plan = directory / "plan.yaml"
        plan.write_text(PLAN)
        environment = {"DBSPLIT_SOURCE_DSN": source, "DBSPLIT_ONE_DSN": target}
        self.verbs = Verbs(plan, environment, apart=True)

    def copy(self, at: str = "") -> None:
        """Copy, to the end or to where it is killed."""
        more = {"DBSPLIT_CRASH_AT": at} if at else {}
        self.verbs("copy", "--chunk-mb", "1", code=-9 if at else 0, **more)

    def rows(self, dsn: str) -> list[list[tuple[Any, ...]]]:
        with psycopg.connect(dsn) as connection:
            return [connection.execute(query).fetchall() for query in ROWS]

    def ask(self, dsn: str, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(dsn, autocommit=True) as connection:
            cursor = connection.execute(query)
            return cursor.fetchall() if cursor.description else []

    def prove(self) -> None:
        """Both sides hold the same rows, and the target all keys, checked."""
        self.verbs("stream", "--until-caught-up")
        assert self.rows(self.source) == self.rows(self.target)
        constraints = (
            "SELECT conname, contype, convalidated FROM pg_constraint"
            " WHERE conrelid IN ('big'::regclass, 'parts'::regclass) ORDER BY 1"
        )
        assert self.ask(self.source, constraints) == self.ask(self.target, constraints)


@contextmanager
def restless(dsn: str, seed: int) -> Iterator[Writer]:
    writer = Writer(dsn, seed)
    writer.start()
    try:
        yield writer
    finally:
        writer.stop()


@pytest.fixture
def chunked(source_server: Server, target_server: Server, tmp_path: Path) -> Iterator[Chunked]:
    with fresh_database(source_server) as source, fresh_database(target_server) as target:
        with psycopg.connect(source, autocommit=True) as connection:
            connection.execute(TABLES)
        chunked = Chunked(source, target, tmp_path)
        chunked.verbs("prepare")
        yield chunked


# The other job may have committed its chunk, too: each kill takes two of the five at most.
KILLS = (
    ("copy.chunk:1", "copy.chunk:1", "copy.chunk:1", "copy.copied", "copy.keys"),
    ("copy.data:4", "copy.chunk:2", "copy.caught_up", "copy.built:2"),
)


@pytest.mark.parametrize("kills", KILLS)
@pytest.mark.parametrize("seed", [1])
def test_chunks_of_several_moments_become_one_table(
    chunked: Chunked, kills: tuple[str, ...], seed: int
) -> None:
    with restless(chunked.source, seed) as writer:
        for kill in kills:
            chunked.copy(kill)
            # Rows would be there twice, or for ever: nothing tells them apart yet.
            chunked.verbs("stream", "--until-caught-up", code=4)
            before = writer.done
            chunked.ask(chunked.source, "VACUUM big, parts")  # what is free is used again
            assert wait_until(lambda: writer.done > before + 100, timeout_s=20)  # noqa: B023
        chunked.copy()
    moments = chunked.ask(chunked.target, "SELECT DISTINCT horizon FROM dbsplit.copied_chunk")
    assert len(moments) > 2 if "chunk" in kills[0] else len(moments) > 1
    chunked.prove()


@pytest.mark.release
def test_a_table_that_was_rewritten_in_between_is_copied_from_the_start(chunked: Chunked) -> None:
    chunked.copy("copy.chunk:2")
    files = "SELECT DISTINCT file FROM dbsplit.copied_chunk WHERE route = 'one:public.big'"
    before = chunked.ask(chunked.target, files)
    # Rows that nobody has changed lie in other blocks now.
    chunked.ask(chunked.source, "DELETE FROM big WHERE id BETWEEN 6001 AND 12000")
    chunked.ask(chunked.source, "VACUUM FULL big")
    chunked.copy()
    assert chunked.ask(chunked.target, files) != before
    chunked.prove()
