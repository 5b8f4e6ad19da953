"""Own functions that no statement names: behind operators, casts, CHECKs, indexes, columns."""

# ruff: noqa: S608, E501 - a schema

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from plans.catalog import TableName
from plans.catalog_read import read_catalog
from plans.statements.model import Statement
from plans.statements.read import read_statements
from plans.statements.scope import Scope, read_scope
from tests.conftest import fresh_database
from toolkit.servers import Server

FUNCTION = """
CREATE FUNCTION {0}(int) RETURNS {1} {2} LANGUAGE plpgsql AS
    $$ BEGIN RETURN (SELECT count(*){3} FROM {4}) + $1{3}; END $$;
"""
SCHEMA = (
    "".join(
        f"CREATE TABLE {name} (id int PRIMARY KEY);"
        for name in ("by_operator", "by_cast", "by_check", "by_index", "by_column", "by_domain",
                     "by_exclusion")
    )
    + """
CREATE FUNCTION read_operator(int, int) RETURNS bool LANGUAGE sql AS
    'SELECT count(*) > $1 + $2 FROM by_operator';
CREATE OPERATOR ==> (LEFTARG = int, RIGHTARG = int, FUNCTION = read_operator);
CREATE OPERATOR ?! (RIGHTARG = int, FUNCTION = read_check);
CREATE TYPE pair AS (a int, b int);
CREATE FUNCTION read_cast(int) RETURNS pair LANGUAGE sql AS 'SELECT ROW($1, count(*))::pair FROM by_cast';
CREATE CAST (int AS pair) WITH FUNCTION read_cast(int);
CREATE TABLE checked (id int PRIMARY KEY, n int CHECK (n < read_check(n)), other text);
CREATE TABLE indexed (id int PRIMARY KEY, n int);
CREATE INDEX ON indexed (read_index(n));
CREATE TABLE generated (id int PRIMARY KEY, n int, m int GENERATED ALWAYS AS (read_column(n)) STORED);
CREATE DOMAIN small AS int CHECK (VALUE < read_domain(VALUE));
CREATE TABLE domained (id int PRIMARY KEY, n small);
CREATE TABLE defaulted (id int PRIMARY KEY, n bool DEFAULT 1 ==> 2, m int);
CREATE TABLE excluded (id int PRIMARY KEY, n int, EXCLUDE USING btree ((read_exclusion(n)) WITH =));
CREATE TABLE plain (id int PRIMARY KEY, n int);
CREATE VIEW compared AS SELECT id FROM plain WHERE id ==> n;
"""
).replace(  # the functions come before what uses them
    "\nCREATE FUNCTION read_operator",
    "".join(
        FUNCTION.format(f"read_{one}", "int", "IMMUTABLE", "::int", f"by_{one}")
        for one in ("check", "index", "column", "domain", "exclusion")
    )
    + "\nCREATE FUNCTION read_operator",
)  # fmt: skip


@pytest.fixture(scope="module")
def scope(source_server: Server) -> Iterator[Scope]:
    with fresh_database(source_server) as dsn, psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(SCHEMA)
        yield read_scope(connection, read_catalog(connection, ["public"]))


def read(text: str, scope: Scope) -> Statement:
    (statement,) = read_statements(text, scope, search_path=("public",))
    assert not statement.unproven
    return statement


@pytest.mark.parametrize(
    ("text", "also"),
    [
        ("SELECT id FROM plain WHERE id ==> 3", {"plain", "by_operator"}),
        ("SELECT id FROM plain ORDER BY id OPERATOR(public.==>) 3", {"plain", "by_operator"}),
        ("SELECT ?! id FROM plain", {"plain", "by_check"}),
        ("SELECT id FROM compared", {"plain", "by_operator"}),
        ("SELECT id::pair FROM plain", {"plain", "by_cast"}),
        ("SELECT CAST(id AS public.pair) FROM plain", {"plain", "by_cast"}),
        ("SELECT id::small FROM plain", {"plain", "by_domain"}),
        ("INSERT INTO checked VALUES (1, 2)", {"by_check"}),
        ("UPDATE checked SET other = 'x'", {"by_check"}),
        ("INSERT INTO indexed VALUES (1, 2)", {"by_index"}),
        ("UPDATE indexed SET n = 1", {"by_index"}),
        ("INSERT INTO generated (id, n) VALUES (1, 2)", {"by_column"}),
        ("UPDATE generated SET n = 2", {"by_column"}),
        ("INSERT INTO domained VALUES (1, 2)", {"by_domain"}),
        ("INSERT INTO defaulted (id) VALUES (1)", {"by_operator"}),
        ("INSERT INTO excluded VALUES (1, 2)", {"by_exclusion"}),
        ("DO $$ BEGIN IF 1 ==> 2 THEN NULL; END IF; END $$", {"by_operator"}),
        # And where they don't run:
        ("SELECT id FROM plain WHERE id = 3", {"plain"}),
        ("SELECT id::text FROM plain", {"plain"}),
        ("SELECT n FROM checked", {"checked"}),
        ("DELETE FROM indexed", set()),
        ("INSERT INTO defaulted (id, n) VALUES (1, true)", set()),
        ("UPDATE defaulted SET m = 1", set()),
    ],
)
def test_what_such_functions_read_is_read(text: str, also: set[str], scope: Scope) -> None:
    names = {TableName("public", name) for name in also}
    assert read(text, scope).reads - read(text, scope).writes == names


def test_the_way_there_is_told(scope: Scope) -> None:
    statement = read("INSERT INTO checked VALUES (1, 2)", scope)
    (touch,) = [one for one in statement.touches if one.table.name == "by_check"]
    assert touch.via[0] == "constraint checked_n_check on public.checked"
