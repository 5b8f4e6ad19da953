"""The initial copy: every route's rows as of one position in the source's log.

A temporary slot exports a snapshot that sees exactly the commits before its
position, the horizon.  What is copied under it notes the horizon in the
transaction that holds the rows; the stream, whose own slot is older, leaves out a
route's changes before its horizon.  So the copy is exact without waiting.

After a crash, what is missing is copied under a new snapshot with a later horizon,
and what is finished stays: routes, and chunks of large tables (`cdc.copy_chunks`).
What was copied at several horizons is of no one moment; only when the stream has
passed the latest do keys hold between its tables.  The same goes for tables that were
truncated or rewritten after the snapshot was taken: they are left for a later one.

The target need not make each commit durable at once: if it loses one, it loses the
note with the rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Self

import psycopg

from cdc.connect import connect
from cdc.copy_chunks import CHUNK_BYTES, Chunk, cut, is_large, may_be_cut
from cdc.copy_load import Carrier, Pause, Piece, loads_of
from cdc.copy_pace import Tally
from cdc.copy_record import begin_chunks, chunks, copied, forget_chunks, note_route_of_chunks
from cdc.copy_session import LOCK_WAIT_S, Snapshot, Worker, equipped
from cdc.copy_sql import CopyTask, emptying
from cdc.crew import Job
from cdc.lsn import LSN
from cdc.source_files import SourceFile, files_of
from plans.catalog import TableName
from plans.holders import locked

JOBS = 2


class Copying:
    """The jobs that copy what is not copied yet; for one crew."""

    def __init__(
        self,
        source_dsn: str,
        split: str,
        tasks: Sequence[CopyTask],
        *,
        workers: int = JOBS,
        chunk_bytes: int = CHUNK_BYTES,
        pause: Pause = lambda _: None,
    ) -> None:
        """Find out what is left, and prepare the tables that are copied in chunks.

        `pause` is called after about every megabyte that a worker moves; it may wait.
        Raises NotReady if the snapshot cannot be had within a minute.
        """
        self._split = split
        self._workers = workers
        self._pause = pause
        self._stack = ExitStack()
        self._chunked: dict[str, CopyTask] = {}
        self._needs: dict[str, set[str]] = defaultdict(set)
        self._into: dict[tuple[str, TableName], list[str]] = defaultdict(list)  # routes by target
        for task in tasks:
            self._into[task.target_dsn, task.route.target].append(task.route.id)
        self._kept: list[Chunk] = []
        self._files: dict[TableName, SourceFile] = {}
        self._carrier: Carrier | None = None
        done, known = _noted(tasks)
        todo = [task for task in tasks if task.route.id not in done]
        self._pieces = self._cut(source_dsn, todo, known, chunk_bytes)
        self._horizons = {done[task.route.id] for task in tasks if task.route.id in done}
        self._horizons |= {chunk.horizon for chunk in self._kept if chunk.horizon}
        self._snapshot: Snapshot | None = None
        if self._pieces:
            self._snapshot = Snapshot(source_dsn, workers)
            self._stack.callback(self._snapshot.close)
            self._horizons.add(self._snapshot.horizon)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def of_one_moment(self) -> bool:
        """Whether everything has the same horizon when the copy is done."""
        return len(self._horizons) <= 1

    @property
    def changed(self) -> frozenset[TableName]:
        """Tables that were not copied, since they were rewritten after the snapshot was taken."""
        return frozenset(self._carrier.changed if self._carrier else ())

    def jobs(self, tally: Tally) -> list[Job[Worker]]:
        """What is to be done; empty if nothing is."""
        for piece in self._pieces:
            tally.expect(piece.name, piece.weight, piece.task.route)
        jobs = []
        if self._snapshot is not None:
            carrier = Carrier(self._snapshot.horizon, self._files, tally, self._pause)
            self._carrier = carrier
            jobs = [self._load(carrier, load) for load in loads_of(self._pieces, self._workers)]
        return [*jobs, *(self._assembling(task) for task in self._chunked.values())]

    def jobs_into(self, target_dsn: str, table: TableName) -> frozenset[str]:
        """The names of the jobs after which a target's table has its rows."""
        needed = (
            self._needs.get(route, set()) for route in self._into.get((target_dsn, table), ())
        )
        return frozenset[str]().union(*needed)

    @contextmanager
    def equip(self) -> Iterator[Worker]:
        """A worker that sees the snapshot, if there is something to copy."""
        with equipped(self._split) as worker:
            if self._snapshot is not None:
                worker.read(self._snapshot.session())
            yield worker

    def _load(self, carrier: Carrier, load: Sequence[Piece]) -> Job[Worker]:
        name = f"load {load[0].name}"
        for piece in load:
            self._needs[piece.task.route.id].add(name)
        return Job(
            name=name,
            run=lambda worker: carrier.carry(worker, load),
            weight=sum(piece.weight for piece in load),
        )

    def _assembling(self, task: CopyTask) -> Job[Worker]:
        """Notes a route whose chunks are all there."""
        route = task.route.id
        parts, name = self._needs[route], f"all of {route}"
        self._needs[route] = {name}
        return Job(
            name=name,
            run=lambda worker: note_route_of_chunks(worker.target(task.target_dsn), route),
            needs=parts,
        )

    def _cut(
        self, source_dsn: str, todo: list[CopyTask], known: list[Chunk], chunk_bytes: int
    ) -> list[Piece]:
        """What is to be moved, and for large tables the chunks that are noted, or noted now."""
        pieces: list[Piece] = []
        total = sum(task.route.source.size_bytes for task in todo)
        with connect(source_dsn, name="dbsplit copy") as source:
            source.execute(
                "SELECT set_config('lock_timeout', %s, false)", [f"{LOCK_WAIT_S * 1000:.0f}"]
            )
            try:
                self._files = files_of(source, (task.route.source.name for task in todo))
            except psycopg.errors.LockNotAvailable as error:
                raise locked(source, error) from None
        for task in todo:
            file = self._files.get(task.route.source.name)
            mine = [chunk for chunk in known if chunk.route == task.route.id]
            large = is_large(task, total, self._workers, chunk_bytes)
            parts: list[Chunk] = []
            if file is not None and may_be_cut(task, file) and (large or mine):
                parts = _chunks(task, file, mine, chunk_bytes)
            elif mine:
                with connect(task.target_dsn, name="dbsplit copy") as target:
                    forget_chunks(target, task.route.id)
            if parts:
                self._chunked[task.route.id] = task
                self._kept += parts
                pieces += _of_chunks(task, parts)
            else:
                size = task.route.source.size_bytes
                pieces.append(Piece(f"copy of {task.route.id}", task, None, size))
        return pieces


def _chunks(task: CopyTask, file: SourceFile, known: list[Chunk], chunk_bytes: int) -> list[Chunk]:
    """A large table's chunks: those that are noted, or new ones."""
    if known and all(chunk.file == file.number for chunk in known):
        return known
    new = cut(task, file, chunk_bytes)
    with connect(task.target_dsn, name="dbsplit copy") as target:
        begin_chunks(target, emptying(task), new)
    return new


def _noted(tasks: Iterable[CopyTask]) -> tuple[dict[str, LSN], list[Chunk]]:
    done: dict[str, LSN] = {}
    parts: list[Chunk] = []
    for dsn in {task.target_dsn for task in tasks}:
        with connect(dsn, name="dbsplit copy") as target:
            done |= copied(target)
            parts += chunks(target)
    return done, parts


def _of_chunks(task: CopyTask, parts: Sequence[Chunk]) -> Iterator[Piece]:
    weight = task.route.source.size_bytes / len(parts)
    for chunk in parts:
        if chunk.horizon is None:
            name = f"copy of {task.route.id}, chunk {chunk.number}"
            yield Piece(name, task, chunk, weight)
