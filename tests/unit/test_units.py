"""Units, chunks and what differs between two lists of rows."""

from __future__ import annotations

import struct
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from validators.arrays import Packed, packed
from validators.differing import differing_rows, differing_spans, digest_of_pairs, pairs
from validators.scans import CHUNKS_TOLD_MAX, Proven, hashes_of
from validators.units import (
    MODULUS,
    ROWS_OPENED_MAX,
    ROWS_PER_PIECE,
    Chunks,
    Sizes,
    Span,
    Unit,
    drilled,
    in_groups,
    pieces,
    plan_units,
)

BIGINT = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(BIGINT, min_size=1, max_size=120), st.integers(1, 10**10), st.integers(1, 10**6))
def test_units_are_all_keys_once(fences: list[int], rows: int, rows_per_unit: int) -> None:
    if len(fences) * rows // rows_per_unit > 10**5:
        return
    units = plan_units(rows, fences, Sizes(rows_per_unit=rows_per_unit))
    assert units[0].lower is None
    assert units[-1].upper is None
    for left, right in pairwise(units):
        assert left.upper is not None
        assert left.upper == right.lower
        assert left.lower is None or left.lower < left.upper


def test_a_table_of_even_keys_has_units_and_chunks_of_the_size_that_is_wanted() -> None:
    units = plan_units(5_000_000, range(0, 5_000_001, 50_000), Sizes())
    assert len(units) == 22
    assert {unit.shift for unit in units[1:-1]} == {9}


@given(BIGINT, st.integers(1, 10**12), st.integers(1, 10**7))
def test_pieces_are_all_keys_of_their_unit_once(lower: int, width: int, rows: int) -> None:
    parts = pieces(Unit(lower, lower + width, 9), rows)
    assert (parts[0].lower, parts[-1].upper) == (lower, lower + width)
    assert all(left.upper == right.lower for left, right in pairwise(parts))
    assert len(parts) <= max(1, rows // ROWS_PER_PIECE)
    assert pieces(Unit(None, lower, 63), rows) == [Unit(None, lower, 63)]


def chunks(*rows: tuple[int, int, int]) -> Chunks:
    numbers, held, sums = ([row[column] for row in rows] for column in range(3))
    return Chunks(packed(numbers), packed(held), packed(sums))


@given(st.lists(BIGINT))
def test_packed_numbers_are_the_same_both_ways(numbers: list[int]) -> None:
    assert packed(numbers).numbers() == packed(numbers).integers().tolist() == numbers


@given(st.lists(st.tuples(BIGINT, BIGINT)))
def test_pairs_of_numbers_are_read_and_the_second_ones_summed(rows: list[tuple[int, int]]) -> None:
    raw = b"".join(struct.pack(">qq", *row) for row in rows)
    keys, hashes = pairs(raw)
    assert list(zip(keys.tolist(), hashes.tolist(), strict=True)) == rows
    assert digest_of_pairs(raw) == sum(hashed for _, hashed in rows) % MODULUS


@pytest.mark.parametrize(
    "raw",
    [
        packed([1, 2]).raw[:-1],
        packed([1, 2]).raw[:-12],
        packed([1, 2]).raw.replace(b"\0\0\0\x14", b"\0\0\0\x17", 1),  # int4
    ],
)
def test_what_is_no_array_of_int8_is_not_read_as_one(raw: bytes) -> None:
    for read in (Packed(raw).numbers, Packed(raw).integers):
        with pytest.raises(ValueError, match="not an array of int8"):
            read()


def test_chunks_that_one_side_lacks_or_sums_differently_are_opened_with_their_neighbours() -> None:
    ours = chunks((1, 32, 5), (2, 32, 6), (5, 32, 7), (9, 1, 1))
    theirs = chunks((1, 32, 5), (2, 31, 6), (3, 1, 1), (5, 32, 8))
    spans = differing_spans(ours, theirs, Unit(None, 300, 5))
    assert spans == [Span(64, 127, 33), Span(160, 191, 32), Span(288, 299, 1)]


def test_a_span_does_not_leave_its_unit() -> None:
    spans = differing_spans(chunks((0, 3, 1)), chunks(), Unit(10, 20, 5))
    assert spans == [Span(10, 19, 3)]


def test_the_outermost_keys_do_not_overflow() -> None:
    number = -(2**63) >> 5
    (span,) = differing_spans(chunks((number, 1, 1)), chunks(), Unit(None, None, 5))
    assert span.first == -(2**63)
    number = (2**63 - 1) >> 5
    (span,) = differing_spans(chunks((number, 1, 1)), chunks(), Unit(None, None, 5))
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
@example([(1, 1), (1, 2)], [(1, 2), (1, 1)])
@example([(1, 1), (1, 1), (1, 2)], [(1, 1), (1, 2), (1, 2)])
def test_rows_that_the_other_side_has_not_as_often_are_named(
    ours: list[tuple[int, int]], theirs: list[tuple[int, int]]
) -> None:
    mine, others = differing_rows(arrays(ours), arrays(theirs))
    wanted = {row for row in {*ours, *theirs} if ours.count(row) != theirs.count(row)}
    assert {ours[n] for n in mine} | {theirs[n] for n in others} == wanted


def arrays(rows: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    columns = np.array(rows, np.int64).reshape(-1, 2).T
    return columns[0], columns[1]


def test_wide_tables_are_read_in_smaller_parts() -> None:
    assert Sizes().of(3) == Sizes().of(23) == Sizes()
    assert Sizes().of(40).rows_per_unit == Sizes().rows_per_unit
    wide = Sizes().of(102)
    assert (wide.rows_per_unit, wide.rows_per_chunk) == (62_500, 128)
    assert Sizes(rows_per_unit=5).of(1_600) == Sizes(rows_per_unit=1, rows_per_chunk=128)


def test_hashes_of_neighbouring_units_are_told_together_when_there_are_many() -> None:
    units = plan_units(10_000, range(10_001), Sizes(rows_per_unit=4))
    told = [Proven(rows=4, digest=number) for number in range(len(units))]
    chunks = hashes_of(units, told)
    assert len(units) > 2 * CHUNKS_TOLD_MAX
    assert CHUNKS_TOLD_MAX / 2 < len(chunks) <= CHUNKS_TOLD_MAX
    assert (chunks[0].lower, chunks[-1].upper) == (None, None)
    assert all(one.upper == after.lower for one, after in pairwise(chunks))
    rows = [int(one.fingerprint.split(":")[0]) for one in chunks]
    assert sum(rows) == 4 * len(units)
