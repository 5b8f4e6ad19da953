# ruff: noqa: S608 -- all of the SQL is the tests' own
"""Which types' binary form means the same on every server, and that a server takes it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import psycopg
import pytest

from plans.catalog import TableName
from plans.catalog_read import read_catalog

TYPES = """
CREATE TYPE mood AS ENUM ('calm', 'b,u"s\\y');
CREATE DOMAIN amount AS numeric(12, 2) CHECK (VALUE >= 0);
CREATE DOMAIN moods AS mood[];
CREATE TYPE pair AS (a int, b text, m mood, ms mood[], n amount);
CREATE TYPE pairs AS (one pair, more pair[], a amount[]);
CREATE DOMAIN checked AS pair CHECK ((VALUE).a > 0);
CREATE TYPE span AS RANGE (subtype = float8, multirange_type_name = spans);
CREATE TYPE temper AS RANGE (subtype = mood, multirange_type_name = tempers);
CREATE TYPE named AS (a int, r regclass);
CREATE DOMAIN of_types AS regtype[];
CREATE TYPE nameds AS (more named[]);
CREATE TYPE rights AS (a aclitem[]);
"""
PORTABLE = {
    "mood[]": ("{}", r'{calm,NULL,"b,u\"s\\y"}', "[0:1][3:3]={{calm},{NULL}}", None),
    "moods": ("{calm}", "{}", None),
    "moods[]": ('{"{calm,NULL}",NULL,"{}"}', "{}"),
    "amount[]": ("{1.50,NULL}", "{}"),
    "pair": (r'(1,"a ""b",calm,"{calm,NULL}",2.50)', "(,,,,)", None),
    "pair[]": ('{"(1,,calm,{},0.00)",NULL}', "{}"),
    "pairs": ('("(1,,calm,{},0.00)","{""(2,,,,)"",NULL}","{1.00}")', "(,,)"),
    "checked": ("(1,,,,)", None),
    "span": ("[1,2)", "empty", "(,)"),
    "spans": ("{[1,2),[3,)}", "{}"),
    "temper[]": ('{"[calm,calm]",empty,NULL}', "{}"),
    "tempers": ("{[calm,calm]}", "{}"),
}
SERVERS_OWN = ("regclass", "regtype[]", "of_types", "named", "named[]", "nameds", "rights")


def columns(types: Iterable[str]) -> str:
    return ", ".join(f"c{n} {one}" for n, one in enumerate(types))


@pytest.fixture
def databases(source_db: str, target_db: str) -> Iterator[list[psycopg.Connection]]:
    """Two with the same types, which have other numbers."""
    with (
        psycopg.connect(source_db, autocommit=True) as source,
        psycopg.connect(target_db, autocommit=True) as target,
    ):
        source.execute(TYPES)
        target.execute(TYPES)
        numbers = "SELECT array_agg(oid ORDER BY typname) FROM pg_type WHERE typname = ANY (%s)"
        names = [["mood", "amount", "moods", "pair", "pairs", "checked", "span", "temper"]]
        if source.execute(numbers, names).fetchone() == target.execute(numbers, names).fetchone():
            target.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public; CREATE TYPE x AS ()")
            target.execute(TYPES)
        yield [source, target]


def test_a_value_is_as_portable_as_all_that_it_is_made_of(
    databases: list[psycopg.Connection],
) -> None:
    source, _ = databases
    every = [*PORTABLE, "xml", "xml[]", *SERVERS_OWN]
    source.execute(f"CREATE TABLE kinds ({columns(every)})".encode())
    kinds = read_catalog(source, ["public"]).tables[TableName("public", "kinds")]
    found = [type_ for type_, column in zip(every, kinds.columns, strict=True)
             if not column.is_portable]  # fmt: skip
    assert found == list(SERVERS_OWN)


def test_a_server_takes_what_another_has_written(databases: list[psycopg.Connection]) -> None:
    source, target = databases
    for connection in databases:
        connection.execute(f"CREATE TABLE kinds ({columns(PORTABLE)})".encode())
    for n, values in enumerate(PORTABLE.values()):
        for value in values:
            source.execute(f"INSERT INTO kinds (c{n}) VALUES (%s)".encode(), [value])
    with (
        source.cursor().copy("COPY kinds TO STDOUT (FORMAT binary)") as rows,
        target.cursor().copy("COPY kinds FROM STDIN (FORMAT binary)") as into,
    ):
        for row in rows:
            into.write(row)
    text = "SELECT k::text FROM kinds AS k"
    expected = source.execute(text).fetchall()
    assert len(expected) == sum(map(len, PORTABLE.values()))
    assert target.execute(text).fetchall() == expected
