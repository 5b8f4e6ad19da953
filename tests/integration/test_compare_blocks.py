# ruff: noqa: S608 -- all of the SQL is the tests' own
"""Tables whose keys have no order: ranges of blocks, under one snapshot of each side."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tests.integration.test_compare import Bench, counts
from tests.integration.test_compare_ranges import expected
from validators.results import Progress, TableResult
from validators.scans import Course
from validators.session import LOCK_S_MAX, Held, connected, held
from validators.sides import Pair
from validators.units import Sizes

ROWS = 6_000
RANGES = 5
BY_RANGES = Course(sizes=Sizes(rows_per_unit=ROWS // RANGES))
FILLER = "repeat('f', 60)"  # so that a range has more than a few blocks


@pytest.fixture
def bench(source_db: str, target_db: str) -> Bench:
    return Bench(source_db, target_db)


def uuids(bench: Bench) -> None:
    """A table of random keys, the same on both sides, in another order on the target."""
    bench.both("CREATE TABLE public.t (id uuid PRIMARY KEY, n int, v text)")
    for side, order in ((bench.source, "g.i"), (bench.target, "-g.i")):
        side(
            f"INSERT INTO public.t SELECT md5(i::text)::uuid, i, {FILLER}"
            f" FROM generate_series(1, {ROWS}) AS g(i) ORDER BY {order}",
            "ANALYZE public.t",
        )


class Watched:
    """A course that counts its ranges, and does something before one of them."""

    def __init__(self, at: int = 0, do: Callable[[], object] = lambda: None) -> None:
        self.begun = 0
        self.steps: list[Progress] = []
        self._at, self._do = at, do

    @property
    def course(self) -> Course:
        return replace(BY_RANGES, pause=self.pause)

    def pause(self, wait_s: float) -> bool:
        self.begun += 1
        if self.begun == self._at:
            self._do()
        return True

    def result(self, bench: Bench) -> TableResult:
        return bench.result(course=self.course, report=self.steps.append)


KEYS = {
    "uuid": ("id uuid PRIMARY KEY", "md5(i::text)::uuid", ""),
    "text": ("id text PRIMARY KEY", "md5(i::text) || 'Ж'", ""),
    "composite": (
        "id uuid, line text, PRIMARY KEY (id, line)",
        "md5((i / 3)::text)::uuid, i::text",
        "",
    ),
    "no key": ("id uuid, line int", "md5((i / 3)::text)::uuid, 0", ""),
    "partitions": ("id uuid PRIMARY KEY", "md5(i::text)::uuid", "PARTITION BY HASH (id)"),
}


@pytest.mark.parametrize("name", KEYS)
def test_every_difference_is_found_and_nothing_else(
    bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("validators.passes.ROWS_PER_LOOK", 100)
    columns, values, partitioned = KEYS[name]
    bench.both(f"CREATE TABLE public.t ({columns}, n int, v text) {partitioned}")
    if partitioned:
        bench.both(
            *(
                f"CREATE TABLE public.t{n} PARTITION OF public.t"
                f" FOR VALUES WITH (MODULUS 3, REMAINDER {n})"
                for n in range(3)
            )
        )
    for side, order in ((bench.source, "g.i"), (bench.target, "-g.i")):
        side(
            f"INSERT INTO public.t SELECT {values}, i, {FILLER}"
            f" FROM generate_series(1, {ROWS}) AS g(i) ORDER BY {order}",
            "ANALYZE public.t",
        )
    watched = Watched()
    clean = watched.result(bench)
    assert counts(clean) == ("equal", 0, 0, 0)
    assert clean.rows == ROWS
    assert watched.begun >= RANGES
    assert len({step.rows for step in watched.steps}) >= RANGES  # it is seen to go on
    bench.target("DELETE FROM public.t WHERE n % 100 = 1 OR n > 5990")
    bench.source("DELETE FROM public.t WHERE n % 100 = 2 OR n BETWEEN 3000 AND 3300")
    bench.target("UPDATE public.t SET v = v || ' ' WHERE n % 100 = 5")
    bench.target("UPDATE public.t SET n = -n WHERE n % 100 = 7")
    result = Watched().result(bench)
    assert result.state == "different"
    assert not result.reason
    assert not result.healed
    if name == "no key":
        changed = result.missing, result.extra
        with psycopg.connect(bench.source_dsn) as conn:
            (mine,) = conn.execute("SELECT array_agg(t::text) FROM public.t").fetchall()
        with psycopg.connect(bench.target_dsn) as conn:
            (theirs,) = conn.execute("SELECT array_agg(t::text) FROM public.t").fetchall()
        assert changed == (len(set(mine[0]) - set(theirs[0])), len(set(theirs[0]) - set(mine[0])))
        return
    assert {one.key for one in result.differences} == expected(bench)


@pytest.mark.parametrize("snapshots", ["one of each side", "each range its own"])
def test_a_missing_row_that_moves_between_ranges_is_found(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, snapshots: str
) -> None:
    """With a snapshot for each range it is in none of them, and nothing is seen to be missing."""
    uuids(bench)
    # There is room in the first blocks, and in the very last one.
    bench.source("DELETE FROM public.t WHERE n <= 300", "VACUUM public.t")
    bench.target("DELETE FROM public.t WHERE n <= 300 OR n BETWEEN 5601 AND 5603")
    last = (
        "SELECT count(*), max((ctid::text::point)[0]) FROM public.t WHERE n BETWEEN 5601 AND 5603"
    )

    def move() -> None:
        with psycopg.connect(bench.source_dsn, autocommit=True) as conn:
            ((rows, block),) = conn.execute(last.encode()).fetchall()
            assert (rows, block > 50) == (3, True)
            conn.execute("UPDATE public.t SET v = v WHERE n BETWEEN 5601 AND 5603")
            ((rows, block),) = conn.execute(last.encode()).fetchall()
            assert (rows, block < 5) == (3, True)

    if snapshots == "each range its own":
        monkeypatch.setattr(
            "validators.passes.held", lambda _, pair: nullcontext(Held(pair, None, []))
        )
    # Before the third range begins, the first one has been read.
    result = Watched(at=3, do=move).result(bench)
    if snapshots == "each range its own":
        assert counts(result) == ("equal", 0, 0, 0)
        return
    assert counts(result) == ("different", 3, 0, 0)


def test_a_table_that_is_rewritten_while_it_is_read_is_read_anew(bench: Bench) -> None:
    """VACUUM FULL moves rows that a snapshot shows."""
    uuids(bench)
    bench.both("DELETE FROM public.t WHERE n BETWEEN 100 AND 4000")
    bench.target("DELETE FROM public.t WHERE n IN (4500, 5000, 5500)")
    watched = Watched(at=3, do=lambda: bench.source("VACUUM FULL public.t"))
    assert counts(watched.result(bench)) == ("different", 3, 0, 0)
    assert watched.begun >= 3 * RANGES  # the first pass twice, and the second

    opened = Watched(at=RANGES + 3, do=lambda: bench.target("VACUUM FULL public.t"))
    assert counts(opened.result(bench)) == ("different", 3, 0, 0)
    assert opened.begun >= 3 * RANGES


def test_a_table_that_is_emptied_while_it_is_read_is_empty(bench: Bench) -> None:
    uuids(bench)
    bench.target("DELETE FROM public.t WHERE n IN (100, 4500)")
    emptied = Watched(at=3, do=lambda: bench.both("TRUNCATE public.t")).result(bench)
    assert counts(emptied) == ("equal", 0, 0, 0)
    assert emptied.rows == 0


def test_a_table_that_is_rewritten_again_and_again_is_unverified(bench: Bench) -> None:
    uuids(bench)

    def pause(wait_s: float) -> bool:
        bench.source("VACUUM FULL public.t")
        return True

    result = bench.result(course=replace(BY_RANGES, pause=pause))
    assert result.state == "unverified"
    assert "rewritten" in result.reason


@pytest.mark.parametrize("during", ["the first pass", "the second pass"])
def test_a_long_pause_lets_the_snapshots_go(bench: Bench, during: str) -> None:
    uuids(bench)
    bench.target("UPDATE public.t SET v = '' WHERE n IN (7, 77)")
    held: list[int] = []
    paused = RANGES + 3 if during == "the second pass" else 3

    def sessions() -> int:
        with psycopg.connect(bench.source_dsn) as conn:
            ((number,),) = conn.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name = 'dbsplit compare' AND backend_xmin IS NOT NULL"
            ).fetchall()
        return int(number)

    begun = 0

    def pause(wait_s: float) -> bool:
        nonlocal begun
        begun += 1
        if begun in (paused, paused + 1):  # and once more, while nothing is held
            held.append(sessions())
        return begun not in (paused, paused + 1)

    result = bench.result(course=replace(BY_RANGES, pause=pause))
    assert counts(result) == ("different", 0, 0, 2)
    assert held[-1] == 0
    assert held[0] > 0
    assert begun == 3 * RANGES  # three begun in vain, two to wait, two passes


@pytest.mark.parametrize("late", ["between two ranges", "in a statement"])
def test_a_table_whose_snapshot_is_held_too_long_is_unverified(bench: Bench, late: str) -> None:
    uuids(bench)
    bench.target("DELETE FROM public.t WHERE n = 7")
    with psycopg.connect(bench.source_dsn) as blocker:

        def be_late() -> None:
            if late == "between two ranges":
                time.sleep(1.1)
            else:
                blocker.execute("LOCK TABLE public.t")

        watched = Watched(at=3, do=be_late)
        began = time.monotonic()
        result = bench.result(course=replace(watched.course, snapshot_s_max=1.0))
        assert time.monotonic() - began < LOCK_S_MAX
    assert result.state == "unverified"
    assert "within 1 s" in result.reason
    assert "limits.snapshot_s_max" in result.reason
    assert watched.begun <= RANGES
    assert counts(watched.result(bench)) == ("different", 1, 0, 0)


def test_connections_of_which_one_could_not_take_its_snapshot_are_not_used_again(
    source_db: str, target_db: str
) -> None:
    """The other would show as of then whatever is compared next."""
    role = "no_snapshots"
    dsn = make_conninfo(target_db, user=role)
    pair = cast("Pair", SimpleNamespace(leader=None, follower=None))
    with psycopg.connect(target_db, autocommit=True) as target:
        target.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
        try:
            target.execute("REVOKE EXECUTE ON FUNCTION pg_export_snapshot() FROM PUBLIC")
            with connected(source_db, dsn) as ends:
                with pytest.raises(psycopg.errors.InsufficientPrivilege), held(ends, pair):
                    pass
                assert ends.lost
        finally:
            target.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def test_ranges_are_read_by_their_blocks_alone(bench: Bench) -> None:
    """Whatever indexes there are: else each range would read the table."""
    uuids(bench)
    bench.both("CREATE INDEX ON public.t (n)", "ANALYZE public.t")
    read = "SELECT sum(heap_blks_read + heap_blks_hit) FROM pg_statio_user_tables"

    def blocks() -> int:
        with psycopg.connect(bench.source_dsn) as conn:
            conn.execute("SELECT pg_stat_force_next_flush()")
            ((number,),) = conn.execute(read.encode()).fetchall()
        return int(number)

    before = blocks()
    route = bench.route(where="n > 0")
    (result,) = bench.compare(route, course=BY_RANGES)
    assert counts(result) == ("equal", 0, 0, 0)
    with psycopg.connect(bench.source_dsn) as conn:
        ((pages,),) = conn.execute(
            "SELECT pg_relation_size('public.t') / current_setting('block_size')::int"
        ).fetchall()
    assert pages <= blocks() - before < 1.5 * pages + 20
