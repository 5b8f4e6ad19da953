"""Writing a batch: staging the leader's rows, and carrying them over as sets."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import chain
from typing import Any

from psycopg import Cursor

from cdc.batch import CompiledFlow, Direct, Part, TableBatch
from cdc.compaction import NetChanges, NetRows
from cdc.crash import crash_point
from cdc.lsn import LSN
from cdc.net import Net
from cdc.progress import Session
from cdc.readback import read_back
from cdc.rows import Key, Unchanged
from cdc.stage import copy_in, plain_writer

STAGED_MAX = 5_000
"""Rows through a stage until it is truncated: deleted rows stay in its file, and
truncating it after each small batch would cost more than the batch."""

LSN_SETTING = "dbsplit.lsn"

APPEARING = b"i"
"""Rows that are staged only to have their keys noted."""


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


@dataclass(frozen=True, slots=True)
class _Staged:
    """What of a batch lies in its stage, and what does not."""

    batch: TableBatch
    rows: int
    present: bool
    removed: bool  # rows that are gone, or old images by which others are
    partial: bool  # some of the present rows lack values
    renamed: int = 0  # rows that have another key than before
    changing: Mapping[Unchanged, int] = field(default_factory=dict)
    """How many rows are to be updated, if direct, by the values that they lack."""
    appearing: Sequence[bytes] = ()  # rows to be copied straight into the table, in its format
    inserting: bool = False  # rows are to be inserted as they lie in the stage


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
        every = [self._stage(batch, manner) for batch in batches]
        crash_point("stream.staged")
        for staged in every:
            if staged.partial:
                self._require_complete(staged.batch, manner)
        flows = [(staged, flow) for staged in every for flow in staged.batch.to.flows]
        self._carry_over(flows, lsn, manner)
        for staged in every:
            self._clear(staged)
        for staged, flow in flows:
            if flow.direct and staged.appearing:
                self._copy(staged, flow.direct)

    def _carry_over(
        self, flows: Sequence[tuple[_Staged, CompiledFlow]], lsn: LSN, manner: Manner
    ) -> None:
        """Have what is staged removed, updated and added."""
        updates: list[tuple[_Staged, int, Cursor[Any]]] = []
        with self._connection.pipeline():
            if manner.tracked:
                self._connection.execute(
                    f"SELECT set_config('{LSN_SETTING}', '{lsn}', true)".encode()
                )
            for staged, flow in flows:
                self._remove(staged, flow, manner)
            for staged, flow in flows:
                updates += self._update(staged, flow)
                if flow.direct is not None and staged.inserting:
                    self._send_all(flow.direct.insert)
                if staged.present:
                    self._add(staged, flow, manner)
        for staged, count, update in updates:
            if update.rowcount != count:
                raise Unexpected(str(staged.batch.to.leader.name))

    def _stage(self, batch: TableBatch, manner: Manner) -> _Staged:
        staged, lines = self._lines(batch, manner)
        first = next(lines, None)
        if first is None:
            return staged
        count = batch.to.stage.fill(self._connection, chain((first,), lines))
        batch.to.staged += count
        return replace(staged, rows=count)

    def _lines(self, batch: TableBatch, manner: Manner) -> tuple[_Staged, Iterator[bytes]]:
        """What is to be staged."""
        if batch.net is not None and manner.way is Way.DIRECT:
            return _of_net(batch, batch.net, manner)
        changes = batch.changes
        if isinstance(changes, NetRows):
            return _of_multiset(batch, changes)
        self._complete(batch, changes, manner)
        if manner.way is Way.DIRECT and batch.numbered():
            return _of_plain(batch, changes, manner)
        return _of_keyed(batch, changes)

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

    def _remove(self, staged: _Staged, flow: CompiledFlow, manner: Manner) -> None:
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
        self, staged: _Staged, flow: CompiledFlow
    ) -> Iterator[tuple[_Staged, int, Cursor[Any]]]:
        """Have the rows that exist updated; yields how many each statement must meet."""
        if flow.direct is not None:
            for lacking, count in staged.changing.items():
                number = staged.batch.to.parts.get(lacking, 0)
                for one in flow.direct.update(lacking, number):
                    yield staged, count, self._send(one)

    def _add(self, staged: _Staged, flow: CompiledFlow, manner: Manner) -> None:
        part = self._part(flow, manner)
        if part is not None and manner.members_only:
            self._send_all(part.add_new)
        elif manner.way is Way.REWRITE:
            self._send_all(flow.rewrite if part is None else part.rewrite)
        elif part is not None:
            self._send_all(part.write)
        else:
            self._send_all(flow.add_partial if staged.partial else flow.add)

    def _copy(self, staged: _Staged, direct: Direct) -> None:
        copy_in(self._connection, direct.into, direct.columns, staged.appearing)

    def _clear(self, staged: _Staged) -> None:
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


def _of_net(batch: TableBatch, net: Net, manner: Manner) -> tuple[_Staged, Iterator[bytes]]:
    stage = batch.to.stage
    gone, changing = list(batch.gone()), net.rows(net.change)
    lines = [stage.lines(b"g", gone), stage.lines(b"u", changing)]
    if net.appearing and (op := _staged_as(batch, manner)):
        lines.append(stage.lines(op, net.rows(net.appear)))
    return _direct(
        batch,
        removed=bool(gone),
        changing={(): len(changing)} if changing else {},
        appearing=net.appearing,
        copied=lambda: [net.copied()],
    ), chain.from_iterable(lines)


def _of_plain(
    batch: TableBatch, changes: NetChanges, manner: Manner
) -> tuple[_Staged, Iterator[bytes]]:
    appearing, changing = changes.coming()
    stage = batch.to.stage
    gone = [*batch.gone(), *(old for old, _ in changes.renamed())]
    # An old row may be an update that came in part.
    lines: list[Iterator[bytes]] = [map(stage.partial_writer(b"g"), gone)]
    for lacking, some in changing.items():
        if lacking:
            write = stage.blank_writer(b"p", batch.to.parts.get(lacking, 0), lacking)
            lines.append(map(write, some))
        else:
            lines.append(stage.lines(b"u", some))
    if appearing and (op := _staged_as(batch, manner)):
        lines.append(stage.lines(op, appearing))
    return _direct(
        batch,
        removed=bool(gone),
        changing={lacking: len(some) for lacking, some in changing.items()},
        appearing=len(appearing),
        copied=lambda: list(map(plain_writer(len(stage.columns)), appearing)),
    ), chain.from_iterable(lines)


def _staged_as(batch: TableBatch, manner: Manner) -> bytes | None:
    """As what rows that appear are staged; None if they are only copied into the table."""
    if not batch.to.stage.binary:
        return b"n"
    return APPEARING if any(f.flow.route in manner.tracked for f in batch.to.flows) else None


def _direct(
    batch: TableBatch,
    *,
    removed: bool,
    changing: Mapping[Unchanged, int],
    appearing: int,
    copied: Callable[[], Sequence[bytes]],
) -> _Staged:
    """What is written as it came."""
    binary = batch.to.stage.binary
    return _Staged(
        batch,
        0,
        present=False,
        removed=removed,
        partial=False,
        changing=changing,
        appearing=copied() if appearing and binary else (),
        inserting=bool(appearing) and not binary,
    )


def _of_keyed(batch: TableBatch, changes: NetChanges) -> tuple[_Staged, Iterator[bytes]]:
    stage = batch.to.stage
    present = dict(changes.present())
    partial = changes.partial()
    renamed = list(changes.renamed())
    rows = list(map(stage.partial_writer(b"g"), batch.gone()))
    rows += [stage.partial_writer(b"k", number)(old) for number, (old, _) in enumerate(renamed)]
    if batch.to.needs_full_rows:
        rows += map(stage.partial_writer(b"b"), changes.before())
    is_removed = bool(rows)
    whole, new = stage.writer(b"u"), stage.writer(b"n")
    numbers = {key: number for number, (_, key) in enumerate(renamed)}
    for key, row in present.items():
        # To followers with rows of several moments, any row may be new.
        is_new = batch.to.of_several_moments or changes.is_new(key)
        if key in partial or key in numbers:
            write = stage.partial_writer(b"n" if is_new else b"u", numbers.get(key))
            rows.append(write(row))
        else:
            rows.append(new(row) if is_new else whole(row))
    staged = _Staged(
        batch,
        0,
        present=bool(present),
        removed=is_removed,
        partial=bool(partial),
        renamed=len(renamed),
    )
    return staged, iter(rows)


def _of_multiset(batch: TableBatch, changes: NetRows) -> tuple[_Staged, Iterator[bytes]]:
    stage = batch.to.stage
    rows = list(changes.rows())
    staged = _Staged(
        batch,
        0,
        present=any(count > 0 for _, count in rows),
        removed=any(count < 0 for _, count in rows),
        partial=False,
    )
    write = stage.partial_writer
    # Any of them may be new.
    return staged, (write(b"n" if count > 0 else b"g", count)(row) for row, count in rows)
