"""Writing a batch: staging the leader's rows, and carrying them over as sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from cdc.compaction import NetChanges, NetRows
from cdc.connect import Connection
from cdc.crash import crash_point
from cdc.flow import Flow, FlowSQL
from cdc.lsn import LSN
from cdc.pgoutput import UNCHANGED, Tuple
from cdc.readback import read_back
from cdc.stage import Stage
from plans.catalog import Table
from plans.routes import Kind

STAGED_MAX = 50_000
"""Rows through a stage until it is truncated: deleted rows stay in its file, and
truncating it after each batch would cost more than the batch."""

LSN_SETTING = "dbsplit.lsn"


class Incomplete(Exception):
    """Rows to be updated in part do not exist in the follower; `batch` has been completed."""


@dataclass(slots=True)
class TableBatch:
    """What changed in one leader table, and where it goes."""

    leader: Table
    stage: Stage
    flows: tuple[CompiledFlow, ...]
    complete: frozenset[str]  # columns that must not stay UNCHANGED
    horizon: LSN  # changes before it are in the copy
    changes: NetChanges | NetRows
    staged: int = 0  # rows since the stage was truncated

    def announce(self, names: tuple[str, ...]) -> None:
        """Expect rows with these columns, in this order; the batch is empty."""
        self.stage = Stage(self.stage.name, self.leader, names, self.stage.types)
        key = self.leader.key
        self.changes = NetChanges(tuple(names.index(name) for name in key)) if key else NetRows()


class CompiledFlow:
    """A flow's statements as they are sent, composed once."""

    def __init__(self, flow: Flow, stage: sql.Identifier) -> None:
        composed = FlowSQL(flow, stage)
        self.flow = flow
        self.empty = _text(composed.empty)
        if not flow.key:
            self.without_key = (_text(composed.remove_rows), _text(composed.add_rows))
            self.dirty = _text(composed.remember_dirty)
            return
        self.dirty = _text(composed.remember_dirty)
        self.delete_gone = _text(composed.delete_gone)
        left = composed.delete_left
        self.delete_left = None if left is None else _text(left)
        update = composed.update
        self.update = None if update is None else _text(update)
        self.add_missing = _text(composed.add_missing)
        self.incomplete = _text(composed.incomplete)
        self.rewrite = tuple(map(_text, composed.rewrite))
        self.usual: tuple[bytes, ...] = (
            (_text(composed.upsert),)
            if flow.whole_rows
            else (*((self.update,) if self.update else ()), self.add_missing)
        )


class BatchWriter:
    """Writes batches in a follower's session, inside the transaction that is open there."""

    def __init__(self, connection: Connection, *, leader_dsn: str, backwards: bool) -> None:
        self._connection = connection
        self._leader_dsn = leader_dsn
        self._backwards = backwards

    def write(
        self, batches: Sequence[TableBatch], lsn: LSN, *, members_only: bool, rewrite: bool
    ) -> None:
        """Stage the batches and carry them over, in order.

        `rewrite` deletes rows before it inserts them anew, for unique values that
        move between rows.  Raises Incomplete if a batch has to be written again,
        and whatever the follower objects to.
        """
        staged = [(batch, ops) for batch in batches if (ops := self._stage(batch))]
        crash_point("stream.staged")
        for batch, ops in staged:
            if b"?" in ops:
                self._require_complete(batch)
        with self._connection.pipeline():
            self._send(f"SELECT set_config('{LSN_SETTING}', '{lsn}', true)".encode())
            for batch, ops in staged:
                for flow in batch.flows:
                    self._carry(batch, flow, ops, rewrite=rewrite, members_only=members_only)
                self._clear(batch)

    def _stage(self, batch: TableBatch) -> frozenset[bytes]:
        """Fill the stage; returns which operations are in it, and ``?`` for partial rows."""
        stage = batch.stage
        changes = batch.changes
        lines: list[bytes]
        ops: set[bytes] = set()
        if isinstance(changes, NetRows):
            lines = [
                stage.line(row, b"u" if count > 0 else b"g", str(count).encode())
                for row, count in changes.rows()
            ]
            ops = {b"u", b"g"}
        else:
            self._complete(batch, changes)
            lines = []
            for row in changes.present():
                lines.append(stage.line(row, b"u"))
                if UNCHANGED in row:
                    ops.add(b"?")
            if lines:
                ops.add(b"u")
            gone = [stage.line(row, b"g") for row in changes.gone()]
            if any(not flow.flow.key_within_leaders for flow in batch.flows):
                gone += [stage.line(row, b"b") for row in changes.before()]
            if gone:
                ops.add(b"g")
            lines += gone
        if not lines:
            return frozenset()
        batch.staged += stage.fill(self._connection, lines)
        return frozenset(ops)

    def _clear(self, batch: TableBatch) -> None:
        name = batch.stage.name.as_string(None)
        if batch.staged > STAGED_MAX:
            batch.staged = 0
            self._send(f"TRUNCATE {name}".encode())
        else:
            self._send(f"DELETE FROM {name}".encode())

    def _complete(self, batch: TableBatch, changes: NetChanges) -> None:
        """Fetch the values that the log lacks and that expressions need."""
        needed = {n for n, name in enumerate(batch.stage.columns) if name in batch.complete}
        lacking = [
            row
            for row in changes.present()
            if UNCHANGED in row and any(row[n] is UNCHANGED for n in needed)
        ]
        if lacking:
            self._read_back(batch, changes, lacking)

    def _read_back(self, batch: TableBatch, changes: NetChanges, rows: list[Tuple]) -> None:
        found = read_back(self._leader_dsn, batch.leader, batch.stage.columns, rows)
        for row in rows:
            image = found.get(changes.key_of(row))
            if image is None:
                # Deleted since, which the stream will tell in a later transaction.
                changes.set_absent(row)
            else:
                changes.replace(image)

    def _require_complete(self, batch: TableBatch) -> None:
        """Check that rows which came in part exist; fetch the whole ones if not."""
        if not isinstance(batch.changes, NetChanges):
            return
        for flow in batch.flows:
            row = self._connection.execute(flow.incomplete).fetchone()
            if row and row[0]:
                partial = [row for row in batch.changes.present() if UNCHANGED in row]
                self._read_back(batch, batch.changes, partial)
                raise Incomplete(str(batch.leader.name))

    def _carry(
        self,
        batch: TableBatch,
        flow: CompiledFlow,
        ops: frozenset[bytes],
        *,
        rewrite: bool,
        members_only: bool,
    ) -> None:
        if flow.flow.kind.owned:
            self._send(flow.dirty)
        if not flow.flow.key:
            self._send(b"SET LOCAL enable_hashjoin = on")
            for statement in flow.without_key:
                self._send(statement)
            self._send(b"SET LOCAL enable_hashjoin = off")
            return
        if b"g" in ops:
            self._send(flow.delete_gone)
        if b"u" not in ops:
            return
        if flow.delete_left is not None:
            self._send(flow.delete_left)
        if members_only and flow.flow.kind is Kind.COLUMNS and not self._backwards:
            self._send(flow.add_missing)
            return
        if b"?" in ops and flow.update is not None:
            self._send(flow.update)
        for statement in flow.rewrite if rewrite or batch.leader.key_deferrable else flow.usual:
            self._send(statement)

    def _send(self, statement: bytes) -> None:
        self._connection.execute(statement)


def _text(statement: sql.Composable) -> bytes:
    return statement.as_string(None).encode()
