"""PostgreSQL's own regression schema: what can be split of it is copied and followed.

What cannot is refused by name, and left out by `drop`, as a user would do.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from cdc.connect import connect
from tests.conftest import fresh_database, require_version
from tests.real_fetch import postgres_regress
from tests.verbs import Verbs
from toolkit.binaries import Binaries, find_binaries
from toolkit.servers import running_server

VERSIONS = (
    pytest.param("15", marks=pytest.mark.release),
    pytest.param("16", marks=pytest.mark.release),
    "18",
)
SCRIPT_S_MAX = 240.0
REFUSED_ROUNDS_MAX = 4
KEPT_MIN = 120
"""Of some 220 tables; less would be a check that refuses too much."""
CHANGES = 400

SCRIPTS = (
    *("test_setup", "boolean", "char", "name", "varchar", "text", "int2", "int4", "int8", "oid"),
    *("float4", "float8", "bit", "numeric", "uuid", "enum", "money", "rangetypes"),
    *("multirangetypes", "point", "lseg", "line", "box", "path", "polygon", "circle", "date"),
    *("time", "timetz", "timestamp", "timestamptz", "interval", "inet", "macaddr", "macaddr8"),
    *("pg_lsn", "xid", "tstypes", "domain", "arrays", "json", "jsonb", "rowtypes"),
    *("create_table", "create_misc", "create_index", "insert", "insert_conflict", "update"),
    *("delete", "inherit", "typed_table", "constraints", "identity", "generated", "with"),
    *("partition_prune", "partition_join", "hash_part", "truncate", "triggers", "alter_table"),
    *("xml", "replica_identity", "fast_default", "sequence", "create_table_like"),
    *("gin", "gist", "spgist", "brin"),
)

PLAN = """\
split: regress
source: {dsn: "${DBSPLIT_SOURCE_DSN}", schemas: [public]}
services:
  a: {dsn: "${DBSPLIT_A_DSN}"}
tables:
"""
TABLES = """
SELECT relname::text, relkind::text = 'f' OR relpersistence = 'u' FROM pg_class
WHERE relkind IN ('r', 'p', 'f') AND NOT relispartition AND relpersistence <> 't'
      AND relnamespace = 'public'::regnamespace ORDER BY 1
"""
NAMED = re.compile(r'(?:public|tables)\."?([A-Za-z0-9_ ]+?)"?(?=[\s;,.:]|$)')


@pytest.mark.parametrize("version", VERSIONS)
def test_the_regression_schema_is_copied_and_followed(version: str, tmp_path: Path) -> None:
    scripts = postgres_regress()
    for needed in (version, "15"):
        require_version(needed)
    psql = find_binaries("15")
    with (
        running_server(version=version) as source,
        running_server(version=version) as target,
        fresh_database(source) as dsn,
        fresh_database(target) as ours,
    ):
        load(psql, scripts, dsn)
        plan = tmp_path / "plan.yaml"
        verbs = Verbs(plan, {"DBSPLIT_SOURCE_DSN": dsn, "DBSPLIT_A_DSN": ours})
        kept = split_what_can_be(verbs, plan, dsn)
        assert len(kept) >= KEPT_MIN, kept
        follow(verbs, dsn, ours, kept, seed=version)


def load(psql: Binaries, scripts: Path, dsn: str) -> None:
    """Run the scripts; what fails, by design or as there is no library, is left."""
    environment = os.environ | {
        "PG_ABS_SRCDIR": str(scripts),
        "PG_LIBDIR": "/nonexistent",
        "PG_DLSUFFIX": ".so",
        "PGTZ": "PST8PDT",
        "PGDATESTYLE": "Postgres, MDY",
        "PGOPTIONS": "-c intervalstyle=postgres_verbose",
    }
    for name in SCRIPTS:
        subprocess.run(
            [str(psql.program("psql")), "-Xq", "-d", dsn, "-f", str(scripts / f"sql/{name}.sql")],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=SCRIPT_S_MAX,
            check=False,
        )


def split_what_can_be(verbs: Verbs, plan: Path, dsn: str) -> list[str]:
    """A plan whose check finds no blocker; returns the tables that are not left out."""
    with psycopg.connect(dsn) as connection:
        found: dict[str, bool] = dict(connection.execute(TABLES).fetchall())
    dropped = {name for name, is_odd in found.items() if is_odd}
    for _ in range(REFUSED_ROUNDS_MAX):
        lines = (f"  {json.dumps(t)}: {'drop' if t in dropped else 'a'}\n" for t in found)
        plan.write_text(PLAN + "".join(lines))
        blockers = blocked(verbs)
        if not blockers:
            return [name for name in found if name not in dropped]
        named = {name for message in blockers for name in NAMED.findall(message)}
        more = named.intersection(found) - dropped
        assert more, f"refused, and no table of the plan is named: {blockers[:5]}"
        dropped |= more
    raise AssertionError(f"still refused: {blocked(verbs)}")


def blocked(verbs: Verbs) -> list[str]:
    """What stands against the plan, each with what it is about."""
    said = verbs.tried("plan", "check", "--format", "json")
    assert said.code in (0, 3), said
    findings = json.loads(said.out)
    found = [
        f"{one['object']}: {one['message']}" for one in findings if one["severity"] == "blocker"
    ]
    assert bool(found) is bool(said.code)
    return found


def follow(verbs: Verbs, dsn: str, ours: str, tables: list[str], *, seed: str) -> None:
    verbs("prepare")
    change(dsn, tables, f"before {seed}")
    verbs("copy")
    with verbs.stream(dsn):
        change(dsn, tables, f"streamed {seed}")
    change(dsn, tables, f"backlog {seed}")
    verbs("stream", "--until-caught-up")
    for table in tables:
        wanted, found = image(dsn, table), image(ours, table)
        assert wanted == found, (table, list((wanted - found).elements())[:3])
    assert verbs.json("validate")["consistent"]


def image(dsn: str, table: str) -> Counter[tuple[Any, ...]]:
    with connect(dsn) as connection:
        query = sql.SQL("SELECT t::text FROM {} AS t").format(sql.Identifier(table))
        return Counter(connection.execute(query).fetchall())


def change(dsn: str, tables: list[str], seed: str) -> None:
    """Change rows by what other rows hold; what a table does not want is undone."""
    chance = random.Random(seed)  # noqa: S311 - not a secret
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET statement_timeout = '5s'")
        columns: dict[str, list[str]] = dict(connection.execute(COLUMNS).fetchall())
        for _ in range(CHANGES):
            table = chance.choice(tables)
            with connection.transaction():
                for statement in statements(table, columns[table], chance):
                    try:
                        with connection.transaction():
                            connection.execute(statement)
                    except psycopg.Error:
                        assert not connection.closed


COLUMNS = """
SELECT relname::text, array_agg(attname::text ORDER BY attnum)
FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
WHERE attnum > 0 AND NOT attisdropped AND attgenerated = ''
      AND relnamespace = 'public'::regnamespace GROUP BY 1
"""


def statements(table: str, columns: list[str], chance: random.Random) -> Iterator[sql.Composed]:
    """One or two statements on a table."""
    name = sql.Identifier(table)
    some = sql.SQL(
        "(tableoid, ctid) IN (SELECT tableoid, ctid FROM {} AS t"
        " ORDER BY md5(t::text || {}) LIMIT {})"
    ).format(name, sql.Literal(str(chance.random())), sql.Literal(chance.randint(1, 20)))
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    again = sql.SQL(
        "INSERT INTO {0} ({1}) OVERRIDING SYSTEM VALUE SELECT {1} FROM {0} WHERE {2}"
    ).format(name, names, some)
    gone = sql.SQL("DELETE FROM {} WHERE {}").format(name, some)
    column = sql.Identifier(chance.choice(columns))
    what = chance.random()
    if what < 0.25:
        yield again
    elif what < 0.35:
        yield gone
    elif what < 0.5:
        yield sql.SQL(
            "WITH d AS (DELETE FROM {0} WHERE {2} RETURNING {1})"
            " INSERT INTO {0} ({1}) OVERRIDING SYSTEM VALUE SELECT * FROM d"
        ).format(name, names, some)
    elif what < 0.51:
        yield sql.SQL("TRUNCATE {}").format(name)
    else:
        yield sql.SQL(
            "UPDATE {0} SET {1} = (SELECT {1} FROM {0} ORDER BY random() LIMIT 1) WHERE {2}"
        ).format(name, column, some)
        yield again
