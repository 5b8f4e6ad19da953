"""A gate in front of appliers: nothing that was committed at a position or later passes it.

Transactions come in the order of their commits.  So an applier that stands before the
first one that may not pass has written all that may, and its follower is as of the
gate's position.  A gate opens by itself when its time is over, whatever has become of
whoever closed it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

import psycopg

from cdc.lsn import LSN

WAIT_S = 0.2


class Gate:
    """Of one feed; for use by several threads."""

    def __init__(self) -> None:
        self._before: LSN | None = None  # None: open
        self._until = 0.0
        self._standing: set[str] = set()
        self._changed = threading.Condition()

    def close(self, before: LSN, seconds: float) -> None:
        """Let pass only what was committed before this, for so many seconds at most."""
        with self._changed:
            self._until = time.monotonic() + seconds
            if before != self._before:
                self._before = before
                self._standing.clear()
                self._changed.notify_all()

    def open(self) -> None:
        """Let everything pass."""
        with self._changed:
            self._before = None
            self._standing.clear()
            self._changed.notify_all()

    @property
    def is_closed(self) -> bool:
        """Whether it may stop something."""
        return self._before is not None

    def stops(self, at: LSN) -> bool:
        """Whether what was committed there may not pass now."""
        before = self._before
        return before is not None and at >= before and time.monotonic() < self._until

    def wait(self, stream: str, at: LSN, stop: threading.Event) -> None:
        """Stand before it, with everything written that may pass; raises when told to stop."""
        with self._changed:
            while self.stops(at):
                if stop.is_set():
                    raise psycopg.OperationalError("the stream is ending")
                self._standing.add(stream)
                self._changed.wait(WAIT_S)

    def stand_all(self, streams: Iterable[str]) -> bool:
        """Whether all of these stand before it, as it is closed now."""
        with self._changed:
            return self._before is not None and self._standing.issuperset(streams)
