"""What two sides' chunks and rows have not in common; no I/O.

numpy, which is loaded with this, is wanted only once something differs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from validators.units import MODULUS, ROWS_OPENED_MAX, Chunks, Span, Unit, span_of

if TYPE_CHECKING:
    from validators.arrays import Integers


def differing_chunks(ours: Chunks, theirs: Chunks) -> list[tuple[int, int]]:
    """The numbers of chunks that do not hold the same rows, ascending, and their rows."""
    our_numbers, their_numbers = ours.numbers.integers(), theirs.numbers.integers()
    numbers = np.union1d(our_numbers, their_numbers)
    our_rows, our_sums = _spread(ours, our_numbers, numbers)
    their_rows, their_sums = _spread(theirs, their_numbers, numbers)
    differs = (our_rows != their_rows) | (our_sums != their_sums)
    rows = np.maximum(our_rows, their_rows)[differs].tolist()
    return list(zip(numbers[differs].tolist(), rows, strict=True))


def differing_spans(ours: Chunks, theirs: Chunks, unit: Unit) -> list[Span]:
    """The keys of the chunks that do not hold the same rows, neighbours together.

    No span holds more than about ROWS_OPENED_MAX rows, unless it is one chunk.
    """
    spans: list[Span] = []
    for number, held in differing_chunks(ours, theirs):
        span = span_of(number, held, unit)
        if spans and spans[-1].last + 1 == span.first and spans[-1].rows + held <= ROWS_OPENED_MAX:
            before = spans.pop()
            span = Span(before.first, span.last, before.rows + held)
        spans.append(span)
    return spans


class Sums:
    """The buckets of one side, added up range by range."""

    def __init__(self, buckets: int) -> None:
        self.rows = np.zeros(buckets, np.int64)
        self.sums = np.zeros(buckets, np.uint64)  # two of them are less than 2**64

    def add(self, chunks: Chunks) -> None:
        """Add what a range holds."""
        at = chunks.numbers.integers()
        self.rows[at] += chunks.rows.integers()
        more = (chunks.sums.integers() % MODULUS).astype(np.uint64)
        self.sums[at] = (self.sums[at] + more) % np.uint64(MODULUS)

    def differing(self, others: Sums) -> list[int]:
        """The buckets that do not hold the same rows, ascending."""
        differs = (self.rows != others.rows) | (self.sums != others.sums)
        return [int(bucket) for bucket in np.flatnonzero(differs)]

    def rows_of(self, buckets: list[int]) -> int:
        """How many rows these buckets hold."""
        return int(self.rows[buckets].sum())


def pairs(raw: bytes) -> tuple[Integers, Integers]:
    """Two columns of int8, which the server wrote in turns."""
    both = np.frombuffer(raw, ">i8").astype(np.int64)
    return both[::2], both[1::2]


def digest_of_pairs(raw: bytes) -> int:
    """The sum of the second column, as `Chunks.digest` has it."""
    _, hashes = pairs(raw)
    # In halves: a sum of int64 would overflow.
    halves = int((hashes >> 32).sum()) << 32, int((hashes & 0xFFFFFFFF).sum())
    return sum(halves) % MODULUS


def share_of_chunks(raw: bytes, shift: int, chunks: set[int]) -> float:
    """The part of the rows whose keys, the first column, lie in these chunks."""
    keys, _ = pairs(raw)
    if not chunks or not len(keys):
        return 0.0
    return float(np.isin(keys >> shift, list(chunks)).mean())


def differing_rows(
    ours: tuple[Integers, Integers], theirs: tuple[Integers, Integers]
) -> tuple[Integers, Integers]:
    """Rows of either side that the other has not, or not as often: their positions.

    A row is a key and a hash.  Of rows that are there too often, one at least is named,
    on the side that has more of them.
    """
    if len(ours[0]) != len(theirs[0]) or not (ours[0] == theirs[0]).all():
        return _surplus(ours, theirs)
    # The same keys in the same order: what is equal side by side cannot be what differs.
    unlike = np.flatnonzero(ours[1] != theirs[1])
    mine, others = _surplus(
        (ours[0][unlike], ours[1][unlike]), (theirs[0][unlike], theirs[1][unlike])
    )
    return unlike[mine], unlike[others]


def _surplus(
    ours: tuple[Integers, Integers], theirs: tuple[Integers, Integers]
) -> tuple[Integers, Integers]:
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


def _spread(chunks: Chunks, own: Integers, numbers: Integers) -> tuple[Integers, Integers]:
    rows, sums = np.zeros(len(numbers), np.int64), np.zeros(len(numbers), np.int64)
    at = np.searchsorted(numbers, own)
    rows[at], sums[at] = chunks.rows.integers(), chunks.sums.integers()
    return rows, sums
