"""Writing a batch: staging the leader's rows, and carrying them over as sets."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from cdc.batch import TableBatch
from cdc.compaction import NetChanges, NetRows
from cdc.compiled import CompiledFlow, Part
from cdc.crash import crash_point
from cdc.inflow import Exact, Inflow, Step, exchange
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
        every, staging = self._stage(batches, manner)
        if any(staged.partial for staged in every):
            exchange(self._connection, staging)
            staging = []
            for staged in every:
                if staged.partial:
                    self._require_complete(staged.batch, manner)
        appearing = [
            Inflow(flow.direct.into, staged.appearing, staged.appear)
            for staged in every
            for flow in staged.batch.to.flows
            if flow.direct and staged.appearing
        ]
        carrying = self._carry_over(every, lsn, manner)
        exchange(self._connection, [*staging, *carrying, *appearing])

    def _carry_over(self, every: Sequence[Staged], lsn: LSN, manner: Manner) -> list[Step]:
        """What removes, updates and adds what is staged, and empties the stages."""
        flows = [(staged, flow) for staged in every for flow in staged.batch.to.flows]
        run: list[Step] = []
        if manner.tracked:
            run.append(f"SELECT set_config('{LSN_SETTING}', '{lsn}', true)".encode())
        for staged, flow in flows:
            run += self._prepared(self._remove(staged, flow, manner))
        for staged, flow in flows:
            for statement, count in self._update(staged, flow):
                *before, last = self._session.prepared(statement)
                run += [*before, Exact(last, count)]
            run += self._prepared(self._add(staged, flow, manner))
        for staged in every:
            run += self._prepared(self._clear(staged))
        return run

    def _prepared(self, statements: Iterable[bytes]) -> Iterator[bytes]:
        for statement in statements:
            yield from self._session.prepared(statement)

    def _stage(
        self, batches: Sequence[TableBatch], manner: Manner
    ) -> tuple[list[Staged], list[Step]]:
        """What is staged, and what does it."""
        every, inflows = [], []
        for batch in batches:
            staged, lines = self._lines(batch, manner)
            every.append(staged)
            if staged.rows:
                inflows.append(Inflow(batch.to.stage.into, lines, staged.rows))
                batch.to.staged += staged.rows
        return every, _marked(inflows)

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

    def _remove(self, staged: Staged, flow: CompiledFlow, manner: Manner) -> Iterator[bytes]:
        if staged.rows and flow.flow.route in manner.tracked:
            yield from flow.dirty
        if staged.batch.emptied:
            yield from flow.empty
        part = self._part(flow, manner)
        if staged.removed and part is not None:
            yield from part.remove
            yield from part.renames(staged.renamed, by_turns=manner.way is not Way.REWRITE)
        elif staged.removed:
            yield from flow.remove
        if staged.present:
            yield from flow.drop_left

    def _part(self, flow: CompiledFlow, manner: Manner) -> Part | None:
        """How it is written if the follower's row holds columns that come from elsewhere."""
        return flow.part if self._backwards or manner.members_only else None

    def _update(self, staged: Staged, flow: CompiledFlow) -> Iterator[tuple[bytes, int]]:
        """What updates the rows that exist, and how many each statement must meet."""
        if flow.direct is not None:
            for lacking, count in staged.changing.items():
                number = staged.batch.to.parts.get(lacking, 0)
                for statement in flow.direct.update(lacking, number):
                    yield statement, count

    def _add(self, staged: Staged, flow: CompiledFlow, manner: Manner) -> Iterator[bytes]:
        if flow.direct is not None and staged.inserting:
            yield from flow.direct.insert
        if not staged.present:
            return
        part = self._part(flow, manner)
        if part is not None and manner.members_only:
            yield from part.add_new
        elif manner.way is Way.REWRITE:
            yield from flow.rewrite if part is None else part.rewrite
        elif part is not None:
            yield from part.write
        else:
            yield from flow.add_partial if staged.partial else flow.add

    def _clear(self, staged: Staged) -> Iterator[bytes]:
        if not staged.rows:
            return
        to = staged.batch.to
        name = to.stage.table.as_string(None).encode()
        if to.staged > STAGED_MAX:
            to.staged = 0
            yield b"TRUNCATE " + name
        else:
            yield b"DELETE FROM " + name


def _marked(inflows: Sequence[Inflow]) -> list[Step]:
    """The same, with the point of a crash behind the last row of all."""
    if not inflows:
        _staged()
        return []
    *others, last = inflows

    def lines() -> Iterator[bytes]:
        yield from last.lines
        _staged()

    return [*others, replace(last, lines=lines())]


def _staged() -> None:
    crash_point("stream.staged")
