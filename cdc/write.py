"""Writing a batch: staging the leader's rows, and carrying them over as sets."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from psycopg import Cursor

from cdc.batch import TableBatch
from cdc.compaction import NetChanges, NetRows
from cdc.compiled import CompiledFlow, Part
from cdc.crash import crash_point
from cdc.inflow import Inflow, copy_in
from cdc.lsn import LSN
from cdc.progress import Session
from cdc.readback import read_back
from cdc.rows import Key
from cdc.staged import Staged, of_keyed, of_multiset, of_net, of_plain

STAGED_MAX = 5_000
"""Rows through a stage until it is truncated: deleted rows stay in its file, and
truncating it after each small batch would cost more than the batch."""

LSN_SETTING = "dbsplit.lsn"


class Incomplete(Exception):
    """Rows to be updated in part do not exist in the follower; the batch has been completed."""


class Unexpected(Exception):
    """The follower did not have the rows that it must have had."""


class Way(Enum):
    """How rows are added, from the fastest way to the one that always does."""

    DIRECT = "direct"  # rows that appear are copied straight into the table
    MERGE = "merge"  # they are inserted, or updated if they are there
    REWRITE = "rewrite"  # they are deleted first: unique values may move between them

    @property
    def next(self) -> Way | None:
        """What to try after it; None if nothing is left."""
        return {Way.DIRECT: Way.MERGE, Way.MERGE: Way.REWRITE}.get(self)


@dataclass(frozen=True, slots=True)
class Manner:
    """How a batch is written."""

    way: Way
    members_only: bool
    """Of tables split by column, add and delete rows, and leave those that exist alone."""
    tracked: Collection[str]
    """Routes whose keys are noted as changed."""


class BatchWriter:
    """Writes batches in a follower's session, inside the transaction that is open there."""

    def __init__(
        self, session: Session, *, leader_dsn: str, backwards: bool, xids: Sequence[int]
    ) -> None:
        """`xids` are those of the batch's transactions."""
        self._session = session
        self._xids = xids
        self._connection = session.connection
        self._leader_dsn = leader_dsn
        self._backwards = backwards

    def write(self, batches: Sequence[TableBatch], lsn: LSN, manner: Manner) -> None:
        """Stage the batches and carry them over: first all that goes, then all that comes.

        Raises Incomplete if a batch has to be written again, Unexpected if it has to
        be written in another way, and whatever the follower objects to.
        """
        if self._backwards:
            manner = replace(manner, members_only=False)
        every = self._stage(batches, manner)
        crash_point("stream.staged")
        for staged in every:
            if staged.partial:
                self._require_complete(staged.batch, manner)
        self._carry_over(every, lsn, manner)
        appearing = [
            Inflow(flow.direct.into, staged.appearing, staged.appear)
            for staged in every
            for flow in staged.batch.to.flows
            if flow.direct and staged.appearing
        ]
        copy_in(self._connection, appearing)

    def _carry_over(self, every: Sequence[Staged], lsn: LSN, manner: Manner) -> None:
        """Have what is staged removed, updated and added, and the stages emptied."""
        flows = [(staged, flow) for staged in every for flow in staged.batch.to.flows]
        updates: list[tuple[Staged, int, Cursor[Any]]] = []
        with self._connection.pipeline():
            if manner.tracked:
                self._connection.execute(
                    f"SELECT set_config('{LSN_SETTING}', '{lsn}', true)".encode()
                )
            for staged, flow in flows:
                self._remove(staged, flow, manner)
            for staged, flow in flows:
                updates += self._update(staged, flow)
                self._add(staged, flow, manner)
            for staged in every:
                self._clear(staged)
        for staged, count, update in updates:
            if update.rowcount != count:
                raise Unexpected(str(staged.batch.to.leader.name))

    def _stage(self, batches: Sequence[TableBatch], manner: Manner) -> list[Staged]:
        every, inflows = [], []
        for batch in batches:
            staged, lines = self._lines(batch, manner)
            every.append(staged)
            if staged.rows:
                inflows.append(Inflow(batch.to.stage.into, lines, staged.rows))
                batch.to.staged += staged.rows
        copy_in(self._connection, inflows)
        return every

    def _lines(self, batch: TableBatch, manner: Manner) -> tuple[Staged, Iterator[bytes]]:
        """What is to be staged."""
        net = batch.net
        if (
            net is not None
            and manner.way is Way.DIRECT
            and batch.to.number(filter(None, net.change))
        ):
            return of_net(batch, net, manner.tracked)
        changes = batch.changes
        if isinstance(changes, NetRows):
            return of_multiset(batch, changes)
        self._complete(batch, changes, manner)
        if manner.way is Way.DIRECT and batch.numbered():
            return of_plain(batch, changes, manner.tracked)
        return of_keyed(batch, changes)

    def _complete(self, batch: TableBatch, changes: NetChanges, manner: Manner) -> None:
        """Fetch the values that the log lacks and that the follower cannot have."""
        keeps = self._keeps_rows(batch, manner)
        lacking = [
            key
            for key, unchanged in changes.partial().items()
            if (changes.has_moved(key) and not keeps) or not batch.to.complete.isdisjoint(unchanged)
        ]
        if lacking:
            self._read_back(batch, changes, lacking)

    def _keeps_rows(self, batch: TableBatch, manner: Manner) -> bool:
        """Whether a row of the follower's that gets another key keeps its values.

        They are then not asked of the leader, where the row may have got the next key in
        the meantime, and would be taken for one that is gone.
        """
        to = batch.to
        return not to.of_several_moments and all(self._part(flow, manner) for flow in to.flows)

    def _require_complete(self, batch: TableBatch, manner: Manner) -> None:
        """Check that rows which came in part exist; fetch what they lack if not."""
        if self._keeps_rows(batch, manner):
            return  # one that does not exist is not to be added
        changes = batch.changes
        if not isinstance(changes, NetChanges):
            return
        for flow in batch.to.flows:
            row = self._connection.execute(flow.incomplete).fetchone()
            if row and row[0]:
                self._read_back(batch, changes, list(changes.partial()))
                raise Incomplete(str(batch.to.leader.name))

    def _read_back(self, batch: TableBatch, changes: NetChanges, keys: list[Key]) -> None:
        found = read_back(self._leader_dsn, batch.to.leader, batch.to.stage, keys, self._xids)
        for key in keys:
            changes.complete(key, found.get(key))

    def _remove(self, staged: Staged, flow: CompiledFlow, manner: Manner) -> None:
        if staged.rows and flow.flow.route in manner.tracked:
            self._send_all(flow.dirty)
        if staged.batch.emptied:
            self._send_all(flow.empty)
        part = self._part(flow, manner)
        if staged.removed and part is not None:
            self._send_all(part.remove)
            self._send_all(part.renames(staged.renamed, by_turns=manner.way is not Way.REWRITE))
        elif staged.removed:
            self._send_all(flow.remove)
        if staged.present:
            self._send_all(flow.drop_left)

    def _part(self, flow: CompiledFlow, manner: Manner) -> Part | None:
        """How it is written if the follower's row holds columns that come from elsewhere."""
        return flow.part if self._backwards or manner.members_only else None

    def _update(
        self, staged: Staged, flow: CompiledFlow
    ) -> Iterator[tuple[Staged, int, Cursor[Any]]]:
        """Have the rows that exist updated; yields how many each statement must meet."""
        if flow.direct is not None:
            for lacking, count in staged.changing.items():
                number = staged.batch.to.parts.get(lacking, 0)
                for one in flow.direct.update(lacking, number):
                    yield staged, count, self._send(one)

    def _add(self, staged: Staged, flow: CompiledFlow, manner: Manner) -> None:
        if flow.direct is not None and staged.inserting:
            self._send_all(flow.direct.insert)
        if not staged.present:
            return
        part = self._part(flow, manner)
        if part is not None and manner.members_only:
            self._send_all(part.add_new)
        elif manner.way is Way.REWRITE:
            self._send_all(flow.rewrite if part is None else part.rewrite)
        elif part is not None:
            self._send_all(part.write)
        else:
            self._send_all(flow.add_partial if staged.partial else flow.add)

    def _clear(self, staged: Staged) -> None:
        if not staged.rows:
            return
        to = staged.batch.to
        name = to.stage.table.as_string(None).encode()
        if to.staged > STAGED_MAX:
            to.staged = 0
            self._send(b"TRUNCATE " + name)
        else:
            self._send(b"DELETE FROM " + name)

    def _send_all(self, statements: tuple[bytes, ...]) -> None:
        for statement in statements:
            self._send(statement)

    def _send(self, statement: bytes) -> Cursor[Any]:
        return self._session.send(statement)
