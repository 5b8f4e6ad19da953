"""Cutting tables into chunks, dividing them into loads, and foretelling the end."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc import copy_pace
from cdc.copy_chunks import Chunk, cut, is_large, may_be_cut
from cdc.copy_load import LOAD_TABLES_MAX, SMALL_BYTES, Piece, loads_of
from cdc.copy_pace import CopyProgress, Progress, Tally
from cdc.copy_sql import Blocks, CopyTask, rows_of
from cdc.source_files import SourceFile
from plans.catalog import Table, TableName
from plans.routes import Kind, Route, RouteColumn
from toolkit.after_data import analyze_work

TABLE = Table(
    name=TableName("public", "big"),
    kind="r",
    columns=(),
    primary_key=("id",),
    rows_estimated=1000,
    size_bytes=10 << 30,
)
ROUTE = Route(
    id="one:public.big",
    service="one",
    owner="one",
    kind=Kind.WHOLE,
    source=TABLE,
    target=TABLE.name,
    columns=(RouteColumn("id", '"id"', frozenset({"id"}), "bigint", "id", binary=True),),
    key=("id",),
)
FILE = SourceFile(number=4711, blocks=1000)
MB = 1 << 20


def task(*, alone: bool = True, **table: object) -> CopyTask:
    source = replace(TABLE, **table)  # type: ignore[arg-type]
    return CopyTask(replace(ROUTE, source=source), "dsn", alone=alone)


@given(blocks=st.integers(0, 5000), size=st.integers(1, 1 << 34), chunk=st.integers(MB, 512 * MB))
def test_chunks_have_every_block_once_and_the_last_has_no_end(
    blocks: int, size: int, chunk: int
) -> None:
    chunks = cut(task(size_bytes=size), SourceFile(1, blocks), chunk)
    bounds = [(one.blocks.first, one.blocks.end) for one in chunks]
    assert bounds[0][0] == 0
    assert bounds[-1][1] is None
    for (_, end), (first, _) in pairwise(bounds):
        assert end == first
    assert [one.number for one in chunks] == list(range(len(chunks)))
    assert all(end is None or end > first for first, end in bounds)
    assert {one.file for one in chunks} == {1}
    assert len(chunks) <= max(1, -(-size // chunk))


def test_a_chunk_reads_its_own_blocks_of_the_rows_of_the_route() -> None:
    route = replace(ROUTE, where="kind = 'a' OR true")
    text = rows_of(route, Blocks(10, 20)).as_string(None)
    assert text.endswith("""WHERE (kind = 'a' OR true) AND ctid >= '(10,0)' AND ctid < '(20,0)'""")
    assert rows_of(route, Blocks(20, None)).as_string(None).endswith("AND ctid >= '(20,0)'")


@pytest.mark.parametrize(
    ("size_mb", "total_mb", "large"),
    [
        (1025, 100_000, True),
        (1024, 100_000, False),
        (376, 500, True),
        (375, 500, False),
        (200, 250, False),
    ],
)
def test_a_table_is_large_if_a_job_could_not_do_it_beside_the_others(
    size_mb: int,
    total_mb: int,
    large: bool,  # noqa: FBT001
) -> None:
    assert is_large(task(size_bytes=size_mb * MB), total_mb * MB, 2, 256 * MB) is large


@pytest.mark.parametrize(
    ("one", "file"),
    [
        (task(alone=False), FILE),
        (task(kind="p"), FILE),
        (task(key_deferrable=True), FILE),
        (task(temporal_keys=frozenset({("id",)})), FILE),  # their periods may overlap
        (task(primary_key=()), FILE),
        (task(), replace(FILE, parts=("1:2",))),  # others inherit from it
    ],
)
def test_rows_that_cannot_be_told_apart_are_not_copied_in_chunks(
    one: CopyTask, file: SourceFile
) -> None:
    assert may_be_cut(task(), FILE)
    assert not may_be_cut(one, file)


def piece(name: str, weight: float, dsn: str = "a", chunk: Chunk | None = None) -> Piece:
    return Piece(name, CopyTask(ROUTE, dsn, alone=True), chunk, weight)


@given(
    sizes=st.lists(st.tuples(st.integers(0, 3 * SMALL_BYTES), st.sampled_from("ab")), max_size=200),
    workers=st.integers(1, 8),
)
def test_each_piece_is_in_one_load_and_only_small_ones_of_one_target_are_together(
    sizes: list[tuple[int, str]], workers: int
) -> None:
    pieces = [piece(str(n), size, dsn) for n, (size, dsn) in enumerate(sizes)]
    loads = loads_of(pieces, workers)
    assert sorted(one.name for load in loads for one in load) == sorted(p.name for p in pieces)
    for load in loads:
        assert len(load) <= LOAD_TABLES_MAX
        assert len({one.task.target_dsn for one in load}) == 1
        assert len(load) == 1 or all(one.weight < SMALL_BYTES for one in load)


class Clock:
    """The time, as the test has it."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(copy_pace, "time", clock)
    return clock


def tallied(workers: int) -> tuple[Tally, list[Progress]]:
    told: list[Progress] = []
    return Tally(told.append, workers=workers), told


def routed(name: str, rows: int) -> Route:
    return replace(ROUTE, id=name, source=replace(TABLE, rows_estimated=rows))


def test_the_end_is_foretold_by_what_was_done_and_what_is_left(clock: Clock) -> None:
    tally, told = tallied(1)
    route = routed("a", 1000)
    tally.expect("copy of a", 1000, route)
    tally.expect("index", 3000)
    clock.now += 10
    tally.moving("copy of a", route, 400, 4_000_000)
    (progress,) = told
    assert isinstance(progress, CopyProgress)
    assert progress.pace.bytes_per_s == 400_000
    assert progress.pace.eta_s == pytest.approx(10 * (4000 - 400) / 400)
    clock.now += 15
    tally.moved("copy of a", route, 1010, 10_100_000)
    assert tally.pace().eta_s == pytest.approx(25 * 3)
    clock.now += 75
    tally.built("index", "one", "index", 75)
    assert tally.pace().eta_s == 0


def test_the_longest_piece_tells_the_end_where_the_others_are_shorter(clock: Clock) -> None:
    tally, _ = tallied(4)
    route, long = routed("a", 100), routed("b", 100)
    tally.expect("copy of a", 100, route)
    tally.expect("copy of b", 1000, long)
    clock.now += 5
    tally.moved("copy of a", route, 100, 1)
    # A worker does 5 of them a second, and the longest is one worker's.
    assert tally.pace().eta_s == pytest.approx(1000 / 5)


def test_a_part_is_done_alone_if_the_others_have_enough_to_do(clock: Clock) -> None:
    tally, _ = tallied(2)
    route = routed("a", 100)
    tally.expect("copy of a", 100, route)
    tally.expect("large index", 300)
    tally.expect("index", 200)
    assert tally.fills_all("large index")  # 300 on one side, 300 on the other
    tally.moving("copy of a", route, 10, 10)
    assert not tally.fills_all("large index")
    assert tally.fills_all("index")
    tally.moved("copy of a", route, 100, 100)
    tally.built("large index", "one", "index", 1)
    assert not tally.fills_all("index")  # it is the last


def test_one_worker_has_no_others(clock: Clock) -> None:
    tally, _ = tallied(1)
    tally.expect("index", 200)
    tally.expect("another index", 300)
    assert not tally.fills_all("index")


def test_while_it_is_paused_no_time_passes(clock: Clock) -> None:
    tally, _ = tallied(1)
    route = routed("a", 1000)
    tally.expect("copy of a", 1000, route)
    clock.now += 3610
    tally.rested(3600)
    tally.moving("copy of a", route, 500, 500)
    assert tally.pace().eta_s == pytest.approx(10)


def test_statistics_of_many_small_tables_are_little_work() -> None:
    assert analyze_work(0) < MB
    assert 500 * analyze_work(64 << 10) < 500 * MB
    assert analyze_work(1 << 40) == analyze_work(100 * MB) == 16 * MB


def test_nothing_is_foretold_before_something_is_done(clock: Clock) -> None:
    tally, _ = tallied(1)
    tally.expect("copy of a", 1000, routed("a", 1))
    clock.now += 10
    assert tally.pace().eta_s is None
