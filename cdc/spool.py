"""What one applier has still to do: a queue that is bounded in memory, and goes on on disk.

Theory of operation.  Blocks wait in memory as long as there is space.  Where several
followers share a reader, a slow one must not hold up the others: what does not fit goes
to the end of a temporary file, without a name, and from then on everything does until
the file has been read.  The file is bounded, too; when it is full, or the disk is, there
is no space, and the reader waits.
"""

from __future__ import annotations

import os
import pickle
import tempfile
import threading
from collections import deque
from typing import IO

from cdc.parts import Part

QUEUE_MESSAGES_MAX = 100_000
SPILL_BYTES_MAX = 1 << 30
"""Of one follower; what it lags behind beyond that, all of them wait for."""

Block = list[Part]


def size_of(block: Block) -> int:
    """Bytes that it holds."""
    return sum(part.size for part in block)


def count_of(block: Block) -> int:
    """How many messages."""
    return sum(map(len, block))


class Spool:
    """Blocks on their way from the reader's thread to an applier's, first in, first out."""

    def __init__(self, *, bytes_max: int, spill_bytes_max: int) -> None:
        """`bytes_max` are in memory."""
        self._bytes_max = bytes_max
        self._spill_bytes_max = spill_bytes_max
        self._blocks: deque[Block] = deque()
        self._bytes = 0
        self._messages = 0
        self._unwritten = 0  # messages that were taken out last
        self._file: IO[bytes] | None = None
        self._sizes: deque[int] = deque()  # of the blocks in it
        self._written_to = 0
        self._read_to = 0
        self._closed = False
        self._changed = threading.Condition()

    @property
    def spilled_bytes(self) -> int:
        """How much waits on disk."""
        return self._written_to - self._read_to

    @property
    def empty(self) -> bool:
        """Whether nothing waits."""
        return not self._blocks and not self.spilled_bytes

    @property
    def idle(self) -> bool:
        """Whether nothing waits, and what was taken out last was dealt with."""
        return self.empty and not self._unwritten

    def put(self, block: Block, timeout_s: float) -> bool:
        """Add a block; False if there was no space for it."""
        with self._changed:
            if not self._changed.wait_for(self._has_space, timeout_s):
                return False
            if self._closed:
                return True  # nobody takes it out any more
            if self.spilled_bytes or not self._fits():
                if not self._spill(block):
                    self._changed.wait(timeout_s)
                    return False
            else:
                self._blocks.append(block)
                self._bytes += size_of(block)
                self._messages += count_of(block)
            self._changed.notify_all()
        return True

    def get(self, timeout_s: float) -> Block:
        """Take the next block out, and with that be done with the last one; [] if none came."""
        with self._changed:
            self._unwritten = 0
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self.empty, timeout_s)
            if self._blocks:
                block = self._blocks.popleft()
                self._bytes -= size_of(block)
                self._messages -= count_of(block)
            elif self.spilled_bytes:
                block = self._fetch()
            else:
                return []
            self._unwritten = count_of(block)
            return block

    def close(self) -> None:
        """Give up what waits."""
        with self._changed:
            self._closed = True
            if self._file is not None:
                self._file.close()
            self._changed.notify_all()

    def _fits(self) -> bool:
        """Whether one more block may wait in memory: one always may, however large."""
        return not self._messages or (
            self._messages < QUEUE_MESSAGES_MAX and self._bytes < self._bytes_max
        )

    def _has_space(self) -> bool:
        if self._closed:
            return True
        if self.spilled_bytes or not self._fits():
            return self._written_to < self._spill_bytes_max
        return True

    def _spill(self, block: Block) -> bool:
        """Put it into the file; False if there is no space on the disk."""
        left = memoryview(pickle.dumps(block, pickle.HIGHEST_PROTOCOL))
        size, at = len(left), self._written_to
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="dbsplit-spill-", buffering=0)  # noqa: SIM115 (see close)
            while left:
                written = os.pwrite(self._file.fileno(), left, at)
                left, at = left[written:], at + written
        except OSError:  # what is there of it is written over
            return False
        self._sizes.append(size)
        self._written_to = at
        return True

    def _fetch(self) -> Block:
        assert self._file is not None  # noqa: S101
        text, size = bytearray(), self._sizes.popleft()
        while len(text) < size:
            text += os.pread(self._file.fileno(), size - len(text), self._read_to + len(text))
        block: Block = pickle.loads(text)  # noqa: S301 (nobody else has this file)
        self._read_to += size
        if self._read_to == self._written_to:
            self._read_to = self._written_to = 0
            self._file.truncate(0)
        return block
