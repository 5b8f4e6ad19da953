"""Units, chunks and what differs between two lists of rows."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from validators.units import (
    ROWS_OPENED_MAX,
    Chunks,
    Span,
    Unit,
    differing,
    differing_rows,
    drilled,
    finer,
    in_groups,
    plan_units,
)

BIGINT = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(BIGINT, min_size=1, max_size=120), st.integers(1, 10**10), st.integers(1, 10**6))
def test_units_are_all_keys_once(fences: list[int], rows: int, rows_per_unit: int) -> None:
    if len(fences) * rows // rows_per_unit > 10**5:
        return
    units = plan_units(rows, fences, rows_per_unit)
    assert units[0].lower is None
    assert units[-1].upper is None
    for left, right in pairwise(units):
        assert left.upper is not None
        assert left.upper == right.lower
        assert left.lower is None or left.lower < left.upper


def test_a_table_of_even_keys_has_units_and_chunks_of_the_size_that_is_wanted() -> None:
    units = plan_units(5_000_000, range(0, 5_000_001, 50_000), 250_000)
    assert len(units) == 22
    assert {unit.shift for unit in units[1:-1]} == {7}
    assert {finer(unit).shift for unit in units[1:-1]} == {5}


def chunks(*rows: tuple[int, int, int]) -> Chunks:
    columns = np.array(rows, np.int64).reshape(-1, 3).T
    return Chunks(*columns)


def test_chunks_that_one_side_lacks_or_sums_differently_are_opened_with_their_neighbours() -> None:
    ours = chunks((1, 32, 5), (2, 32, 6), (5, 32, 7), (9, 1, 1))
    theirs = chunks((1, 32, 5), (2, 31, 6), (3, 1, 1), (5, 32, 8))
    spans = differing(ours, theirs, Unit(None, 300, 5))
    assert spans == [Span(64, 127, 33), Span(160, 191, 32), Span(288, 299, 1)]


def test_a_span_does_not_leave_its_unit() -> None:
    spans = differing(chunks((0, 3, 1)), chunks(), Unit(10, 20, 5))
    assert spans == [Span(10, 19, 3)]


def test_the_outermost_keys_do_not_overflow() -> None:
    number = -(2**63) >> 5
    (span,) = differing(chunks((number, 1, 1)), chunks(), Unit(None, None, 5))
    assert span.first == -(2**63)
    number = (2**63 - 1) >> 5
    (span,) = differing(chunks((number, 1, 1)), chunks(), Unit(None, None, 5))
    assert span.last == 2**63 - 1


def test_a_chunk_of_too_many_rows_is_cut_until_it_is_one_key() -> None:
    span = Span(0, 2**40 - 1, ROWS_OPENED_MAX + 1)
    depth = 0
    while (unit := drilled(span)) is not None:
        assert unit.lower is not None
        span = Span(unit.lower, unit.lower + (1 << unit.shift) - 1, ROWS_OPENED_MAX + 1)
        depth += 1
    assert span.first == span.last
    assert depth == 4
    assert drilled(Span(0, 2**40 - 1, ROWS_OPENED_MAX)) is None


def test_groups_hold_a_bounded_number_of_rows() -> None:
    groups = in_groups([Span(n, n, 20_000) for n in range(7)])
    assert [len(group) for group in groups] == [2, 2, 2, 1]


ROWS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=30)


@given(ROWS, ROWS)
def test_rows_that_the_other_side_has_not_as_often_are_named(
    ours: list[tuple[int, int]], theirs: list[tuple[int, int]]
) -> None:
    mine, others = differing_rows(arrays(ours), arrays(theirs))
    wanted = {row for row in {*ours, *theirs} if ours.count(row) != theirs.count(row)}
    assert {ours[n] for n in mine} == wanted & set(ours)
    assert {theirs[n] for n in others} == wanted & set(theirs)


def arrays(rows: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    columns = np.array(rows, np.int64).reshape(-1, 2).T
    return columns[0], columns[1]
