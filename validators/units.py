"""Units and chunks of a table whose key begins with an integer; no I/O.

A unit is read by one short statement on each side, so no snapshot is held for long, and
what was proven of a unit is not lost with the process.  A chunk is all keys that are the
same when their last bits are cut off: so few rows that opening it costs nothing.  Where
many rows differ chunks become smaller, so that most of them stay closed even if one row
in a hundred differs.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from validators.arrays import Integers

ROWS_PER_UNIT: Final = 250_000
ROWS_PER_CHUNK: Final = 128
FINER_BITS: Final = 2
"""Chunks are so much smaller where many rows differ: 32 rows instead of 128."""
FINER_FROM: Final = 1 / 8
"""The part of a unit's rows that lie in chunks that differ, from which on they are."""
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
    """Rows and summed hashes per chunk of a unit; chunks without rows are left out."""

    numbers: Integers
    rows: Integers
    sums: Integers

    @property
    def total(self) -> int:
        """All rows."""
        return int(self.rows.sum())

    @property
    def digest(self) -> int:
        """The sum of all rows' hashes, whatever the chunks are."""
        # Not numpy's sum: it would overflow, and the modulus is not 2**64.
        return sum(map(int, self.sums)) % MODULUS


@dataclass(frozen=True, slots=True)
class Span:
    """Keys from `first` to `last`, both included, with about so many rows."""

    first: int
    last: int
    rows: int


def plan_units(rows: int, fences: Sequence[int], rows_per_unit: int) -> list[Unit]:
    """Units of about `rows_per_unit` rows, which together are all keys there can be.

    Between each two of the ascending `fences` lie about as many rows.
    """
    fences = sorted(set(fences))
    gaps = len(fences) - 1
    if gaps < 1:
        return [Unit(None, None, 0)]
    each = max(1, rows // gaps)  # rows between two fences
    marks = [*fences[:: max(1, rows_per_unit // each)]]
    if marks[-1] != fences[-1]:
        marks.append(fences[-1])
    marks = _split(marks, max(1, each // rows_per_unit))
    share = max(1, rows // (len(marks) - 1))
    units = [
        Unit(lower, upper, _shift(upper - lower, share))
        for lower, upper in itertools.pairwise(marks)
    ]
    # What lies outside of all that was known is looked for by itself, and is mostly nothing.
    below, above = Unit(None, marks[0], ALL_BITS), Unit(marks[-1] + 1, None, ALL_BITS)
    last = units[-1]
    if marks[-1] == BIGINT_MAX:
        return [below, *units[:-1], replace(last, upper=None)]
    return [below, *units[:-1], replace(last, upper=marks[-1] + 1), above]


def differing(ours: Chunks, theirs: Chunks, unit: Unit) -> list[Span]:
    """The keys of the chunks that do not hold the same rows, neighbours together.

    No span holds more than about ROWS_OPENED_MAX rows, unless it is one chunk.
    """
    numbers = np.union1d(ours.numbers, theirs.numbers)
    our_rows, our_sums = _spread(ours, numbers)
    their_rows, their_sums = _spread(theirs, numbers)
    differs = (our_rows != their_rows) | (our_sums != their_sums)
    rows = np.maximum(our_rows, their_rows)[differs].tolist()
    spans: list[Span] = []
    for number, held in zip(numbers[differs].tolist(), rows, strict=True):
        span = _span(number, held, unit)
        if spans and spans[-1].last + 1 == span.first and spans[-1].rows + held <= ROWS_OPENED_MAX:
            span = _join(spans.pop(), span)
        spans.append(span)
    return spans


def finer(unit: Unit) -> Unit:
    """The same keys in smaller chunks."""
    return replace(unit, shift=max(0, unit.shift - FINER_BITS))


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


def differing_rows(
    ours: tuple[Integers, Integers], theirs: tuple[Integers, Integers]
) -> tuple[Integers, Integers]:
    """Which rows of either side the other has not, or not as often: their positions.

    A row is a key and a hash.  Of rows that are there too often, all are named.
    """
    keys = np.concatenate([ours[0], theirs[0]])
    hashes = np.concatenate([ours[1], theirs[1]])
    if not len(keys):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    counts = np.ones(len(keys), np.int64)
    counts[len(ours[0]) :] = -1
    order = np.lexsort((hashes, keys))
    keys, hashes = keys[order], hashes[order]
    starts = np.ones(len(keys), np.bool_)
    starts[1:] = (keys[1:] != keys[:-1]) | (hashes[1:] != hashes[:-1])
    groups = np.cumsum(starts) - 1
    surplus = np.add.reduceat(counts[order], np.flatnonzero(starts))
    rows = order[surplus[groups] != 0]
    return rows[rows < len(ours[0])], rows[rows >= len(ours[0])] - len(ours[0])


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


def _shift(width: int, rows: int) -> int:
    return max(0, (width * ROWS_PER_CHUNK // rows).bit_length() - 1)


def _spread(chunks: Chunks, numbers: Integers) -> tuple[Integers, Integers]:
    rows, sums = np.zeros(len(numbers), np.int64), np.zeros(len(numbers), np.int64)
    at = np.searchsorted(numbers, chunks.numbers)
    rows[at], sums[at] = chunks.rows, chunks.sums
    return rows, sums


def _span(number: int, rows: int, unit: Unit) -> Span:
    first, last = number << unit.shift, ((number + 1) << unit.shift) - 1
    if unit.lower is not None:
        first = max(first, unit.lower)
    if unit.upper is not None:
        last = min(last, unit.upper - 1)
    return Span(first, last, rows)


def _join(left: Span, right: Span) -> Span:
    return Span(left.first, right.last, left.rows + right.rows)
