"""Sources whose encoding is not UTF8: what can be carried is, and what cannot is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from tests.conftest import fresh_database
from tests.verbs import VERB_S_MAX, Verbs
from toolkit.servers import Server
from toolkit.servers_watchdog import wait_until

ARRIVES_S_MAX = 30.0
PLAN = """\
split: enc
source: {dsn: "${DBSPLIT_SOURCE_DSN}", schemas: [public]}
services:
  a: {dsn: "${DBSPLIT_A_DSN}"}
  b: {dsn: "${DBSPLIT_B_DSN}"}
tables:
  "Städte":
    split_rows:
      a: "name < 'Ä'"
      b: "name >= 'Ä'"
  notes: a
limits: {write_pause_s_max: 20}
"""
TABLES = """
CREATE TYPE farbe AS ENUM ('grün', 'rot');
CREATE TABLE "Städte" (id serial PRIMARY KEY, name text NOT NULL, "größe" varchar(9), f farbe);
CREATE TABLE notes (k text PRIMARY KEY, body text, j jsonb, arr text[]);
INSERT INTO "Städte" (name, "größe", f)
    SELECT (ARRAY['Köln', 'Ärzen'])[1 + n % 2], 'ü' || n, 'grün' FROM generate_series(1, 50) n;
INSERT INTO notes
    SELECT 'ä' || n, repeat('é', n), '{"k": "ö"}', ARRAY['ß', NULL] FROM generate_series(1, 50) n;
"""


class Split:
    """The databases, and the verbs."""

    def __init__(self, source: str, a: str, b: str, directory: Path) -> None:
        self.dsns = {"source": source, "a": a, "b": b}
        plan = directory / "plan.yaml"
        plan.write_text(PLAN, encoding="utf-8")
        environment = {f"DBSPLIT_{place.upper()}_DSN": dsn for place, dsn in self.dsns.items()}
        self.verbs = Verbs(plan, environment)
        # Only for the tests' own sessions: without it those of SQL_ASCII would get bytes.
        self.watched = f"{source}?client_encoding=UTF8"

    def ask(self, place: str, query: LiteralString) -> list[tuple[Any, ...]]:
        with psycopg.connect(
            self.dsns[place], client_encoding="UTF8", autocommit=True
        ) as connection:
            cursor = connection.execute(query)
            return cursor.fetchall() if cursor.description else []

    def arrives(self, place: str, query: LiteralString, expected: object) -> None:
        assert wait_until(
            lambda: self.ask(place, query) == [(expected,)], timeout_s=ARRIVES_S_MAX
        ), self.ask(place, query)


@contextmanager
def split(
    source: Server, target: Server, directory: Path, encoding: LiteralString
) -> Iterator[Split]:
    with ExitStack() as stack:
        dsn, a, b = (
            stack.enter_context(fresh_database(server)) for server in (source, target, target)
        )
        with psycopg.connect(source.dsn(), autocommit=True) as admin:
            name = sql.Identifier(str(conninfo_to_dict(dsn)["dbname"]))
            admin.execute(sql.SQL("DROP DATABASE {}").format(name))
            how = sql.SQL("ENCODING {} LC_COLLATE 'C' LC_CTYPE 'C'").format(encoding)
            admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0 {}").format(name, how))
        one = Split(dsn, a, b, directory)
        one.ask("source", TABLES)
        yield one
        with psycopg.connect(target.dsn(), autocommit=True) as admin:
            for server in {source.dsn(), target.dsn()}:
                _drop_origins(server)


def _drop_origins(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(
            "SELECT pg_replication_origin_drop(roname) FROM pg_replication_origin"
            " WHERE roname LIKE 'dbsplit_enc%'"
        )


@pytest.mark.long
def test_latin1_is_carried_and_what_it_lacks_stops_on_its_way_back(
    source_server: Server, target_server: Server, tmp_path: Path
) -> None:
    with split(source_server, target_server, tmp_path, "LATIN1") as one:
        verbs = one.verbs
        assert "encoding-narrow" in verbs("plan", "check").out
        verbs("prepare")
        verbs("copy")
        with verbs.stream(one.watched, code=7) as stream:
            one.ask("source", "UPDATE \"Städte\" SET name = 'Öhringen', f = 'rot' WHERE id < 9")
            one.ask("source", "UPDATE notes SET k = 'Ü' || k, body = body || 'ÿ' WHERE k < 'ä2'")
            one.arrives("b", "SELECT count(*) FROM \"Städte\" WHERE name = 'Öhringen'", 8)
            # What a target has too many, and the control schema cannot hold, is told all the same.
            one.ask("a", "UPDATE notes SET body = 'Zł €' WHERE k = 'ä30'")
            assert verbs.json("validate", code=5)["consistent"] is False
            assert verbs.json("validate", "--repair", "--yes")["consistent"] is True
            assert verbs.json("cutover", "--yes")["outcome"] == "moved"
            one.ask("a", "UPDATE notes SET body = 'zurück' WHERE k = 'ä30'")
            one.arrives("source", "SELECT body FROM notes WHERE k = 'ä30'", "zurück")
            one.ask("a", "UPDATE notes SET body = '5 €' WHERE k = 'ä31'")
            assert wait_until(lambda: not stream.running, timeout_s=VERB_S_MAX)
            assert 'no equivalent in encoding "LATIN1"' in stream.said()
            one.ask("a", "UPDATE notes SET body = '5 Euro' WHERE k = 'ä31'")


@pytest.mark.long
@pytest.mark.release
def test_bytes_of_no_encoding_are_named_and_stop_copy_and_stream(
    source_server: Server, target_server: Server, tmp_path: Path
) -> None:
    with split(source_server, target_server, tmp_path, "SQL_ASCII") as one:
        verbs = one.verbs
        one.ask(
            "source", "UPDATE notes SET body = convert_from('\\xdf', 'SQL_ASCII') WHERE k = 'ä7'"
        )
        found = verbs("plan", "check", code=3).out
        assert "1 row with text that is not valid UTF8; for example k = ??7" in found
        verbs.refused("prepare", code=3, says="not valid UTF8")
        one.ask(
            "source",
            "UPDATE notes SET body = convert_from(convert(convert_to(body, 'SQL_ASCII'), 'LATIN1',"
            " 'UTF8'), 'SQL_ASCII') WHERE k = 'ä7'",
        )
        verbs("prepare")
        one.ask("source", "INSERT INTO notes VALUES ('new', convert_from('\\xdf', 'SQL_ASCII'))")
        verbs.refused("copy", code=4, says="public.notes", hint="plan check")
        one.ask("source", "DELETE FROM notes WHERE k = 'new'")
        # What is in the log stays there, and nothing of it is applied.
        stopped = verbs("copy", code=7).err
        assert "a row in the log has text that is not valid UTF8" in stopped
        verbs("abort", "--yes")
        for verb in ("prepare", "copy"):
            verbs(verb)
        assert one.ask("a", "SELECT body FROM notes WHERE k = 'ä7'") == [("ß",)]
        with verbs.stream(one.watched):
            one.ask("source", "UPDATE notes SET body = 'später ü' WHERE k < 'ä3'")
            assert verbs.json("validate")["consistent"] is True
            assert verbs.json("cutover", "--yes")["outcome"] == "moved"
            one.ask("a", "UPDATE notes SET body = '5 €' WHERE k = 'ä31'")
            one.arrives("source", "SELECT body FROM notes WHERE k = 'ä31'", "5 €")
            assert verbs.json("rollback", "--yes")["outcome"] == "returned"
