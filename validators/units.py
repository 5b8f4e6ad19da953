"""Units and chunks of a table whose key begins with an integer; no I/O.

A unit is read by one short statement on each side, so no snapshot is held for long, and
what was proven of a unit is not lost with the process.  A chunk is all keys that are the
same when their last bits are cut off: so few rows that opening it costs nothing.  Where
many rows differ nearly every chunk would be opened, so the rows of a unit are read right
away, piece by piece.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from validators.arrays import NOTHING, Packed

ROWS_PER_UNIT: Final = 250_000
UNIT_TIMES: Final = 2
"""A wide row may take so many times as long until there are fewer in a unit.

To plan a statement of a hundred columns costs as much as some hundred of its rows.
"""
ROWS_PER_CHUNK: Final = 512
ROWS_PER_CHUNK_MIN: Final = 128
COLUMNS: Final = 12
"""Of a table for which these numbers of rows are meant."""
OPENED_FROM: Final = 1 / 4
"""The part of the rows that lie in chunks that differ, from which on chunks do not pay.

A row that is read with its key and hash costs half as much again as one that is summed up.
"""
ROWS_PER_PIECE: Final = 50_000
ROWS_OPENED_MAX: Final = 50_000
"""Rows that are held at a time while chunks are opened; about 60 bytes each."""
DRILL_BITS: Final = 10
ALL_BITS: Final = 63
BIGINT_MAX: Final = 2**63 - 1

MODULUS: Final = 2**63 - 25  # the largest prime that fits a bigint


@dataclass(frozen=True, slots=True)
class Unit:
    """Keys from `lower` on, and below `upper`; None is no bound."""

    lower: int | None
    upper: int | None
    shift: int  # a key's chunk is the key without so many bits


@dataclass(frozen=True, slots=True)
class Chunks:
    """Rows and summed hashes per chunk of a unit, ascending; chunks without rows are left out."""

    numbers: Packed = NOTHING
    rows: Packed = NOTHING
    sums: Packed = NOTHING
    count: int = 0
    total: int = 0  # of rows
    digest: int = 0  # the sum of all rows' hashes, whatever the chunks are


@dataclass(frozen=True, slots=True)
class Span:
    """Keys from `first` to `last`, both included, with about so many rows."""

    first: int
    last: int
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """In what parts a table is read."""

    rows_per_unit: int = ROWS_PER_UNIT  # by one statement
    rows_per_chunk: int = ROWS_PER_CHUNK

    def of(self, columns: int) -> Sizes:
        """The same for a table of so many columns: in wide rows there is more to read.

        A statement is to be short.  And what a chunk costs by itself is nothing beside its
        rows, which are read once more if one of them differs.
        """
        times = max(1, columns // COLUMNS)
        return Sizes(
            rows_per_unit=max(1, self.rows_per_unit // max(1, times // UNIT_TIMES)),
            rows_per_chunk=max(ROWS_PER_CHUNK_MIN, self.rows_per_chunk // times),
        )


def plan_units(rows: int, fences: Sequence[int], sizes: Sizes) -> list[Unit]:
    """Units, which together are all keys there can be.

    Between each two of the ascending `fences` lie about as many rows.
    """
    fences = sorted(set(fences))
    gaps = len(fences) - 1
    if gaps < 1:
        return [Unit(None, None, 0)]
    rows_per_unit = sizes.rows_per_unit
    each = max(1, rows // gaps)  # rows between two fences
    marks = [*fences[:: max(1, rows_per_unit // each)]]
    if marks[-1] != fences[-1]:
        marks.append(fences[-1])
    marks = _split(marks, max(1, each // rows_per_unit))
    share = max(1, rows // (len(marks) - 1))
    units = [
        Unit(lower, upper, _shift(upper - lower, share, sizes.rows_per_chunk))
        for lower, upper in itertools.pairwise(marks)
    ]
    # What lies outside of all that was known is looked for by itself, and is mostly nothing.
    below, above = Unit(None, marks[0], ALL_BITS), Unit(marks[-1] + 1, None, ALL_BITS)
    last = units[-1]
    if marks[-1] == BIGINT_MAX:
        return [below, *units[:-1], replace(last, upper=None)]
    return [below, *units[:-1], replace(last, upper=marks[-1] + 1), above]


def pieces(unit: Unit, rows_per_unit: int) -> list[Unit]:
    """The unit in pieces whose rows are read one by one, without chunks before them."""
    if unit.lower is None or unit.upper is None:
        return [unit]
    marks = _split([unit.lower, unit.upper], max(1, rows_per_unit // ROWS_PER_PIECE))
    return [replace(unit, lower=lower, upper=upper) for lower, upper in itertools.pairwise(marks)]


def in_groups(spans: Sequence[Span]) -> list[list[Span]]:
    """Spans that are opened together: about ROWS_OPENED_MAX rows each time."""
    groups: list[list[Span]] = []
    held = 0
    for span in spans:
        if not groups or held + span.rows > ROWS_OPENED_MAX:
            groups.append([])
            held = 0
        groups[-1].append(span)
        held += span.rows
    return groups


def drilled(span: Span) -> Unit | None:
    """A unit of smaller chunks, for a chunk that holds too many rows; None if there is none."""
    if span.rows <= ROWS_OPENED_MAX or span.first == span.last:
        return None
    width = span.last - span.first + 1
    upper = None if span.last == BIGINT_MAX else span.last + 1
    return Unit(span.first, upper, max(0, width.bit_length() - 1 - DRILL_BITS))


def span_of(number: int, rows: int, unit: Unit) -> Span:
    """A chunk's keys, as far as they are of the unit."""
    first, last = number << unit.shift, ((number + 1) << unit.shift) - 1
    if unit.lower is not None:
        first = max(first, unit.lower)
    if unit.upper is not None:
        last = min(last, unit.upper - 1)
    return Span(first, last, rows)


def _split(marks: Sequence[int], parts: int) -> list[int]:
    """Each interval in so many of equal width."""
    if parts == 1:
        return list(marks)
    cut = {
        lower + (upper - lower) * part // parts
        for lower, upper in itertools.pairwise(marks)
        for part in range(parts)
    }
    return sorted(cut | {marks[-1]})


def _shift(width: int, rows: int, rows_per_chunk: int) -> int:
    return max(0, (width * rows_per_chunk // rows).bit_length() - 1)
