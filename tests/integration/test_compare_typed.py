# ruff: noqa: S608 -- all of the SQL is the tests' own
"""Rows are hashed by their columns' types: what looks alike to those hashes is told apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from tests.conftest import require_version
from tests.integration.test_compare import Bench, counts, database, run
from toolkit.servers import Server, running_server
from validators.canonical import Hashing
from validators.session import connected
from validators.typed import Value

TRAPS = {
    "int8 folded to 32 bits": ("bigint", "1", "4294967296"),
    "int8 of the other sign": ("bigint", "-1", "1"),
    "int8 with complementary halves": ("bigint", "4294967295", "-4294967296"),
    "int4": ("integer", "-2147483648", "2147483647"),
    "int2": ("smallint", "255", "-1"),
    "numeric of the other sign": ("numeric", "-5", "5"),
    "numeric whose weight and scale make up for each other": ("numeric", "1.0", "10000"),
    "numeric with another scale": ("numeric", "1.5", "1.50"),
    "numeric's last digit": ("numeric", "1234567890123456789.123456", "1234567890123456789.123457"),
    "numeric infinities": ("numeric", "'Infinity'", "'-Infinity'"),
    "numeric NaN and zero": ("numeric", "'NaN'", "0"),
    "zero of another sign": ("double precision", "'-0'", "0"),
    "real zero of another sign": ("real", "'-0'", "0"),
    "float NaN and infinity": ("double precision", "'NaN'", "'Infinity'"),
    "float's last bit": ("double precision", "0.1", "0.10000000000000002"),
    "real's last bit": ("real", "16777216", "16777218"),
    **{
        f"{type_} whose halves are {how}": (type_, f"'{ours}'", f"'{theirs}'")
        for type_ in ("timestamp", "timestamptz")
        for how, ours, theirs in (
            # The epoch is 2000, the halves have 32 bits: 1:11:34.967296.
            ("folded", "2000-01-01 00:00:00.000001Z", "2000-01-01 01:11:34.967296Z"),
            ("folded before 2000", "1999-12-31 23:59:59.999999Z", "1999-12-31 22:48:25.032702Z"),
            ("of another sign", "2000-01-01 00:00:00.000005Z", "1999-12-31 22:48:25.032709Z"),
        )
    },
    "microsecond": ("timestamptz", "'2024-06-01 00:00:00.000001+00'", "'2024-06-01+00'"),
    "microsecond where seconds are told": (
        "timestamptz",
        "'1900-01-01 00:00:00+00'",
        "'1900-01-01 00:00:00.000001+00'",
    ),
    "microsecond where they are told no more": (
        "timestamp",
        "'2172-03-16 12:56:31.999999'",
        "'2172-03-16 12:56:32'",
    ),
    "microsecond beyond that": (
        "timestamptz",
        "'2172-03-16 12:56:32.000001+00'",
        "'2172-03-16 12:56:32.000002+00'",
    ),
    "microsecond where a float8 is coarsest": (
        "timestamptz",
        "'2172-03-16 12:56:31.999997+00'",
        "'2172-03-16 12:56:31.999998+00'",
    ),
    "microsecond at the end of four digits": (
        "timestamp",
        "'9999-12-31 23:59:59.999999'",
        "'10000-01-01'",
    ),
    "infinite times": ("timestamptz", "'infinity'", "'-infinity'"),
    "a date and the infinite": ("date", "'infinity'", "'5874897-12-31'"),
    "dates": ("date", "'2024-02-29'", "'2024-03-01'"),
    "text with a trailing space": ("text", "'a'", "'a '"),
    "varchar with a trailing space": ("varchar(9)", "'a'", "'a '"),
    "composed and decomposed": ("text", "U&'\\00e9'", "U&'e\\0301'"),
    "one bit of a uuid": (
        "uuid",
        "'00000000-0000-0000-0000-000000000000'",
        "'00000000-0000-0000-0000-000000000001'",
    ),
    "one bit of a bytea": ("bytea", "'\\x00ff'", "'\\x00fe'"),
    "json in another order": ("json", """'{"a": 1, "b": 2}'""", """'{"b": 2, "a": 1}'"""),
    "sign of a number in jsonb": ("jsonb", """'{"a": -1}'""", """'{"a": 1}'"""),
    "a month and thirty days": ("interval", "'1 month'", "'30 days'"),
    "boolean": ("boolean", "true", "false"),
}
MAY_BE_NULL = {
    f"NULL, and {value} of {type_}": (type_, "NULL", value)
    for type_, value in (
        ("text", "''"),
        ("bigint", "0"),
        ("integer", "0"),
        ("boolean", "false"),
        ("numeric", "'NaN'"),
        ("numeric", "0"),
        ("interval", "'0'"),
        ("bytea", "''"),
        ("double precision", "'NaN'"),
        ("uuid", "'00000000-0000-0000-0000-000000000000'"),
        ("timestamp", "'2000-01-01'"),
        ("date", "'2000-01-01'"),
        ("jsonb", "'null'"),
    )
}
"""All of them are also the traps of columns that are declared NOT NULL, but for the last."""

COLUMNS = [
    *((type_, "NOT NULL", ours, theirs) for type_, ours, theirs in TRAPS.values()),
    *((type_, "", ours, theirs) for type_, ours, theirs in (TRAPS | MAY_BE_NULL).values()),
]
OTHER_VERSION = {"18": "15", "16": "15", "15": "18"}


@pytest.fixture
def bench(source_db: str, target_db: str) -> Bench:
    return Bench(source_db, target_db)


@pytest.fixture(scope="module")
def versions(source_server: Server, pg_version: str) -> Iterator[Bench]:
    """Databases on servers of different versions, if this machine has another one."""
    other = OTHER_VERSION[pg_version]
    require_version(other)
    with ExitStack() as stack:
        server = stack.enter_context(running_server(version=other))
        yield Bench(
            stack.enter_context(database(source_server)), stack.enter_context(database(server))
        )


def test_each_trap_of_the_typed_hashes_is_found_and_nothing_else(versions: Bench) -> None:
    columns = ", ".join(
        f"c{n} {type_} {constraint}" for n, (type_, constraint, _, _) in enumerate(COLUMNS)
    )
    ours = ", ".join(f"({ours})::{type_}" for type_, _, ours, _ in COLUMNS)
    versions.both(
        "DROP TABLE IF EXISTS public.t",
        f"CREATE TABLE public.t (id int PRIMARY KEY, {columns})",
        f"INSERT INTO public.t SELECT i, {ours} FROM generate_series(0, {len(COLUMNS) + 20}) AS i",
    )
    assert counts(versions.result()) == ("equal", 0, 0, 0)
    versions.target(
        *(
            f"UPDATE public.t SET c{n} = {theirs} WHERE id = {n}"
            for n, (_, _, _, theirs) in enumerate(COLUMNS)
        )
    )
    found: dict[str, list[str]] = {}
    result = versions.result(
        found=lambda _, some: found.update(
            {d.key[0] or "": [c.column for c in d.columns] for d in some}
        )
    )
    assert counts(result) == ("different", 0, 0, len(COLUMNS))
    assert found == {str(n): [f"c{n}"] for n in range(len(COLUMNS))}


def test_values_swapped_between_two_rows_are_found_in_each_column(versions: Bench) -> None:
    """A sum of linear hashes would be the same for both; see 201 of 300 trials."""
    columns = ", ".join(f"c{n} {c[0]} {c[1]}" for n, c in enumerate(COLUMNS))
    ours = ", ".join(f"({ours})::{type_}" for type_, _, ours, _ in COLUMNS)
    other = ", ".join(f"({theirs})::{type_}" for type_, _, _, theirs in COLUMNS)
    versions.both(
        "DROP TABLE IF EXISTS public.t",
        f"CREATE TABLE public.t (id int PRIMARY KEY, {columns})",
        f"INSERT INTO public.t SELECT i, {ours} FROM generate_series(0, 999, 2) AS i",
        f"INSERT INTO public.t SELECT i, {other} FROM generate_series(1, 999, 2) AS i",
    )
    versions.target(
        *(
            f"UPDATE public.t AS t SET c{n} = o.c{n} FROM public.t AS o"
            f" WHERE t.id IN ({4 * n}, {4 * n + 1}) AND o.id = {8 * n + 1} - t.id"
            for n in range(len(COLUMNS))
        )
    )
    assert counts(versions.result()) == ("different", 0, 0, 2 * len(COLUMNS))


@pytest.mark.parametrize("never_null", [True, False])
def test_columns_of_one_row_do_not_make_up_for_each_other(
    source_db: str, *, never_null: bool
) -> None:
    """Swapped, or both changed alike: a XOR of hashes without seeds would be the same."""
    traps = [*TRAPS.values(), *(() if never_null else MAY_BE_NULL.values())]
    hashes = [
        hashed([f"({one})::{type_}" for one in row], type_, never_null=never_null)
        for type_, ours, theirs in traps
        for row in ((ours, ours), (theirs, theirs), (ours, theirs), (theirs, ours))
    ]
    with psycopg.connect(source_db, autocommit=True) as conn:
        found = conn.execute(sql.SQL("SELECT {}").format(sql.SQL(", ").join(hashes))).fetchone()
    assert found is not None
    for place, trap in enumerate(traps):
        assert len(set(found[4 * place : 4 * place + 4])) == 4, trap


def hashed(row: Sequence[str], type_: str, *, never_null: bool) -> sql.Composed:
    spelled = {
        "timestamp": "timestamp without time zone",
        "timestamptz": "timestamp with time zone",
    }
    type_ = spelled.get(type_, type_).replace("varchar(9)", "character varying")
    return Hashing().row([Value(sql.SQL(one), type_, never_null) for one in row])


def test_a_null_where_there_should_be_none_does_not_hide_other_columns(bench: Bench) -> None:
    """The leader's columns are NOT NULL, the follower's are not: nothing is to be relied on."""
    bench.source("CREATE TABLE public.t (id int PRIMARY KEY, a int NOT NULL, b text NOT NULL)")
    bench.target("CREATE TABLE public.t (id int PRIMARY KEY, a int, b text)")
    route = bench.route()
    bench.source("ALTER TABLE public.t ALTER a DROP NOT NULL, ALTER b DROP NOT NULL")
    bench.both("INSERT INTO public.t SELECT i, NULL, 'x' FROM generate_series(1, 100) AS i")
    bench.target(
        "UPDATE public.t SET b = 'y' WHERE id = 3",
        "UPDATE public.t SET a = 0 WHERE id = 4",
        "UPDATE public.t SET b = NULL WHERE id = 5",
    )
    (result,) = bench.compare(route)
    assert counts(result) == ("different", 0, 0, 3)
    assert {d.key for d in result.differences} == {("3",), ("4",), ("5",)}


@pytest.mark.parametrize(
    ("function", "type_", "ours", "theirs"),
    [
        ("format(text, inet) RETURNS text", "inet", "10.0.0.1/8", "10.0.0.1/24"),
        ("num_nulls(inet) RETURNS int", "inet", "10.0.0.1", "10.0.0.2"),
        ("num_nulls(numeric, numeric) RETURNS int", "numeric", "1", "2"),
        ("concat_ws(text, numeric, numeric) RETURNS text", "numeric", "1", "2"),
        ("mod(numeric, bigint) RETURNS numeric", "int", "1", "2"),
    ],
)
def test_a_function_of_the_users_that_suits_better_is_not_taken(
    bench: Bench, function: str, type_: str, ours: str, theirs: str
) -> None:
    name = function.partition("(")[0]
    body = {"num_nulls": "1"}.get(name, "'1'::text" if "text" in function else "1::numeric")
    bench.both(
        f"CREATE FUNCTION public.{function} IMMUTABLE LANGUAGE sql AS $$SELECT {body}$$",
        f"CREATE TABLE public.t (id int PRIMARY KEY, v {type_}, w {type_})",
        f"INSERT INTO public.t VALUES (1, '{ours}', '{ours}'), (2, '{ours}', NULL)",
    )
    assert counts(bench.result()) == ("equal", 0, 0, 0)
    bench.target(f"UPDATE public.t SET w = '{theirs}' WHERE id = 1")
    found = []
    result = bench.result(found=lambda _, some: found.extend(some))
    assert counts(result) == ("different", 0, 0, 1)
    ((column,),) = [list(one.columns) for one in found]
    assert (column.column, column.leader, column.follower) == ("w", ours, theirs)


def test_text_that_a_collation_takes_for_equal_differs() -> None:
    require_version("15")
    with running_server(version="15") as server, database(server) as a, database(server) as b:
        bench = Bench(a, b)
        bench.both(
            "CREATE COLLATION public.blind (provider = icu, locale = 'und-u-ks-level1',"
            " deterministic = false)",
            "CREATE TABLE public.t (k text COLLATE public.blind PRIMARY KEY,"
            " v text COLLATE public.blind NOT NULL)",
        )
        bench.both("INSERT INTO public.t SELECT 'key ' || i, 'é' FROM generate_series(1, 50) AS i")
        bench.target("UPDATE public.t SET v = 'E' WHERE k = 'key 7'")
        bench.target("UPDATE public.t SET k = 'KEY 8' WHERE k = 'key 8'")
        result = bench.result()
        assert counts(result) == ("different", 1, 1, 1)


def literal(type_: str, value: object) -> sql.Composed:
    return sql.SQL("{}::{}").format(sql.Literal(str(value)), sql.SQL(type_))


def _halves(upper: int, lower: int) -> str:
    """A timestamp by its halves of 32 bits."""
    return _since(2000, timedelta(microseconds=(upper << 32) + lower))


def _near(seconds: int, microseconds: int) -> str:
    """A timestamp by its seconds since 1900, and some microseconds."""
    return _since(1900, timedelta(seconds=seconds, microseconds=microseconds))


def _since(year: int, time: timedelta) -> str:
    return str(datetime(year, 1, 1, tzinfo=UTC) + time).removesuffix("+00:00")


TIMES = (
    st.datetimes().map(str)
    | st.builds(_near, st.sampled_from([0, 2**31, 2**32, 2**33]), st.integers(-3, 3))
    | st.builds(_halves, st.integers(-5, 4), st.integers(-4, 4))
    # Where several share their seconds, and the upper half is not the same for all of them.
    | st.builds(_halves, st.sampled_from([-14_000_000, 58_000_000]), st.integers(-4, 4))
    | st.integers(0, 4).map(lambda n: f"294276-06-01 00:00:00.{n:06}")
    | st.sampled_from(["infinity", "-infinity", "10000-01-01", "9999-12-31 23:59:59.999999"])
)
VALUES = {
    "bigint": st.integers(-(2**63), 2**63 - 1)
    | st.integers(-4, 4).map(lambda n: n << 32)
    | st.integers(-(2**33), 2**33),
    "integer": st.integers(-(2**31), 2**31 - 1),
    "numeric": st.decimals(allow_nan=False, allow_infinity=False, places=3)
    | st.sampled_from(
        [
            "NaN",
            "Infinity",
            "-Infinity",
            "1",
            "1.0",
            "-1",
            "10000",
            "1e4",
            "0",
            "0.0",
            "-0.1",
            "1e-30",
            "1e130",
        ]
    ),
    "double precision": st.floats(),
    "real": st.floats(width=32),
    "text": st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20),
    "timestamp without time zone": TIMES,
    "timestamp with time zone": TIMES.map(lambda time: f"{time}+00" if time[0].isdigit() else time),
    "date": st.dates() | st.sampled_from(["infinity", "-infinity", "0044-03-15 BC"]),
    "uuid": st.uuids(),
    "boolean": st.booleans(),
}


@pytest.mark.parametrize("type_", VALUES)
@settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_hashes_are_equal_if_and_only_if_the_texts_are(
    source_db: str, type_: str, data: st.DataObject
) -> None:
    values = data.draw(st.lists(VALUES[type_], min_size=2, max_size=40))
    literals = [literal(type_, value) for value in values]
    hashing = Hashing()
    asked = [
        hashing.row([Value(value, type_, never_null)])
        for value in literals
        for never_null in (True, False)
    ]
    texts = [sql.SQL("({})::text").format(value) for value in literals]
    query = sql.SQL("SELECT ARRAY[{}], ARRAY[{}]").format(
        sql.SQL(", ").join(asked), sql.SQL(", ").join(texts)
    )
    with psycopg.connect(source_db, autocommit=True) as conn:
        row = conn.execute(query).fetchone()
    assert row is not None
    hashes, spelled = row
    for way in (hashes[::2], hashes[1::2]):
        assert len(set(way)) == len(set(spelled)) == len(set(zip(way, spelled, strict=True)))


@pytest.mark.parametrize("type_", VALUES)
@settings(
    max_examples=8,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_hashes_of_rows_are_equal_if_and_only_if_the_rows_texts_are(
    source_db: str, type_: str, data: st.DataObject
) -> None:
    """Several columns of one type, any of which may be NULL."""
    few = data.draw(st.lists(VALUES[type_], min_size=2, max_size=4).map(lambda some: [*some, None]))
    picked = data.draw(st.lists(st.tuples(*[st.sampled_from(few)] * 3), min_size=2, max_size=30))
    rows = [
        [literal(type_, one) if one is not None else sql.SQL(f"NULL::{type_}") for one in row]
        for row in picked
    ]
    ways = ((False,) * 3, (True,) * 3, (True, False, False))
    asked = [
        Hashing().row([Value(one, type_, hint) for one, hint in zip(row, way, strict=True)])
        for row in rows
        for way in ways
    ]
    texts = [sql.SQL("ROW({})::text").format(sql.SQL(", ").join(row)) for row in rows]
    query = sql.SQL("SELECT ARRAY[{}], ARRAY[{}]").format(
        sql.SQL(", ").join(asked), sql.SQL(", ").join(texts)
    )
    with psycopg.connect(source_db, autocommit=True) as conn:
        found = conn.execute(query).fetchone()
    assert found is not None
    hashes, spelled = found
    for number in range(len(ways)):
        way = hashes[number :: len(ways)]
        assert len(set(way)) == len(set(spelled)) == len(set(zip(way, spelled, strict=True)))


def test_servers_that_hash_types_differently_are_compared_by_text(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.both("CREATE TABLE public.t (id int PRIMARY KEY, v timestamptz)")
    bench.both("INSERT INTO public.t SELECT i, '2024-01-01+00' FROM generate_series(1, 100) AS i")
    bench.target("UPDATE public.t SET v = '2024-01-02+00' WHERE id = 5")
    answers = iter(["one", "another", "the same", "the same"])
    monkeypatch.setattr("validators.session._sample", lambda *_: next(answers))
    with connected(bench.source_dsn, bench.target_dsn) as ends:
        assert not ends.hashing.typed
    answers = iter(["one", "another", "the same", "the same"])
    assert counts(bench.result()) == ("different", 0, 0, 1)


def test_a_bound_for_collisions_is_told(bench: Bench) -> None:
    bench.both("CREATE TABLE public.t (id int PRIMARY KEY)")
    bench.both("INSERT INTO public.t SELECT generate_series(1, 10000)")
    assert 0 < bench.result().collision_bound < 1e-12
    run(bench.target_dsn, "DELETE FROM public.t WHERE id = 4")
    assert 0 < bench.result().collision_bound < 1e-12
