"""Carrying a load: some tables, or a part of one, in one transaction of a target."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import psycopg
from psycopg import sql

from cdc.connect import Connection, connect
from cdc.copy_chunks import Chunk
from cdc.copy_pace import Tally
from cdc.copy_record import chunk_note, route_note
from cdc.copy_session import LOCK_WAIT_S, Worker
from cdc.copy_sql import CopyStatements, CopyTask, statements_of, statements_of_part
from cdc.copy_transfer import BLOCK_BYTES, Exchange, Moved, transfer
from cdc.crash import crash_point
from cdc.crew import Postponed
from cdc.lsn import LSN
from cdc.source_files import SourceFile, files_of, lock
from plans.catalog import TableName
from plans.errors import NotReady, StreamBroken
from plans.holders import advice, holding

SMALL_BYTES = 1 << 20
"""Tables below this size are copied several at a time, as waiting takes longer than copying."""

_BEFORE_LOAD = sql.Identifier("dbsplit_load")
_REFUSED_ROW = (
    psycopg.DataError,
    psycopg.IntegrityError,  # such as of a domain's constraint, NOT VALID for older rows
    psycopg.NotSupportedError,  # XML, by a server that was built without it
    psycopg.errors.RaiseException,  # by a function that a generated column or a domain calls
)

Pause = Callable[[int], None]
"""Called with the bytes that were moved since it was called last; it may wait."""

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
    files: Mapping[TableName, SourceFile]  # from before the horizon
    tally: Tally
    pause: Pause
    changed: set[TableName] = field(default_factory=set)
    """Tables that were rewritten since, and are to be copied under a later snapshot."""

    def carry(self, worker: Worker, load: Sequence[Piece]) -> None:
        """Copy a load, and note it in the transaction that holds its rows.

        Raises Postponed if a table is not what it was when the snapshot was taken.
        """
        crash_point("copy.table")
        self.pause(0)  # before anything is locked
        source, target = worker.source, worker.target(load[0].task.target_dsn)
        source.execute(sql.SQL("SAVEPOINT {}").format(_BEFORE_LOAD))
        self._require_same_files(source, load)
        paid: list[int] = []
        try:
            moved = transfer(source, target, self._exchange(load, paid))
        except psycopg.errors.LockNotAvailable:
            targets = [piece.task.route.target for piece in load]
            with connect(load[0].task.target_dsn, name="dbsplit copy") as asking:
                raise _locked(targets, "the target", asking) from None
        except _REFUSED_ROW as error:
            tables = ", ".join(sorted({str(piece.task.route.source.name) for piece in load}))
            raise NotReady(
                f"a row of {tables} cannot be copied: {error}",
                hint="mend the row, or what refuses it, then run the same command again: it goes on"
                " with what is missing; `dbsplit plan check` names rows whose text is in no"
                " encoding",
            ) from None
        crash_point("copy.data")
        self._note(target, load, moved)
        if load[0].chunk is not None:
            crash_point("copy.chunk")
        for piece, one in zip(load, moved, strict=True):
            self.tally.moved(piece.name, piece.task.route, one.written, one.size_bytes)
        # Small pieces never come to a block; now nothing is locked any more.
        self.pause(sum(one.size_bytes for one in moved) - sum(paid))

    def _require_same_files(self, source: Connection, load: Sequence[Piece]) -> None:
        """Check that the tables are what they were, and keep them so until they are read."""
        tables = {piece.task.route.source.name for piece in load}
        try:
            lock(source, tables)
        except psycopg.errors.LockNotAvailable:
            source.execute(_release(_BEFORE_LOAD))
            raise _locked(sorted(tables), "the source", source) from None
        except psycopg.errors.UndefinedTable:
            now: Mapping[TableName, SourceFile] = {}  # which of them is gone is of no matter
        else:
            now = files_of(source, tables)
        changed = {table for table in tables if now.get(table) != self.files.get(table)}
        if changed:
            source.execute(_release(_BEFORE_LOAD))
            self.changed.update(changed)
            raise Postponed

    def _exchange(self, load: Sequence[Piece], paid: list[int]) -> Exchange:
        """What to move; `paid` gets the bytes that were paused for."""
        told = [piece.statements for piece in load]
        writing = [statement for one in told for statement in (one.empty, one.write) if statement]
        owed = last = 0

        def moving(number: int, rows: int, size_bytes: int) -> None:
            nonlocal owed, last
            owed += size_bytes - last if size_bytes >= last else size_bytes
            last = size_bytes
            if owed >= BLOCK_BYTES:
                self.pause(owed)
                paid.append(owed)
                owed = 0
            self.tally.moving(load[number].name, load[number].task.route, rows, size_bytes)

        return Exchange(
            reading=[_bytes(one.read) for one in told],
            release=_bytes(_release(_BEFORE_LOAD)),
            writing=b"; ".join([b"BEGIN", *map(_bytes, writing)]),
            moving=moving,
        )

    def _note(self, target: Connection, load: Sequence[Piece], moved: Sequence[Moved]) -> None:
        """Note what was moved, and commit; nothing stays of what another has noted."""
        for piece, one in zip(load, moved, strict=True):
            if one.read != one.written:
                raise StreamBroken(
                    f"{piece.task.route.id}: {one.read} rows were read and {one.written} written",
                    hint="this is a bug; nothing of the table was committed",
                )
        chunk = load[0].chunk
        try:
            if chunk is not None:
                (one,) = moved
                note = chunk_note(chunk, self.horizon, one.written, one.size_bytes)
                if target.execute(note).rowcount != 1:
                    raise _noted_by_another(chunk.route)
                target.execute("COMMIT")
                return
            notes = [
                route_note(piece.task.route.id, self.horizon, one.written, one.size_bytes)
                for piece, one in zip(load, moved, strict=True)
            ]
            target.execute(b"; ".join([*map(_bytes, notes), b"COMMIT"]))
        except psycopg.errors.UniqueViolation:
            raise _noted_by_another(load[0].task.route.id) from None


def _locked(tables: Sequence[TableName], where: str, connection: Connection) -> NotReady:
    """The error for one of these tables, whose lock could not be had."""
    held = {table: who for table in tables if (who := holding(connection, table))}
    table = next(iter(held), tables[0])
    otherwise = "run the same command again: it goes on with what is missing"
    return NotReady(
        f"table {table} of {where} has been locked for {LOCK_WAIT_S // 60} minutes",
        hint=advice(held.get(table, ""), otherwise),
    )


def _noted_by_another(route: str) -> NotReady:
    return NotReady(
        f"{route} was copied by another process meanwhile",
        hint="nothing was written twice; see that only one `dbsplit copy` runs, then run it again",
    )


def _release(savepoint: sql.Identifier) -> sql.Composed:
    """Lets go of the locks since, which would keep whoever truncates or alters a table waiting."""
    return sql.SQL("ROLLBACK TO {}").format(savepoint)


def _bytes(statement: sql.Composable) -> bytes:
    return statement.as_string(None).encode()
