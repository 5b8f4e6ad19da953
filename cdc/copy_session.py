"""The sessions of a copy: of the source, all with one snapshot, and of the targets."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psycopg
from psycopg import sql

from cdc.connect import Connection, connect
from cdc.frames import without_gss
from cdc.replication import ReplicationConnection
from plans.errors import Unreachable
from plans.names import APPLIER_SETTING

SNAPSHOT_WAIT_S = 60.0
LOCK_WAIT_S = 600
"""How long a copy waits for somebody who has locked a table, on either side."""

_LIMITS = {
    # What an administrator sets for applications would end a long copy.
    "statement_timeout": "0",
    "lock_timeout": f"{LOCK_WAIT_S}s",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "transaction_timeout": "0",  # since 17
    # A notice for each row, which nobody reads, could fill both directions.
    "client_min_messages": "error",
}
_SOURCE_SETTINGS = _LIMITS | {"row_security": "off", "max_parallel_workers_per_gather": "0"}
_GONE = (
    psycopg.errors.UndefinedObject,
    psycopg.errors.InvalidParameterValue,  # the same before PostgreSQL 17
    psycopg.errors.ObjectNotInPrerequisiteState,  # it is just going
)
_TARGET_SETTINGS = _LIMITS | {
    "session_replication_role": "replica",
    "synchronous_commit": "off",
    # Ends a session whose process was killed, in the middle of a long statement, too.
    "client_connection_check_interval": "2s",
}


class Worker:
    """One worker's sessions: of the source until its copies are done, of targets as needed."""

    def __init__(self, split: str) -> None:
        self._split = split
        self._source: Connection | None = None
        self._targets: dict[str, Connection] = {}

    @property
    def source(self) -> Connection:
        """The session that reads as of the copy's horizon."""
        if self._source is None:
            raise RuntimeError("this worker has no snapshot of the source")
        return self._source

    def read(self, source: Connection) -> None:
        """Read from this session, which is closed with the others."""
        self._source = source

    def release_source(self) -> None:
        """Let go of the snapshot, which keeps the source from cleaning up."""
        if self._source is not None:
            self._source.close()
            self._source = None

    def target(self, dsn: str) -> Connection:
        """A session of a target; it is in no transaction."""
        session = self._targets.get(dsn)
        if session is None or session.closed:
            session = self._targets[dsn] = connect(without_gss(dsn), name="dbsplit copy")
            _set(session, _TARGET_SETTINGS)
            session.execute("SELECT set_config(%s, %s, false)", [APPLIER_SETTING, self._split])
        return session

    def close(self) -> None:
        """Close all sessions."""
        self.release_source()
        for session in self._targets.values():
            session.close()


@contextmanager
def equipped(split: str) -> Iterator[Worker]:
    """A worker that has targets only."""
    worker = Worker(split)
    try:
        yield worker
    finally:
        worker.close()


class Snapshot:
    """The copy's snapshot, held until every worker has it."""

    def __init__(self, dsn: str, users: int) -> None:
        self._dsn = dsn
        self._users = users
        self._lock = threading.Lock()
        self._exporter = ReplicationConnection(dsn, name="dbsplit copy snapshot")
        try:
            slot = f"dbsplit_copy_{uuid.uuid4().hex[:12]}"
            self.horizon, self._name = self._exporter.create_temporary_slot(
                slot, timeout_s=SNAPSHOT_WAIT_S
            )
        except BaseException:
            self.close()
            raise

    def session(self) -> Connection:
        """A session of the source that sees the snapshot.

        Raises Unreachable if the snapshot is gone with the connection that holds it.
        """
        session = connect(without_gss(self._dsn), name="dbsplit copy", autocommit=False)
        try:
            _set(session, _SOURCE_SETTINGS)
            session.commit()
            session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            session.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(self._name)))
        except _GONE as error:
            session.close()
            raise Unreachable(
                f"the copy's snapshot is gone, as the connection that held it was ended: {error}",
                hint="run the same command again: it goes on under another one",
            ) from None
        except BaseException:
            session.close()
            raise
        with self._lock:
            self._users -= 1
            if not self._users:
                self.close()
        return session

    def close(self) -> None:
        """Give it up; sessions that see it keep it."""
        self._exporter.close()


def _set(session: Connection, settings: Mapping[str, str]) -> None:
    """Settings for a whole session, as far as the server knows them; one round trip."""
    session.execute(
        "SELECT set_config(s.name, w.value, false) FROM pg_settings AS s"
        " JOIN unnest(%s::text[], %s::text[]) AS w (name, value) USING (name)",
        [list(settings), list(settings.values())],
    )
