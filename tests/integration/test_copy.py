"""The copy as a user runs it: every kind of table, while somebody gets in its way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import sql

from cdc.copy_chunks import Chunk
from cdc.copy_record import begin_chunks, chunk_note, route_note
from cdc.copy_sql import Blocks
from cdc.lsn import LSN
from tests.conftest import fresh_database
from tests.verbs import DBSPLIT, Verbs
from toolkit.servers import Server
from toolkit.servers_watchdog import wait_until

PLAN = """\
split: copied
source: {{dsn: "${{DBSPLIT_SOURCE_DSN}}", schemas: [public]}}
services:
  one: {{dsn: "${{DBSPLIT_ONE_DSN}}"}}
limits: {{{limits}}}
tables:
"""


class Copied:
    """A source with tables that one service takes as they are."""

    def __init__(self, source: str, target: str, plan: Path) -> None:
        self.source, self.target, self.plan = source, target, plan
        environment = {"DBSPLIT_SOURCE_DSN": source, "DBSPLIT_ONE_DSN": target}
        self.verbs = Verbs(plan, environment)
        self.environment = environment

    def ask(self, dsn: str, query: LiteralString) -> list[tuple[Any, ...]]:
        with psycopg.connect(dsn, autocommit=True) as connection:
            cursor = connection.execute(query)
            return cursor.fetchall() if cursor.description else []

    def tables(self) -> list[str]:
        rows = self.ask(
            self.source,
            "SELECT quote_ident(relname) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
            " AND relkind IN ('r', 'p') AND NOT relispartition ORDER BY 1",
        )
        return [name for (name,) in rows]

    def prove(self) -> None:
        """The same rows on both sides, and all that the catalog says of keys and indexes."""
        query = 'SELECT count(*), sum(hashtextextended(t::text COLLATE "C", 0)) FROM public.{} AS t'
        with psycopg.connect(self.source) as source, psycopg.connect(self.target) as target:
            for name in self.tables():
                of = query.format(name)  # a name that the server has quoted
                ours, theirs = (c.execute(of).fetchone() for c in (source, target))
                assert ours == theirs, name
            for catalog in (
                "SELECT conrelid::regclass::text, conname, contype, convalidated"
                " FROM pg_constraint WHERE connamespace = 'public'::regnamespace"
                " AND contype <> 'n' ORDER BY 1, 2",
                "SELECT indexrelid::regclass::text, indisvalid, indisunique FROM pg_index AS i"
                " JOIN pg_class AS c ON c.oid = indexrelid"
                " WHERE relnamespace = 'public'::regnamespace ORDER BY 1",
            ):
                assert source.execute(catalog).fetchall() == target.execute(catalog).fetchall()

    @contextmanager
    def copying(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        """A copy that runs, with JSON on its `stdout`."""
        process = subprocess.Popen(
            [str(DBSPLIT), "copy", str(self.plan), "--json", *words],
            env={**os.environ, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.fixture
def copied(
    source_server: Server, target_server: Server, tmp_path: Path
) -> Iterator[Callable[..., Copied]]:
    with fresh_database(source_server) as source, fresh_database(target_server) as target:

        def make(tables: LiteralString, limits: str = "") -> Copied:
            with psycopg.connect(source, autocommit=True) as connection:
                connection.execute(tables)
                connection.execute("ANALYZE")
            plan = tmp_path / "plan.yaml"
            found = Copied(source, target, plan)
            named = "".join(
                f"  {json.dumps(name.strip(chr(34)))}: one\n" for name in found.tables()
            )
            plan.write_text(PLAN.format(limits=limits) + named)
            found.verbs("prepare")
            return found

        yield make


KEYS = """
CREATE COLLATION same (provider = libc, locale = 'C');
CREATE TABLE no_key (a int, b text);
INSERT INTO no_key SELECT n % 10, 'w' FROM generate_series(1, 5000) AS n;
CREATE TABLE composite (a int, b text, body text, PRIMARY KEY (b, a));
INSERT INTO composite SELECT n, md5(n::text), repeat('x', 100) FROM generate_series(1, 30000) AS n;
CREATE TABLE worded (name text COLLATE same PRIMARY KEY, other text UNIQUE);
INSERT INTO worded SELECT 'Ä' || n, 'z' || n FROM generate_series(1, 30000) AS n;
CREATE TABLE "By Uuid" ("Id" uuid PRIMARY KEY DEFAULT gen_random_uuid(), body text);
INSERT INTO "By Uuid" (body) SELECT repeat('y', 200) FROM generate_series(1, 20000);
CREATE TABLE mixed (a text COLLATE "C", b text COLLATE "POSIX", c int, PRIMARY KEY (a, b, c));
INSERT INTO mixed SELECT n % 7, n % 11, n FROM generate_series(1, 30000) AS n;
CREATE TABLE deferred (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, body text);
INSERT INTO deferred SELECT n, repeat('d', 200) FROM generate_series(1, 20000) AS n;
CREATE TABLE parts (id int, at int, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (500);
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (500) TO (1000);
INSERT INTO parts SELECT n, n % 1000 FROM generate_series(1, 20000) AS n;
CREATE INDEX ON parts (at);
CREATE TABLE wide (id int PRIMARY KEY, body bytea);
ALTER TABLE wide ALTER body SET STORAGE EXTERNAL;
INSERT INTO wide SELECT n, decode(repeat('00ff', 2000000), 'hex') FROM generate_series(1, 6) AS n;
CREATE TABLE nothing (id int PRIMARY KEY);
CREATE TABLE of_text (id int PRIMARY KEY, what int4range[], at timestamptz DEFAULT 'infinity');
INSERT INTO of_text SELECT n, ARRAY[int4range(n, n + 1)] FROM generate_series(1, 100) AS n;
CREATE TABLE child (id int PRIMARY KEY, up int REFERENCES of_text);
INSERT INTO child SELECT n, n FROM generate_series(1, 100) AS n;
"""


def test_tables_with_every_kind_of_key_come_whole_and_in_chunks(
    copied: Callable[..., Copied],
) -> None:
    some = copied(KEYS)
    some.verbs("copy", "--chunk-mb", "1", "--jobs", "3")
    in_chunks = some.ask(some.target, "SELECT DISTINCT route FROM dbsplit.copied_chunk")
    assert {route for (route,) in in_chunks} >= {"one:public.composite", "one:public.By Uuid"}
    # Of which two rows may look alike, or be one table's in several.
    assert not {"one:public.deferred", "one:public.no_key", "one:public.parts"} & {
        route for (route,) in in_chunks
    }
    some.prove()


def test_two_hundred_small_tables_do_not_wait_for_round_trips(
    copied: Callable[..., Copied],
) -> None:
    many = copied(
        "DO $$ BEGIN FOR n IN 1..200 LOOP"
        " EXECUTE format('CREATE TABLE small_%s (id int PRIMARY KEY, body text)', n);"
        " EXECUTE format('INSERT INTO small_%s SELECT g, g FROM generate_series(1, 20) g', n);"
        " END LOOP; END $$"
    )
    assert many.verbs("copy", "--json").result["rows"] == 4_000
    many.prove()


MOVING = """
CREATE TABLE a_first (id int PRIMARY KEY, body text);
INSERT INTO a_first SELECT n, repeat('x', 3000) FROM generate_series(1, 3000) AS n;
CREATE TABLE parent (id int PRIMARY KEY);
INSERT INTO parent SELECT generate_series(1, 100);
CREATE TABLE later (id int PRIMARY KEY, up int REFERENCES parent, body text);
INSERT INTO later SELECT n, n, 'body' FROM generate_series(1, 100) AS n;
"""


def waits_paused(some: Copied) -> bool:
    """Whether a copy has its snapshot and waits."""
    held = some.ask(
        some.source,
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'dbsplit copy'"
        " AND datname = current_database() AND state = 'idle in transaction'",
    )
    return bool(held[0][0])


@pytest.mark.parametrize(
    "change",
    [
        "TRUNCATE parent CASCADE",
        "ALTER TABLE later ALTER body TYPE text USING body || '!'",
        "VACUUM FULL later",
        "TRUNCATE later; INSERT INTO later SELECT n, n, 'new' FROM generate_series(1, 40) AS n",
    ],
)
def test_what_is_truncated_or_rewritten_after_the_snapshot_is_copied_under_a_later_one(
    copied: Callable[..., Copied], change: LiteralString
) -> None:
    some = copied(MOVING)
    some.verbs("throttle", "--pause")
    with some.copying("--jobs", "1") as process:
        assert wait_until(lambda: waits_paused(some), timeout_s=30)
        time.sleep(0.5)
        some.ask(some.source, change)
        some.verbs("throttle", "--resume")
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    del out
    some.verbs("stream", "--until-caught-up")
    some.prove()


def test_a_copy_is_paused_slowed_down_and_let_go_by_an_operator(
    copied: Callable[..., Copied],
) -> None:
    some = copied(
        "CREATE TABLE big (id int PRIMARY KEY, body text);"
        "INSERT INTO big SELECT n, repeat(md5(n::text), 30) FROM generate_series(1, 30000) AS n"
    )
    assert some.verbs("throttle", "--json", "--pause").result["outcome"] == "paused"
    with some.copying("--chunk-mb", "1") as process:
        assert wait_until(lambda: waits_paused(some), timeout_s=30)
        said = some.verbs("status", "--json").result["copy"]
        assert said["live"]
        assert said["paused"]
        assert any("an operator has paused it" in reason for reason in said["slowed_by"])
        assert some.ask(some.target, "SELECT count(*) FROM big") == [(0,)]
        began = time.monotonic()
        some.verbs("throttle", "--copy-mb-s", "10", "--resume")
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert time.monotonic() - began > 1.5  # about thirty megabytes
    events = [json.loads(line) for line in out.splitlines()]
    reasons = [e["reasons"] for e in events if e.get("event") == "throttled"]
    assert any("allows 10 MB/s" in text for told in reasons for text in told)
    assert some.verbs("throttle", "--json", "--clear").result == {
        "outcome": "running",
        "copy_mb_s": None,
    }
    some.prove()


def test_a_copy_ends_before_the_slot_retains_more_than_the_plan_allows(
    copied: Callable[..., Copied],
) -> None:
    some = copied(MOVING, limits="wal_retained_bytes_max: 4000000")
    some.verbs("throttle", "--pause")
    with some.copying() as process:
        assert wait_until(lambda: waits_paused(some), timeout_s=30)
        some.ask(some.source, "SELECT pg_logical_emit_message(false, 'busy', repeat('x', 5000000))")
        out, err = process.communicate(timeout=30)
    assert process.returncode == 6, err
    assert "wal_retained_bytes_max" in err
    del out
    some.plan.write_text(some.plan.read_text().replace("4000000", "400000000"))
    some.verbs("throttle", "--clear")
    some.verbs("copy")
    some.verbs("stream", "--until-caught-up")
    some.prove()


def test_nothing_is_copied_for_a_slot_that_is_gone_nor_is_another_made_in_its_place(
    copied: Callable[..., Copied],
) -> None:
    """What was written since the rows were read would be in no log that the stream reads."""
    drop: LiteralString = "SELECT pg_drop_replication_slot('dbsplit_copied')"
    some = copied(MOVING)
    some.ask(some.source, drop)
    some.verbs.refused("copy", code=7, says="does not exist any more", hint="dbsplit abort")
    some.verbs("prepare")  # nothing has been read yet
    some.verbs("copy")
    some.ask(some.source, drop)
    for verb in ("prepare", "stream"):
        one = some.verbs(verb, code=7)
        assert "does not exist any more" in one.err
    (lost,) = [n for n in some.verbs.json("doctor", code=4)["needs"] if not n["ok"]]
    assert "does not exist any more" in lost["observed"]
    assert "dbsplit abort" in lost["remedy"]
    some.verbs("abort", "--yes")
    some.verbs("prepare")
    some.verbs("throttle", "--pause")
    with some.copying() as process:
        assert wait_until(lambda: waits_paused(some), timeout_s=30)
        some.ask(some.source, drop)  # paused as it is: what is left to copy would be for nothing
        _, err = process.communicate(timeout=30)
    assert process.returncode == 7, err
    assert some.verbs.json("status")["phase"] == "copying"


def test_a_table_that_applications_cannot_change_any_more_is_told(
    copied: Callable[..., Copied],
) -> None:
    some = copied(
        'CREATE TABLE "A b" (id int PRIMARY KEY); CREATE TABLE keyless (id int);'
        "CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY HASH (id);"
        "CREATE TABLE leaf PARTITION OF parted FOR VALUES WITH (MODULUS 1, REMAINDER 0);"
        "CREATE TABLE other (id int PRIMARY KEY, code int NOT NULL CONSTRAINT one_code UNIQUE);"
        "ALTER TABLE other REPLICA IDENTITY USING INDEX one_code"
    )
    assert some.verbs.json("doctor")["ok"] is True
    some.ask(some.source, 'ALTER TABLE "A b" REPLICA IDENTITY NOTHING')
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        some.ask(some.source, 'UPDATE "A b" SET id = 1')
    (refused,) = [n for n in some.verbs.json("doctor", code=4)["needs"] if not n["ok"]]
    assert 'DELETE of public."A b",' in refused["observed"]
    some.ask(some.source, "ALTER TABLE leaf REPLICA IDENTITY NOTHING")
    some.ask(some.source, "ALTER TABLE other DROP CONSTRAINT one_code")
    (refused,) = [n for n in some.verbs.json("doctor", code=4)["needs"] if not n["ok"]]
    assert 'DELETE of public."A b", public.leaf, public.other,' in refused["observed"]


def test_a_stream_does_not_begin_before_the_copy_has_ended(
    copied: Callable[..., Copied], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All rows may be there, of several moments, and nothing that tells them apart."""
    some = copied(MOVING)

    def end_here(at: str) -> None:
        if at == "copy.built":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("toolkit.after_data.crash_point", end_here)
        some.verbs("copy", "--jobs", "1", code=130)
    assert some.ask(some.target, "SELECT count(*) FROM dbsplit.copied") == [(3,)]
    follow = ("stream", "--until-caught-up")
    some.verbs.refused(*follow, code=4, says="not copied yet", hint="dbsplit copy")
    some.verbs("copy")
    some.verbs(*follow)
    some.prove()


def test_rows_that_a_target_refuses_are_told_and_copied_once_they_are_mended(
    copied: Callable[..., Copied],
) -> None:
    """A constraint that is not valid here is there for every row."""
    some = copied(
        "CREATE DOMAIN positive AS int; CREATE TABLE sums (id int PRIMARY KEY, of positive);"
        "INSERT INTO sums VALUES (1, -1), (2, 2);"
        "ALTER DOMAIN positive ADD CHECK (VALUE > 0) NOT VALID;"
        "CREATE FUNCTION judged(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$BEGIN"
        " IF $1 = 13 AND current_setting('session_replication_role') = 'replica' THEN"
        " RAISE 'not thirteen'; END IF; RETURN $1; END$$;"
        "CREATE TABLE judgements (id int PRIMARY KEY, said int GENERATED ALWAYS AS (judged(id))"
        " STORED); INSERT INTO judgements (id) VALUES (13)"
    )
    refused = {"says": "cannot be copied", "hint": "mend the row"}
    some.verbs.refused("copy", "--jobs", "1", code=4, **refused)
    some.ask(some.source, "UPDATE sums SET of = 1 WHERE id = 1")
    some.verbs.refused("copy", "--jobs", "1", code=4, **refused)
    some.ask(some.source, "DELETE FROM judgements")
    some.verbs("copy")
    rows = "SELECT count(*) FROM sums WHERE of > 0"
    assert some.ask(some.target, rows) == [(2,)]


LOCKED_MEANWHILE = """
import os
import psycopg
from cdc import copy_load, copy_session
for settings in copy_session._SOURCE_SETTINGS, copy_session._TARGET_SETTINGS:
    assert settings["lock_timeout"] == f"{copy_session.LOCK_WAIT_S}s"
    settings["lock_timeout"] = "500ms"
other = psycopg.connect(os.environ["TO_LOCK"], application_name="a long ALTER")
def crash_point(point):
    if point == "copy.table":
        other.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
copy_load.crash_point = crash_point
from toolkit.cli.main import main
main()
"""


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_table_that_stays_locked_ends_the_copy_by_name(
    copied: Callable[..., Copied], side: str
) -> None:
    some = copied("CREATE TABLE before (id int PRIMARY KEY); CREATE TABLE t (id int PRIMARY KEY)")
    locked = subprocess.run(
        [sys.executable, "-c", LOCKED_MEANWHILE, "copy", str(some.plan), "--json"],
        env={**os.environ, **some.environment, "TO_LOCK": getattr(some, side)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert locked.returncode == 4, locked.stderr
    told = json.loads(locked.stdout.splitlines()[-1])
    assert f"table public.t of the {side} has been locked" in told["error"]
    assert "a long ALTER" in told["hint"]
    some.verbs("copy")
    some.prove()


def test_a_table_that_is_locked_when_the_copy_begins_is_not_waited_for_without_end(
    copied: Callable[..., Copied], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdc.copying.LOCK_WAIT_S", 0.3)
    some = copied("CREATE TABLE t (id int PRIMARY KEY)")
    with psycopg.connect(some.source, application_name="a long ALTER") as other:
        other.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        some.verbs.refused("copy", code=4, says="table public.t is locked by", hint="end it")
    some.verbs("copy")
    some.prove()


def test_a_chunk_and_a_route_are_noted_once(copied: Callable[..., Copied]) -> None:
    """A process that was taken for dead, and commits late, finds that somebody was faster."""
    some = copied(MOVING)
    chunk = Chunk("one:public.later", 0, Blocks(0, None), 7, None)
    with psycopg.connect(some.target, autocommit=True) as target:
        begin_chunks(target, sql.SQL("TRUNCATE later").format(), [chunk])
        assert target.execute(chunk_note(chunk, LSN(10), 1, 1)).rowcount == 1
        assert target.execute(chunk_note(chunk, LSN(20), 1, 1)).rowcount == 0
        begin_chunks(target, sql.SQL("TRUNCATE later").format(), [replace(chunk, file=8)])
        assert target.execute(chunk_note(chunk, LSN(20), 1, 1)).rowcount == 0
        target.execute(route_note("one:public.parent", LSN(10), 1, 1))
        with pytest.raises(psycopg.errors.UniqueViolation):
            target.execute(route_note("one:public.parent", LSN(20), 1, 1))


LEAF = """
CREATE TABLE leaf (id int PRIMARY KEY, a int REFERENCES later, b int REFERENCES parent);
INSERT INTO leaf SELECT n, n, n FROM generate_series(1, 100) AS n;
"""


def test_statistics_come_after_the_keys_that_the_planner_would_check_otherwise(
    copied: Callable[..., Copied],
) -> None:
    some = copied(MOVING + LEAF)
    lines = some.verbs("copy", "--json", "--jobs", "3").out.splitlines()
    told = [one["what"] for one in map(json.loads, lines) if one.get("event") == "built"]
    for key, tables in {
        "later_up_fkey on public.later": ("later", "parent"),
        "leaf_a_fkey on public.leaf": ("leaf", "later"),
        "leaf_b_fkey on public.leaf": ("leaf", "parent"),
    }.items():
        checked = max(n for n, what in enumerate(told) if what == f"constraint {key}")
        for table in tables:
            assert checked < told.index(f"statistics of public.{table}"), (key, table, told)
    some.prove()


WATCHED = """
CREATE TABLE workers (at_most text);
CREATE FUNCTION watch() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO workers VALUES (current_setting('max_parallel_maintenance_workers'));
END $$;
CREATE EVENT TRIGGER watch ON ddl_command_end WHEN TAG IN ('CREATE INDEX') EXECUTE FUNCTION watch();
ALTER EVENT TRIGGER watch ENABLE ALWAYS;
"""


@pytest.mark.parametrize(("jobs", "alone"), [("1", False), ("2", True)])
def test_an_index_has_no_parallel_workers_while_others_have_enough_to_do(
    copied: Callable[..., Copied], jobs: str, *, alone: bool
) -> None:
    some = copied(
        "CREATE TABLE many (a int, b int, c int);"
        "INSERT INTO many SELECT n, n, n FROM generate_series(1, 1000) AS n;"
        "CREATE INDEX ON many (a); CREATE INDEX ON many (b); CREATE INDEX ON many (c)"
    )
    some.ask(some.target, WATCHED)
    some.verbs("copy", "--jobs", jobs)
    found = some.ask(some.target, "SELECT at_most = '0' FROM workers")
    assert found == [(alone,)] * 3
