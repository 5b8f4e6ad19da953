"""``dbsplit compare`` of tables that are not made alike, on servers that are not set up alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import LiteralString

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from cdc.connect import connect
from plans.errors import NotReady
from tests.conftest import require_version
from tests.integration.test_compare import Bench, bench, counts, database
from tests.pooler import pooler
from tests.standby import standby_of
from toolkit.cli.compare import columns_of, names_of
from toolkit.comparing import ALTERED, Compared, Wish, compare_databases
from toolkit.servers import Server, running_server
from validators.results import Progress, TableResult

__all__ = ["bench"]


def compared(bench: Bench, *tables: str, **wish: object) -> Compared:
    made = Wish(tables=tables, settle_s=0, **wish)  # type: ignore[arg-type]
    return compare_databases(bench.source_dsn, bench.target_dsn, made, lambda progress: None)


def result(bench: Bench, table: str, **wish: object) -> TableResult:
    (one,) = compared(bench, table, **wish).tables
    return one


# Type and value on either side, and whether nothing is lost between them.
UNLIKE = (
    ("numeric(10,2)", "1.25", "numeric(10,1)", "1.3", False),
    ("numeric(10,2)", "1.50", "numeric(10,1)", "1.5", True),
    ("numeric", "1.7", "int", "2", False),
    ("int", "5", "numeric(9,2)", "5.00", True),
    ("double precision", "0.30000000000000004", "numeric", "0.3", False),
    ("double precision", "1e20", "numeric", "100000000000000000000", True),
    ("double precision", "0.1", "real", "0.1", False),
    ("bigint", "3000000000", "int", "7", False),
    ("timestamp", "2024-01-01 12:34", "date", "2024-01-01", False),
    ("timestamp", "2024-01-01 00:00", "date", "2024-01-01", True),
    ("timestamptz", "2024-01-01 00:00:00.7Z", "timestamptz(0)", "2024-01-01 00:00:01Z", False),
    ("timestamptz", "2024-01-01 12:34Z", "time", "12:34", False),
    ("interval", "1 day 01:00", "time", "01:00", False),
    ("interval", "1 day 02:03:04", "interval hour", "1 day 02:00", False),
    ("int", "1", "boolean", "true", False),
    ("text", "yes", "boolean", "true", False),
    ("text", "ab ", "char(6)", "ab", False),
    ("char(6)", "ab", "text", "ab", True),
    ("text", "x" * 64, "name", "x" * 63, False),
    ("text", "abc", '"char"', "a", False),
    ("text", "1.00", "double precision", "1", False),
    ("text", "none", "uuid", "00112233-4455-6677-8899-aabbccddeeff", False),
    ("inet", "10.0.0.1/24", "cidr", "10.0.0.0/24", False),
    ("json", '{"b": 1,  "a": [1.0]}', "jsonb", '{"b": 1, "a": [1.0]}', True),
    ("numeric[]", "{1.7}", "int[]", "{2}", False),
    ("mood", "sad", "text", "sad", True),
)


def test_values_of_unlike_types_are_equal_only_if_nothing_was_lost(bench: Bench) -> None:
    bench.both("CREATE TYPE mood AS ENUM ('sad')")
    for place, make in enumerate((bench.source, bench.target)):
        columns = ", ".join(f"c{n} {one[2 * place]}" for n, one in enumerate(UNLIKE))
        values = ", ".join(sql.Literal(one[2 * place + 1]).as_string() for one in UNLIKE)
        make(f"CREATE TABLE t (id int PRIMARY KEY, {columns})", f"INSERT INTO t SELECT 1, {values}")
    found = compared(bench, "t")
    (example,) = found.tables[0].examples
    assert [c.column for c in example.columns] == [
        f"c{n}" for n, one in enumerate(UNLIKE) if not one[4]
    ]
    assert len(found.unlike_types) == len(UNLIKE)
    assert "numeric(10,1)" in found.unlike_types[0].as_dict()["right"]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("bigint", "int"), ("text", "uuid"), ("mood", "text"), ("numeric(12,2)", "int")],
)
def test_keys_of_unlike_types_tell_what_the_other_cannot_hold(
    bench: Bench, ours: str, theirs: str
) -> None:
    bench.both("CREATE TYPE mood AS ENUM ('7', '3000000000', '8')")
    common = {"uuid": "00112233-4455-6677-8899-aabbccddeeff"}.get(theirs, "7")
    bench.source(f"CREATE TABLE t (id {ours} PRIMARY KEY, v text)")
    bench.target(f"CREATE TABLE t (id {theirs} PRIMARY KEY, v text)")
    bench.source(f"INSERT INTO t VALUES ('{common}', 'a'), ('3000000000', 'a')")  # noqa: S608
    bench.target(f"INSERT INTO t VALUES ('{common}', 'b')")  # noqa: S608
    one = result(bench, "t")
    assert (one.reason, one.missing, one.extra, one.different) == ("", 1, 0, 1)


def test_tables_that_only_one_side_has_are_told(bench: Bench) -> None:
    bench.both("CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    bench.target("CREATE TABLE more (id int)", "CREATE VIEW seen AS SELECT * FROM t")
    bench.source("CREATE MATERIALIZED VIEW seen AS SELECT * FROM t")
    with pytest.raises(NotReady, match=r"left database has no table public\.more"):
        compared(bench)
    with pytest.raises(NotReady, match=r"public\.seen is a view in the left database"):
        compared(bench, "t", "seen")
    assert [str(one.table) for one in compared(bench, "t", "public.t", '"t"').tables] == [
        "public.t"
    ]


def test_a_database_proves_nothing_about_itself(bench: Bench) -> None:
    bench.source("CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    other_name = bench.source_dsn.replace("127.0.0.1", "localhost")
    with pytest.raises(NotReady, match="both are the same database"):
        compared(Bench(bench.source_dsn, other_name))


def test_tables_that_inherit_belong_to_what_is_compared(bench: Bench) -> None:
    bench.both(
        "CREATE TABLE parent (id int PRIMARY KEY)", "INSERT INTO parent VALUES (1)",
        "CREATE TABLE child () INHERITS (parent)", "CREATE TABLE grandchild () INHERITS (child)",
    )  # fmt: skip
    bench.source("INSERT INTO grandchild VALUES (2)")
    states = {str(one.table): one.state for one in compared(bench, "parent").tables}
    assert states == {
        "public.parent": "equal", "public.child": "equal", "public.grandchild": "different",
    }  # fmt: skip


def test_heirs_are_no_partitions(bench: Bench) -> None:
    bench.source(
        "CREATE TABLE m (id int PRIMARY KEY)", "CREATE TABLE m1 (PRIMARY KEY (id)) INHERITS (m)",
    )  # fmt: skip
    bench.target(
        "CREATE TABLE m (id int PRIMARY KEY) PARTITION BY RANGE (id)",
        "CREATE TABLE m1 PARTITION OF m FOR VALUES FROM (0) TO (100)",
    )
    bench.both("INSERT INTO m1 VALUES (1)")
    for tables in ((), ("m",)):
        with pytest.raises(NotReady, match=r"name each of them, such as public\.m1"):
            compared(bench, *tables)
    assert result(bench, "m1").state == "equal"


def test_a_table_is_not_compared_with_its_namesake_in_another_schema(bench: Bench) -> None:
    bench.both("CREATE SCHEMA a", "CREATE SCHEMA b")
    bench.source("CREATE TABLE a.t (id int PRIMARY KEY)", "INSERT INTO a.t VALUES (1)")
    bench.target("CREATE TABLE b.t (id int PRIMARY KEY)", "INSERT INTO b.t VALUES (1)")
    with pytest.raises(NotReady, match=r"right database has no table a\.t"):
        compared(bench, "t", schemas=("a", "b"))


def test_names_may_have_commas_and_quotes(bench: Bench) -> None:
    bench.both(
        'CREATE TABLE "a,b" (id int, "k,1" int, "q""%s" int, x int)',
        'INSERT INTO "a,b" VALUES (1, 2, 3, 4)',
    )
    bench.target('UPDATE "a,b" SET id = 7, x = 7')
    tables = names_of(' "a,b"')
    (one,) = compared(
        bench, *tables, key=columns_of('"k,1"'), leave_out=columns_of('"q""%s", x')
    ).tables
    assert (one.reason, one.different) == ("", 1)
    with pytest.raises(NotReady, match='has no table "'):
        compared(bench, *names_of('"'))


def test_keys_may_be_null(bench: Bench) -> None:
    bench.both(
        "CREATE TABLE public.t (a int, b text, v text, UNIQUE NULLS NOT DISTINCT (a, b))",
        "INSERT INTO public.t SELECT i % 90, 'b' || i, 'v' FROM generate_series(1, 3000) AS i",
        "INSERT INTO public.t VALUES (NULL, 'x', 'v'), (5, NULL, 'v'), (NULL, NULL, 'v')",
    )
    assert result(bench, "t", key=("a", "b")).state == "equal"
    bench.target(
        "UPDATE public.t SET v = 'w' WHERE a IS NULL OR b IS NULL OR a = 7",
        "DELETE FROM public.t WHERE b IN ('x', 'b500')",
    )
    assert counts(result(bench, "t", key=("a", "b"))) == ("different", 2, 0, 36)


def test_a_key_that_is_given_may_be_of_a_type_without_an_equality(bench: Bench) -> None:
    bench.both(
        "CREATE TABLE t (p point, j json, b box, v int)",
        "INSERT INTO t VALUES ('(1,2)', '{}', '(1,2),(3,NaN)', 1)",
    )
    bench.target("UPDATE t SET v = 2")
    for key in ("p", "j", "b"):
        one = result(bench, "t", key=(key,))
        assert (one.reason, one.different) == ("", 1)


@pytest.mark.long
def test_types_of_extensions_may_be_of_a_schema_of_their_own() -> None:
    require_version("15")
    with running_server(version="15") as server, ExitStack() as stack:
        bench = Bench(*(stack.enter_context(database(server)) for _ in range(2)))
        bench.both(
            "CREATE SCHEMA ext", "CREATE EXTENSION ltree SCHEMA ext",
            "CREATE TABLE t (id ext.ltree PRIMARY KEY, v int)",
            "INSERT INTO t VALUES ('a.b', 1), ('c', 1)",
        )  # fmt: skip
        bench.target("UPDATE t SET v = 2 WHERE id::text = 'c'")
        for one in (result(bench, "t"), bench.result()):  # without a plan, and with one
            assert (one.reason, one.different) == ("", 1)
        # Foreign tables are told, if they are no partitions.
        bench.both(
            "CREATE EXTENSION postgres_fdw", "CREATE SERVER s FOREIGN DATA WRAPPER postgres_fdw",
            "CREATE FOREIGN TABLE far (id int) SERVER s",
        )  # fmt: skip
        assert [str(name) for name in compared(bench).left_out] == ["public.far"]
        with pytest.raises(NotReady, match=r"public\.far is a foreign table"):
            compared(bench, "far")


def test_bytes_of_no_encoding_are_compared_as_they_are(
    source_server: Server, target_server: Server
) -> None:
    ascii_ = "ENCODING SQL_ASCII LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    with ExitStack() as stack:
        one = stack.enter_context(database(source_server, ascii_))
        two = stack.enter_context(database(target_server, ascii_))
        utf8 = stack.enter_context(database(target_server))
        for dsn in (one, two, utf8):
            with psycopg.connect(dsn, autocommit=True, client_encoding="sql_ascii") as conn:
                conn.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
                conn.execute(b"INSERT INTO t VALUES (1, 'caf\xc3\xa9'), (2, 'a')")
                if dsn != utf8:
                    conn.execute(b"INSERT INTO t VALUES (3, 'caf\xe9')")
        assert result(Bench(one, two), "t").state == "equal"
        with_utf8 = result(Bench(one, utf8), "t")
        assert (with_utf8.reason, with_utf8.missing, with_utf8.different) == ("", 1, 0)
        with psycopg.connect(two, autocommit=True, client_encoding="sql_ascii") as conn:
            conn.execute(b"UPDATE t SET v = 'caf\xe8' WHERE id = 3")
        differs = result(Bench(one, two), "t")
        assert (differs.reason, differs.different) == ("", 1)
        assert [c.leader for c in differs.examples[0].columns] == [r"caf\351"]


@pytest.fixture
def pooled(bench: Bench) -> Iterator[Bench]:
    """Both sides behind poolers, and settings that are the application's."""
    name = conninfo_to_dict(bench.target_dsn)["dbname"]
    bench.target(f"ALTER DATABASE {name} SET idle_in_transaction_session_timeout = '90s'")
    bench.target(f"ALTER DATABASE {name} SET xmloption = 'document'")
    bench.both("CREATE TABLE t (v text)", "INSERT INTO t SELECT 'a' FROM generate_series(1, 9)")
    with (
        pooler(bench.source_dsn, mode="transaction") as source,
        pooler(bench.target_dsn, mode="transaction") as target,
    ):
        yield Bench(source, target)


def test_sessions_of_a_pooler_are_given_back_as_they_were(bench: Bench, pooled: Bench) -> None:
    assert result(pooled, "t").state == "equal"
    bench.target("UPDATE t SET v = 'b' WHERE ctid = '(0,1)'")
    assert result(pooled, "t").state == "different"
    # Who has the session next is an application.
    with psycopg.connect(pooled.target_dsn, autocommit=True, prepare_threshold=None) as conn:
        for name, value in (
            ("idle_in_transaction_session_timeout", "90s"),
            ("xmloption", "document"),
        ):
            assert conn.execute(f"SHOW {name}").fetchone() == (value,)
    # A session of our own keeps what is pinned.
    with connect(bench.target_dsn, may_be_lent=True) as own:
        assert own.execute("SHOW xmloption").fetchone() == ("content",)


@pytest.mark.long
def test_a_standby_is_compared_whatever_its_default_isolation_is() -> None:
    with running_server(version="18") as primary, ExitStack() as stack:
        source = stack.enter_context(database(primary))
        bench = Bench(source, source)
        bench.source(
            "CREATE TABLE t (id uuid PRIMARY KEY, v text)",
            "INSERT INTO t SELECT gen_random_uuid(), 'a' FROM generate_series(1, 999)",
            f"ALTER DATABASE {conninfo_to_dict(source)['dbname']}"
            " SET default_transaction_isolation = serializable",
        )
        with standby_of(primary, synchronized=True) as standby:
            there = standby.dsn(str(conninfo_to_dict(source)["dbname"]))
            for sides in ((source, there), (there, source)):
                one = result(Bench(*sides), "t")
                assert (one.state, one.rows, one.reason) == ("equal", 999, "")


def test_of_a_very_long_value_a_beginning_is_read_and_shown(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("validators.compare.EXAMPLE_READ_MAX", 1000)
    bench.both(
        "CREATE TABLE t (id int PRIMARY KEY, v text)",
        "INSERT INTO t SELECT i, repeat('ä', 5000) FROM generate_series(1, 3) AS i",
    )
    bench.target(
        "UPDATE t SET v = v || 'x' WHERE id = 1",
        "UPDATE t SET v = left(v, 4999) || 'x' WHERE id = 2",
        "UPDATE t SET v = left(v, 900) || 'x' || right(v, 4099) WHERE id = 3",
    )
    one = result(bench, "t")
    shown = {one.key[0]: one.columns[0].follower or "" for one in one.examples}
    assert shown["1"].endswith("... (5001 characters)")
    assert shown["2"].endswith("... (5000 characters), differs further on")
    assert "äxä" in shown["3"]
    assert max(map(len, shown.values())) < 250


@pytest.mark.parametrize(
    "change", ["ADD more int", "ALTER v TYPE numeric USING v + 0.3", "RENAME TO other"]
)
def test_what_is_altered_while_it_is_compared_is_not_proven(bench: Bench, change: str) -> None:
    bench.both(
        "CREATE TABLE t (id int PRIMARY KEY, v int, w point, x interval day, y numeric(9,2)[])",
        "INSERT INTO t VALUES (1, 2, '(1,2)', '1 day', '{1}')",
    )
    assert result(bench, "t").state == "equal"

    def alter(progress: Progress) -> None:
        if progress.step == "done":
            bench.target(f"ALTER TABLE t {change}")

    wish = Wish(tables=("t",), settle_s=0)
    (one,) = compare_databases(bench.source_dsn, bench.target_dsn, wish, alter).tables
    assert (one.state, one.reason) == ("unverified", ALTERED)


@pytest.mark.parametrize(
    "kind",
    [
        "CREATE TYPE public.kind AS ENUM ('a', 'b')",
        "CREATE DOMAIN public.kind AS text CHECK (VALUE IN ('a', 'b'))",
    ],
)
def test_a_key_that_the_other_side_could_not_have_is_missing_there(
    bench: Bench, kind: LiteralString
) -> None:
    bench.both(kind, "CREATE TABLE public.kinds (kind public.kind, n int, PRIMARY KEY (kind, n))")
    bench.both("INSERT INTO public.kinds SELECT 'a', i FROM generate_series(1, 300) AS i")
    if "ENUM" in kind:
        bench.source("ALTER TYPE public.kind ADD VALUE 'c'")
    else:
        bench.source("ALTER DOMAIN public.kind DROP CONSTRAINT kind_check")
    bench.source("INSERT INTO public.kinds SELECT 'c', i FROM generate_series(1, 50) AS i")
    bench.source("DELETE FROM public.kinds WHERE n = 7 AND kind = 'a'")
    one = result(bench, "kinds")
    assert one.state == "different", one.reason
    assert (one.missing, one.extra, one.different) == (50, 1, 0)
    assert ("c", "1") in [difference.key for difference in one.differences]
