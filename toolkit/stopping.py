"""The stream's part in a comparison at one position: it stops there, and goes on at once.

Theory of operation.  Whoever wants it writes a row into the source's `dbsplit.stop`; the
stream answers in it.  "asked" → "held": no transaction that begins to be applied from here
on passes.  "wanted", with a position → "standing": all followers have exactly what was
committed before it.  "done": everything passes again.  So it does when who asked is gone,
which the lock of its role tells, when the row's time is over, or when this is not known:
the gate has a clock of its own.  What a follower's snapshot shows is told by the progress
row in it, so a stream that went on too early is noticed, and nothing has to be believed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import psycopg

from cdc.connect import Connection, connect
from cdc.follow import Follower
from cdc.lsn import LSN
from plans.errors import SplitError
from toolkit import locks

IDLE_S = 0.25
BUSY_S = 0.005
END_S_MAX = 10.0
SOURCE = ""
"""How a row names the source, where others are named by their service."""

_ROWS = (
    "SELECT leader, state, before::text, extract(epoch FROM until - clock_timestamp())::float8"
    " FROM dbsplit.stop WHERE split = %s"
)


class Stopper(threading.Thread):
    """Looks for rows, closes gates and opens them; a thread of the stream process."""

    def __init__(
        self, dsn: str, split: str, followers: Callable[[], Mapping[str, Follower]]
    ) -> None:
        super().__init__(name="stop", daemon=True)
        self._dsn = dsn
        self._split = split
        self._followers = followers
        self._closed: set[str] = set()  # leaders
        self._halt = threading.Event()
        self._source: Connection | None = None

    def end(self) -> None:
        """Open all gates, and end."""
        self._halt.set()
        self.join(END_S_MAX)

    def run(self) -> None:
        """Look until told to end; the thread's work."""
        while not self._halt.wait(BUSY_S if self._closed else IDLE_S):
            try:
                self._look()
            except (psycopg.Error, SplitError):
                self._disconnect()  # the next look may succeed; what is closed opens by itself
        self._open(self._closed)
        self._disconnect()

    def _look(self) -> None:
        if self._source is None:
            self._source = connect(self._dsn, name="dbsplit stream stop")
        source = self._source
        rows = source.execute(_ROWS, [self._split]).fetchall()
        self._open(self._closed - {row[0] for row in rows})
        if not rows:
            return
        is_wanted = locks.is_held(source, self._split, locks.VALIDATE)
        for leader, state, before, seconds in rows:
            if not is_wanted or seconds <= 0 or state == "done":
                self._open({leader})
                source.execute(
                    "DELETE FROM dbsplit.stop WHERE split = %s AND leader = %s",
                    [self._split, leader],
                )
            elif (follower := self._followers().get(leader)) is not None:
                self._close(leader, follower, state, before, seconds)

    def _close(
        self, leader: str, follower: Follower, state: str, before: str | None, seconds: float
    ) -> None:
        self._closed.add(leader)
        if state == "asked":
            follower.gate.close(LSN(0), seconds)
            self._answer(leader, state, "held")
        elif state == "wanted" and before is not None:
            follower.gate.close(LSN.parse(before), seconds)
            if follower.gate.stand_all(link.stream for link in follower.feed.links):
                self._answer(leader, state, "standing")

    def _answer(self, leader: str, before: str, now: str) -> None:
        assert self._source is not None  # noqa: S101 -- a row was read from it
        self._source.execute(
            "UPDATE dbsplit.stop SET state = %s WHERE split = %s AND leader = %s AND state = %s",
            [now, self._split, leader, before],
        )

    def _open(self, leaders: set[str]) -> None:
        followers = self._followers()
        for leader in list(leaders):
            if (follower := followers.get(leader)) is not None:
                follower.gate.open()
            self._closed.discard(leader)

    def _disconnect(self) -> None:
        if self._source is not None:
            self._source.close()
            self._source = None
