"""The net effect of many changes whose rows are told apart by numbers, found side by side.

What `cdc.compaction` finds change by change, for the common case: every row came in
full, no key was updated, and keys are numbers or uuids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdc.messages import DELETE, INSERT
from cdc.row_messages import Walked
from cdc.rows import Row

_COUNT = 2  # bytes before a row's values

_Places = NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Net:
    """What became of the rows of one table, in the order of their keys."""

    walked: Walked
    text: bytes  # of the rows, as COPY's binary format has them
    cuts: _Places  # where they meet
    appear: _Places | None  # rows to insert; None is all, as they lie there
    change: _Places  # rows that exist, as they are now
    gone: _Places  # rows, with the key at least, that existed and do not now, or are new ones
    passed: _Places  # the same of rows that were only there in between

    def __len__(self) -> int:
        return len(self.cuts) - 1

    @property
    def appearing(self) -> int:
        """How many rows are to be inserted."""
        return len(self) if self.appear is None else len(self.appear)

    def copied(self) -> bytes:
        """The rows to insert, as COPY's binary format has them."""
        if self.appear is None:
            return self.text
        return b"".join(self._cut(self.appear, 0))

    def rows(self, some: _Places | None) -> list[Row]:
        """Those of some places, or all."""
        return self._cut(np.arange(len(self)) if some is None else some, _COUNT)

    def _cut(self, some: _Places, head: int) -> list[bytes]:
        text = self.text
        begins = (self.cuts[some] + head).tolist()
        return [text[a:b] for a, b in zip(begins, self.cuts[some + 1].tolist(), strict=True)]


def net(walked: Walked, key: Sequence[int]) -> Net | None:
    """The net effect of row messages; None if it is to be found change by change."""
    rows = walked.first
    if not len(rows) or not key or walked.second is not None or rows.has_unchanged:
        return None
    numbers = rows.numbers(key)
    if numbers is None:
        return None
    text, cuts = rows.copied()
    none = np.zeros(0, np.int64)
    inserts = walked.kinds == INSERT
    if inserts.all() and len(numbers) == 1 and (numbers[0][1:] > numbers[0][:-1]).all():
        return Net(walked, text, cuts, None, none, none, none)
    order = (
        np.argsort(numbers[0], kind="stable") if len(numbers) == 1 else np.lexsort(numbers[::-1])
    )
    # Where in this order the changes of another row begin, and where they end.
    begins = np.ones(len(order), bool)
    begins[1:] = False
    for number in numbers:
        begins[1:] |= number[order[1:]] != number[order[:-1]]
    (begin,) = begins.nonzero()
    first, last = order[begin], order[np.append(begin[1:], len(order)) - 1]
    is_new = np.logical_or.reduceat(inserts[order], begin)
    existed, exists = ~inserts[first], walked.kinds[last] != DELETE
    return Net(
        walked,
        text,
        cuts,
        appear=last[exists & is_new],
        change=last[exists & ~is_new],
        gone=first[existed & (~exists | is_new)],
        passed=last[~existed & ~exists],
    )
