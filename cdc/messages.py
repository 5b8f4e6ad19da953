"""Messages of the output plugin, many at a time: one piece of memory, and where each lies in it.

An object for each message would cost more than all else that is done with it: from the
reader to the follower, rows are places in a text, and thousands are looked at at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

INSERT: Final = 0x49
UPDATE: Final = 0x55
DELETE: Final = 0x44
BEGIN: Final = 0x42
COMMIT: Final = 0x43

IS_ROW = np.zeros(256, bool)
IS_ROW[[INSERT, UPDATE, DELETE]] = True

HEAD_MAX = 64
"""So few bytes between messages are taken along."""

Places = NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Messages:
    """Messages in their order, where each begins in the text, and where it ends."""

    text: bytes
    starts: Places
    ends: Places

    @classmethod
    def of(cls, some: Sequence[bytes | memoryview], head: int = 0) -> Messages:
        """These, without so many bytes before each."""
        ends = np.cumsum(np.fromiter(map(len, some), np.int64, len(some)))
        starts = np.concatenate((np.full(1, head), ends[:-1] + head))[: len(some)]
        return cls(b"".join(some), starts, ends)

    @classmethod
    def joined(cls, parts: Sequence[Messages]) -> Messages:
        """All of some messages in turn, in one text, with the same few bytes before each.

        What lies side by side is taken in one piece, with the heads in between.
        """
        parts = [part for part in parts if len(part)]
        if not parts:
            return NONE
        between = [part.starts[1:] - part.ends[:-1] for part in parts]
        head = min(
            int(min(gaps.min(initial=HEAD_MAX), p.starts[0]))
            for gaps, p in zip(between, parts, strict=True)
        )
        found: list[bytes] = []
        for part, gaps in zip(parts, between, strict=True):
            apart = np.flatnonzero(gaps != head)
            begins = [int(part.starts[0]) - head, *(part.starts[apart + 1] - head).tolist()]
            ends = [*part.ends[apart].tolist(), int(part.ends[-1])]
            text = part.text
            found += [text[a:b] for a, b in zip(begins, ends, strict=True)]
        sizes = np.concatenate([part.ends - part.starts for part in parts])
        ends_now = np.cumsum(sizes + head)
        return cls(b"".join(found), ends_now - sizes, ends_now)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, place: int) -> bytes:
        return self.text[self.starts[place] : self.ends[place]]

    def only(self, which: Places | slice) -> Messages:
        """Some of them, of the same text."""
        return Messages(self.text, self.starts[which], self.ends[which])

    @property
    def size(self) -> int:
        """Bytes of the messages themselves."""
        return int((self.ends - self.starts).sum())

    @property
    def kinds(self) -> Places:
        """The first byte of each."""
        return np.frombuffer(self.text, np.uint8)[self.starts]

    @property
    def relations(self) -> Places:
        """The relation's OID of each, which are all rows."""
        if not len(self.starts):
            return np.zeros(0, np.uint32)
        text = self.text
        # Any four bytes of the text as a number.
        numbers: Places = np.ndarray((len(text) - 3,), ">u4", text, strides=(1,))
        found: Places = numbers[self.starts + 1].astype(np.uint32)
        return found


NONE: Final = Messages(b"", np.zeros(0, np.int64), np.zeros(0, np.int64))
