"""The net effect of many changes whose rows are told apart by numbers, found side by side.

What `cdc.compaction` finds change by change, for the common case: no key was updated,
no old row was told, and keys are numbers or uuids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdc.messages import DELETE, INSERT
from cdc.row_messages import Walked
from cdc.rows import NULL, Row, Unchanged, blank, fill, unchanged_of
from cdc.tuples import COUNT, Tuples

_Places = NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Net:
    """What became of the rows of one table, in the order of their keys.

    UNCHANGED values are NULL here.
    """

    walked: Walked
    copied: bytes  # the rows to insert, as COPY's binary format has them
    cuts: _Places  # where they meet
    change: Mapping[Unchanged, Sequence[Row]]  # rows that exist, as they are now, by what they lack
    gone: Sequence[Row]  # with the key at least: they existed and do not now, or are new ones
    passed: Sequence[Row]  # the same of rows that were only there in between

    @property
    def appearing(self) -> int:
        """How many rows are to be inserted."""
        return len(self.cuts) - 1

    def appear(self) -> list[Row]:
        """The rows to insert."""
        text, begins = self.copied, (self.cuts[:-1] + COUNT).tolist()
        return [text[a:b] for a, b in zip(begins, self.cuts[1:].tolist(), strict=True)]


def net(walked: Walked, key: Sequence[int]) -> Net | None:
    """The net effect of row messages; None if it is to be found change by change."""
    rows = walked.first
    if not len(rows) or not key or walked.second is not None:
        return None
    numbers = rows.numbers(key)
    if numbers is None:
        return None
    text, cuts = rows.copied(NULL)
    inserts = walked.kinds == INSERT
    are_new = inserts.all() and len(numbers) == 1 and (numbers[0][1:] > numbers[0][:-1]).all()
    if are_new and not rows.has_unchanged:
        return Net(walked, text, cuts, {}, (), ())
    chains = _chains(numbers)
    first, last = chains.first, chains.last
    is_new = np.logical_or.reduceat(inserts[chains.order], chains.begin)
    existed, exists = ~inserts[first], walked.kinds[last] != DELETE
    told = _Told(rows, chains, text, cuts)
    appear = last[exists & is_new]
    if told.lack_some(appear):
        return None  # it is no row that was inserted
    to_insert = told.cut(appear, text[:COUNT])
    change = told.by_lacking(last[exists & ~is_new])
    return Net(
        walked,
        b"".join(to_insert),
        np.cumsum([0, *map(len, to_insert)]),
        change={lacking: told.cut(places) for lacking, places in change.items()},
        gone=told.cut(first[existed & (~exists | is_new)]),
        passed=told.cut(last[~existed & ~exists]),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Chains:
    """The changes of each row, in turn."""

    order: _Places  # the places of all changes, those of a row side by side
    begin: _Places  # where in it those of another row begin
    end: _Places  # and end

    @property
    def first(self) -> _Places:
        """The place of each row's first change."""
        places: _Places = self.order[self.begin]
        return places

    @property
    def last(self) -> _Places:
        """The place of each row's last change."""
        places: _Places = self.order[self.end - 1]
        return places


def _chains(numbers: Sequence[_Places]) -> _Chains:
    order = (
        np.argsort(numbers[0], kind="stable") if len(numbers) == 1 else np.lexsort(numbers[::-1])
    )
    begins = np.ones(len(order), bool)
    begins[1:] = False
    for number in numbers:
        begins[1:] |= number[order[1:]] != number[order[:-1]]
    (begin,) = begins.nonzero()
    return _Chains(order, begin, np.append(begin[1:], len(order)))


class _Told:
    """Rows as the log tells them, which may be in several changes."""

    def __init__(self, rows: Tuples, chains: _Chains, text: bytes, cuts: _Places) -> None:
        self._rows = rows
        self._text = text
        self._cuts = cuts
        self._partial = rows.partial()
        self._is_partial = np.zeros(len(rows), bool)
        self._is_partial[list(self._partial)] = True
        several = self._is_partial[chains.last] & (chains.end - chains.begin > 1)
        self._merged: dict[int, Row] = {}  # by the place of their last change
        for number in np.flatnonzero(several).tolist():
            self._merge(chains.order[chains.begin[number] : chains.end[number]].tolist())

    def lack_some(self, places: _Places) -> bool:
        """Whether a row at these places has values that are UNCHANGED."""
        return any(self._partial[place] for place in places[self._is_partial[places]].tolist())

    def cut(self, places: _Places, head: bytes = b"") -> list[bytes]:
        """The rows at these places, each behind its head, or without."""
        text = self._text
        begins = self._cuts[places] + (0 if head else COUNT)
        ends = self._cuts[places + 1].tolist()
        found = [text[a:b] for a, b in zip(begins.tolist(), ends, strict=True)]
        if self._merged:
            for number in np.flatnonzero(np.isin(places, list(self._merged))).tolist():
                place = int(places[number])
                found[number] = head + blank(self._merged[place], self._partial[place])
        return found

    def by_lacking(self, places: _Places) -> dict[Unchanged, _Places]:
        """These rows by which of their values are UNCHANGED."""
        is_partial = self._is_partial[places]
        found: dict[Unchanged, list[int]] = {}
        for place in places[is_partial].tolist():
            found.setdefault(self._partial[place], []).append(place)
        whole = np.append(places[~is_partial], found.pop((), [])).astype(np.int64)
        change = {lacking: np.array(some) for lacking, some in found.items()}
        return change | {(): whole} if len(whole) else change

    def _merge(self, places: Sequence[int]) -> None:
        """Note what a row is after these changes, as far as they tell it."""
        row = self._rows.row(places[0])
        for place in places[1:]:
            row = fill(self._rows.row(place), row)
        self._merged[places[-1]] = row
        self._partial[places[-1]] = unchanged_of(row)
