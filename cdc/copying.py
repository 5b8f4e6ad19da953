"""The initial copy: every route's rows as of one position in the source's log.

A temporary slot exports a snapshot that sees exactly the commits before its
position, the horizon.  Each route is copied under that snapshot in one
transaction of the target, which records the horizon too; the stream, whose own
slot is older, leaves out a route's changes before its horizon.  So the copy is
exact without waiting, and after a crash the routes that are missing are copied
again under a new snapshot with a later horizon, while the finished ones stay.
"""

from __future__ import annotations

import queue
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from psycopg import sql

from cdc.connect import Connection, connect
from cdc.crash import crash_point
from cdc.lsn import LSN
from cdc.replication import ReplicationConnection
from plans.errors import StreamBroken
from plans.names import APPLIER_SETTING
from plans.routes import Kind, Route, RouteColumn

SNAPSHOT_WAIT_S = 60.0
JOBS = 2
REPORT_S = 0.2


@dataclass(frozen=True, slots=True)
class CopyTask:
    """One route to copy, and where to."""

    route: Route
    target_dsn: str
    alone: bool  # no other route fills the same table


@dataclass(frozen=True, slots=True)
class CopyProgress:
    """How far the copy of one route is."""

    route: Route
    rows: int
    size_bytes: int
    done: bool


Report = Callable[[CopyProgress], None]


def copied(connection: Connection) -> dict[str, LSN]:
    """The routes that a target has in full, with their horizons."""
    rows = connection.execute("SELECT route, horizon::text FROM dbsplit.copied").fetchall()
    return {route: LSN.parse(horizon) for route, horizon in rows}


def copy_routes(
    source_dsn: str, split: str, tasks: Sequence[CopyTask], report: Report, *, jobs: int = JOBS
) -> LSN | None:
    """Copy what is not copied yet, the largest tables first; returns the horizon.

    None if nothing was left to do.  Raises NotReady if the snapshot cannot be
    had within a minute, and whatever a worker met first.
    """
    todo = [task for task in tasks if not _is_done(task)]
    if not todo:
        return None
    todo.sort(key=lambda task: -task.route.source.size_bytes)
    with ReplicationConnection(source_dsn, name="dbsplit copy snapshot") as replication:
        slot = f"dbsplit_copy_{uuid.uuid4().hex[:12]}"
        horizon, snapshot = replication.create_temporary_slot(slot, timeout_s=SNAPSHOT_WAIT_S)
        crew = _Crew(source_dsn, split, snapshot, horizon, report)
        for task in todo:
            crew.tasks.put(task)
        threads = [
            threading.Thread(target=crew.work, name=f"copy {n}", daemon=True)
            for n in range(min(jobs, len(todo)))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if crew.failures:
        raise crew.failures[0]
    return horizon


def _is_done(task: CopyTask) -> bool:
    with connect(task.target_dsn, name="dbsplit copy") as connection:
        return task.route.id in copied(connection)


class _Crew:
    """What the workers of one copy share."""

    def __init__(
        self, source_dsn: str, split: str, snapshot: str, horizon: LSN, report: Report
    ) -> None:
        self.tasks: queue.SimpleQueue[CopyTask] = queue.SimpleQueue()
        self.failures: list[BaseException] = []
        self._source_dsn = source_dsn
        self._split = split
        self._snapshot = snapshot
        self._horizon = horizon
        self._report = report

    def work(self) -> None:
        try:
            with connect(self._source_dsn, name="dbsplit copy", autocommit=False) as source:
                source.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                source.execute(
                    sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(self._snapshot))
                )
                source.execute("SET row_security = off")
                while not self.failures:
                    try:
                        task = self.tasks.get_nowait()
                    except queue.Empty:
                        return
                    self._copy(source, task)
        except BaseException as error:  # noqa: BLE001  (raised again by the caller's thread)
            self.failures.append(error)

    def _copy(self, source: Connection, task: CopyTask) -> None:
        crash_point("copy.table")
        route = task.route
        with connect(task.target_dsn, name="dbsplit copy", autocommit=False) as target:
            target.execute("SET session_replication_role = replica")
            target.execute("SELECT set_config(%s, %s, false)", [APPLIER_SETTING, self._split])
            fresh = task.alone and route.kind is not Kind.DERIVED
            _empty(target, route, fresh=fresh)
            rows, size = self._transfer(source, target, route, fresh=fresh)
            target.execute(
                "INSERT INTO dbsplit.copied (route, horizon, rows, bytes) VALUES (%s, %s, %s, %s)",
                [route.id, str(self._horizon), rows, size],
            )
            crash_point("copy.data")
            target.commit()
        self._report(CopyProgress(route, rows, size, done=True))

    def _transfer(
        self, source: Connection, target: Connection, route: Route, *, fresh: bool
    ) -> tuple[int, int]:
        freeze = fresh and route.source.kind == "r"
        read, write = _statements(route, freeze=freeze)
        size = 0
        at = time.monotonic()
        with source.cursor() as reading, target.cursor() as writing:
            with reading.copy(read) as rows, writing.copy(write) as into:
                for count, block in enumerate(rows, 1):
                    into.write(block)
                    size += len(block)
                    if not count % 256 and time.monotonic() - at > REPORT_S:
                        at = time.monotonic()
                        self._report(CopyProgress(route, count, size, done=False))
            if reading.rowcount != writing.rowcount:
                raise StreamBroken(
                    f"{route.id}: {reading.rowcount} rows were read and {writing.rowcount} written",
                    hint="this is a bug; nothing of the table was committed",
                )
            return writing.rowcount, size


def _statements(route: Route, *, freeze: bool) -> tuple[sql.Composed, sql.Composed]:
    binary = all(column.binary for column in route.columns)
    form = sql.SQL("binary" if binary else "text")
    where = sql.SQL("({})").format(sql.SQL(route.where)) if route.where else sql.SQL("true")
    read = sql.SQL("COPY (SELECT {} FROM {} WHERE {}) TO STDOUT (FORMAT {})").format(
        sql.SQL(", ").join(map(leader_value, route.columns)),
        route.source.name.identifier,
        where,
        form,
    )
    write = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT {}{})").format(
        route.target.identifier,
        sql.SQL(", ").join(sql.Identifier(column.name) for column in route.columns),
        form,
        sql.SQL(", FREEZE true" if freeze else ""),
    )
    return read, write


def leader_value(column: RouteColumn) -> sql.Composed:
    """A column's value as the source computes it.

    What is computed is cast to the target's type if the source has that too,
    which it has if the name needs no schema; otherwise its text is handed over.
    """
    if column.plain is not None:
        return sql.SQL("{}").format(sql.Identifier(column.plain))
    type_ = column.type if column.type and "." not in column.type else "text"
    return sql.SQL("({})::{}").format(sql.SQL(column.expression), sql.SQL(type_))


def _empty(target: Connection, route: Route, *, fresh: bool) -> None:
    if fresh:
        target.execute(sql.SQL("TRUNCATE {}").format(route.target.identifier))
        return
    conditions = [
        sql.SQL("{} = ({})").format(sql.Identifier(name), sql.SQL(value))
        for name, value in route.fixed
    ]
    target.execute(
        sql.SQL("DELETE FROM {} WHERE {}").format(
            route.target.identifier,
            sql.SQL(" AND ").join(conditions) if conditions else sql.SQL("true"),
        )
    )
