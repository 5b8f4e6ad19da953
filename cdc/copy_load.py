"""Carrying a load: some tables, or a part of one, in one transaction of a target."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from psycopg import sql

from cdc.connect import Connection
from cdc.copy_chunks import Chunk, SourceFile
from cdc.copy_pace import Tally
from cdc.copy_record import chunk_note, route_note
from cdc.copy_session import Worker
from cdc.copy_sql import CopyStatements, CopyTask, statements_of, statements_of_part
from cdc.copy_transfer import BLOCK_BYTES, Exchange, Moved, transfer
from cdc.crash import crash_point
from cdc.lsn import LSN
from plans.catalog import TableName
from plans.errors import NotReady, StreamBroken

SMALL_BYTES = 1 << 20
"""Tables below this size are copied several at a time, as waiting takes longer than copying."""

LOAD_TABLES_MAX = 50
LOADS_PER_JOB = 8
"""Small tables are divided into so many loads at least: a crash loses the load in hand."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What one COPY moves."""

    name: str
    task: CopyTask
    chunk: Chunk | None
    weight: float  # about how many bytes

    @property
    def statements(self) -> CopyStatements:
        """What moves it."""
        if self.chunk is None:
            return statements_of(self.task)
        return statements_of_part(self.task, self.chunk.blocks)


def loads_of(pieces: Sequence[Piece], workers: int) -> list[list[Piece]]:
    """What is copied in one transaction: a large table, a chunk, or some small tables."""
    small: dict[str, list[Piece]] = defaultdict(list)
    loads = []
    for piece in pieces:
        if piece.chunk is None and piece.weight < SMALL_BYTES:
            small[piece.task.target_dsn].append(piece)
        else:
            loads.append([piece])
    for together in small.values():
        size = min(LOAD_TABLES_MAX, -(-len(together) // (workers * LOADS_PER_JOB)))
        loads += [together[n : n + size] for n in range(0, len(together), size)]
    return loads


@dataclass(frozen=True, slots=True)
class Carrier:
    """Carries loads as of one horizon; for use by all workers."""

    horizon: LSN
    tally: Tally
    pause: Callable[[], None]

    def carry(self, worker: Worker, load: Sequence[Piece]) -> None:
        """Copy a load, and note it in the transaction that holds its rows."""
        crash_point("copy.table")
        source, target = worker.source, worker.target(load[0].task.target_dsn)
        for piece in load:
            if piece.chunk is not None:
                _require_same_file(source, piece.task, piece.chunk)
        moved = transfer(source, target, self._exchange(load))
        notes = [self._note(piece, one) for piece, one in zip(load, moved, strict=True)]
        crash_point("copy.data")
        target.execute(b"; ".join([*map(_bytes, notes), b"COMMIT"]))
        if load[0].chunk is not None:
            crash_point("copy.chunk")
        for piece, one in zip(load, moved, strict=True):
            self.tally.moved(piece.name, piece.task.route, one.written, one.size_bytes)

    def _exchange(self, load: Sequence[Piece]) -> Exchange:
        told = [piece.statements for piece in load]
        writing = [statement for one in told for statement in (one.empty, one.write) if statement]
        unpaused = 0

        def moving(number: int, rows: int, size_bytes: int) -> None:
            nonlocal unpaused
            if not unpaused <= size_bytes < unpaused + BLOCK_BYTES:
                unpaused = size_bytes
                self.pause()
            self.tally.moving(load[number].name, load[number].task.route, rows, size_bytes)

        return Exchange(
            reading=[_bytes(one.read) for one in told],
            writing=b"; ".join([b"BEGIN", *map(_bytes, writing)]),
            moving=moving,
        )

    def _note(self, piece: Piece, moved: Moved) -> sql.Composed:
        route = piece.task.route.id
        if moved.read != moved.written:
            raise StreamBroken(
                f"{route}: {moved.read} rows were read and {moved.written} written",
                hint="this is a bug; nothing of the table was committed",
            )
        if piece.chunk is None:
            return route_note(route, self.horizon, moved.written, moved.size_bytes)
        return chunk_note(piece.chunk, self.horizon, moved.written, moved.size_bytes)


def file_of(source: Connection, table: TableName) -> SourceFile | None:
    """How a table lies on disk; None if other tables inherit from it."""
    row = source.execute(
        "SELECT pg_relation_filenode(oid),"
        " pg_relation_size(oid) / current_setting('block_size')::bigint, relhassubclass"
        " FROM pg_class WHERE oid = %s::regclass",
        [table.identifier.as_string(None)],
    ).fetchone()
    return SourceFile(row[0], row[1]) if row and not row[2] else None


def _require_same_file(source: Connection, task: CopyTask, chunk: Chunk) -> None:
    """Check that the chunk's blocks are what they were, and keep them so until the copy's end."""
    name = task.route.source.name
    source.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(name.identifier))
    file = file_of(source, name)
    if file is None or file.number != chunk.file:
        raise NotReady(
            f"table {name} was rewritten since its copy began",
            hint="run `dbsplit copy` again: it copies that table from the start",
        )


def _bytes(statement: sql.Composable) -> bytes:
    return statement.as_string(None).encode()
