"""Catching up on a backlog: changes pulled by SQL instead of streamed.

A walsender sends one message for each change.  Where a long log waits, the server
can decode many thousands of changes into one result for a fraction of that; each such
call costs a new beginning, so that it is nothing for following closely.

A call sends its first row when it has decoded all of them.  So there are two lines that
take turns: while the rows of one are read and applied, the other decodes what follows.

Large rows are left to the stream: what a message costs is little beside its bytes, which
a call writes to a file and reads again.

What is pulled comes from temporary copies of the slot.  The slot itself goes on only
after the followers have committed, as always.
"""

from __future__ import annotations

from typing import Self

import psycopg

from cdc.lsn import LSN
from cdc.messages import NONE
from cdc.pull_line import Line
from cdc.replication import ConnectionLost, Received, plugin_options

CALL_BYTES_MIN = 1 << 23
CALL_BYTES_MAX = 1 << 27
"""So much log in one call, more each time; always whole transactions.

The server keeps the result, which is about as large, in a temporary file until we have
read it.  Each call reads once more what the slot has to keep, so that few are cheaper.
"""

LARGE_BYTES = 1_500
"""Where messages are this long in the mean, no more are pulled."""

ADVANCE_BYTES = 1 << 28
"""The slot is moved on after so much log: the server can remove it then."""


class Pull:
    """A backlog's messages, in the order in which a stream would bring them; for one thread."""

    def __init__(self, dsn: str, slot: str, publication: str, *, binary: bool) -> None:
        self._dsn = dsn
        self._slot = slot
        self._options = plugin_options(publication, binary=binary)
        self._wanted = CALL_BYTES_MIN
        self._is_last = False
        """Whether no call follows the one that began last."""
        self._count = self._size = 0  # of all messages
        self._flushed = LSN(0)
        self._advanced = LSN(0)
        self.exhausted = False
        """Whether the last call came to its end; what there is beyond it is for the stream."""
        self._lines = [Line(dsn)]
        self._current = self._lines[0]
        self._next: Line | None = None
        self._alone = False
        try:
            self._current.take_over(slot)
        except BaseException:
            self._current.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for line in self._lines:
            line.close()

    def read(self, timeout_s: float) -> Received:
        """The messages that have arrived; none if none came within `timeout_s` seconds."""
        if self.exhausted:
            return Received(NONE)
        line = self._current
        if not line.running:
            self._call(line)
        elif line.begun and self._next is None and not (self._is_last or self._alone):
            self._next = self._call_ahead(line)
        messages = line.read(timeout_s)
        self._count += len(messages)
        self._size += messages.size
        if not line.running:
            self._is_last = self._is_last or self._size > LARGE_BYTES * self._count
            if self._next is not None:
                self._current, self._next = self._next, None
            else:
                self.exhausted = self._is_last
        return Received(messages)

    def confirm(self, flushed: LSN, received: LSN) -> None:
        """Have the slot moved on when it is worth it and no call is in the way."""
        self._flushed = flushed

    def advance(self, flushed: LSN) -> None:
        """Move the slot on to what the followers have committed, unless calls are running."""
        for line in self._lines:
            if not line.running:
                self._advance(line, flushed)
                return

    def _advance(self, line: Line, flushed: LSN) -> None:
        line.connection.execute(
            "SELECT pg_replication_slot_advance(%s, %s::pg_lsn)"
            " FROM pg_replication_slots WHERE slot_name = %s AND confirmed_flush_lsn < %s::pg_lsn",
            [self._slot, str(flushed), self._slot, str(flushed)],
        )
        self._advanced = flushed

    def _call(self, line: Line) -> None:
        if self._flushed - self._advanced > ADVANCE_BYTES:
            self._advance(line, self._flushed)
        begins, ends = line.bounds()
        upto = LSN(begins.value + self._wanted)
        self._is_last = upto >= ends
        self._wanted = min(2 * self._wanted, CALL_BYTES_MAX)
        line.call(upto, self._options)

    def _call_ahead(self, line: Line) -> Line | None:
        """Begin where that line's call ends, on the other one; None if there cannot be another."""
        try:
            if len(self._lines) == 1:
                self._lines.append(Line(self._dsn))
            other = next(one for one in self._lines if one is not line)
            other.take_over(line.slot)
        except psycopg.errors.ConfigurationLimitExceeded:
            self._alone = True  # no slot is free: it goes without
            return None
        except psycopg.errors.UndefinedObject as error:  # the first one has lost its connection
            raise ConnectionLost(str(error)) from None
        self._call(other)
        return other
