"""Rows of buckets that differ, and the keys of those that do, kept in files without names.

However many rows differ, little of it is held in memory.  numpy, which is loaded with
this, is wanted only once something differs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from tempfile import SpooledTemporaryFile
from typing import TYPE_CHECKING, Final

import numpy as np

from validators.differing import differing_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from validators.sides import Key

    Rows = NDArray[np.void]

ROW: Final = np.dtype([("hash", ">i8"), ("block", ">u4"), ("offset", ">u2"), ("bucket", ">u2")])
"""As int8send(), tidsend() and int2send() write them."""
ROWS_PER_PART: Final = 100_000
PARTS_MAX: Final = 128  # files, on each side
HELD_BYTES: Final = 4 << 20  # of one side's rows, before they go to the disk


class OpenedRows:
    """Rows of one side, in parts by their buckets; a part fits in memory."""

    def __init__(self, stack: ExitStack, parts: int) -> None:
        held = HELD_BYTES // parts
        self._files = [
            stack.enter_context(SpooledTemporaryFile(max_size=held))  # noqa: SIM115 -- the stack's
            for _ in range(parts)
        ]

    def add(self, raw: bytes) -> None:
        """Take rows as a server sent them."""
        rows = np.frombuffer(raw, ROW)
        parts = len(self._files)
        of = rows["bucket"] & (parts - 1)
        order = np.argsort(of, kind="stable")
        marks = np.searchsorted(of[order], np.arange(parts + 1)).tolist()
        for number, file in enumerate(self._files):
            file.write(rows[order[marks[number] : marks[number + 1]]].tobytes())

    def part(self, number: int) -> Rows:
        """The rows of a part."""
        file = self._files[number]
        file.seek(0)
        return np.frombuffer(file.read(), ROW)


def parts_of(rows: int) -> int:
    """Into how many parts so many rows go: a power of two."""
    return min(PARTS_MAX, 1 << max(0, rows // ROWS_PER_PART).bit_length())


def unlike(ours: Rows, theirs: Rows) -> tuple[Rows, Rows]:
    """The rows of either side that the other has not, or not as often."""
    mine, others = differing_rows(
        (ours["bucket"].astype(np.int64), ours["hash"].astype(np.int64)),
        (theirs["bucket"].astype(np.int64), theirs["hash"].astype(np.int64)),
    )
    return ours[mine], theirs[others]


class Keys:
    """Keys, in the order in which they came."""

    def __init__(self, stack: ExitStack) -> None:
        file = SpooledTemporaryFile(max_size=HELD_BYTES)  # noqa: SIM115 -- the stack's
        self._file = stack.enter_context(file)

    def clear(self) -> None:
        """Forget all of them."""
        self._file.seek(0)
        self._file.truncate()

    def add(self, keys: Iterable[Key]) -> None:
        """Take some."""
        for key in keys:
            self._file.write(json.dumps(key).encode() + b"\n")

    def groups(self, size: int) -> Iterator[Sequence[Key]]:
        """All of them, so many at a time."""
        self._file.seek(0)
        group: list[Key] = []
        for line in self._file:
            group.append(tuple(json.loads(line)))
            if len(group) == size:
                yield group
                group = []
        if group:
            yield group
