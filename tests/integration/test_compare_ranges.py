# ruff: noqa: S608 -- all of the SQL is the tests' own
"""Large tables unit by unit, many small ones at a glance, and parts of tables."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import psycopg
import pytest

from tests.integration.test_compare import Bench, counts
from validators import ranges
from validators.compare import compare_routes
from validators.fingerprint import digest_of
from validators.recheck import Limits
from validators.results import TableResult
from validators.scans import Course, Proven
from validators.scope import NoScope, Scope
from validators.session import Ends
from validators.sides import pair_of
from validators.units import Sizes, Unit

UNIT = 1_000
BY_UNITS = Course(sizes=Sizes(rows_per_unit=UNIT))


@pytest.fixture
def bench(source_db: str, target_db: str) -> Bench:
    return Bench(source_db, target_db)


class Notes:
    """A memory that tells what it was told."""

    def __init__(self) -> None:
        self.units: dict[str, Sequence[Unit]] = {}
        self.proven: dict[str, dict[int, Proven]] = {}

    def recall(self, route: str) -> tuple[Sequence[Unit], Mapping[int, Proven]]:
        return self.units.get(route, ()), self.proven.get(route, {})

    def plan(self, route: str, units: Sequence[Unit]) -> None:
        self.units[route], self.proven[route] = units, {}

    def prove(self, route: str, unit: int, proven: Proven) -> None:
        self.proven[route][unit] = proven

    def forget(self, route: str) -> None:
        del self.units[route], self.proven[route]


class Kept(Notes):
    """A memory that is never told that the comparison has ended."""

    def forget(self, route: str) -> None:
        """Keep it."""


def by_units(bench: Bench, **options: Any) -> tuple[TableResult, Sequence[Unit]]:
    """The comparison, and the units that it went by."""
    notes = Kept()
    result = bench.result(course=replace(BY_UNITS, memory=notes), **options)
    (units,) = notes.units.values() or ((),)
    return result, units


KEYS = {
    "bigint in order": ("id bigint PRIMARY KEY", "i"),
    "negative": ("id integer PRIMARY KEY", "i - 15000"),
    "smallint": ("id smallint PRIMARY KEY", "i - 9000"),
    "numbers of a clock": (
        "id bigint PRIMARY KEY",
        "(i / 100) * 4194304::bigint * 60000 + i % 100",
    ),
    "a composite key": ("id int, line text, PRIMARY KEY (id, line)", "i / 4, 'l' || i"),
    "almost all of it one value": (
        "id bigint PRIMARY KEY",
        "CASE WHEN i < 10 THEN -(10::bigint ^ 15)::bigint + i ELSE i END",
    ),
}


@pytest.mark.parametrize("name", KEYS)
def test_every_difference_of_a_large_table_is_found_and_nothing_else(
    bench: Bench, name: str
) -> None:
    key, values = KEYS[name]
    bench.both(
        f"CREATE TABLE public.t ({key}, n int NOT NULL, v text)",
        f"INSERT INTO public.t SELECT {values}, i, 'v' || i FROM generate_series(1, 20000) AS i",
        "ANALYZE public.t",
    )
    clean, units = by_units(bench)
    assert counts(clean) == ("equal", 0, 0, 0)
    assert clean.rows == 20_000
    assert len(units) > 5
    rng = random.Random(name)  # noqa: S311 -- the same in every run
    missing, extra, changed, swapped = (rng.sample(range(k, 20_000, 4), 40) for k in range(4))
    numbers = [",".join(map(str, some)) for some in (missing, extra, changed, swapped)]
    bench.target(f"DELETE FROM public.t WHERE n IN ({numbers[0]}) OR n IN (1, 20000)")
    bench.source(f"DELETE FROM public.t WHERE n IN ({numbers[1]}) OR n BETWEEN 4000 AND 4999")
    bench.target(f"UPDATE public.t SET v = v || ' ' WHERE n IN ({numbers[2]})")
    bench.target(f"UPDATE public.t SET n = -n WHERE n IN ({numbers[3]})")
    wanted = sorted(expected(bench))
    found: list[tuple[str | None, ...]] = []
    result, _ = by_units(bench, found=lambda _, some: found.extend(d.key for d in some))
    assert result.state == "different"
    assert sorted(found) == wanted
    assert result.missing + result.extra + result.different == len(wanted)
    assert result.extra > 900
    assert not result.healed


@pytest.mark.parametrize("name", ["_dbsplit_c", "c", "g", "k", "r", "s", "w"])
def test_a_table_may_have_the_names_that_the_statements_use(bench: Bench, name: str) -> None:
    columns = ("b", "first", "last", "n", "h", "s", "k", "c0", "s0")
    bench.both(
        f"CREATE TABLE public.{name} (id bigint PRIMARY KEY, {' int, '.join(columns)} int, v text)",
        f"INSERT INTO public.{name} SELECT i{', i' * len(columns)}, 'v' || i"
        " FROM generate_series(1, 20000) AS i",
        f"ANALYZE public.{name}",
    )
    assert counts(bench.result(f"public.{name}", course=BY_UNITS)) == ("equal", 0, 0, 0)
    bench.target(f"UPDATE public.{name} SET v = 'w' WHERE id % 5000 = 77")
    bench.target(f"DELETE FROM public.{name} WHERE id = 10001")
    result = bench.result(f"public.{name}", course=BY_UNITS)
    assert (counts(result), result.rows) == (("different", 1, 0, 4), 20_000)
    bench.target(f"UPDATE public.{name} SET v = 'x' WHERE id > 10")
    result = bench.result(f"public.{name}", course=BY_UNITS)
    assert (counts(result), result.rows) == (("different", 1, 0, 19_989), 20_000)


def test_chunks_have_hashes_that_add_up_to_the_tables(bench: Bench) -> None:
    bench.both(
        "CREATE TABLE public.t (id bigint PRIMARY KEY, v text)",
        "INSERT INTO public.t SELECT i, 'v' || i FROM generate_series(1, 20000) AS i",
        "ANALYZE public.t",
    )
    result, units = by_units(bench)
    assert len(result.chunks) == len(units) > 5
    assert (result.chunks[0].lower, result.chunks[-1].upper) == (None, None)
    assert all(one.upper == next_.lower for one, next_ in pairwise(result.chunks))
    parts = [one.fingerprint.split(":") for one in result.chunks]
    total = sum(int(hashed, 16) for _, hashed in parts)
    assert digest_of(sum(int(rows) for rows, _ in parts), total) == result.fingerprint
    some = result.chunks[3]
    scope = Scope(key_from=str(some.lower), key_below=str(some.upper))
    pair = pair_of(bench.route(), source_dsn=bench.source_dsn, target_dsn=bench.target_dsn)
    (alone,) = compare_routes([scope.of(pair)], lambda _: True)
    assert alone.fingerprint == some.fingerprint
    bench.both(f"UPDATE public.t SET v = '' WHERE id = {some.lower}")
    changed, _ = by_units(bench)
    assert [
        n for n, (o, t) in enumerate(zip(result.chunks, changed.chunks, strict=True)) if o != t
    ] == [3]


def expected(bench: Bench) -> set[tuple[str | None, ...]]:
    """The keys of rows that are not on both sides, by their text alone."""
    key = bench.route().key
    rows = []
    for dsn in (bench.source_dsn, bench.target_dsn):
        with psycopg.connect(dsn, autocommit=True) as conn:
            query = f"SELECT ARRAY[{', '.join(f'{k}::text' for k in key)}], t::text FROM public.t t"
            rows.append({(tuple(k), text) for k, text in conn.execute(query.encode())})
    return {key for key, _ in rows[0] ^ rows[1]}


def test_rows_outside_of_what_either_side_had_are_found(bench: Bench) -> None:
    bench.both(
        "CREATE TABLE public.t (id bigint PRIMARY KEY, v int)",
        "INSERT INTO public.t SELECT i, i FROM generate_series(1, 20000) AS i",
        "ANALYZE public.t",
    )
    bench.target(
        "INSERT INTO public.t VALUES (-9223372036854775808, 1), (9223372036854775807, 1)",
        "INSERT INTO public.t VALUES (-1, 1), (20001, 1)",
    )
    result, units = by_units(bench)
    assert len(units) > 5
    assert counts(result) == ("different", 0, 4, 0)


def test_a_chunk_of_very_many_rows_is_cut(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("units", "ranges"):
        monkeypatch.setattr(f"validators.{module}.ROWS_OPENED_MAX", 100, raising=False)
    bench.both(
        "CREATE TABLE public.t (id bigint PRIMARY KEY, v int)",
        "INSERT INTO public.t SELECT 1000000000000 + i, i FROM generate_series(1, 20000) AS i",
        "INSERT INTO public.t VALUES (1, 1)",  # never analyzed: all in one chunk of one unit
    )
    bench.target("UPDATE public.t SET v = 0 WHERE id % 5000 = 77")
    result, _ = by_units(bench)
    assert counts(result) == ("different", 0, 0, 4)


def watched(monkeypatch: pytest.MonkeyPatch, name: str) -> list[object]:
    """Grows with each call of a function."""
    calls: list[object] = []
    function = getattr(ranges, name.rpartition(".")[2])

    def call(*words: Any) -> Any:
        calls.append(words)
        return function(*words)

    monkeypatch.setattr(f"validators.{name}", call)
    return calls


@pytest.mark.parametrize("key", ["id bigint PRIMARY KEY", "id bigint, line text"])
def test_where_many_rows_differ_they_are_read_piece_by_piece(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """Of pieces too large, for which keys that are not spread evenly see to, chunks are read."""
    monkeypatch.setattr("validators.units.ROWS_PER_PIECE", 100)
    monkeypatch.setattr("validators.ranges.ROWS_PER_PIECE_MAX", 150)
    pieces = watched(monkeypatch, "scans.begin_rows")
    too_large = watched(monkeypatch, "ranges.begin_chunks")
    line = ", 'l' || i" if "line" in key else ""
    bench.both(
        f"CREATE TABLE public.t ({key}, v text)",
        # Half of a unit's rows lie in a tenth of its keys, here and there.
        f"INSERT INTO public.t SELECT i / 1000 * 10000 + CASE WHEN i % 2000 < 500 THEN i % 1000 * 2"
        f" ELSE i % 1000 * 10 END {line}, 'v' || i FROM generate_series(1, 20000) AS i",
        "CREATE INDEX ON public.t (id)" if line else "ANALYZE public.t",
        "ALTER TABLE public.t ALTER id SET NOT NULL",
        "ANALYZE public.t",
    )
    bench.target(
        "UPDATE public.t SET v = 'w' WHERE right(v, 2) = '50'",
        "DELETE FROM public.t WHERE right(v, 2) = '51'",
        f"INSERT INTO public.t SELECT id + 5{', line' if line else ''}, 'x' FROM public.t"
        " WHERE right(v, 2) = '77'",
    )
    route = bench.route(key=("id", "line") if line else ("id",))
    notes = Kept()
    (result,) = bench.compare(route, course=replace(BY_UNITS, memory=notes))
    assert counts(result) == ("different", 200, 200, 200)
    assert result.rows == 20_000
    assert not result.healed
    assert len(pieces) > 20
    assert len(too_large) > 2
    assert len(next(iter(notes.proven.values()))) < 20


@pytest.mark.parametrize("why", ["no order", "no index", "not analyzed composite"])
def test_tables_that_have_no_ranges_are_compared_all_the_same(bench: Bench, why: str) -> None:
    order = "md5(i::text)" if why == "no order" else "i"
    bench.both(
        "CREATE TABLE public.t (id int NOT NULL, line int NOT NULL, v text)",
        "INSERT INTO public.t SELECT i, 0, 'v' FROM generate_series(1, 20000) AS i"
        f" ORDER BY {order}",
    )
    if why != "no index":
        bench.both("ALTER TABLE public.t ADD PRIMARY KEY (id, line)")
    if why == "no order":
        bench.both("ANALYZE public.t")
    bench.target("UPDATE public.t SET v = 'w' WHERE id IN (5, 6)")
    route = bench.route(key=("id", "line"))
    notes = Kept()
    (result,) = bench.compare(route, course=replace(BY_UNITS, memory=notes))
    assert counts(result) == ("different", 0, 0, 2)
    assert not notes.units


def test_a_comparison_goes_on_where_another_was_killed(bench: Bench) -> None:
    bench.both(
        "CREATE TABLE public.t (id bigint PRIMARY KEY, v int)",
        "INSERT INTO public.t SELECT i, i FROM generate_series(1, 20000) AS i",
        "ANALYZE public.t",
    )
    whole, units = by_units(bench)

    class Killed(Exception):
        pass

    class Dies(Notes):
        def prove(self, route: str, unit: int, proven: Proven) -> None:
            super().prove(route, unit, proven)
            if len(self.proven[route]) == len(units) // 2:
                raise Killed

    notes = Dies()
    with pytest.raises(Killed):
        bench.result(course=replace(BY_UNITS, memory=notes))
    # What was proven is not read again: a change in it is the dirty keys' business.
    bench.target("UPDATE public.t SET v = 0 WHERE id IN (1, 19999)")
    result = bench.result(course=replace(BY_UNITS, memory=notes))
    assert counts(result) == ("different", 0, 0, 1)
    assert result.rows == 20_000
    assert result.fingerprint == whole.fingerprint
    assert not notes.units


def test_it_pauses_before_each_unit(bench: Bench) -> None:
    bench.both(
        "CREATE TABLE public.t (id bigint PRIMARY KEY, v int)",
        "INSERT INTO public.t SELECT i, i FROM generate_series(1, 20000) AS i",
        "ANALYZE public.t",
    )
    pauses = []

    def never(wait_s: float) -> bool:
        pauses.append(wait_s)
        return True

    notes = Kept()
    bench.result(course=replace(BY_UNITS, memory=notes, pause=never))
    assert len(pauses) == len(next(iter(notes.units.values())))


def test_many_small_tables_are_compared_by_few_statements(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.both(
        "DO $$ BEGIN FOR n IN 0..149 LOOP"
        " EXECUTE format('CREATE TABLE public.t%s (id int PRIMARY KEY, v text)', n);"
        " EXECUTE format('INSERT INTO public.t%s VALUES (1, ''a''), (2, ''b'')', n);"
        " END LOOP; END $$"
    )
    routes = bench.routes(*(f"public.t{n}" for n in range(150)))
    asked: list[object] = []
    begin = Ends.begin

    def counted(*words: Any) -> Any:
        asked.append(1)
        return begin(*words)

    monkeypatch.setattr(Ends, "begin", counted)
    results = bench.compare(*routes)
    assert {r.state for r in results} == {"equal"}
    assert sum(r.rows for r in results) == 300
    assert [r.route for r in results] == [route.id for route in routes]
    assert len(asked) < 5
    bench.target("UPDATE public.t7 SET v = 'c' WHERE id = 2", "DROP TABLE public.t8")
    bench.source("DELETE FROM public.t9")
    results = bench.compare(*routes)
    states = {r.table.name: r.state for r in results if r.state != "equal"}
    assert states == {"t7": "different", "t8": "unverified", "t9": "different"}
    assert (results[9].extra, results[7].different) == (2, 1)


def test_one_table_that_cannot_be_read_does_not_spoil_the_glance_at_others(bench: Bench) -> None:
    bench.both(*(f"CREATE TABLE public.t{n} (id int PRIMARY KEY, v text)" for n in range(5)))
    routes = [bench.route(f"public.t{n}") for n in range(5)]
    bench.target("ALTER TABLE public.t3 DROP COLUMN v")
    states = [r.state for r in bench.compare(*routes)]
    assert states == ["equal", "equal", "equal", "unverified", "equal"]


@pytest.fixture
def orders(bench: Bench) -> Bench:
    bench.both(
        "CREATE TABLE public.t (id bigint PRIMARY KEY, updated timestamptz, v int)",
        "INSERT INTO public.t SELECT i, '2024-01-01+00'::timestamptz + i * interval '1 hour', i"
        " FROM generate_series(1, 10000) AS i",
        "ANALYZE public.t",
    )
    bench.target("UPDATE public.t SET v = 0 WHERE id % 100 = 1")
    return bench


def in_scope(bench: Bench, scope: Scope, limits: Limits | None = None) -> TableResult:
    pair = pair_of(bench.route(), source_dsn=bench.source_dsn, target_dsn=bench.target_dsn)
    (result,) = compare_routes([scope.of(pair)], lambda _: True, course=BY_UNITS, limits=limits)
    return result


def test_a_range_of_keys(orders: Bench) -> None:
    result = in_scope(orders, Scope(key_from="1001", key_below="2001"))
    assert counts(result) == ("different", 0, 0, 10)
    assert result.rows == 1000
    assert result.scope == "keys from 1001, keys below 2001"


def test_rows_of_the_last_time(orders: Bench) -> None:
    result = in_scope(orders, Scope(time_column="updated", time_from="2024-12-31T00:00:00+00:00"))
    assert counts(result) == ("different", 0, 0, 12)
    assert 1000 < result.rows < 1500


def test_a_row_that_left_the_scope_on_one_side_only_differs(orders: Bench) -> None:
    orders.target("UPDATE public.t SET updated = '2020-01-01' WHERE id = 9990")
    result = in_scope(orders, Scope(time_column="updated", time_from="2024-12-31T00:00:00+00:00"))
    assert counts(result) == ("different", 0, 0, 13)


def test_a_sample_says_that_it_is_one(orders: Bench) -> None:
    result = in_scope(orders, Scope(sample_percent=10))
    assert result.scope == "a sample of 10 % of the keys"
    assert 800 < result.rows < 1200
    assert 0 < result.different < 30
    assert in_scope(orders, Scope(sample_percent=10)).rows == result.rows


def test_a_scope_that_a_table_cannot_have_is_refused(bench: Bench) -> None:
    bench.both("CREATE TABLE public.t (k text PRIMARY KEY, v int)")
    pair = pair_of(bench.route(), source_dsn=bench.source_dsn, target_dsn=bench.target_dsn)
    for scope, said in (
        (Scope(key_from="a"), "no key that both servers have in the same order"),
        (Scope(time_column="at", time_from="2024-01-01"), "no column 'at'"),
        (Scope(time_column="v", time_from="2024-01-01"), "is no time but integer"),
    ):
        with pytest.raises(NoScope, match=said):
            scope.of(pair)
    assert Scope().of(pair) is pair
