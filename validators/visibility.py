"""Commits that are in the log, and so may be on the follower, but that nobody sees yet.

A transaction writes its commit record first and ends for others afterwards: at once as
a rule, later on a busy machine, and much later while it waits for a synchronous standby.
In between, the follower may have a row that the leader does not show.
"""

from __future__ import annotations

import time

from cdc.connect import Connection

POLL_S = 0.005

# Whoever commits has an xid and is active, and waits for nothing but the log, the state of
# transactions, or a standby; who waits for anything else has not begun to.  Another role's
# state is hidden without pg_read_all_stats; then it may be committing.
_COMMITTING = """
SELECT backend_xid::text FROM pg_stat_activity
 WHERE backend_xid IS NOT NULL AND datname = current_database() AND pid <> pg_backend_pid()
   AND coalesce(state, 'active') = 'active'
   AND coalesce(wait_event_type, '') NOT IN ('Lock', 'Timeout', 'Client', 'BufferPin')
   AND coalesce(wait_event, '') !~ '^(DataFile|BufFile)'
"""


def all_visible(connection: Connection, timeout_s: float) -> bool:
    """Wait until all that is in the log now can be seen; False if it takes longer.

    A statement that writes for a long time is none once it is seen to wait for a lock, a file
    of data, or its client.  If it never is, it looks like a commit that waits: False, too.
    """
    pending = _committing(connection)
    deadline = time.monotonic() + timeout_s
    while pending:
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
        pending &= _committing(connection)
    return True


def position(connection: Connection, timeout_s: float) -> str:
    """A position in the log before which everything can be seen, "0/0" if that takes too long."""
    row = connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
    assert row is not None  # noqa: S101 -- a SELECT without FROM has one row
    return str(row[0]) if all_visible(connection, timeout_s) else "0/0"


def _committing(connection: Connection) -> set[str]:
    return {xid for (xid,) in connection.execute(_COMMITTING).fetchall()}
