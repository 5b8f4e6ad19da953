"""Reading many row messages of pgoutput at once.

Protocol version 1: PostgreSQL manual, chapter 54.9 "Logical Replication Message
Formats".  A row's values follow each other, each behind its kind and its length, so
one row can only be walked from left to right.  But thousands of rows can be walked
side by side, column by column; numpy does that about five times faster than Python
walks them one by one, and for wide rows this decides whether the stream keeps up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdc.messages import HEAD_MAX, UPDATE, Messages
from cdc.rows import LENGTH, NULL, UNCHANGED, Key, Row, Unchanged, fill, key_of

_HEAD = 6  # the message's kind, the relation's OID, and what the tuple is
_NEW = 0x4E
_TEXT, _BINARY, _NULL, _UNCHANGED = b"tbnu"
_COUNT = 2  # bytes that tell the number of values
_IS_SIZED = np.zeros(256, np.int64)
_IS_SIZED[[_TEXT, _BINARY]] = 1
_IS_KIND = np.zeros(256, bool)
_IS_KIND[[_TEXT, _BINARY, _NULL, _UNCHANGED]] = True

_NUMBERS = {
    2: ((2, ">i2"),),
    4: ((4, ">i4"),),
    8: ((8, ">i8"),),
    16: ((8, ">i8"), (8, ">i8")),
}
"""How many bytes are which numbers."""

_Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class RowChanges:
    """What row messages of one relation say, in their order."""

    kinds: list[int]  # INSERT, UPDATE or DELETE
    keys: list[Key]  # of the new row, or of the deleted one
    rows: list[Row]  # the new row, or the deleted one as far as it was told
    old: Mapping[int, tuple[Key, Row]]  # what an update, by its place, tells of its old row
    partial: Mapping[int, Unchanged]  # of rows, by their place, that have UNCHANGED values


@dataclass(frozen=True, slots=True, eq=False)
class Walked:
    """Row messages of one relation, of which it is known where their values lie."""

    kinds: _Array  # INSERT, UPDATE or DELETE
    first: Tuples  # the only tuple of each, or the old one of an update that tells it
    renewed: _Array  # the places of those updates
    second: Tuples | None  # their new tuples


def walk(messages: Messages, width: int) -> Walked:
    """Find the values of messages of one relation with `width` columns, side by side.

    Raises ValueError for a message that is not of this form: guessing on would mean
    guessing rows.
    """
    # A length is looked for behind the end, too.
    text = messages.text + b"\0" * LENGTH
    data = np.frombuffer(text, np.uint8)
    starts, ends = messages.starts, messages.ends
    kinds = data[starts]
    walk = _Walk(text, data, width)
    first = walk.tuples(starts + _HEAD)
    renewed = np.flatnonzero((kinds == UPDATE) & (data[starts + _HEAD - 1] != _NEW))
    if not len(renewed):
        _require_ends(first.end, ends)
        return Walked(kinds, first, renewed, None)
    second = walk.tuples(first.end[renewed] + 1)
    last = first.end.copy()
    last[renewed] = second.end
    _require_ends(last, ends)
    return Walked(kinds, first, renewed, second)


def read_rows(walked: Walked, key: Sequence[int]) -> RowChanges:
    """What the messages say, one by one; the key is at these columns."""
    first, second, kinds = walked.first, walked.second, walked.kinds.tolist()
    rows, keys = first.rows(), first.keys(key)
    partial = first.partial()
    if second is None:
        return RowChanges(kinds, keys, rows, {}, partial)
    old = {}
    renewed = walked.renewed.tolist()
    news = zip(renewed, second.keys(key), second.rows(), strict=True)
    for place, new_key, new in news:
        old[place] = keys[place], rows[place]
        if UNCHANGED in new_key:  # a long key that was not touched, or bytes that look like it
            new_key = key_of(fill(new, rows[place]), key)
        keys[place], rows[place] = new_key, new
        partial.pop(place, None)
    partial |= {renewed[place]: which for place, which in second.partial().items()}
    return RowChanges(kinds, keys, rows, old, partial)


def rearranged(message: bytes, order: Sequence[int | bytes]) -> bytes:
    """A row message with only the values at these positions, in this order.

    Bytes stand for themselves: a value with its kind, which all rows of then had.
    """
    parts = [message[: _HEAD - 1]]
    at = _HEAD - 1
    while at < len(message):
        tag, at = message[at : at + 1], at + 1
        found, at = _split(message, at)
        values = (found[one] if isinstance(one, int) else one for one in order)
        parts += [tag, len(order).to_bytes(_COUNT, "big"), *values]
    return b"".join(parts)


def _split(message: bytes, at: int) -> tuple[list[bytes], int]:
    """The values of the tuple that begins here, each with its kind, and where it ends."""
    count = int.from_bytes(message[at : at + _COUNT], "big")
    at += _COUNT
    found = []
    for _ in range(count):
        begin, at = at, at + 1
        if message[begin] in (_TEXT, _BINARY):
            at += LENGTH + int.from_bytes(message[at : at + LENGTH], "big")
        found.append(message[begin:at])
    return found, at


def _require_ends(found: _Array, ends: _Array) -> None:
    if not np.array_equal(found, ends):
        raise ValueError("a row message is not as long as its values say")


class _Walk:
    """Goes through tuples of one width, all of them at once.

    Positions beyond the end are taken for the last one: whoever has walked checks where
    the tuples end, and nothing of what was read wrongly is used.
    """

    def __init__(self, text: bytes, data: _Array, width: int) -> None:
        self._text = text
        self._data = data
        self._width = width
        # Any four bytes of the text as a number.
        self._lengths = np.ndarray((len(text) - LENGTH + 1,), ">i4", text, strides=(1,))

    def tuples(self, start: _Array) -> Tuples:
        """The tuples that begin at these positions."""
        data, lengths, last = self._data, self._lengths, len(self._lengths) - 1
        at = np.empty((self._width + 1, len(start)), np.int64)
        kinds = np.empty((self._width, len(start)), np.uint8)
        counts = data.take(start, mode="clip").astype(np.int64) << 8
        if (counts + data.take(start + 1, mode="clip") != self._width).any():
            raise ValueError(f"a row does not have {self._width} values")
        place = at[0] = start + _COUNT
        for column in range(self._width):
            kind = kinds[column] = data.take(place, mode="clip")
            place = place + 1
            # Not take(), which would first copy what is not aligned, thus all of it.
            size = lengths[np.minimum(place, last)].astype(np.int64)
            size += LENGTH
            size *= _IS_SIZED.take(kind)
            place = at[column + 1] = place + size
        if not _IS_KIND.take(kinds).all():
            raise ValueError(f"unknown kinds of values: {bytes(set(kinds.reshape(-1).tolist()))!r}")
        return Tuples(self._text, data, at, kinds)


class Tuples:
    """Tuples that were walked through: where their values begin, and of which kind they are."""

    def __init__(self, text: bytes, data: _Array, at: _Array, kinds: _Array) -> None:
        self._text = text
        self._data = data
        self._at = at
        self._kinds = kinds
        self._sized = _IS_SIZED.take(kinds).astype(bool)
        self.end = at[-1]

    def __len__(self) -> int:
        return len(self.end)

    def rows(self) -> list[Row]:
        """Their values, without the kinds, joined."""
        joined, cuts = self.copied()
        ends = cuts.tolist()
        starts = (cuts[:-1] + _COUNT).tolist()
        return [joined[a:b] for a, b in zip(starts, ends[1:], strict=True)]

    def copied(self) -> tuple[bytes, _Array]:
        """They, as COPY's binary format has rows, one behind the other; and where they meet.

        UNCHANGED stands for a length there.
        """
        at, sized = self._at, self._sized
        count = len(self.end)
        given = self._data[self._kept()]
        if sized.all():
            joined = given.tobytes()
            sizes = at[-1] - at[0] - len(sized) + _COUNT
        else:
            # Row by row, where each value goes; what has no bytes keeps the ones of NULL.
            is_given = np.concatenate((np.ones((1, count), bool), sized))
            each = np.where(sized, at[1:] - at[:-1] - 1, LENGTH)
            each = np.concatenate((np.full((1, count), _COUNT), each)).T.reshape(-1)
            after = np.cumsum(each)
            begins = after - each
            absent = begins[~is_given.T.reshape(-1)]
            into = np.full(int(after[-1]), 0xFF, np.uint8)
            to = np.ones(len(into), bool)
            for byte in range(LENGTH):
                to[absent + byte] = False
            into[to] = given
            if self.has_unchanged:
                unchanged = np.concatenate((~is_given[:1], self._kinds == _UNCHANGED))
                into[begins[unchanged.T.reshape(-1)] + LENGTH - 1] = UNCHANGED[-1]
            joined = into.tobytes()
            lasts = after[len(sized) :: len(sized) + 1]
            return joined, np.concatenate((np.zeros(1, np.int64), lasts))
        return joined, np.concatenate((np.zeros(1, np.int64), np.cumsum(sizes)))

    def numbers(self, key: Sequence[int]) -> list[_Array] | None:
        """The values at these columns as numbers, whose order means nothing.

        None unless they are all in binary form and of the same few sizes.
        """
        found = []
        for place in key:
            size = self._at[place + 1] - self._at[place] - 1 - LENGTH
            of = int(size[0])
            if of not in _NUMBERS or (size != of).any() or (self._kinds[place] != _BINARY).any():
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
        return bool((self._kinds == _UNCHANGED).any())

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
        unchanged = self._kinds == _UNCHANGED
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
        for number in np.flatnonzero(self._kinds[place] == _NULL).tolist():
            found[number] = NULL
        for number in np.flatnonzero(self._kinds[place] == _UNCHANGED).tolist():
            found[number] = UNCHANGED
        return found

    def _kept(self) -> _Array:
        """Which bytes of the text are values, or the count of them before each tuple."""
        at, size = self._at, len(self._text)
        gaps = at[0] - np.concatenate((np.zeros(1, np.int64), at[-1][:-1]))
        gap = int(gaps[0])
        if gap < HEAD_MAX and (gaps == gap).all() and size - at[-1][-1] == LENGTH:
            # Between the tuples there is nothing but heads.
            kept = np.ones(size, bool)
            kept[-LENGTH:] = False
            for byte in range(_COUNT, gap):
                kept[at[0] - byte - 1] = False
        else:
            marks = np.zeros(size, np.int8)
            marks[at[0] - _COUNT] = 1
            marks[at[-1]] -= 1
            kept = np.cumsum(marks, dtype=np.int8).view(bool)
        kept[at[:-1].reshape(-1)] = False
        return kept
