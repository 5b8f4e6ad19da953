"""An applier's session in its follower: transactions that hold their own progress."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import psycopg
from psycopg import Cursor

from cdc.connect import Connection, connect
from cdc.crash import crash_point
from cdc.link import Link
from cdc.lsn import LSN
from cdc.stage import Stage
from plans.names import APPLIER_SETTING

ORIGIN_S_MAX = 10.0
PREPARE_AFTER = 5
PREPARED_BYTES_MAX = 1 << 18
"""Of the statements' texts; their plans take about a hundred times as much on the server."""

_PREPARABLE = (b"INSERT", b"UPDATE", b"DELETE")
EPOCH_2000_US = 946_684_800_000_000


@dataclass(slots=True)
class Counters:
    """What was applied since the last commit."""

    transactions: int = 0
    changes: int = 0
    echoes: int = 0


@dataclass(frozen=True, slots=True)
class Reached:
    """How far a batch goes in the leader's log."""

    lsn: LSN
    commit_time_us: int | None = None  # of its last transaction, since 2000-01-01 UTC
    markers: tuple[tuple[str, LSN], ...] = ()


class Session:
    """A session that writes as our applier; for use by one thread."""

    def __init__(self, link: Link, connection: Connection) -> None:
        self.connection = connection
        self.committed = LSN(0)
        """The position in the leader's log up to which the follower has everything."""
        self.committed_at = 0.0
        self.is_open = False
        """Whether a transaction has begun."""
        self._link = link
        self._uses: Counter[bytes] = Counter()
        self._prepared: dict[bytes, bytes] = {}  # statements, and the names that they have
        self._prepared_bytes = 0
        self._begin = b"BEGIN; SELECT pg_advisory_xact_lock_shared(%d); " % turn_key(link.stream)
        connection.prepare_threshold = None

    @classmethod
    def begin_with(cls, link: Link) -> Self:
        """Connect, and read how far the follower is."""
        session = cls(link, connect(link.follower_dsn, name=f"dbsplit stream {link.stream}"))
        try:
            session._set_up()
        except BaseException:
            session.close()
            raise
        return session

    def close(self) -> None:
        """Give up what was not committed, and disconnect."""
        self.connection.close()

    def begin_batch(self, stages: Iterable[Stage]) -> frozenset[str]:
        """Make these stages, and set the savepoint to which `undo` goes back.

        Returns the routes of which changed keys are to be noted, since somebody proves
        them equal.
        """
        made = [one.as_string(None).encode() for stage in stages for one in stage.create()]
        begun = b"SAVEPOINT batch; SELECT route FROM dbsplit.tracked"
        cursor = self.execute(b"; ".join((*made, begun)))
        while cursor.nextset():
            pass
        return frozenset(route for (route,) in cursor.fetchall())

    def execute(self, statements: bytes) -> Cursor[Any]:
        """Run statements in one round trip; a transaction begins, if none is open.

        It does not begin while somebody repairs rows.
        """
        cursor = self.connection.execute((b"" if self.is_open else self._begin) + statements)
        self.is_open = True
        return cursor

    def prepared(self, statement: bytes) -> tuple[bytes, ...]:
        """What runs a statement that will come again; the last one meets its rows.

        It is prepared when it has come a few times.  Not by psycopg, which would go on
        to use what was to be prepared in an exchange that failed before.
        """
        name = self._prepared.get(statement)
        if name is not None:
            return (b"EXECUTE " + name,)
        self._uses[statement] += 1
        if (
            self._uses[statement] < PREPARE_AFTER
            or self._prepared_bytes + len(statement) > PREPARED_BYTES_MAX
            or not statement.startswith(_PREPARABLE)
        ):
            return (statement,)
        self._prepared_bytes += len(statement)
        name = self._prepared[statement] = b"dbsplit_%d" % len(self._prepared)
        return b"PREPARE %b AS %b" % (name, statement), b"EXECUTE " + name

    def undo(self) -> None:
        """Go back to the savepoint, and take nothing for prepared."""
        self.connection.execute(b"ROLLBACK TO SAVEPOINT batch")
        self.connection.execute(b"DEALLOCATE ALL")
        self._prepared.clear()
        self._prepared_bytes = 0
        self._uses.clear()

    def commit(self, reached: Reached, counters: Counters) -> None:
        """Commit what was written, together with how far it goes."""
        stream, time_us = self._link.stream, reached.commit_time_us
        if not self.is_open:
            self.execute(b"")
        with self.connection.pipeline():
            for marker, at in reached.markers:
                self.connection.execute(
                    "INSERT INTO dbsplit.marker (stream, id, lsn) VALUES (%s, %s, %s)"
                    " ON CONFLICT DO NOTHING",
                    [stream, marker, str(at)],
                )
            self.connection.execute(
                "UPDATE dbsplit.progress SET lsn = %s, applied_at = clock_timestamp(),"
                " commit_time = coalesce(to_timestamp(%s::float8 / 1000000), commit_time),"
                " transactions = transactions + %s, changes = changes + %s, echoes = echoes + %s"
                " WHERE stream = %s",
                [
                    str(reached.lsn),
                    None if time_us is None else time_us + EPOCH_2000_US,
                    counters.transactions,
                    counters.changes,
                    counters.echoes,
                    stream,
                ],
            )
            crash_point("stream.applied")
            self.connection.execute(b"COMMIT")
        crash_point("stream.committed")
        self.is_open = False
        self.committed = max(self.committed, reached.lsn)
        self.committed_at = time.monotonic()

    def service_leads(self) -> bool:
        """Whether the follower's service was moved, which stays so until this transaction ends."""
        row = self.connection.execute(
            "SELECT phase = 'moved' FROM dbsplit.service"
            " WHERE split = %s AND service = %s FOR SHARE",
            [self._link.split, self._link.service],
        ).fetchone()
        return bool(row and row[0])

    def _set_up(self) -> None:
        connection, link = self.connection, self._link
        write_as_applier(connection, link.split, link.origin)
        connection.execute(
            "INSERT INTO dbsplit.progress (stream, lsn) VALUES (%s, '0/0') ON CONFLICT DO NOTHING",
            [link.stream],
        )
        row = connection.execute(
            "SELECT lsn::text FROM dbsplit.progress WHERE stream = %s", [link.stream]
        ).fetchone()
        assert row is not None  # noqa: S101
        self.committed = LSN.parse(row[0])


def turn_key(stream: str) -> int:
    """The advisory lock that an applier shares in each transaction, and a repair has alone.

    A row that a repair inserts is not seen by a batch that deletes it before the repair
    has committed, and would stay; so neither writes while the other does.
    """
    digest = hashlib.sha256(f"dbsplit turn:{stream}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def write_as_applier(connection: Connection, split: str, origin: str) -> None:
    """Set a session up so that fences and triggers let it pass, and nothing echoes."""
    connection.execute("SET synchronous_commit = on")
    # A batch takes as long as it takes; a retry would not be quicker.
    connection.execute("SET statement_timeout = 0")
    connection.execute("SET lock_timeout = 0")
    connection.execute("SET session_replication_role = replica")
    # The planner knows nothing of a temporary table; what is staged is small
    # beside the table that it goes to, and found there by the key's index.
    connection.execute("SET enable_hashjoin = off")
    connection.execute("SET enable_mergejoin = off")
    connection.execute("SELECT set_config(%s, %s, false)", [APPLIER_SETTING, split])
    _set_up_origin(connection, origin)


def _set_up_origin(connection: Connection, origin: str) -> None:
    connection.execute(
        "SELECT pg_replication_origin_create(%(origin)s)"
        " WHERE NOT EXISTS (SELECT FROM pg_replication_origin WHERE roname = %(origin)s)",
        {"origin": origin},
    )
    deadline = time.monotonic() + ORIGIN_S_MAX
    while True:
        try:
            connection.execute("SELECT pg_replication_origin_session_setup(%s)", [origin])
        except psycopg.errors.ObjectInUse:
            # The session of a killed applier may live a moment longer.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return
