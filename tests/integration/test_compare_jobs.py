# ruff: noqa: S608 -- all of the SQL is the tests' own
"""One large table, read by several sessions on each side."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime

import psycopg
import pytest

from plans.errors import NotReady
from tests.integration.test_compare import Bench, counts
from tests.integration.test_compare_ranges import expected
from validators.crew import PARTS_PER_JOB_MIN, Crew
from validators.results import Progress
from validators.scans import Course
from validators.session import Ends, Held
from validators.sides import pair_of
from validators.units import Sizes

ROWS = 6_000
PARTS = 20
JOBS = 3
BY_PARTS = Course(sizes=Sizes(rows_per_unit=ROWS // PARTS), jobs=JOBS)
FILLER = "repeat('f', 60)"

KEYS = {
    "integer": ("id bigint PRIMARY KEY", "i"),
    "uuid": ("id uuid PRIMARY KEY", "md5(i::text)::uuid"),
    "no key": ("id uuid", "md5((i / 3)::text)::uuid"),
}


@pytest.fixture
def bench(source_db: str, target_db: str) -> Bench:
    return Bench(source_db, target_db)


def fill(bench: Bench, name: str) -> None:
    column, value = KEYS[name]
    bench.both(
        f"CREATE TABLE public.t ({column}, n int, v text)",
        f"INSERT INTO public.t SELECT {value}, i, {FILLER} FROM generate_series(1, {ROWS}) AS i",
        "ANALYZE public.t",
    )


def rows(dsn: str) -> set[str]:
    with psycopg.connect(dsn) as conn:
        return {row for (row,) in conn.execute("SELECT t::text FROM public.t AS t").fetchall()}


class Sessions:
    """Sessions that compare, and when each began a statement, by what is seen between parts."""

    def __init__(self, bench: Bench, do: Callable[[], object] = lambda: None) -> None:
        self.parts = 0
        self.most = 0
        self.began: dict[tuple[str, int], set[datetime]] = defaultdict(set)
        self._dsns, self._do = (bench.source_dsn, bench.target_dsn), do
        self._stack = ExitStack()

    def __enter__(self) -> Sessions:
        self._watching = [
            self._stack.enter_context(psycopg.connect(dsn, autocommit=True)) for dsn in self._dsns
        ]
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def pause(self, wait_s: float) -> bool:
        self.parts += 1
        self.look()
        if self.parts == 1:
            self._do()
        return True

    def hear(self, progress: Progress) -> None:
        if progress.step == "done":
            self.look()

    def look(self) -> None:
        for dsn, conn in zip(self._dsns, self._watching, strict=True):
            rows = conn.execute(
                "SELECT pid, query_start FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'dbsplit compare'"
            ).fetchall()
            self.most = max(self.most, len(rows))
            for pid, began in rows:
                self.began[dsn, pid].add(began)

    @property
    def course(self) -> Course:
        return replace(BY_PARTS, pause=self.pause)

    def at_work(self) -> list[int]:
        """How many read on either side, each of them several times."""
        busy = [dsn for (dsn, _), began in self.began.items() if len(began) > 2]
        return [busy.count(dsn) for dsn in self._dsns]


@pytest.mark.parametrize("name", KEYS)
def test_several_sessions_find_every_difference_of_one_table(bench: Bench, name: str) -> None:
    fill(bench, name)
    with Sessions(bench) as sessions:
        clean = bench.result(course=sessions.course, report=sessions.hear)
    assert counts(clean) == ("equal", 0, 0, 0)
    assert clean.rows == ROWS
    assert sessions.at_work() == [JOBS, JOBS]
    assert sessions.most == JOBS
    bench.target("DELETE FROM public.t WHERE n % 100 = 1 OR n > 5990")
    bench.source("DELETE FROM public.t WHERE n % 100 = 2 OR n BETWEEN 3000 AND 3300")
    bench.target("UPDATE public.t SET v = v || ' ' WHERE n % 100 = 5")
    result = bench.result(course=BY_PARTS)
    assert result.state == "different"
    assert not result.reason
    if name == "no key":
        ours, theirs = rows(bench.source_dsn), rows(bench.target_dsn)
        assert (result.missing, result.extra) == (len(ours - theirs), len(theirs - ours))
        return
    assert {one.key for one in result.differences} == expected(bench)


def test_a_large_table_borrows_no_session_that_a_waiting_one_will_want(bench: Bench) -> None:
    fill(bench, "integer")
    pair = pair_of(bench.route(), source_dsn=bench.source_dsn, target_dsn=bench.target_dsn)
    many = 100 * PARTS_PER_JOB_MIN
    with Crew(None, jobs=2) as crew:
        crew.expect(2)
        with crew.team(pair) as large:
            assert [large.turn(many) for _ in range(2)] == [large.ends] * 2  # one is to begin
            with crew.team(pair):
                assert large.turn(many) is large.ends  # and is at work
            assert large.turn(PARTS_PER_JOB_MIN) is large.ends  # it is nearly at its end
            seen = {large.turn(many) for _ in range(4)}
            assert len(seen) == len(large) == 2
        with crew.at_work(pair) as one, crew.at_work(pair) as other:
            assert not one.lost
            assert not other.lost
            assert {one, other} == seen  # what was borrowed was given back


@pytest.mark.parametrize("snapshots", ["one of each side", "each session its own"])
def test_several_sessions_read_under_one_snapshot(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, snapshots: str
) -> None:
    """With one of its own each, rows that move from the one's part to the other's are in none."""
    fill(bench, "uuid")
    with psycopg.connect(bench.source_dsn, autocommit=True) as conn:
        ((pages,),) = conn.execute(
            "SELECT pg_relation_size('public.t') / current_setting('block_size')::int"
        ).fetchall()
    # Parts 1, 3, ... are read by the session that joins, parts 2, 4, ... by the first one.
    second = range(pages // PARTS, 2 * pages // PARTS)
    last_but_one = range((PARTS - 2) * pages // PARTS, (PARTS - 1) * pages // PARTS)
    block = "(ctid::text::point)[0]"
    bench.source(
        f"DELETE FROM public.t WHERE {block} BETWEEN {second[1]} AND {second[-2]}",
        "VACUUM public.t",
    )
    bench.target(
        "DELETE FROM public.t WHERE"
        f" {block} BETWEEN {second[1]} AND {second[-2]} OR {block} = {last_but_one[1]}"
    )
    bench.source("ALTER TABLE public.t SET (autovacuum_enabled = off)")

    def move() -> None:
        with psycopg.connect(bench.source_dsn, autocommit=True) as conn:
            moved = conn.execute(
                f"UPDATE public.t SET v = v WHERE {block} = {last_but_one[1]}"
                f" RETURNING {block}".encode()
            ).fetchall()
            assert {int(place) for (place,) in moved} <= set(second)

    if snapshots == "each session its own":

        def join(held: Held, ends: Ends) -> None:
            if ends not in held.members:
                held.members.append(ends)
                for connection in (ends.leader, ends.follower):
                    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT 1")

        monkeypatch.setattr("validators.session.Held.join", join)
    with Sessions(bench, do=move) as sessions:
        result = bench.result(course=replace(sessions.course, jobs=2))
    if snapshots == "each session its own":
        assert counts(result) == ("equal", 0, 0, 0)
        return
    assert result.state == "different"
    assert result.missing > 50


def test_servers_without_room_for_more_sessions_are_read_by_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(bench, "integer")
    connect = Crew._connect
    opened: list[Ends] = []

    def once(crew: Crew, dsns: tuple[str, str]) -> Ends:
        if opened:
            raise NotReady("too many connections", hint="")
        opened.append(connect(crew, dsns))
        return opened[0]

    monkeypatch.setattr(Crew, "_connect", once)
    bench.target("DELETE FROM public.t WHERE n = 4000")
    assert counts(bench.result(course=BY_PARTS)) == ("different", 1, 0, 0)
    assert len(opened) == 1
