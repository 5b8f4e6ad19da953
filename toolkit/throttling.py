"""Watching the source while its rows are moved, and what an operator wishes.

The wish is a row in the source's control schema; whoever moves rows looks once a second.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg

from cdc.connect import Connection, connect
from cdc.slot import require_whole
from cdc.throttle import Ceilings, Load, Throttle, Verdict, Wish, decide
from plans import names
from plans.errors import SplitError, StreamBroken
from toolkit import state
from toolkit.locks import myself
from toolkit.opened import Split

LOOK_S = 1.0
STOP_S_MAX = 15.0

# Our own sessions do not count: what they do is what is decided on.
_LOOK = """
SELECT coalesce((SELECT max(pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn))
                   FROM pg_stat_replication WHERE state IN ('streaming', 'catchup')
                    AND application_name NOT LIKE 'dbsplit%%'), 0)::bigint,
       (SELECT count(*) FROM pg_stat_activity
         WHERE state = 'active' AND backend_type = 'client backend'
           AND pid <> pg_backend_pid() AND application_name NOT LIKE 'dbsplit%%'),
       coalesce((SELECT max(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn))
                   FROM pg_replication_slots WHERE slot_name = ANY (%s)), 0)::bigint
"""


def read_wish(source: Connection, split: str) -> Wish:
    """What an operator has asked for."""
    row = source.execute(
        "SELECT paused, bytes_per_s FROM dbsplit.throttle WHERE split = %s", [split]
    ).fetchone()
    return Wish() if row is None else Wish(row[0], None if row[1] is None else float(row[1]))


def write_wish(source: Connection, split: str, wish: Wish) -> None:
    """Ask for something else, within a second or two; it is noted in the split's history."""
    if wish == Wish():
        source.execute("DELETE FROM dbsplit.throttle WHERE split = %s", [split])
    else:
        source.execute(
            "INSERT INTO dbsplit.throttle (split, paused, bytes_per_s, set_by)"
            " VALUES (%s, %s, %s, %s) ON CONFLICT (split) DO UPDATE SET paused = excluded.paused,"
            " bytes_per_s = excluded.bytes_per_s, set_by = excluded.set_by,"
            " set_at = clock_timestamp()",
            [split, wish.paused, wish.bytes_per_s, myself()],
        )
    state.note(source, split, "throttle", {"paused": wish.paused, "bytes_per_s": wish.bytes_per_s})


def look(source: Connection, split: str) -> Load:
    """How the source does.  Without pg_monitor, other users' sessions are not seen."""
    row = source.execute(_LOOK, [[names.slot(split), names.refresh_slot(split)]]).fetchone()
    assert row is not None  # noqa: S101
    return Load(standby_lag_bytes=row[0], active_sessions=row[1], retained_bytes=row[2])


def ceilings(split: Split) -> Ceilings:
    """What the plan allows."""
    limits = split.plan.limits
    return Ceilings(
        limits.standby_lag_bytes_max, limits.active_sessions_max, limits.wal_retained_bytes_max
    )


@contextmanager
def throttled(
    split: Split,
    role: str,
    *,
    tell: Callable[[Verdict], None],
    paused: Callable[[float], None],
    details: Callable[[], Mapping[str, Any]],
) -> Iterator[Throttle]:
    """Watch the source in a thread of its own, until the end of the block.

    `tell` is called when there are other reasons than before, `paused` with the seconds
    of each time in which nothing was to be done, and `details` go with each heartbeat
    of `role`.
    """
    watcher = _Watcher(split, role, tell, paused, details)
    try:
        watcher.look()  # what was asked for before holds from the first row on
    except BaseException:
        watcher.close()
        raise
    watcher.start()
    try:
        yield watcher.throttle
    finally:
        watcher.halt.set()
        watcher.join(STOP_S_MAX)


class _Watcher(threading.Thread):
    """Looks, decides, tells."""

    def __init__(
        self,
        split: Split,
        role: str,
        tell: Callable[[Verdict], None],
        paused: Callable[[float], None],
        details: Callable[[], Mapping[str, Any]],
    ) -> None:
        super().__init__(name=f"throttle {role}", daemon=True)
        self.throttle = Throttle()
        self.halt = threading.Event()
        self._split = split
        self._role = role
        self._tell = tell
        self._paused = paused
        self._details = details
        self._verdict = Verdict()
        self._source: Connection | None = None

    def run(self) -> None:
        """Watch until halted."""
        while not self.halt.wait(LOOK_S):
            if self._verdict.share == 0.0:
                self._paused(LOOK_S)
            try:
                self.look()
            except (psycopg.Error, SplitError):
                # The next look may succeed; until then the last verdict holds.
                self.close()
        self.close()

    def look(self) -> None:
        """Look once, and have what comes of it hold."""
        if self._source is None:
            name = f"dbsplit {self._role} throttle"
            self._source = connect(self._split.plan.source.dsn, name=name)
        source, name = self._source, self._split.name
        now = decide(look(source, name), read_wish(source, name), ceilings(self._split))
        self.throttle.set(now)
        # What takes hours need not come to its end if the stream cannot follow it.
        try:
            require_whole(source, names.slot(name))
        except StreamBroken as broken:
            self.throttle.fail(broken)
        if now.kind != self._verdict.kind:
            self._tell(now)
        self._verdict = now
        slowed = {"slowed_by": now.reasons, "warnings": now.warnings}
        state.beat(source, name, self._role, {**slowed, **self._details()})

    def close(self) -> None:
        """Let go of the source."""
        if self._source is not None:
            self._source.close()
            self._source = None
