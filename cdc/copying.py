"""The initial copy: every route's rows as of one position in the source's log.

A temporary slot exports a snapshot that sees exactly the commits before its
position, the horizon.  Each route is copied under that snapshot in one
transaction of the target, which records the horizon too; the stream, whose own
slot is older, leaves out a route's changes before its horizon.  So the copy is
exact without waiting, and after a crash the routes that are missing are copied
again under a new snapshot with a later horizon, while the finished ones stay:
all but those that foreign keys connect with a missing one.  Rows as of different
moments could not be given a key.
"""

from __future__ import annotations

import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    source_dsn: str,
    split: str,
    tasks: Sequence[CopyTask],
    report: Report,
    *,
    groups: Iterable[frozenset[str]] = (),
    jobs: int = JOBS,
) -> LSN | None:
    """Copy what is not copied yet, the largest tables first; returns the horizon.

    The routes of one of the `groups` get the same horizon.  None if nothing was left
    to do.  Raises NotReady if the snapshot cannot be had within a minute, and whatever
    a worker met first.
    """
    todo = unfinished(tasks, _horizons(tasks), groups)
    if not todo:
        return None
    todo.sort(key=largest_first)
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


def largest_first(task: CopyTask) -> int:
    """The order of the copy, so that no large table is left for the end."""
    return -task.route.source.size_bytes


def unfinished(
    tasks: Sequence[CopyTask], horizons: Mapping[str, LSN], groups: Iterable[frozenset[str]]
) -> list[CopyTask]:
    """The routes to copy: missing ones, and whole groups that are not of one horizon."""
    ids = {task.route.id for task in tasks}
    todo = ids - set(horizons)
    for group in groups:
        wanted = group & ids
        if len({horizons.get(one) for one in wanted}) > 1:
            todo |= wanted
    return [task for task in tasks if task.route.id in todo]


def _horizons(tasks: Sequence[CopyTask]) -> dict[str, LSN]:
    found: dict[str, LSN] = {}
    for dsn in {task.target_dsn for task in tasks}:
        with connect(dsn, name="dbsplit copy") as connection:
            found |= copied(connection)
    return found


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
            statements = statements_of(task)
            target.execute(statements.empty)
            rows, size = self._transfer(source, target, route, statements)
            target.execute(
                "INSERT INTO dbsplit.copied (route, horizon, rows, bytes) VALUES (%s, %s, %s, %s)"
                " ON CONFLICT (route) DO UPDATE SET horizon = excluded.horizon,"
                " rows = excluded.rows, bytes = excluded.bytes, copied_at = clock_timestamp()",
                [route.id, str(self._horizon), rows, size],
            )
            crash_point("copy.data")
            target.commit()
        self._report(CopyProgress(route, rows, size, done=True))

    def _transfer(
        self, source: Connection, target: Connection, route: Route, statements: CopyStatements
    ) -> tuple[int, int]:
        size = 0
        at = time.monotonic()
        with source.cursor() as reading, target.cursor() as writing:
            with reading.copy(statements.read) as rows, writing.copy(statements.write) as into:
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


@dataclass(frozen=True, slots=True)
class CopyStatements:
    """What copies one route."""

    empty: sql.Composed  # on the target
    read: sql.Composed  # on the source
    write: sql.Composed  # on the target


def statements_of(task: CopyTask) -> CopyStatements:
    """The statements that copy a route; `dbsplit plan explain` shows the same."""
    route = task.route
    fresh = task.alone and route.kind is not Kind.DERIVED
    read, write = _transferring(route, freeze=fresh and route.source.kind == "r")
    return CopyStatements(_emptying(route, fresh=fresh), read, write)


def _transferring(route: Route, *, freeze: bool) -> tuple[sql.Composed, sql.Composed]:
    binary = all(column.binary for column in route.columns)
    form = sql.SQL("binary" if binary else "text")
    read = sql.SQL("COPY ({}) TO STDOUT (FORMAT {})").format(rows_of(route), form)
    write = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT {}{})").format(
        route.target.identifier,
        sql.SQL(", ").join(sql.Identifier(column.name) for column in route.columns),
        form,
        sql.SQL(", FREEZE true" if freeze else ""),
    )
    return read, write


def rows_of(route: Route) -> sql.Composed:
    """The query for a route's rows, as the source computes them."""
    where = sql.SQL("({})").format(sql.SQL(route.where)) if route.where else sql.SQL("true")
    return sql.SQL("SELECT {} FROM {} WHERE {}").format(
        sql.SQL(", ").join(map(leader_value, route.columns)), route.source.name.identifier, where
    )


def leader_value(column: RouteColumn) -> sql.Composed:
    """A column's value as the source computes it.

    What is computed is cast to the target's type if the source has that too,
    which it has if the name needs no schema; otherwise its text is handed over.
    """
    if column.plain is not None:
        return sql.SQL("{}").format(sql.Identifier(column.plain))
    type_ = column.type if column.type and "." not in column.type else "text"
    return sql.SQL("({})::{}").format(sql.SQL(column.expression), sql.SQL(type_))


def _emptying(route: Route, *, fresh: bool) -> sql.Composed:
    if fresh:
        return sql.SQL("TRUNCATE {}").format(route.target.identifier)
    conditions = [
        sql.SQL("{} = ({})").format(sql.Identifier(name), sql.SQL(value))
        for name, value in route.fixed
    ]
    return sql.SQL("DELETE FROM {} WHERE {}").format(
        route.target.identifier,
        sql.SQL(" AND ").join(conditions) if conditions else sql.SQL("true"),
    )
