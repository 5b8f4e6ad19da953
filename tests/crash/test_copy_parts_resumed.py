"""A killed copy of tables split by row and by column, and of those never cut, under writes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, LiteralString

import psycopg

from tests.conftest import fresh_database
from tests.crash.restless import Restless
from tests.verbs import Verbs
from toolkit.servers import Server
from toolkit.servers_watchdog import wait_until

ROWS = 20_000
TABLES = f"""
CREATE TABLE ledger (
    at int, id uuid DEFAULT gen_random_uuid(), kind int NOT NULL, body text, PRIMARY KEY (at, id)
) WITH (fillfactor = 90);
INSERT INTO ledger (at, kind, body) SELECT n, n % 10, repeat(md5(n::text), 7)
    FROM generate_series(1, {ROWS}) AS n;
CREATE TABLE people (
    name text COLLATE "C" PRIMARY KEY, phone text, secret text, large text
) WITH (fillfactor = 90);
ALTER TABLE people ALTER large SET STORAGE EXTERNAL;
INSERT INTO people SELECT 'p' || n, repeat(n::text, 25), md5(n::text),
    CASE WHEN n % 100 = 0 THEN repeat(md5(n::text), 100) ELSE repeat('s', 100) END
    FROM generate_series(1, {ROWS}) AS n;
CREATE TABLE places (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, name text);
INSERT INTO places SELECT n, 'place' FROM generate_series(1, 3000) AS n;
CREATE TABLE daily (at int, id int, body text, PRIMARY KEY (at, id)) PARTITION BY RANGE (at);
CREATE TABLE daily_1 PARTITION OF daily FOR VALUES FROM (0) TO (50);
CREATE TABLE daily_2 PARTITION OF daily FOR VALUES FROM (50) TO (100);
INSERT INTO daily SELECT n % 100, n, 'd' FROM generate_series(1, 4000) AS n;
CREATE TABLE bag (a int, b text);
INSERT INTO bag SELECT n % 50, 'b' FROM generate_series(1, 2000) AS n;
ANALYZE;
"""  # noqa: S608 - the test's own
PLAN = """\
split: parts
source: {dsn: "${DBSPLIT_SOURCE_DSN}", schemas: [public]}
services:
  one: {dsn: "${DBSPLIT_ONE_DSN}"}
  two: {dsn: "${DBSPLIT_TWO_DSN}"}
tables:
  ledger: {split_rows: {one: "kind < 5", two: "kind >= 5"}}
  people: {split_columns: {one: [name, phone, large], two: [name, secret]}}
  places: {owner: one, reference_in: [two]}
  daily: two
  bag: one
"""
SAME: dict[str, tuple[tuple[LiteralString, LiteralString], ...]] = {
    "one": (
        (
            "SELECT * FROM ledger WHERE kind < 5 ORDER BY at, id",
            "SELECT * FROM ledger ORDER BY 1, 2",
        ),
        ("SELECT name, phone, large FROM people ORDER BY 1", "SELECT * FROM people ORDER BY 1"),
        ("SELECT * FROM places ORDER BY 1", "SELECT * FROM places ORDER BY 1"),
        ("SELECT * FROM bag ORDER BY 1, 2", "SELECT * FROM bag ORDER BY 1, 2"),
    ),
    "two": (
        (
            "SELECT * FROM ledger WHERE kind >= 5 ORDER BY at, id",
            "SELECT * FROM ledger ORDER BY 1, 2",
        ),
        ("SELECT name, secret FROM people ORDER BY 1", "SELECT * FROM people ORDER BY 1"),
        ("SELECT * FROM places ORDER BY 1", "SELECT * FROM places ORDER BY 1"),
        ("SELECT * FROM daily ORDER BY 1, 2", "SELECT * FROM daily ORDER BY 1, 2"),
    ),
}
WRITES: tuple[LiteralString, ...] = (
    # Into the predicate of the one or the other service, larger, to another block.
    "UPDATE ledger SET kind = (kind + 5) %% 10, body = body || 'm' WHERE at %% 300 = %(a)s %% 300",
    "DELETE FROM ledger WHERE at = %(a)s",
    "INSERT INTO ledger (at, kind, body) SELECT %(a)s, g, 'new' FROM generate_series(0, 9) AS g",
    "UPDATE ledger SET id = gen_random_uuid(), kind = 9 - kind WHERE at - %(a)s IN (0, 3)",
    # The large value is left alone, and is not in the log.
    "UPDATE people SET phone = phone || '1' WHERE name IN ('p' || %(a)s, 'p' || %(a)s / 100 * 100)",
    "UPDATE people SET name = name || 'x' WHERE name = 'p' || %(a)s",
    "UPDATE people SET name = name || 'x' WHERE name LIKE 'p' || %(a)s / 100 * 100 || '%%'",
    "UPDATE people SET large = repeat('n', 4000) WHERE name = 'p' || %(b)s / 100 * 100",
    "DELETE FROM people WHERE name = 'p' || %(b)s",
    "INSERT INTO people VALUES ('p' || %(b)s, 'again', 'again', repeat('a', 3000))"
    " ON CONFLICT (name) DO UPDATE SET secret = 'upserted'",
    # Two rows have one key until the end.
    "UPDATE places SET id = id + 1, name = name || '+'"
    " WHERE id > (SELECT max(id) - %(a)s %% 20 FROM places)",
    "UPDATE daily SET at = (at + 50) %% 100 WHERE id = %(a)s %% 4000",
    "DELETE FROM daily WHERE id = %(b)s %% 4000",
    "UPDATE bag SET b = b || 'x' WHERE a = %(a)s %% 50",
    "DELETE FROM bag WHERE ctid IN (SELECT ctid FROM bag WHERE a = %(b)s %% 50 LIMIT 1)",
    "INSERT INTO bag VALUES (%(a)s %% 50, 'b'), (%(a)s %% 50, 'b')",
)


class Writer(Restless):
    """Writes the parts."""

    def write(self, connection: psycopg.Connection[Any]) -> None:
        a, b = self.dice.randint(1, ROWS), self.dice.randint(1, ROWS)
        statement = self.dice.choice(WRITES)
        with suppress(psycopg.errors.UniqueViolation):  # as an application would meet it
            connection.execute(statement, {"a": a, "b": b})


@contextmanager
def writing(dsn: str, seed: int) -> Iterator[Writer]:
    writer = Writer(dsn, seed)
    writer.start()
    try:
        yield writer
    finally:
        writer.stop()


def test_parts_in_chunks_of_several_moments_become_what_the_source_has(
    source_server: Server, target_server: Server, tmp_path: Path
) -> None:
    with (
        fresh_database(source_server) as source,
        fresh_database(target_server) as one,
        fresh_database(target_server) as two,
    ):
        targets = {"one": one, "two": two}
        with psycopg.connect(source, autocommit=True) as connection:
            connection.execute(TABLES)
        (tmp_path / "plan.yaml").write_text(PLAN)
        verbs = Verbs(
            tmp_path / "plan.yaml",
            {
                "DBSPLIT_SOURCE_DSN": source,
                **{f"DBSPLIT_{name.upper()}_DSN": dsn for name, dsn in targets.items()},
            },
            apart=True,
        )
        verbs("prepare")
        with writing(source, 7) as writer:
            for kill in ("copy.chunk:2", "copy.chunk:5", "copy.data:3"):
                verbs("copy", "--chunk-mb", "1", code=-9, DBSPLIT_CRASH_AT=kill)
                before = writer.done
                with psycopg.connect(source, autocommit=True) as connection:
                    connection.execute("VACUUM")
                assert wait_until(lambda: writer.done > before + 150, timeout_s=60)  # noqa: B023
            verbs("copy", "--chunk-mb", "1")
        chunked = set()
        for dsn in targets.values():
            with psycopg.connect(dsn) as target:
                rows = target.execute(
                    "SELECT route, count(DISTINCT horizon) FROM dbsplit.copied_chunk GROUP BY 1"
                ).fetchall()
                chunked |= {route for route, moments in rows if moments > 1}
        assert {"one", "two"} & {route.partition(":")[0] for route in chunked}, chunked
        verbs("stream", "--until-caught-up")
        for name, dsn in targets.items():
            with psycopg.connect(source) as leader, psycopg.connect(dsn) as follower:
                for ours, theirs in SAME[name]:
                    assert leader.execute(ours).fetchall() == follower.execute(theirs).fetchall()
