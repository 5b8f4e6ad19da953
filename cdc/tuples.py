"""Tuples of pgoutput, thousands at a time: where their values lie, and what becomes of them.

A value is its kind, its length and its bytes; in COPY's binary format it is the same
without the kind.  So most of a row is copied as it came, and what has to be left out or put
in between decides the cost: single bytes by a mask over all bytes, long values and whatever
else is rare by cutting there and joining the pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdc.messages import HEAD_MAX
from cdc.rows import LENGTH, NULL, UNCHANGED, Key, Row, Unchanged

TEXT, BINARY, ABSENT, KEPT = b"tbnu"
"""What a value is: its kind in the protocol; KEPT is one that is UNCHANGED."""

COUNT = 2  # bytes that tell the number of values
PAD = 8
"""So many bytes behind the last tuple: numbers of up to that size are looked for anywhere."""

LONG = 1024
"""Values from so many bytes on are cut out and joined: a mask costs more for each byte."""

CUT_BYTES = 64
"""Cutting at one place costs about as much as a mask over so many bytes."""

_IS_SIZED = np.zeros(256, bool)
_IS_SIZED[[TEXT, BINARY]] = True
_IS_KIND = np.zeros(256, bool)
_IS_KIND[[TEXT, BINARY, ABSENT, KEPT]] = True

_NUMBERS = {
    2: ((2, ">i2"),),
    4: ((4, ">i4"),),
    8: ((8, ">i8"),),
    16: ((8, ">i8"), (8, ">i8")),
}
"""How many bytes are which numbers."""

_HEAD = 0xFF_FFFF_FFFF  # of eight bytes from a value's kind on, its kind and its length

_Array = NDArray[Any]


class Walk:
    """Goes through tuples of one width, all of them at once."""

    def __init__(self, text: bytes, width: int) -> None:
        """`text` ends with PAD bytes that are of no tuple."""
        self._text = text
        self.data = np.frombuffer(text, np.uint8)
        """Each byte of the text."""
        self._width = width
        # Any eight bytes of the text as a number, whose lowest byte comes first.
        self._words = np.ndarray((len(text) - PAD + 1,), "<u8", text, strides=(1,))

    def tuples(self, start: _Array) -> Tuples:
        """The tuples that begin at these positions.

        Raises ValueError for what cannot be one.  Whoever has walked checks where the
        tuples end: only then they are what was sent.
        """
        try:
            return self._tuples(start)
        except IndexError:
            raise ValueError("a row message is not as long as its values say") from None

    def _tuples(self, start: _Array) -> Tuples:
        words, width = self._words, self._width
        at = np.empty((width + 1, len(start)), np.int64)
        kinds = np.empty((width, len(start)), np.uint8)
        if ((words[start] & 0xFFFF).astype(np.uint16).byteswap() != width).any():
            raise ValueError(f"a row does not have {width} values")
        place = at[0] = start + COUNT
        for column in range(width):
            head = words[place] & _HEAD
            kinds[column] = head  # the lowest byte
            place = at[column + 1] = place + _sizes(head, kinds[column])
        if not _IS_KIND.take(kinds).all():
            raise ValueError(f"unknown kinds of values: {bytes(set(kinds.reshape(-1).tolist()))!r}")
        return Tuples(self._text, self.data, at, kinds)


def _sizes(heads: _Array, kinds: _Array) -> _Array | int:
    """So many bytes values with these heads take, their kinds included."""
    first = heads[:1]
    if (heads == first).all():  # numbers, and others whose size is that of their type
        heads, kinds = first, kinds[:1]
    sizes = (heads >> 8).astype(np.uint32).byteswap(inplace=True).astype(np.int64)
    sizes += LENGTH
    sizes *= _IS_SIZED.take(kinds)
    sizes += 1
    return sizes


class Tuples:
    """Tuples that were walked through: where their values begin, and of which kind they are."""

    def __init__(self, text: bytes, data: _Array, at: _Array, kinds: _Array) -> None:
        self._text = text
        self._data = data
        self._at = at
        self._kinds = kinds
        self._sized = _IS_SIZED.take(kinds)
        self.end = at[-1]

    def __len__(self) -> int:
        return len(self.end)

    def rows(self) -> list[Row]:
        """Their values, without the kinds, joined."""
        joined, cuts = self.copied(UNCHANGED)
        ends = cuts.tolist()
        starts = (cuts[:-1] + COUNT).tolist()
        return [joined[a:b] for a, b in zip(starts, ends[1:], strict=True)]

    def row(self, place: int) -> Row:
        """The values of one, likewise."""
        text, sized, kinds = self._text, self._sized[:, place], self._kinds[:, place]
        at = self._at[:, place].tolist()
        found = zip(at[:-1], at[1:], sized.tolist(), kinds.tolist(), strict=True)
        return b"".join(
            text[a + 1 : b] if is_sized else (NULL if kind == ABSENT else UNCHANGED)
            for a, b, is_sized, kind in found
        )

    def copied(self, unchanged: bytes) -> tuple[bytes, _Array]:
        """They, as COPY's binary format has rows, one behind the other; and where they meet.

        What is UNCHANGED becomes `unchanged`, which takes the place of a length.
        """
        at, width = self._at, len(self._sized)
        absent = width - np.count_nonzero(self._sized, axis=0)
        sizes = at[-1] - at[0] - width + COUNT + LENGTH * absent
        cuts = np.concatenate((np.zeros(1, np.int64), np.cumsum(sizes)))
        long = self._long()
        places = np.flatnonzero((~self._sized if long is None else ~self._sized | long).T)
        if not len(places):
            return self._data[self._kept()].tobytes(), cuts
        if len(places) * CUT_BYTES > cuts[-1]:
            return self._spread(unchanged), cuts
        return self._pieced(places, unchanged), cuts

    def _long(self) -> _Array | None:
        """Which values are LONG; None if none is."""
        if int((self._at[-1] - self._at[0]).max(initial=0)) < LONG:
            return None
        return self._at[1:] - self._at[:-1] > LONG

    def _pieced(self, places: _Array, unchanged: bytes) -> bytes:
        """The rows, cut at these values, which are counted row by row."""
        rows, columns = np.divmod(places, len(self._sized))
        begins, ends = self._at[columns, rows] + 1, self._at[columns + 1, rows]
        kinds = self._kinds[columns, rows]
        kept = self._kept()
        text = memoryview(self._text)
        between: list[bytes | memoryview] = []
        left_out = ends - begins
        for begin, end, kind in zip(begins.tolist(), ends.tolist(), kinds.tolist(), strict=True):
            if begin < end:
                between.append(text[begin:end])
                kept[begin:end] = False
            else:
                between.append(NULL if kind == ABSENT else unchanged)
        rest = self._data[kept].data
        # How many bytes of the rest go before each: those of the rows before, and of its own.
        sizes = self._at[-1] - self._at[0] - len(self._sized) + COUNT
        before = (np.cumsum(sizes) - sizes)[rows]
        before += begins - 1 - self._at[0, rows] - columns + COUNT
        before[1:] -= np.cumsum(left_out)[:-1]
        return _joined(rest, before.tolist(), between)

    def _spread(self, unchanged: bytes) -> bytes:
        """The rows, those bytes put between others that are no value's."""
        at, sized, count = self._at, self._sized, len(self.end)
        given = self._data[self._kept()]
        # Row by row, where each value goes; what has no bytes keeps the ones of NULL.
        is_given = np.concatenate((np.ones((1, count), bool), sized))
        each = np.where(sized, at[1:] - at[:-1] - 1, LENGTH)
        each = np.concatenate((np.full((1, count), COUNT), each)).T.reshape(-1)
        after = np.cumsum(each)
        begins = after - each
        absent = begins[~is_given.T.reshape(-1)]
        into = np.full(int(after[-1]), 0xFF, np.uint8)
        to = np.ones(len(into), bool)
        for byte in range(LENGTH):
            to[absent + byte] = False
        into[to] = given
        if unchanged != NULL and self.has_unchanged:
            kept = np.concatenate((~is_given[:1], self._kinds == KEPT))
            into[begins[kept.T.reshape(-1)] + LENGTH - 1] = unchanged[-1]
        return into.tobytes()

    def numbers(self, key: Sequence[int]) -> list[_Array] | None:
        """The values at these columns as numbers, whose order means nothing.

        None unless they are all in binary form and of the same few sizes.
        """
        found = []
        for place in key:
            size = self._at[place + 1] - self._at[place] - 1 - LENGTH
            of = int(size[0])
            if of not in _NUMBERS or (size != of).any() or (self._kinds[place] != BINARY).any():
                return None
            begin = self._at[place] + 1 + LENGTH
            for word, form in _NUMBERS[of]:
                any_ = np.ndarray((len(self._text) - word - 1,), form, self._text, strides=(1,))
                found.append(any_[begin].astype(np.int64))
                begin = begin + word
        return found

    @property
    def has_unchanged(self) -> bool:
        """Whether some values are UNCHANGED."""
        return bool((self._kinds == KEPT).any())

    def keys(self, key: Sequence[int]) -> list[Key]:
        """The values at these columns, joined."""
        if not key:
            return [b""] * len(self.end)
        columns = [self._column(place) for place in key]
        if len(columns) == 1:
            return columns[0]
        return [b"".join(parts) for parts in zip(*columns, strict=True)]

    def partial(self) -> dict[int, Unchanged]:
        """The places of the rows that have UNCHANGED values, and which these are."""
        unchanged = self._kinds == KEPT
        places = np.flatnonzero(unchanged.any(axis=0))
        if not len(places):
            return {}
        packed = np.packbits(unchanged[:, places], axis=0).T
        width, text = packed.shape[1], packed.tobytes()
        columns: dict[bytes, Unchanged] = {}
        found = {}
        for number, place in enumerate(places.tolist()):
            which = text[number * width : (number + 1) * width]
            if which not in columns:
                columns[which] = tuple(np.flatnonzero(unchanged[:, place]).tolist())
            found[place] = columns[which]
        return found

    def _column(self, place: int) -> list[Key]:
        text = self._text
        begin, end = (self._at[place] + 1).tolist(), self._at[place + 1].tolist()
        found = [text[a:b] for a, b in zip(begin, end, strict=True)]
        for number in np.flatnonzero(self._kinds[place] == ABSENT).tolist():
            found[number] = NULL
        for number in np.flatnonzero(self._kinds[place] == KEPT).tolist():
            found[number] = UNCHANGED
        return found

    def _kept(self) -> _Array:
        """Which bytes of the text are values, or the count of them before each tuple."""
        at, size = self._at, len(self._text)
        gaps = at[0] - np.concatenate((np.zeros(1, np.int64), at[-1][:-1]))
        gap = int(gaps[0])
        if gap < HEAD_MAX and (gaps == gap).all() and size - at[-1][-1] == PAD:
            # Between the tuples there is nothing but heads.
            kept = np.ones(size, bool)
            kept[-PAD:] = False
            for byte in range(COUNT, gap):
                kept[at[0] - byte - 1] = False
        else:
            marks = np.zeros(size, np.int8)
            marks[at[0] - COUNT] = 1
            marks[at[-1]] -= 1
            kept = np.cumsum(marks, dtype=np.int8).view(bool)
        kept[at[:-1].reshape(-1)] = False
        return kept


def _joined(
    rest: memoryview, before: Sequence[int], between: Sequence[bytes | memoryview]
) -> bytes:
    """`rest`, with something put in where so many of its bytes have gone."""
    pieces: list[bytes | memoryview] = []
    at = 0
    for end, one in zip(before, between, strict=True):
        pieces += (rest[at:end], one)
        at = end
    pieces.append(rest[at:])
    return b"".join(pieces)
