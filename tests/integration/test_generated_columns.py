"""Generated columns that a server, or a service's database, cannot have in a split."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from psycopg import sql

from plans.errors import PlanInvalid
from tests.conftest import fresh_database, require_version
from tests.following import following
from tests.verbs import Verbs
from toolkit.refresh import refresh
from toolkit.refresh_edits import Answers
from toolkit.servers import running_server

TWICE = "twice int GENERATED ALWAYS AS (n * 2) STORED"
SCHEMA = f"""
CREATE TABLE keyless (n int, {TWICE});
CREATE TABLE whole (id int DEFAULT 1 PRIMARY KEY, n int, {TWICE});
ALTER TABLE whole REPLICA IDENTITY FULL;
CREATE TABLE nothing (id int DEFAULT 1 PRIMARY KEY, n int, {TWICE});
ALTER TABLE nothing REPLICA IDENTITY NOTHING;
CREATE TABLE later (id int DEFAULT 1 PRIMARY KEY DEFERRABLE, n int, {TWICE});
CREATE TABLE usual (id int DEFAULT 1 PRIMARY KEY, n int, {TWICE});
CREATE TABLE indexed (n int NOT NULL UNIQUE, {TWICE});
ALTER TABLE indexed REPLICA IDENTITY USING INDEX indexed_n_key;
"""
REFUSED = ("keyless", "whole", "nothing", "later")
TABLES = (*REFUSED, "usual", "indexed")

MENDED = """
ALTER TABLE keyless ADD id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY;
ALTER TABLE whole REPLICA IDENTITY DEFAULT;
ALTER TABLE nothing REPLICA IDENTITY DEFAULT;
ALTER TABLE later DROP CONSTRAINT later_pkey, ADD PRIMARY KEY (id);
"""
PLAN = """\
split: generated
source: {dsn: "${DBSPLIT_SOURCE_DSN}"}
services: {a: {dsn: "${DBSPLIT_A_DSN}"}}
tables:
"""


@contextmanager
def split(
    source_version: str, target_version: str, schema: str, tables: str, directory: Path
) -> Iterator[tuple[Verbs, psycopg.Connection, psycopg.Connection]]:
    """The verbs of a split of such a source, with sessions in source and target."""
    require_version(source_version)
    require_version(target_version)
    with (
        running_server(version=source_version) as source_server,
        running_server(version=target_version) as target_server,
        fresh_database(source_server) as source,
        fresh_database(target_server) as target,
        psycopg.connect(source, autocommit=True) as ours,
        psycopg.connect(target, autocommit=True) as theirs,
    ):
        ours.execute(schema.encode())
        plan = directory / "plan.yaml"
        plan.write_text(PLAN + tables, encoding="utf-8")
        verbs = Verbs(plan, {"DBSPLIT_SOURCE_DSN": source, "DBSPLIT_A_DSN": target})
        yield verbs, ours, theirs


def on_each(side: psycopg.Connection, statement: LiteralString) -> None:
    for name in TABLES:
        side.execute(sql.SQL(statement).format(sql.Identifier(name)))


def require_untouched(*sides: psycopg.Connection) -> None:
    for side in sides:
        row = side.execute(
            "SELECT to_regnamespace('dbsplit'), (SELECT count(*) FROM pg_publication),"
            " (SELECT count(*) FROM pg_replication_slots)"
        ).fetchone()
        assert row == (None, 0, 0)


@pytest.mark.parametrize(("source_version", "target_version"), [("18", "18"), ("15", "18")])
def test_tables_that_nobody_could_change_are_refused_before_anything_is_done(
    source_version: str, target_version: str, tmp_path: Path
) -> None:
    tables = "".join(f"  {name}: a\n" for name in TABLES)
    with split(source_version, target_version, SCHEMA, tables, tmp_path) as (verbs, ours, theirs):
        checked = verbs("plan", "check", code=3).out
        told = [line for line in checked.splitlines() if "[identity-generated]" in line]
        assert len(told) == len(REFUSED)
        assert all(any(f"public.{name}:" in line for line in told) for name in REFUSED), told
        assert "updates and deletes" in checked
        verbs.refused("prepare", code=3, says="twice is generated", hint="plan check")
        require_untouched(ours, theirs)

        ours.execute(MENDED)
        on_each(ours, "INSERT INTO {} (n) VALUES (1)")
        verbs("prepare")
        on_each(ours, "UPDATE {} SET n = 7")
        verbs("copy")
        with verbs.stream(verbs.environment["DBSPLIT_SOURCE_DSN"]):
            theirs.execute("ALTER TABLE usual REPLICA IDENTITY FULL")
            verbs.refused("cutover", "--yes", code=4, says="neither update nor delete rows of")
            on_each(ours, "UPDATE {} SET n = 8")
            theirs.execute("ALTER TABLE usual REPLICA IDENTITY DEFAULT")
            verbs("cutover", "--yes")
            on_each(theirs, "UPDATE {} SET n = 9")
            on_each(theirs, "DELETE FROM {}")


def test_a_target_is_given_the_identity_that_a_derived_route_asks_of_the_source(
    tmp_path: Path,
) -> None:
    require_version("15")
    by_n = "{owner: a, derive: [{into: hub.by_n, key: {id: id, n: n}}]}"
    with (
        running_server(version="15") as source,
        running_server(version="18") as target,
        following(
            source,
            target,
            tmp_path,
            tables=f"plain: {by_n}\nfar: {by_n.replace('by_n', 'far_n')}\n",
            derived="CREATE TABLE by_n (id int, n int, PRIMARY KEY (id, n));"
            "CREATE TABLE far_n (id int, n int, PRIMARY KEY (id, n))",
        ) as one,
    ):
        one.execute(
            "CREATE SCHEMA odd",
            "CREATE TABLE plain (id int PRIMARY KEY, n int NOT NULL)",
            f"CREATE TABLE far (id int PRIMARY KEY, n int NOT NULL, {TWICE})",
        )
        with pytest.raises(PlanInvalid, match="in a's database, and twice is generated"):
            one.prepare()
        one.execute("ALTER TABLE far DROP COLUMN twice")
        one.prepare()
        one.copy()
        identities = "SELECT relname::text, relreplident::text FROM pg_class WHERE relname IN"
        found = one.rows("a", f"{identities} ('plain', 'far') ORDER BY 1")
        assert found == [("far", "f"), ("plain", "f")]


def test_a_refresh_publishes_no_table_that_nobody_could_change(tmp_path: Path) -> None:
    require_version("18")
    with (
        running_server(version="18") as server,
        following(server, server, tmp_path, tables="plain: a\n") as one,
    ):
        one.execute("CREATE SCHEMA odd", "CREATE TABLE plain (id int PRIMARY KEY)")
        one.prepare()
        one.copy()
        one.execute(f"CREATE TABLE keyless (n int, {TWICE})", "INSERT INTO keyless VALUES (1)")
        one.path.write_text(one.path.read_text() + "  keyless: a\n")
        with pytest.raises(PlanInvalid, match="twice is generated"):
            refresh(one.path, Answers(), lambda _step, _details: None)
        one.execute("UPDATE keyless SET n = 2")
        one.execute("ALTER TABLE keyless DROP COLUMN twice")
        refresh(one.path, Answers(), lambda _step, _details: None)
        one.execute("UPDATE keyless SET n = 3")


def test_older_servers_change_such_tables(tmp_path: Path) -> None:
    tables = "".join(f"  {name}: a\n" for name in TABLES)
    with split("15", "15", SCHEMA, tables, tmp_path) as (verbs, ours, _):
        verbs("prepare")
        on_each(ours, "UPDATE {} SET n = 7")


def test_a_service_whose_table_would_lack_a_generated_column_is_refused(
    pg_version: str, tmp_path: Path
) -> None:
    schema = """
    CREATE TEXT SEARCH CONFIGURATION own (COPY = simple);
    CREATE TABLE notes (id int PRIMARY KEY, note text, words tsvector
                        GENERATED ALWAYS AS (to_tsvector('public.own', note)) STORED);
    """
    with split(pg_version, pg_version, schema, "  notes: a\n", tmp_path) as (verbs, ours, theirs):
        assert "[generated-left-out]" in verbs("plan", "check", code=3).out
        verbs.refused("prepare", code=3, says="public.own", hint="plan check")
        require_untouched(ours, theirs)
        verbs.plan.write_text(PLAN + "  notes: {owner: a, drop: [words]}\n", encoding="utf-8")
        verbs("plan", "check")
        verbs("prepare")
