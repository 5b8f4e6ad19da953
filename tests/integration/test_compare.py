# ruff: noqa: S608 -- all of the SQL is the tests' own
"""The comparison of rows at rest: nothing is missed, nothing is invented."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Literal

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from plans.catalog import Table, TableName
from plans.catalog_read import read_catalog
from plans.routes import Kind, Route, RouteColumn
from tests.conftest import require_version
from toolkit.servers import Server, running_server
from validators.compare import NOT_CAUGHT_UP, TOO_MANY, compare_routes, compare_whole
from validators.keys import compare_keys
from validators.mismatches import KEYS_PER_GROUP
from validators.recheck import Limits
from validators.results import TEXT_MAX, Difference, Progress, TableResult, consistent
from validators.session import Cancelled, connected
from validators.sides import pair_of

HOSTILE = {
    "DateStyle": "German, DMY",
    "TimeZone": "Asia/Kathmandu",
    "IntervalStyle": "iso_8601",
    "extra_float_digits": "-15",
    "bytea_output": "escape",
    "search_path": "nowhere",
    "client_encoding": "latin1",
    "default_transaction_isolation": "serializable",
    "quote_all_identifiers": "on",
}

TYPES = """
CREATE TYPE public.mood AS ENUM ('sad', 'ok', 'happy');
CREATE DOMAIN public.email AS text CHECK (VALUE LIKE '%@%');
CREATE DOMAIN public.amount AS numeric(12,2);
CREATE DOMAIN public.amounts AS numeric[];
CREATE TYPE public.place AS (street text, number int, since timestamptz);
CREATE SCHEMA "My Shop";
CREATE TYPE "My Shop"."Size" AS ENUM ('S', 'M.L', 'X"L');
"""


class Bench:
    """Two databases with the same tables, and routes between these."""

    def __init__(self, source_dsn: str, target_dsn: str) -> None:
        self.source_dsn, self.target_dsn = source_dsn, target_dsn

    def source(self, *statements: str) -> None:
        run(self.source_dsn, *statements)

    def target(self, *statements: str) -> None:
        run(self.target_dsn, *statements)

    def both(self, *statements: str) -> None:
        self.source(*statements)
        self.target(*statements)

    def route(self, table: str = "public.t", **changes: Any) -> Route:
        """The whole table, its generated columns left out."""
        return whole(self.table(table), **changes)

    def routes(self, *tables: str) -> list[Route]:
        """Whole tables of one schema; its catalog is read once."""
        return [whole(table) for table in self.tables(*tables)]

    def table(self, name: str) -> Table:
        (table,) = self.tables(name)
        return table

    def tables(self, *names: str) -> list[Table]:
        found = [TableName(*name.split(".")) for name in names]
        with psycopg.connect(self.source_dsn, autocommit=True) as conn:
            catalog = read_catalog(conn, [found[0].schema])
        return [catalog.tables[name] for name in found]

    def compare(
        self,
        *routes: Route,
        catch_up: Callable[[float], bool] = lambda timeout_s: True,
        leader: Literal["source", "target"] = "source",
        **options: Any,
    ) -> list[TableResult]:
        pairs = [
            pair_of(route, source_dsn=self.source_dsn, target_dsn=self.target_dsn, leader=leader)
            for route in routes
        ]
        return compare_routes(pairs, catch_up, **options)

    def result(self, table: str = "public.t", **options: Any) -> TableResult:
        (result,) = self.compare(self.route(table), **options)
        return result


def run(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True, client_encoding="utf8") as conn:
        for statement in statements:
            conn.execute(sql.SQL(statement))


def column(name: str, type_: str, expression: str, *reads: str) -> RouteColumn:
    return RouteColumn(name, expression, frozenset(reads), type_, None, binary=False)


def whole(table: Table, **changes: Any) -> Route:
    columns = tuple(
        RouteColumn(
            c.name,
            sql.Identifier(c.name).as_string(),
            frozenset([c.name]),
            c.type,
            c.name,
            binary=c.is_portable,
        )
        for c in table.columns
        if not c.generated_kind
    )
    route = Route(
        id=f"crm:{table.name}",
        service="crm",
        owner="crm",
        kind=Kind.WHOLE,
        source=table,
        target=table.name,
        columns=columns,
        key=table.primary_key,
    )
    return replace(route, **changes)


def counts(result: TableResult) -> tuple[str, int, int, int]:
    assert not result.reason, result.reason
    return result.state, result.missing, result.extra, result.different


@contextmanager
def database(server: Server, suffix: str = "") -> Iterator[str]:
    name = f"compare_{uuid.uuid4().hex[:12]}"
    run(server.dsn(), f"CREATE DATABASE {name} {suffix}")
    try:
        yield server.dsn(name)
    finally:
        run(server.dsn(), f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def bench(source_db: str, target_db: str) -> Bench:
    return Bench(source_db, target_db)


@pytest.fixture(scope="module")
def cases(source_server: Server, target_server: Server) -> Iterator[Bench]:
    """Databases with types of their own; the target's settings are hostile."""
    with database(source_server) as source, database(target_server) as target:
        name = psycopg.conninfo.conninfo_to_dict(target)["dbname"]
        made = Bench(source, target)
        made.both(TYPES)
        made.target(*(f"ALTER DATABASE {name} SET {k} = '{v}'" for k, v in HOSTILE.items()))
        made.target(f"ALTER DATABASE {name} SET search_path = nowhere")
        yield made


EVERYTHING = """
CREATE TABLE public.everything (
    id bigint PRIMARY KEY, i2 smallint, i4 integer, b boolean, n numeric, n2 numeric(12,4),
    f4 real, f8 double precision, t text, v varchar(20), c char(8), ch "char", na name,
    by bytea, ts timestamp(3), tz timestamptz, d date, ti time, tiz timetz, iv interval,
    u uuid, j json, jb jsonb, ip inet, ci cidr, mac macaddr, bi bit(5), vb bit varying(9),
    m money, p point, tv tsvector, r int4range, rz tstzrange, mr nummultirange,
    ai integer[], at text[], ac char(3)[], av varchar(4)[], af float8[], az timestamptz[],
    mo public.mood, amo public.mood[], em public.email, am public.amount, pl public.place,
    apl public.place[], si "My Shop"."Size", g integer GENERATED ALWAYS AS (i4 * 2) STORED)
"""
FILL = """
INSERT INTO public.everything
SELECT i, i % 100, i * 3, i % 2 = 0, i / 7.0, i / 7.0, i / 3.0, sqrt(i), 'text ' || i,
    left('v€' || i, 20), 'c' || i % 50, 'x', 'name' || i, decode(md5(i::text), 'hex'),
    '2024-01-01'::timestamp + i * interval '1.001 s',
    '2024-01-01+00'::timestamptz + i * '1 h'::interval,
    '2024-01-01'::date + i, '00:00'::time + i * '1 s'::interval, '01:02:03.5+05:45'::timetz,
    i * interval '1 mon 2 days 3.004 s', md5(i::text)::uuid, '{"b": 1,   "a": 2}',
    jsonb_build_object('z', i, 'a', ARRAY[i, NULL]), '10.0.0.1/24', '10.0.0.0/8',
    '08:00:2b:01:02:03', B'10101', B'1', '1234.56', '(1.5,2.25)', 'a fat cat', int4range(i, i + 5),
    tstzrange('2024-01-01+00', NULL), '{[1.5,2.5)}', ARRAY[i, NULL, 3],
    ARRAY['a,b', NULL, 'NULL', '', '{"x"}'], '{a,bc}', '{abcd}', ARRAY[1/3.0, 'NaN', '-Infinity'],
    ARRAY['2024-06-01+00'::timestamptz, 'infinity'],
    (ARRAY['sad','ok','happy'])[i % 3 + 1]::public.mood, '{ok,NULL}', i || '@example.com', i / 7.0,
    ROW('st "q", ' || i, i, '2024-01-01+00')::public.place,
    ARRAY[ROW(NULL, i, NULL)::public.place], 'X"L'
FROM generate_series(1, 3000) AS i;
INSERT INTO public.everything (id, tz, d, ts, f8, n, iv) VALUES
    (-1, 'infinity', '-infinity', '0044-03-15 BC', 'NaN', 'NaN', '-1 year -2 days +3:00'),
    (-2, '4713-01-01 00:00:00+00 BC', '5874897-12-31', NULL, '-0', 1e-30, '0'),
    (-3, '294276-12-31 23:59:59.999999+00', NULL, NULL, 5e-324, 1e130, '178000000 years');
"""


def test_rows_of_every_type_are_equal_whatever_the_session_settings(cases: Bench) -> None:
    cases.both(EVERYTHING, FILL)
    result = cases.result("public.everything")
    assert counts(result) == ("equal", 0, 0, 0)
    assert result.rows == 3003
    assert cases.result("public.everything", leader="target").fingerprint == result.fingerprint


@pytest.mark.parametrize("version", ["15", "16", "18"])
def test_rows_of_every_type_are_equal_on_other_versions(
    source_server: Server, version: str
) -> None:
    require_version(version)
    with ExitStack() as stack:
        other = stack.enter_context(running_server(version=version))
        source = stack.enter_context(database(source_server))
        target = stack.enter_context(database(other))
        bench = Bench(source, target)
        bench.both(TYPES, EVERYTHING, FILL)
        assert counts(bench.result("public.everything")) == ("equal", 0, 0, 0)
        bench.target("UPDATE public.everything SET f8 = f8 + 1e-14 WHERE id = 77")
        assert counts(bench.result("public.everything")) == ("different", 0, 0, 1)


DIFFERENT = {
    "null and empty text": ("text", "NULL", "''"),
    "null and the word": ("text", "NULL", "'NULL'"),
    "trailing space": ("text", "'a'", "'a '"),
    "trailing newline": ("text", "'a'", "E'a\\n'"),
    "case": ("text", "'a'", "'A'"),
    "composed and decomposed": ("text", "U&'\\00E9'", "U&'e\\0301'"),
    "varchar": ("varchar(9)", "'a'", "'a '"),
    "char": ("char(5)", "'a'", "' a'"),
    "infinity and its opposite": ("timestamptz", "'infinity'", "'-infinity'"),
    "infinity and null": ("timestamptz", "'infinity'", "NULL"),
    "infinity and the last date": ("date", "'infinity'", "'5874897-12-31'"),
    "before and after Christ": ("date", "'0044-03-15 BC'", "'0044-03-15'"),
    "a microsecond": (
        "timestamptz",
        "'2024-01-01 00:00:00.000001+00'",
        "'2024-01-01 00:00:00.000002+00'",
    ),
    "offset of a time": ("timetz", "'12:00+00'", "'13:00+01'"),
    "a month and thirty days": ("interval", "'1 mon'", "'30 days'"),
    "a day and 24 hours": ("interval", "'1 day'", "'24 hours'"),
    "last digit of a double": ("float8", "0.1::float8 + 0.2::float8", "0.3"),
    "last digit of a real": ("real", "0.1", "0.10000001"),
    "signed zero": ("float8", "'-0'", "'0'"),
    "NaN and null": ("float8", "'NaN'", "NULL"),
    "smallest double": ("float8", "5e-324", "0"),
    "scale": ("numeric", "1.0", "1.00"),
    "tiny": ("numeric", "1e-30", "0"),
    "numeric NaN": ("numeric", "'NaN'", "0"),
    "beyond 2**53": ("bigint", "9007199254740993", "9007199254740992"),
    "words of an integer swapped": ("bigint", "1", "4294967296"),
    "one bit": ("bytea", "'\\x00ff'", "'\\x01ff'"),
    "no bytes and null": ("bytea", "''", "NULL"),
    "boolean and null": ("boolean", "false", "NULL"),
    "number in jsonb": ("jsonb", """'{"a": 1}'""", """'{"a": 1.0}'"""),
    "null in jsonb": ("jsonb", """'{"a": null}'""", "'{}'"),
    "jsonb null": ("jsonb", "'null'", "NULL"),
    "spaces in json": ("json", """'{"a":1}'""", """'{"a": 1}'"""),
    "null in an array": ("text[]", "ARRAY[NULL]", "ARRAY['NULL']"),
    "empty array and null": ("text[]", "'{}'", "NULL"),
    "dimensions": ("text[]", "'{{a,b}}'", "'{a,b}'"),
    "bounds of an array": ("int[]", "'[0:1]={1,2}'", "'{1,2}'"),
    "separator in an array": ("text[]", "ARRAY['a,b']", "ARRAY['a','b']"),
    "enum": ("public.mood", "'sad'", "'ok'"),
    "enum with odd labels": ('"My Shop"."Size"', "'M.L'", "'X\"L'"),
    "domain": ("public.amount", "1.01", "1.02"),
    "composite": ("public.place", "'(a,1,)'", "'(a,,)'"),
    "composite of nulls and null": ("public.place", "'(,,)'", "NULL"),
    "range bound": ("numrange", "'[1,2)'", "'[1,2]'"),
    "bits": ("bit(4)", "B'1010'", "B'1011'"),
    "uuid": (
        "uuid",
        "'00000000-0000-0000-0000-000000000001'",
        "'00000000-0000-0000-0000-000000000002'",
    ),
    "netmask": ("inet", "'10.0.0.1/24'", "'10.0.0.1/25'"),
    "cents": ("money", "'1.01'", "'1.02'"),
    "length of bits": ("bit varying(9)", "B'1'", "B'10'"),
    "part of a multirange": ("int4multirange", "'{[1,3)}'", "'{[1,2)}'"),
    "infinity and no bound": ("daterange", "'[2024-01-01,infinity)'", "'[2024-01-01,)'"),
    "month in an array": ("interval[]", "ARRAY['1 mon'::interval]", "ARRAY['30 d'::interval]"),
    "signed zero in an array": ("float8[]", "'{-0}'", "'{0}'"),
    "scale in a range": ("numrange", "'[1.0,2)'", "'[1.00,2)'"),
    "composite in an array": (
        "public.place[]",
        "ARRAY[ROW(NULL, 1, NULL)::public.place]",
        "ARRAY[ROW('', 1, NULL)::public.place]",
    ),
    "scale in a domain over an array": ("public.amounts", "'{1.0}'", "'{1.00}'"),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_planted_value_is_found(cases: Bench, name: str) -> None:
    type_, ours, theirs = DIFFERENT[name]
    cases.both(
        "DROP TABLE IF EXISTS public.t",
        f'CREATE TABLE public.t (id int PRIMARY KEY, before text, "The Value" {type_}, after text)',
        f"INSERT INTO public.t SELECT i, 'b', {ours}, NULL FROM generate_series(1, 600) AS i",
    )
    assert counts(cases.result()) == ("equal", 0, 0, 0)
    cases.target(f'UPDATE public.t SET "The Value" = {theirs} WHERE id = 7')
    result = cases.result()
    assert counts(result) == ("different", 0, 0, 1)
    (example,) = result.examples
    assert example.key == ("7",)
    assert [c.column for c in example.columns] == ["The Value"]
    assert example.columns[0].leader != example.columns[0].follower


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (("a", "b,c"), ("a,b", "c")),
        (('a","b', "c"), ("a", 'b","c')),
        (("a", ""), ("", "a")),
        (("", None), (None, "")),
        (("a\\", "b"), ("a", "\\b")),
        (("(", ")"), ("()", "")),
    ],
)
def test_values_moved_between_columns_are_found(
    bench: Bench, ours: tuple[str | None, ...], theirs: tuple[str | None, ...]
) -> None:
    bench.both("CREATE TABLE public.t (id int PRIMARY KEY, a text, b text)")
    for dsn, values in ((bench.source_dsn, ours), (bench.target_dsn, theirs)):
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute("INSERT INTO public.t VALUES (1, %s, %s)", values)
    assert counts(bench.result()) == ("different", 0, 0, 1)


def test_values_swapped_between_rows_are_found(bench: Bench) -> None:
    # All in one bucket: sums of linear hashes would come out the same.
    bench.both("CREATE TABLE public.t (id int PRIMARY KEY, a int, b int)")
    bench.both("INSERT INTO public.t SELECT i, i % 7, i % 11 FROM generate_series(1, 100) AS i")
    bench.target(
        "UPDATE public.t SET a = CASE id WHEN 1 THEN 2 ELSE 1 END WHERE id IN (1, 2)",
        "UPDATE public.t SET b = CASE id WHEN 3 THEN 5 ELSE 3 END WHERE id IN (3, 5)",
    )
    assert counts(bench.result()) == ("different", 0, 0, 4)


KEYS = {
    "text": ('k text COLLATE "C"', "k", "'key ' || i"),
    "text under the database's collation": ("k text", "k", "'Key€ ' || i"),
    "varchar": ("k varchar(20)", "k", "'k,\"' || i"),
    "char": ("k char(12)", "k", "'k' || i"),
    "uuid": ("k uuid", "k", "md5(i::text)::uuid"),
    "numeric": ("k numeric(10,3)", "k", "i / 8.0"),
    "float": ("k float8", "k", "i / 3.0::float8"),
    "timestamptz": ("k timestamptz", "k", "'2024-01-01+00'::timestamptz + i * '1.5 s'::interval"),
    "bytea": ("k bytea", "k", "decode(md5(i::text), 'hex')"),
    "boolean and smallint": ("a boolean, b smallint", "a, b", "i % 2 = 0, i"),
    "composite key": ("a text, b int, c date", "c, a, b", "'x', i, '2024-01-01'::date + i"),
    "enum in a key": (
        "a public.mood, b int",
        "a, b",
        "(ARRAY['sad','ok'])[i % 2 + 1]::public.mood, i",
    ),
    "domain": ("k public.amount", "k", "i"),
    "mixed case and reserved words": ('"Order" int, "user id" text', '"user id", "Order"', "i, i"),
    "range": ("k int4range", "k", "int4range(i, i + 1)"),
    "interval": ("k interval", "k", "i * '1 day'::interval"),
}


@pytest.mark.parametrize("name", KEYS)
def test_rows_are_told_apart_by_any_key(cases: Bench, name: str) -> None:
    columns, key, values = KEYS[name]
    cases.both(
        "DROP TABLE IF EXISTS public.t",
        f"CREATE TABLE public.t ({columns}, value int, PRIMARY KEY ({key}))",
        f"INSERT INTO public.t SELECT {values}, i FROM generate_series(1, 2000) AS i",
    )
    cases.source("DELETE FROM public.t WHERE value = 11")
    cases.target("DELETE FROM public.t WHERE value = 500 OR value BETWEEN 20 AND 29")
    cases.target("UPDATE public.t SET value = 0 WHERE value IN (77, 78)")
    result = cases.result()
    assert counts(result) == ("different", 11, 1, 2)
    keys = [difference.key for difference in result.differences]
    assert len(set(keys)) == 14
    with connected(cases.source_dsn, cases.target_dsn) as ends:
        pair = pair_of(cases.route(), source_dsn=cases.source_dsn, target_dsn=cases.target_dsn)
        found = compare_keys(ends, pair, keys, timeout_s=10)
        assert (found.state, set(found.differing)) == ("different", set(keys))


def test_keys_that_are_equal_but_not_the_same_text(bench: Bench) -> None:
    bench.both("CREATE TABLE public.t (k numeric PRIMARY KEY, value int)")
    bench.source("INSERT INTO public.t VALUES (1.0, 1)")
    bench.target("INSERT INTO public.t VALUES (1.00, 1)")
    result = bench.result()
    assert counts(result) == ("different", 1, 1, 0)
    assert {d.key for d in result.differences} == {("1.0",), ("1.00",)}


def test_table_without_a_key_is_a_multiset(bench: Bench) -> None:
    bench.both("CREATE TABLE public.t (a int, b text)")
    bench.both("INSERT INTO public.t SELECT i % 50, NULL FROM generate_series(1, 1000) AS i")
    assert counts(bench.result()) == ("equal", 0, 0, 0)
    bench.source("INSERT INTO public.t SELECT 3, NULL FROM generate_series(1, 4)")  # 24 of 20
    bench.target("INSERT INTO public.t VALUES (4, NULL), (4, ''), (4, '')")
    result = bench.result()
    assert counts(result) == ("different", 4, 3, 0)
    assert {d.key for d in result.differences} == {()}
    shown = {tuple((c.leader, c.follower) for c in e.columns) for e in result.examples}
    assert (("4", "4"), (None, "")) not in shown
    assert ((None, "4"), (None, "")) in shown


def test_swapped_rows_of_a_multiset(bench: Bench) -> None:
    bench.both("CREATE TABLE public.t (a int, b int)")
    bench.source("INSERT INTO public.t VALUES (1, 2), (3, 4)")
    bench.target("INSERT INTO public.t VALUES (1, 4), (3, 2)")
    assert counts(bench.result()) == ("different", 2, 2, 0)


def test_route_by_rows_and_columns_compares_its_part_only(bench: Bench) -> None:
    bench.source(
        "CREATE TABLE public.t (id int PRIMARY KEY, channel text, secret text, note text)",
        "INSERT INTO public.t SELECT i, CASE WHEN i % 3 = 0 THEN 'web' WHEN i % 3 = 1 THEN 'tel'"
        " END, 's', 'n' || i FROM generate_series(1, 900) AS i",
    )
    bench.target(
        "CREATE TABLE public.t (id int PRIMARY KEY, note text)",
        "INSERT INTO public.t SELECT i, 'n' || i FROM generate_series(1, 900) AS i WHERE i % 3 = 0",
    )
    route = bench.route(where="channel LIKE 'we%' AND '{%s}' <> channel")
    route = replace(route, columns=(route.column("id"), route.column("note")))
    assert counts(bench.compare(route)[0]) == ("equal", 0, 0, 0)
    bench.source("UPDATE public.t SET channel = 'tel' WHERE id = 3")
    bench.target("DELETE FROM public.t WHERE id = 6")
    (result,) = bench.compare(route)
    assert counts(result) == ("different", 1, 1, 0)
    assert result.rows == 299


def test_derived_routes_share_a_table(bench: Bench) -> None:
    bench.source(
        "CREATE TABLE public.orders (id int PRIMARY KEY, status text)",
        "INSERT INTO public.orders SELECT i, CASE WHEN i % 2 = 0 THEN 'new' END"
        " FROM generate_series(1, 100) AS i",
    )
    bench.target(
        "CREATE TABLE public.order_state (origin varchar(9), order_id bigint, state text,"
        " version int DEFAULT 1, PRIMARY KEY (origin, order_id))",
        "INSERT INTO public.order_state SELECT 'shop', i, 'SUBMITTED'"
        " FROM generate_series(2, 100, 2) AS i",
        "INSERT INTO public.order_state SELECT 'crm', i, '?' FROM generate_series(1, 300) AS i",
    )
    route = Route(
        id="orchestrator:public.orders",
        service="orchestrator",
        owner="shop",
        kind=Kind.DERIVED,
        source=bench.table("public.orders"),
        target=TableName("public", "order_state"),
        columns=(
            column("origin", "character varying(9)", "'shop'"),
            RouteColumn("order_id", "id", frozenset(["id"]), "bigint", "id", binary=False),
            column("state", "text", "CASE status WHEN 'new' THEN 'SUBMITTED' END", "status"),
        ),
        key=("origin", "order_id"),
        where="status IS NOT NULL",
        fixed=(("origin", "'shop'"),),
    )
    assert counts(bench.compare(route)[0]) == ("equal", 0, 0, 0)
    bench.target("UPDATE public.order_state SET version = 7")  # no column of the route
    assert bench.compare(route)[0].state == "equal"
    bench.target("UPDATE public.order_state SET state = 'PAID' WHERE order_id = 4")
    result = bench.compare(route)[0]
    assert counts(result) == ("different", 0, 0, 1)
    assert result.differences[0].key == ("shop", "4")
    with connected(bench.source_dsn, bench.target_dsn) as ends:
        pair = pair_of(route, source_dsn=bench.source_dsn, target_dsn=bench.target_dsn)
        keys = [("shop", str(number)) for number in range(1, 11)]
        assert compare_keys(ends, pair, keys, timeout_s=5).differing == (("shop", "4"),)


def test_expressions_find_the_functions_of_their_schema(bench: Bench) -> None:
    bench.source(
        "CREATE SCHEMA shop",
        "CREATE FUNCTION shop.twice(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 * 2'",
        "CREATE TABLE shop.t (id int PRIMARY KEY, a int, g int GENERATED ALWAYS AS (a + 1) STORED)",
        "INSERT INTO shop.t VALUES (1, 10), (2, NULL)",
    )
    bench.target(
        "CREATE SCHEMA shop",
        "CREATE TABLE shop.t (id int PRIMARY KEY, doubled bigint, g int)",
        "INSERT INTO shop.t VALUES (1, 20, 11), (2, NULL, NULL)",
    )
    route = bench.route("shop.t")
    columns = (
        route.column("id"),
        column("doubled", "bigint", "twice(a)", "a"),
        column("g", "integer", "g", "g"),
    )
    assert counts(bench.compare(replace(route, columns=columns))[0]) == ("equal", 0, 0, 0)


def test_value_that_was_cut_is_a_difference(bench: Bench) -> None:
    bench.source("CREATE TABLE public.t (id int PRIMARY KEY, a text)")
    bench.source("INSERT INTO public.t VALUES (1, 'abcdef'), (2, 'abc')")
    bench.target("CREATE TABLE public.t (id bigint PRIMARY KEY, a varchar(3))")
    bench.target("INSERT INTO public.t VALUES (1, 'abc'), (2, 'abc')")
    columns = (
        RouteColumn("id", "id", frozenset(["id"]), "bigint", "id", binary=False),
        RouteColumn("a", "a", frozenset(["a"]), "character varying(3)", "a", binary=False),
    )
    (result,) = bench.compare(bench.route(columns=columns))
    assert counts(result) == ("different", 0, 0, 1)
    assert result.differences[0].key == ("1",)


def test_partitions_belong_to_their_table_and_heirs_do_not(bench: Bench) -> None:
    bench.both(
        "CREATE TABLE public.t (id int PRIMARY KEY, a text)",
        "CREATE TABLE public.heir () INHERITS (public.t)",
        "CREATE TABLE public.p (id int PRIMARY KEY, a text) PARTITION BY RANGE (id)",
        "CREATE TABLE public.p1 PARTITION OF public.p FOR VALUES FROM (0) TO (1000)",
        "INSERT INTO public.t SELECT i, 'x' FROM generate_series(1, 10) AS i",
        "INSERT INTO public.p SELECT i, 'x' FROM generate_series(1, 10) AS i",
    )
    bench.target("INSERT INTO public.heir VALUES (99, 'not of t')")
    bench.target("UPDATE public.p1 SET a = 'y' WHERE id = 3")
    results = bench.compare(bench.route(), bench.route("public.p"))
    assert [counts(r) for r in results] == [("equal", 0, 0, 0), ("different", 0, 0, 1)]


def test_what_cannot_be_read_is_never_equal(bench: Bench) -> None:
    for name in ("a", "b", "c", "d"):
        bench.both(f"CREATE TABLE public.{name} (id int PRIMARY KEY, v text)")
    routes = [bench.route(f"public.{name}") for name in "abcd"]
    bench.target("DROP TABLE public.b", "ALTER TABLE public.d DROP COLUMN v")
    results = bench.compare(*routes)
    assert [r.state for r in results] == ["equal", "unverified", "equal", "unverified"]
    assert "public.b does not exist" in results[1].reason
    assert 'column "v" does not exist' in results[3].reason
    assert not consistent(results)
    assert consistent([results[0], results[2]])
    assert not consistent([])


def test_rows_that_a_policy_hides_are_not_silently_skipped(bench: Bench) -> None:
    role = f"reader_{uuid.uuid4().hex[:8]}"
    bench.both(
        "CREATE TABLE public.t (id int PRIMARY KEY)",
        "INSERT INTO public.t VALUES (1)",
        f"CREATE ROLE {role} LOGIN",
        f"GRANT SELECT ON public.t TO {role}",
    )
    try:
        as_role = Bench(
            *(
                psycopg.conninfo.make_conninfo(dsn, user=role)
                for dsn in (bench.source_dsn, bench.target_dsn)
            )
        )
        assert as_role.result().state == "equal"
        bench.both("ALTER TABLE public.t ENABLE ROW LEVEL SECURITY")
        result = as_role.result()
        assert result.state == "unverified"
        assert "row-level security" in result.reason
    finally:
        bench.both("DROP TABLE public.t", f"DROP ROLE {role}")


def test_server_that_does_not_answer(bench: Bench) -> None:
    bench.both("CREATE TABLE public.t (id int PRIMARY KEY)")
    route = bench.route()
    secret = psycopg.conninfo.make_conninfo(bench.target_dsn, port=1, password="hush-hush")  # noqa: S106
    nowhere = Bench(bench.source_dsn, secret)
    (result,) = nowhere.compare(route)
    assert result.state == "unverified"
    assert "cannot connect" in result.reason
    assert "hush" not in result.reason + repr(pair_of(route, source_dsn=secret, target_dsn=secret))


def test_encodings_may_differ(source_server: Server, target_server: Server) -> None:
    latin = "ENCODING LATIN1 LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    with database(source_server) as source, database(target_server, latin) as target:
        bench = Bench(source, target)
        bench.both(
            "CREATE TABLE public.t (k text PRIMARY KEY, v text)",
            "INSERT INTO public.t SELECT 'schlüssel' || i, 'größe' || i"
            " FROM generate_series(1, 2000) AS i",
        )
        assert counts(bench.result()) == ("equal", 0, 0, 0)
        bench.target("UPDATE public.t SET v = 'grösse' WHERE k = 'schlüssel7'")
        result = bench.result()
        assert counts(result) == ("different", 0, 0, 1)
        assert result.differences[0].key == ("schlüssel7",)
        bench.source("INSERT INTO public.t VALUES ('€', ''), ('中', '')")  # which LATIN1 has not
        bench.target("DELETE FROM public.t WHERE k = 'schlüssel8'")
        assert counts(bench.result()) == ("different", 3, 0, 1)
        assert counts(bench.result(leader="target")) == ("different", 0, 3, 1)


def test_counts_are_exact_beyond_what_is_held(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("validators.passes.KEYS_HELD", 3000)
    monkeypatch.setattr("validators.opened.ROWS_PER_PART", 3000)
    monkeypatch.setattr("validators.opened.HELD_BYTES", 1000)
    bench.both("CREATE TABLE public.t (id int PRIMARY KEY, v int)")
    bench.source("INSERT INTO public.t SELECT i, i FROM generate_series(1, 20000) AS i")
    bench.target("INSERT INTO public.t SELECT i, 0 FROM generate_series(10001, 20010) AS i")
    bench.both("ANALYZE public.t")
    few = Limits(keys_per_round=700, differences_held=50, examples=3)
    result = bench.result(limits=few)
    assert counts(result) == ("different", 10000, 10, 10000)
    assert (len(result.differences), len(result.examples)) == (50, 3)

    result = bench.result(limits=replace(few, candidates=6000))
    assert (result.state, result.reason) == ("different", TOO_MANY)
    assert result.missing + result.extra + result.different + result.unverified == 20010
    assert result.unverified > 10000


def test_difference_is_unverified_where_the_follower_does_not_catch_up(bench: Bench) -> None:
    bench.both("CREATE TABLE public.t (id int PRIMARY KEY, v int)")
    bench.both("CREATE TABLE public.same (id int PRIMARY KEY, v int)")
    bench.source("INSERT INTO public.t SELECT i, i FROM generate_series(1, 3000) AS i")
    asked = []

    def never(timeout_s: float) -> bool:
        asked.append(timeout_s)
        return False

    few = Limits(keys_per_round=100, catch_up_s=1.5)
    result, same = bench.compare(
        bench.route(), bench.route("public.same"), catch_up=never, limits=few
    )
    assert (result.state, result.reason) == ("unverified", NOT_CAUGHT_UP)
    assert (result.unverified, result.missing) == (3000, 0)
    assert asked == [1.5]  # once is enough to know
    assert (same.state, same.rows) == ("equal", 0)


def test_chosen_keys_are_compared(bench: Bench) -> None:
    bench.both("CREATE TABLE public.t (id int PRIMARY KEY, v text)")
    bench.both("INSERT INTO public.t SELECT i, i FROM generate_series(1, 30000) AS i")
    bench.both("ANALYZE public.t")
    bench.source("DELETE FROM public.t WHERE id = 5", "UPDATE public.t SET v = '' WHERE id = 6")
    bench.target("DELETE FROM public.t WHERE id = 7", "UPDATE public.t SET v = '' WHERE id = 29999")
    pair = pair_of(bench.route(), source_dsn=bench.source_dsn, target_dsn=bench.target_dsn)
    with connected(bench.source_dsn, bench.target_dsn) as ends:
        keys = [(str(number),) for number in range(-5, 25000)]
        result = compare_keys(ends, pair, [*keys, *keys[:100]], timeout_s=20)
        assert (result.state, result.compared) == ("different", 25005)
        assert set(result.differing) == {("5",), ("6",), ("7",)}
        assert compare_keys(ends, pair, keys[20:90], timeout_s=5).state == "equal"
        assert compare_keys(ends, pair, [], timeout_s=5).compared == 0
        whole_table = compare_whole(ends, pair)
        assert counts(whole_table) == ("different", 1, 1, 2)

        late = compare_keys(ends, pair, keys, timeout_s=0)
        assert (late.state, late.compared) == ("unverified", 0)
        wrong = compare_keys(ends, pair, [("x",)], timeout_s=5)
        assert wrong.state == "unverified"
        assert "invalid input syntax" in wrong.reason
        after = compare_keys(ends, pair, keys[20:90], timeout_s=5)
        assert after.state == "equal"  # the connections are still good


def test_chosen_keys_are_found_however_they_are_spelled(bench: Bench) -> None:
    bench.both("CREATE TABLE public.t (a char(6), b boolean, c numeric, PRIMARY KEY (a, b, c))")
    bench.source("INSERT INTO public.t VALUES ('x', true, 1.0)")
    pair = pair_of(bench.route(), source_dsn=bench.source_dsn, target_dsn=bench.target_dsn)
    with connected(bench.source_dsn, bench.target_dsn) as ends:
        for key in (("x     ", "t", "1.0"), ("x", "true", "1.000"), ("x", "yes", "1")):
            assert compare_keys(ends, pair, [key], timeout_s=5).differing == (key,)


def test_keys_cannot_be_compared_without_a_key(bench: Bench) -> None:
    bench.both("CREATE TABLE public.t (a int)", "INSERT INTO public.t VALUES (1), (1)")
    pair = pair_of(bench.route(), source_dsn=bench.source_dsn, target_dsn=bench.target_dsn)
    with connected(bench.source_dsn, bench.target_dsn) as ends:
        with pytest.raises(ValueError, match="no key"):
            compare_keys(ends, pair, [], timeout_s=5)
        assert compare_whole(ends, pair).state == "equal"
        bench.target("INSERT INTO public.t VALUES (1)")
        assert counts(compare_whole(ends, pair)) == ("different", 0, 1, 0)
        ends.cancel()
        with pytest.raises(Cancelled):
            compare_whole(ends, pair)


def test_bug_in_a_callback_ends_the_comparison(bench: Bench) -> None:
    bench.both("CREATE TABLE public.t (id int PRIMARY KEY)")

    def broken(progress: Progress) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        bench.result(report=broken)


def test_progress_is_reported(bench: Bench) -> None:
    bench.both("CREATE TABLE public.t (id int PRIMARY KEY)")
    bench.source("INSERT INTO public.t VALUES (1)")
    seen: list[Progress] = []
    bench.result(report=seen.append)
    assert list(dict.fromkeys(p.step for p in seen)) == ["fingerprint", "open", "recheck", "done"]
    assert (seen[-1].rows, seen[-1].found, seen[-1].settled) == (1, 1, 1)


texts = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=8)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "text": texts,
    "bigint": st.integers(-(2**63), 2**63 - 1),
    "float8": st.floats(),
    "numeric": st.decimals(allow_nan=False, allow_infinity=False, places=3),
    "boolean": st.booleans(),
    "bytea": st.binary(max_size=8),
    "timestamp": st.datetimes(),
    "text[]": st.lists(st.none() | texts, max_size=3),
    "uuid": st.uuids(),
}
ROW = st.tuples(*(st.none() | values for values in VALUES.values()))


@pytest.fixture
def table_of_cells(cases: Bench) -> Table:
    columns = ", ".join(f"c{number} {type_}" for number, type_ in enumerate(VALUES))
    cases.both(f"CREATE TABLE public.h (id int, {columns})")
    return cases.table("public.h")


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROW, min_size=1, max_size=6), data=st.data())
def test_any_change_of_one_cell_is_found(
    cases: Bench, table_of_cells: Table, rows: list[tuple[Any, ...]], data: st.DataObject
) -> None:
    fill = "INSERT INTO public.h VALUES (%s" + ", %s" * len(VALUES) + ")"
    row = data.draw(st.integers(0, len(rows) - 1))
    cell = data.draw(st.integers(0, len(VALUES) - 1))
    new = data.draw(st.none() | list(VALUES.values())[cell])
    for dsn in (cases.source_dsn, cases.target_dsn):
        with psycopg.connect(dsn, client_encoding="utf8") as conn:
            conn.execute("TRUNCATE public.h")
            for number, values in enumerate(rows):
                conn.execute(fill, [number, *values])
    keyed = data.draw(st.booleans())
    route = whole(table_of_cells, key=("id",) if keyed else ())
    assert counts(cases.compare(route)[0]) == ("equal", 0, 0, 0)

    with psycopg.connect(cases.target_dsn, autocommit=True, client_encoding="utf8") as conn:
        change = sql.SQL("UPDATE public.h SET {0} = %s WHERE id = %s").format(
            sql.Identifier(f"c{cell}")
        )
        conn.execute(change, [new, row])
    with psycopg.connect(cases.source_dsn, client_encoding="utf8") as conn:
        # Whether PostgreSQL itself prints another text for it.
        type_ = list(VALUES)[cell]
        same = conn.execute(
            sql.SQL('SELECT ROW(%s::{0})::text = ROW(%s::{0})::text COLLATE "C"').format(
                sql.SQL(type_)
            ),
            [rows[row][cell], new],
        ).fetchone()
    result = cases.compare(route)[0]
    if same == (True,):
        assert counts(result) == ("equal", 0, 0, 0)
    else:
        assert counts(result) == (("different", 0, 0, 1) if keyed else ("different", 1, 1, 0))


def test_every_difference_is_handed_over_in_bounded_groups(bench: Bench) -> None:
    bench.both("CREATE TABLE public.t (id int PRIMARY KEY, a text, b text)")
    bench.source("INSERT INTO public.t SELECT i, 'a' || i, 'same' FROM generate_series(1, 3000) i")
    bench.target("INSERT INTO public.t SELECT i, 'x' || i, 'same' FROM generate_series(11, 3010) i")
    long = "repeat('ü', 3000000)"
    bench.both(f"UPDATE public.t SET a = {long} || id WHERE id BETWEEN 20 AND 29")
    bench.target(f"UPDATE public.t SET a = {long} || '!' WHERE id BETWEEN 20 AND 29")
    groups: list[tuple[Difference, ...]] = []
    result = bench.result(found=lambda _, differences: groups.append(tuple(differences)))

    found = {difference.key[0]: difference for group in groups for difference in group}
    assert counts(result) == ("different", 10, 10, 2990)
    assert len(found) == sum(map(len, groups)) == 3010
    (column,) = found["20"].columns
    assert (column.column, column.leader) == ("a", "ü" * 3_000_000 + "20")
    assert [c.column for c in found["3010"].columns] == ["id", "a", "b"]
    assert {c.leader for c in found["3010"].columns} == {None}
    assert max(len(group) for group in groups) <= KEYS_PER_GROUP
    large = {str(n) for n in range(20, 30)}
    assert max(sum(d.key[0] in large for d in group) for group in groups) == 1
    assert len(result.examples) == 20
    assert all(len(c.leader or "") <= TEXT_MAX for d in result.examples for c in d.columns)


def test_rows_without_a_key_are_handed_over_with_their_number_of_copies(bench: Bench) -> None:
    bench.both("CREATE TABLE public.t (a int, b text)")
    bench.both("INSERT INTO public.t SELECT i % 50, NULL FROM generate_series(1, 1000) AS i")
    bench.source("INSERT INTO public.t SELECT 3, NULL FROM generate_series(1, 4)")
    bench.target("INSERT INTO public.t VALUES (4, '')")
    groups: list[Difference] = []
    bench.result(found=lambda _, differences: groups.extend(differences))
    told = {(d.how, d.rows, tuple((c.leader, c.follower) for c in d.columns)) for d in groups}
    assert told == {
        ("extra", 1, ((None, "4"), (None, ""))),
        ("missing", 4, (("3", None), (None, None))),
    }
    assert {d.copies for d in groups} == {(0, 1), (24, 20)}
    assert len({d.row_hash for d in groups}) == 2
