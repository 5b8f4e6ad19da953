# ruff: noqa: S608 -- all of the SQL is the tests' own
"""What the tables' statistics tell a comparison: hints, on which no result depends."""

from __future__ import annotations

from dataclasses import replace

import psycopg
import pytest

from tests.integration.test_compare import Bench, column, counts
from validators.fingerprint import read_extent, read_without_nulls
from validators.sides import Side, source_side, target_side

MADE = (
    "CREATE TABLE public.t (id int PRIMARY KEY, a int, b text, c numeric, d timestamptz, e date)",
    "INSERT INTO public.t SELECT i, i, 'row ' || i, i / 3.0, '2024-01-01+00', NULL"
    " FROM generate_series(1, 2000) AS i",
    "ANALYZE public.t",
)


@pytest.fixture
def bench(source_db: str, target_db: str) -> Bench:
    return Bench(source_db, target_db)


def test_columns_in_which_no_null_was_seen_are_known(bench: Bench) -> None:
    bench.target(*MADE, "UPDATE public.t SET a = NULL WHERE id = 7", "ANALYZE public.t")
    bench.source(*MADE)
    route = bench.route()
    assert without_nulls(source_side(route, bench.source_dsn)) == set("abcd") | {"id"}
    assert without_nulls(target_side(route, bench.target_dsn)) == set("bcd") | {"id"}


def test_of_a_partitioned_table_those_of_all_partitions_are_known(bench: Bench) -> None:
    bench.both(
        "CREATE TABLE public.t (id int, a int, b int) PARTITION BY LIST (id)",
        "CREATE TABLE public.t_1 PARTITION OF public.t FOR VALUES IN (1)",
        "CREATE TABLE public.t_2 PARTITION OF public.t DEFAULT",
        "INSERT INTO public.t VALUES (1, 1, 1), (2, NULL, 1)",
        "ANALYZE public.t",
    )
    route = bench.route(key=())
    assert without_nulls(source_side(route, bench.source_dsn)) == {"id", "b"}


def test_a_table_that_was_not_analyzed_gives_no_hint(bench: Bench) -> None:
    bench.both("CREATE TABLE public.t (id int PRIMARY KEY, a int)")
    assert without_nulls(source_side(bench.route(), bench.source_dsn)) == set()


def test_nulls_that_came_after_the_statistics_hide_nothing(bench: Bench) -> None:
    """Each column gets NULLs on both sides, and differs in one row with them and one without."""
    bench.both(
        *MADE,
        "UPDATE public.t SET a = NULL WHERE id % 5 = 0",
        "UPDATE public.t SET b = NULL, c = NULL WHERE id % 7 = 0",
        "UPDATE public.t SET d = NULL WHERE id % 11 = 0",
    )
    assert counts(bench.result()) == ("equal", 0, 0, 0)
    different = {
        5: "a = 0",
        6: "a = NULL",
        10: "b = 'other'",
        14: "b = ''",
        15: "b = NULL",
        21: "c = 0",
        22: "d = '2000-01-01+00'",
        23: "d = NULL",
        25: "a = 2, d = NULL",
        28: "b = '', c = NULL",
        35: "a = 7, b = NULL, c = 11.666",
        40: "e = '2000-01-01'",
    }
    bench.target(*(f"UPDATE public.t SET {what} WHERE id = {n}" for n, what in different.items()))
    result = bench.result()
    assert counts(result) == ("different", 0, 0, len(different))
    assert {d.key for d in result.differences} == {(str(n),) for n in different}


def test_hints_are_taken_by_the_targets_names(bench: Bench) -> None:
    """The source's `b` is another column: it is no matter that it has NULLs."""
    bench.source(
        "CREATE TABLE public.t (id int PRIMARY KEY, a int, b int)",
        "INSERT INTO public.t SELECT i, i, NULL FROM generate_series(1, 100) AS i",
        "ANALYZE public.t",
    )
    bench.target(
        "CREATE TABLE public.t (id int PRIMARY KEY, b int)",
        "INSERT INTO public.t SELECT i, i FROM generate_series(1, 100) AS i",
        "ANALYZE public.t",
        "UPDATE public.t SET b = NULL WHERE id = 9",
    )
    columns = (column("id", "integer", "id"), replace(column("b", "integer", "a"), plain="a"))
    (result,) = bench.compare(bench.route(columns=columns))
    assert counts(result) == ("different", 0, 0, 1)


@pytest.mark.parametrize("width", [10, 1_500])
def test_rows_are_estimated_by_what_they_were_when_it_was_analyzed(
    bench: Bench, width: int
) -> None:
    bench.both(
        "CREATE TABLE public.t (id int PRIMARY KEY, b text)",
        "ALTER TABLE public.t ALTER b SET STORAGE PLAIN",
        f"INSERT INTO public.t SELECT i, repeat('x', {width}) FROM generate_series(1, 9000) i",
        "ANALYZE public.t",
    )
    side = source_side(bench.route(), bench.source_dsn)
    assert rows_estimated(side) == pytest.approx(9_000, rel=0.02)
    bench.source(
        f"INSERT INTO public.t SELECT i, repeat('x', {width}) FROM generate_series(9001, 12000) i"
    )
    assert rows_estimated(side) == pytest.approx(12_000, rel=0.02)


def test_a_table_that_has_grown_far_is_not_taken_for_the_small_one_that_was_analyzed(
    bench: Bench,
) -> None:
    bench.both("CREATE TABLE public.t (id int PRIMARY KEY, b text)")
    bench.source(
        "INSERT INTO public.t VALUES (0, 'first')",
        "ANALYZE public.t",
        "INSERT INTO public.t SELECT i, repeat('x', 300) FROM generate_series(1, 20000) AS i",
    )
    side = source_side(bench.route(), bench.source_dsn)
    assert rows_estimated(side) > 10_000


def without_nulls(side: Side) -> frozenset[str]:
    with psycopg.connect(side.dsn, autocommit=True) as connection:
        return read_without_nulls(connection, side)


def rows_estimated(side: Side) -> int:
    with psycopg.connect(side.dsn, autocommit=True) as connection:
        return read_extent(connection, side).rows_estimated
