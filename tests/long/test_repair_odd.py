"""A repair of tables that are not plain: repaired rows are equal, and a second run does nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.following import Following, following
from tests.integration.test_repair import psql
from tests.verbs import Verbs
from toolkit.servers import Server

SOURCE = """
CREATE TABLE gen (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int, b text,
    twice int GENERATED ALWAYS AS (a * 2) STORED);
INSERT INTO gen (a, b) SELECT i, 'b' || i FROM generate_series(1, 60) AS i;
CREATE TABLE boss (id int PRIMARY KEY, of int REFERENCES boss ON DELETE CASCADE, name text UNIQUE);
INSERT INTO boss SELECT i, nullif(i / 2, 0), 'n' || i FROM generate_series(1, 40) AS i;
CREATE TABLE item (id int PRIMARY KEY, boss int NOT NULL REFERENCES boss ON DELETE CASCADE,
    at tstzrange, EXCLUDE USING gist (at WITH &&));
INSERT INTO item SELECT i, 1 + i % 40, tstzrange('2024-01-01Z'::timestamptz + i * interval '1 h',
    '2024-01-01Z'::timestamptz + (i + 1) * interval '1 h') FROM generate_series(1, 40) AS i;
CREATE TABLE part (id int, kind text, v text, PRIMARY KEY (id, kind)) PARTITION BY LIST (kind);
CREATE TABLE part_a PARTITION OF part FOR VALUES IN ('a');
CREATE TABLE part_b (v text, gone int, kind text NOT NULL, id int NOT NULL);
ALTER TABLE part_b DROP COLUMN gone;
ALTER TABLE part ATTACH PARTITION part_b FOR VALUES IN ('b');
INSERT INTO part SELECT i, CASE WHEN i % 2 = 0 THEN 'a' ELSE 'b' END, 'v' FROM
    generate_series(1, 40) AS i;
CREATE TABLE bag (v text, n numeric, at timestamptz, x float8);
INSERT INTO bag SELECT 'v' || i % 5, NULL, '2024-01-01Z', 'NaN' FROM generate_series(1, 40) AS i;
CREATE TABLE odd_key (k numeric, t text, v text, PRIMARY KEY (k, t));
INSERT INTO odd_key VALUES ('NaN', '', 'v'), (1.0, 'a', 'v'), (1.00, 'b', 'v'), (-0.0, E'\\n', 'v');
CREATE TABLE swap (id int PRIMARY KEY, u int UNIQUE DEFERRABLE, w int UNIQUE);
INSERT INTO swap SELECT i, i, i FROM generate_series(1, 40) AS i;
CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN NEW.v := 'meddled'; RETURN NEW; END $$;
CREATE TABLE trig (id int PRIMARY KEY, v text);
INSERT INTO trig SELECT i, 'v' FROM generate_series(1, 20) AS i;
CREATE TRIGGER meddle BEFORE INSERT OR UPDATE ON trig FOR EACH ROW EXECUTE FUNCTION meddle();
"""
TABLES = "gen: a\nboss: a\nitem: a\npart: a\nbag: a\nodd_key: a\nswap: a\ntrig: a\n"

PLANTED = """
SET session_replication_role = replica;
UPDATE gen SET a = a + 1 WHERE id = 3; DELETE FROM gen WHERE id IN (5, 6);
INSERT INTO gen (id, a) OVERRIDING SYSTEM VALUE VALUES (900, 9);
DELETE FROM boss WHERE id IN (1, 2, 4, 8, 9); UPDATE boss SET of = 3 WHERE id = 20;
INSERT INTO boss VALUES (900, 3, 'extra'); INSERT INTO boss VALUES (901, 900, 'n8');
DELETE FROM item WHERE id IN (3, 7); UPDATE item SET boss = 12 WHERE id = 9;
DELETE FROM item WHERE id = 20; INSERT INTO item
    VALUES (900, 901, '[2024-01-01 20:30Z,2024-01-01 20:40Z)');
UPDATE part SET v = 'x' WHERE id IN (4, 5); DELETE FROM part WHERE id IN (6, 7);
UPDATE part SET kind = 'b' WHERE id = 8; UPDATE part SET kind = 'a' WHERE id = 9;
INSERT INTO part VALUES (900, 'b', 'x');
DELETE FROM bag WHERE ctid IN (SELECT ctid FROM bag WHERE v = 'v1' LIMIT 3);
INSERT INTO bag SELECT * FROM bag WHERE v = 'v2'; UPDATE bag SET n = 0 WHERE v = 'v3';
UPDATE odd_key SET v = 'x'; UPDATE odd_key SET k = 1.000 WHERE t = 'a';
DELETE FROM odd_key WHERE k = 'NaN'; INSERT INTO odd_key VALUES ('NaN', ' ', 'v');
DELETE FROM trig WHERE id = 4; UPDATE trig SET v = 'x' WHERE id = 5;
INSERT INTO trig VALUES (900, 'x');
"""
SWAPPED = """
SET session_replication_role = replica;
UPDATE boss SET name = 'swap' WHERE id = 30; UPDATE boss SET name = 'n30' WHERE id = 31;
UPDATE boss SET name = 'n31' WHERE id = 30;
UPDATE swap SET w = -w WHERE id <= 10; UPDATE swap SET w = 11 + w WHERE id <= 10;
UPDATE swap SET u = u + 100 WHERE id BETWEEN 15 AND 18; UPDATE swap SET u = 133 - u WHERE u > 100;
"""


@pytest.fixture
def odd(source_server: Server, target_server: Server, tmp_path: Path) -> Iterator[Following]:
    with following(source_server, target_server, tmp_path, tables=TABLES) as one:
        one.execute(SOURCE, "CREATE SCHEMA odd")
        one.prepare()
        one.copy()
        one.stream()
        yield one


def all_rows(odd: Following, place: str) -> dict[str, list[tuple[str]]]:
    """By the name of each table, as text."""
    names = [line.split(":")[0] for line in TABLES.splitlines()]
    return {name: sorted(odd.rows(place, f"SELECT r::text FROM {name} AS r")) for name in names}  # noqa: S608


def plant(odd: Following, *statements: str) -> None:
    with psycopg.connect(odd.targets["a"]) as target:
        for one in statements:
            target.execute(one.encode())
    assert all_rows(odd, "a") != all_rows(odd, "source")


def test_rows_are_repaired_once_whatever_the_tables_have(odd: Following) -> None:
    plant(odd, PLANTED, SWAPPED)
    verbs = Verbs(odd.path, {})
    with odd.live():
        told = verbs.json("validate", "--repair", "--yes", code=0)
        assert told["consistent"] is True, told
        assert all_rows(odd, "a") == all_rows(odd, "source")
        again = verbs.json("validate", "--repair", "--yes")
    assert (again["consistent"], "repair" in again) == (True, False)


def test_the_script_repairs_whatever_the_tables_have(odd: Following, tmp_path: Path) -> None:
    plant(odd, PLANTED)
    verbs = Verbs(odd.path, {})
    script = tmp_path / "repair.sql"
    with odd.live():
        verbs.json("validate", "--repair-sql", str(script), code=5)
        for _ in range(2):
            psql(odd.targets["a"], script)
            assert all_rows(odd, "a") == all_rows(odd, "source")
        assert verbs.json("validate")["consistent"] is True
