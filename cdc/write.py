"""Writing a batch: staging the leader's rows, and carrying them over as sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cdc.batch import CompiledFlow, TableBatch
from cdc.compaction import NetChanges, NetRows
from cdc.connect import Connection
from cdc.crash import crash_point
from cdc.lsn import LSN
from cdc.pgoutput import UNCHANGED, Tuple
from cdc.readback import read_back
from plans.routes import Kind

STAGED_MAX = 50_000
"""Rows through a stage until it is truncated: deleted rows stay in its file, and
truncating it after each batch would cost more than the batch."""

LSN_SETTING = "dbsplit.lsn"


class Incomplete(Exception):
    """Rows to be updated in part do not exist in the follower; the batch has been completed."""


@dataclass(frozen=True, slots=True)
class _Staged:
    """What of a batch lies in its stage."""

    batch: TableBatch
    lines: list[bytes]
    present: bool
    removed: bool  # rows that are gone, or old images by which others are
    partial: bool  # some of the present rows lack values
    renamed: int = 0  # rows that have another key than before


@dataclass(frozen=True, slots=True)
class _Manner:
    """How rows are added."""

    members_only: bool
    rewrite: bool


class BatchWriter:
    """Writes batches in a follower's session, inside the transaction that is open there."""

    def __init__(self, connection: Connection, *, leader_dsn: str, backwards: bool) -> None:
        self._connection = connection
        self._leader_dsn = leader_dsn
        self._backwards = backwards

    def write(
        self, batches: Sequence[TableBatch], lsn: LSN, *, members_only: bool, rewrite: bool
    ) -> None:
        """Stage the batches and carry them over: first all that goes, then all that comes.

        `members_only`: of tables split by column, add and delete rows, and leave
        those that exist alone.  `rewrite` deletes rows before it inserts them anew,
        for unique values that move between rows.  Raises Incomplete if a batch has to
        be written again, and whatever the follower objects to.
        """
        every = [self._stage(batch) for batch in batches]
        crash_point("stream.staged")
        for staged in every:
            if staged.partial:
                self._require_complete(staged.batch)
        manner = _Manner(members_only=members_only and not self._backwards, rewrite=rewrite)
        with self._connection.pipeline():
            self._send(f"SELECT set_config('{LSN_SETTING}', '{lsn}', true)".encode())
            for staged in every:
                for flow in staged.batch.flows:
                    self._remove(staged, flow, manner)
            for staged in every:
                for flow in staged.batch.flows:
                    self._add(staged, flow, manner)
                self._clear(staged.batch)

    def _stage(self, batch: TableBatch) -> _Staged:
        changes = batch.changes
        staged = (
            _of_multiset(batch, changes)
            if isinstance(changes, NetRows)
            else self._of_keyed(batch, changes)
        )
        if staged.lines:
            batch.staged += batch.stage.fill(self._connection, staged.lines)
        return staged

    def _of_keyed(self, batch: TableBatch, changes: NetChanges) -> _Staged:
        self._complete(batch, changes)
        line = batch.stage.line
        rows = list(changes.present())
        gone = [line(row, b"g") for row in changes.gone()]
        renamed = list(changes.renamed())
        gone += [line(old, b"k", str(number).encode()) for number, (old, _) in enumerate(renamed)]
        if batch.needs_full_rows:
            gone += [line(row, b"b") for row in changes.before()]
        numbers = {changes.key_of(new): str(n).encode() for n, (_, new) in enumerate(renamed)}
        present = (
            [line(row, b"u", numbers.get(changes.key_of(row), b"\\N")) for row in rows]
            if numbers
            else [line(row, b"u") for row in rows]
        )
        return _Staged(
            batch,
            present + gone,
            present=bool(rows),
            removed=bool(gone),
            partial=any(UNCHANGED in row for row in rows),
            renamed=len(renamed),
        )

    def _complete(self, batch: TableBatch, changes: NetChanges) -> None:
        """Fetch the values that the log lacks and that the follower cannot have."""
        lacking = [
            row
            for row in changes.present()
            if UNCHANGED in row
            and (changes.has_moved(row) or any(row[n] is UNCHANGED for n in batch.complete))
        ]
        if lacking:
            self._read_back(batch, changes, lacking)

    def _require_complete(self, batch: TableBatch) -> None:
        """Check that rows which came in part exist; fetch what they lack if not."""
        changes = batch.changes
        if not isinstance(changes, NetChanges):
            return
        for flow in batch.flows:
            row = self._connection.execute(flow.incomplete).fetchone()
            if row and row[0]:
                partial = [row for row in changes.present() if UNCHANGED in row]
                self._read_back(batch, changes, partial)
                raise Incomplete(str(batch.leader.name))

    def _read_back(self, batch: TableBatch, changes: NetChanges, rows: list[Tuple]) -> None:
        found = read_back(self._leader_dsn, batch.leader, batch.stage.columns, rows)
        for row in rows:
            changes.complete(row, found.get(changes.key_of(row)))

    def _remove(self, staged: _Staged, flow: CompiledFlow, manner: _Manner) -> None:
        if staged.lines:
            self._send_all(flow.dirty)
        if staged.batch.emptied:
            self._send_all(flow.empty)
        if staged.removed and self._is_part(flow, manner):
            # The other columns of the row are not ours to lose with its old key.
            self._send_all(flow.remove_only)
            for number in range(staged.renamed):
                self._send(flow.rename(number))
        elif staged.removed:
            self._send_all(flow.remove)
        if staged.present:
            self._send_all(flow.drop_left)

    def _is_part(self, flow: CompiledFlow, manner: _Manner) -> bool:
        """Whether the follower's row holds columns that do not come from this leader."""
        return flow.flow.kind is Kind.COLUMNS and (self._backwards or manner.members_only)

    def _add(self, staged: _Staged, flow: CompiledFlow, manner: _Manner) -> None:
        if not staged.present:
            return
        if manner.members_only and flow.flow.kind is Kind.COLUMNS:
            self._send_all(flow.add_missing)
        elif manner.rewrite:
            self._send_all(flow.rewrite)
        else:
            self._send_all(flow.add_partial if staged.partial else flow.add)

    def _clear(self, batch: TableBatch) -> None:
        name = batch.stage.name.as_string(None).encode()
        if batch.staged > STAGED_MAX:
            batch.staged = 0
            self._send(b"TRUNCATE " + name)
        else:
            self._send(b"DELETE FROM " + name)

    def _send_all(self, statements: tuple[bytes, ...]) -> None:
        for statement in statements:
            self._send(statement)

    def _send(self, statement: bytes) -> None:
        self._connection.execute(statement)


def _of_multiset(batch: TableBatch, changes: NetRows) -> _Staged:
    line = batch.stage.line
    rows = list(changes.rows())
    return _Staged(
        batch,
        [line(row, b"u" if count > 0 else b"g", str(count).encode()) for row, count in rows],
        present=any(count > 0 for _, count in rows),
        removed=any(count < 0 for _, count in rows),
        partial=False,
    )
