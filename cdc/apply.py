"""Applying changes to one follower: batches of whole transactions, progress included.

Theory of operation.  The reader hands over messages in commit order.  The applier
gathers the net effect of transaction after transaction, and when nothing more
waits, or the batch is large, has it carried into the follower's tables as sets, in
one transaction together with the progress row.  So a batch is applied wholly or
not at all, and what was applied is skipped when it comes again.  A transaction
larger than a batch is carried over in parts, but in one transaction too.

A change is echo if we wrote it ourselves from this very follower; its
replication origin tells.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from cdc.batch import Destination, TableBatch, destinations
from cdc.gate import Gate
from cdc.link import Link
from cdc.lsn import LSN
from cdc.messages import BEGIN, COMMIT, INSERT, NONE, Messages
from cdc.parts import NO_ROWS, Announcement, Item, Part
from cdc.past import PastShape
from cdc.pgoutput import BEGIN_FIELDS, COMMIT_FIELDS, Event, Message, Origin, Truncate, decode
from cdc.progress import Counters, Reached
from cdc.relations import NewPartition
from cdc.replication import Keepalive
from cdc.row_messages import rearranged
from cdc.writer import Batch, Writer
from plans.catalog import TableName
from plans.errors import StreamBroken
from plans.names import MARKER_PREFIX, REWRITE_PREFIX
from plans.routes import Kind

CLOSE_S_MAX = 30.0
BATCH_CHANGES_MAX = 40_000
BATCH_BYTES_MAX = 4 << 20
PART_CHANGES_MAX = 60_000
PART_BYTES_MAX = 8 << 20
"""A transaction that makes a batch larger than this is carried over in parts."""

LINGER_S = 0.02
"""A batch begins so long after the one before, if it is not full: a batch costs some
milliseconds, however little is in it.  After a rest, nothing waits."""
SETTLE_S = 0.2
BUSY_S = 0.002

IDLE_PROGRESS_S = 1.0
"""How often an idle stream's position is written to the follower."""


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows as the stream announced them, on their way into batches."""

    name: TableName
    root: TableName
    is_new: bool  # a partition that the follower does not have yet
    to: tuple[Destination, ...]
    order: tuple[int | bytes, ...] | None  # of the values in the stage; None if they come so
    trusted: bool  # old rows tell what is needed


class Applier:
    """Applies one link's changes; for use by one thread."""

    def __init__(self, link: Link, stop: threading.Event, gate: Gate, *, binary: bool) -> None:
        self.link = link
        self._stop = stop
        self._gate = gate
        self._binary = binary
        self._writer: Writer | None = None
        self._begins = 0  # what was committed before was taken in already, here or earlier
        self._destinations: dict[TableName, list[Destination]] = {}
        self._batches: dict[Destination, TableBatch] = {}
        self._not_in_parts: list[Destination] = []
        self._by_oid: dict[int, _Rows] = {}
        self._part = Part(NONE, NO_ROWS, ())
        self._taken = 0  # so many of its rows are in batches, or skipped
        self._here = 0  # and so many have come
        self._horizon = LSN(0)  # the latest of all destinations
        self._counters = Counters()
        self._begin: int | None = None  # where the transaction that is coming was committed
        self._at = 0  # where the last one was
        self._skip = False
        self._echo = False
        self._in_parts = False
        self._members_only = False
        self._is_rewritten = False  # rows that come have only changed, though they go and come
        self._changes = self._bytes = 0
        self._part_max = PART_CHANGES_MAX
        self._batch_bytes_max = link.share(BATCH_BYTES_MAX)
        self._part_bytes_max = link.share(PART_BYTES_MAX)
        self._xids: list[int] = []  # of what was gathered
        self._markers: list[tuple[str, LSN]] = []
        self._pending: tuple[int, int] | None = None  # where the last one ended, and when
        self._handed_over_at = 0.0

    # ------------------------------------------------------------ the session

    def open(self) -> LSN:
        """Connect, and return the position up to which the follower has everything."""
        writer = self._writer = Writer(self.link, self._stop)
        link = self.link
        found = list(
            destinations(
                link.flows,
                link.horizons,
                link.types,
                binary=self._binary,
                of_several_moments=link.of_several_moments,
            )
        )
        for destination in found:
            self._destinations.setdefault(destination.leader.name, []).append(destination)
            self._horizon = max(self._horizon, destination.horizon)
        # One of their partitions may be truncated next, and what they have is written by then.
        self._not_in_parts = [to for to in found if to.whole_transactions_only and to.leader.leaves]
        self._renew(found)
        self._begins = self.committed.value
        writer.start()
        return self.committed

    def close(self) -> None:
        """Give up what was not committed, and disconnect; `stop` is set."""
        if self._writer is not None:
            self._writer.end(CLOSE_S_MAX)

    @property
    def is_open(self) -> bool:
        """Whether it was connected."""
        return self._writer is not None

    @property
    def committed(self) -> LSN:
        """The position in the leader's log up to which the follower has everything."""
        return self._opened().session.committed

    @property
    def idle(self) -> bool:
        """Whether nothing is gathered or being written."""
        return not (self._changes or self._markers or self._opened().busy)

    def _opened(self) -> Writer:
        if self._writer is None:
            raise RuntimeError("the applier is not open")
        return self._writer

    def _renew(self, some: Iterable[Destination]) -> None:
        """Begin new batches."""
        self._batches |= {to: TableBatch(to) for to in some}

    # ------------------------------------------------------------- the events

    def feed(self, parts: Sequence[Part]) -> None:
        """Take in parts of the stream; has them written when a batch is full."""
        for part in parts:
            self._part, self._taken = part, 0
            self._bytes += part.size
            for self._here, item in part.others:
                self._other(item)
            self._here = len(part.rows)
            self._take_rows()
            if self._bytes >= self._part_bytes_max:
                self._carry_part()

    def _take_rows(self) -> None:
        """Put the rows that have come into batches, unless their transactions are skipped."""
        end = self._here
        while not self._skip and self._taken < end:
            begin = self._taken
            self._taken = min(end, begin + max(1, self._part_max - self._changes))
            self._divide(slice(begin, self._taken))
            if self._changes >= self._part_max:
                self._carry_part()
        self._taken = end

    def _divide(self, some: slice) -> None:
        """Put rows into their tables' batches."""
        rows, relations = self._part.rows.only(some), self._part.relations[some]
        self._counters.changes += len(rows)
        oids = np.unique(relations).tolist()
        if len(oids) == 1:
            self._put(self._by_oid[oids[0]], rows)
            return
        for oid in oids:
            self._put(self._by_oid[oid], rows.only(relations == oid))

    def _put(self, rows: _Rows, messages: Messages) -> None:
        wanted = [
            to
            for to in rows.to
            if self._at >= to.horizon.value  # else it is in the copy
            and not (self._is_rewritten and to.is_part)
        ]
        if wanted and rows.is_new:
            raise NewPartition(rows.name, rows.root)
        if wanted and not rows.trusted and (messages.kinds != INSERT).any():
            raise _unidentified(rows)
        if wanted and rows.order is not None:
            order = rows.order
            messages = Messages.of([rearranged(messages[n], order) for n in range(len(messages))])
        for to in wanted:
            self._batches[to].messages.append(messages)
            self._changes += len(messages)

    def _other(self, item: Item) -> None:
        if isinstance(item, bytes):
            if item[0] == BEGIN:
                self._start(*BEGIN_FIELDS.unpack_from(item))
            elif item[0] == COMMIT:
                self._finish(*COMMIT_FIELDS.unpack_from(item))
            elif (event := decode(item)) is not None:
                self._take_rows()
                self._rare(event)
        elif isinstance(item, Announcement):
            self._take_rows()
            self._announce(item)
        else:
            self._take_rows()
            self._idle(item)

    def _rare(self, event: Event) -> None:
        match event:
            case Origin():
                self._from_origin(event)
            case Message():
                self._message(event)
            case Truncate():
                self._truncate(event)
            case _:
                raise TypeError(f"unexpected event {event!r}")

    def _start(self, commit: int, xid: int) -> None:
        if self._gate.is_closed and self._gate.stops(LSN(commit)):
            self._take_rows()
            self._stand(LSN(commit))
        # Records do not overlap: what was applied ends at or before the commit
        # record of the next transaction.
        skip = commit < self._begins
        if not skip:
            self._xids.append(xid)
        if skip != self._skip or self._at < self._horizon.value:
            self._take_rows()
        self._begin = self._at = commit
        self._echo = self._is_rewritten = False
        self._skip = skip
        if self._members_only and not self.link.backwards:
            self._set_members_only(members_only=False)

    def _stand(self, at: LSN) -> None:
        """Write what was gathered, and wait until the gate is open."""
        self._finish_batch()
        self._opened().wait()
        self._gate.wait(self.link.stream, at, self._stop)

    def _from_origin(self, origin: Origin) -> None:
        if origin.name in self.link.echoes:
            self._echo = self._skip = True
            self._counters.echoes += 1
        elif origin.name in self.link.foreign:
            self._set_members_only(members_only=True)

    def _set_members_only(self, *, members_only: bool) -> None:
        """Whether, of tables split by column, only rows' coming and going counts.

        What another service wrote reaches the source with our columns as they were
        there, which may be older than what our service has written since.
        """
        if members_only != self._members_only and any(
            flow.kind is Kind.COLUMNS for flow in self.link.flows
        ):
            self._take_rows()
            self._finish_batch()
        self._members_only = members_only

    def _finish(self, commit: int, end: int, time_us: int) -> None:
        if self._begin != commit:
            raise StreamBroken(
                f"the stream ends a transaction at {LSN(commit)} that it has not begun",
                hint="this is a bug; nothing of that batch was written",
            )
        changes = self._changes if self._skip else self._changes + self._here - self._taken
        is_full = changes >= BATCH_CHANGES_MAX or self._bytes >= self._batch_bytes_max
        if is_full or self._markers or self._in_parts or self._not_in_parts:
            self._take_rows()
        self._begin = None
        if end <= self._begins:
            return
        # The same comes once more where a stream follows what was pulled, and another
        # follower, which is away, holds up their slot.
        self._begins = end
        self._pending = end, time_us
        self._counters.transactions += not self._echo
        # Fewer rows may have been wanted than came; more if a table goes to several.
        is_full = self._changes >= BATCH_CHANGES_MAX or self._bytes >= self._batch_bytes_max
        is_full = is_full or any(self._batches[to].touched for to in self._not_in_parts)
        if is_full or self._markers or self._in_parts:
            self._finish_batch()

    def _announce(self, announced: Announcement) -> None:
        relation, root, name, past, is_new = announced
        to = tuple(self._destinations.get(root, ()))
        names = tuple(column.name for column in relation.columns)
        wanted = to[0].stage.columns if to else names
        key = set(to[0].leader.key) if to else set[str]()
        told = {column.name for column in relation.columns if column.in_key}
        if past is not None:
            told = {name for name in wanted if past.then(name) in told}
        full = relation.replica_identity == "f"
        self._by_oid[relation.oid] = _Rows(
            name=name,
            root=root,
            is_new=is_new,
            to=to,
            order=_order(names, wanted, past),
            trusted=full or (told == key and not any(one.needs_full_rows for one in to)),
        )

    def _message(self, message: Message) -> None:
        if self._skip or not message.transactional:
            return
        if message.prefix == MARKER_PREFIX:
            if (marker := _marker(message.content)) is not None:
                self._markers.append((marker, message.lsn))
        elif message.prefix == REWRITE_PREFIX:
            self._is_rewritten = self._members_only and message.content == b"begin"

    def _truncate(self, truncate: Truncate) -> None:
        if self._skip:
            return
        emptied: dict[TableName, list[_Rows]] = defaultdict(list)
        for oid in truncate.relations:
            if (rows := self._by_oid.get(oid)) is not None:
                emptied[rows.root].append(rows)
        for root, some in emptied.items():
            for to in self._destinations.get(root, ()):
                if self._at >= to.horizon.value:
                    self._empty(to, some)

    def _empty(self, to: Destination, some: Sequence[_Rows]) -> None:
        """Empty a table, or some of its partitions; of a whole table, all of these are told."""
        if new := [rows.name for rows in some if rows.is_new]:
            raise NewPartition(new[0], to.leader.name)
        self._changes += 1
        names = [rows.name for rows in some]
        if to.leader.leaves and not set(names).issuperset(to.leader.leaves):
            for name in names:
                self._empty_leaf(to, name)
        else:
            self._batches[to].empty()

    def _empty_leaf(self, to: Destination, name: TableName) -> None:
        # What was gathered may be rows of this partition or of others.
        self._carry_part()
        if self._batches[to].touched or not all(
            name in flow.flow.follower_leaves for flow in to.flows
        ):
            raise StreamBroken(
                f"partition {name} was truncated, and which rows of the follower came from it "
                "is not known",
                hint=f"nothing wrong was written: `dbsplit plan refresh --anew {to.leader.name}` "
                "copies the table anew; delete a partition's rows instead, or truncate all of it",
            )
        for flow in to.flows:
            for statement in flow.empty_leaf(name):
                self._opened().execute(statement)
        self._in_parts = True
        self._changes += 1

    def _idle(self, keepalive: Keepalive) -> None:
        session = self._opened().session
        if self._begin is not None or keepalive.wal_end <= session.committed:
            return
        if self._pending is not None or not self.idle or self._gate.stops(keepalive.wal_end):
            return
        if time.monotonic() - session.committed_at >= IDLE_PROGRESS_S:
            self._hand_over(Reached(keepalive.wal_end))

    # --------------------------------------------------------------- the batch

    def settle(self) -> float:
        """Nothing more waits: write what was gathered, if its transactions are whole.

        Returns how many seconds to wait for more until this is asked again; raises what
        the batch before met.
        """
        writer = self._opened()
        writer.check()
        if self._begin is None and self._pending is not None:
            if writer.busy:
                return BUSY_S
            if (early_s := self._handed_over_at + LINGER_S - time.monotonic()) > 0:
                return early_s
            self._finish_batch()
        return SETTLE_S

    def _finish_batch(self) -> None:
        pending = self._pending
        if pending is None:
            return
        if not (self._changes or self._markers or self._in_parts) and (
            time.monotonic() - self._opened().session.committed_at < IDLE_PROGRESS_S
        ):
            return  # only echo or other services' changes: the next batch takes it along
        self._pending = None
        end, time_us = pending
        self._hand_over(Reached(LSN(end), time_us, tuple(self._markers)))

    def _hand_over(self, reached: Reached) -> None:
        """Have everything written, and committed as what goes so far."""
        tables = [batch for batch in self._batches.values() if batch.touched]
        for batch in tables:
            batch.take_in()
        self._handed_over_at = time.monotonic()
        self._opened().submit(
            Batch(tables, reached.lsn, self._members_only, self._xids, reached, self._counters)
        )
        self._renew(batch.to for batch in tables)
        self._counters = Counters()
        # What is handed over when a transaction begins does not have that one yet.
        self._xids = [] if self._begin is None else self._xids[-1:]
        self._markers.clear()
        self._changes = self._bytes = 0
        self._part_max = PART_CHANGES_MAX
        self._in_parts = False

    def _carry_part(self) -> None:
        """Carry what was gathered of a transaction into the follower's open one."""
        tables = [
            batch
            for to, batch in self._batches.items()
            if batch.touched and not to.whole_transactions_only
        ]
        for batch in tables:
            batch.take_in()
        position = LSN(self._at)
        part = Batch(tables, position, self._members_only, self._xids)
        if tables and not self._opened().carry_part(part):
            self._part_max *= 2
            self._bytes = 0
            return
        self._in_parts = True
        self._renew(batch.to for batch in tables)
        self._changes = self._bytes = 0
        self._part_max = PART_CHANGES_MAX


def _order(
    names: tuple[str, ...], wanted: tuple[str, ...], past: PastShape | None
) -> tuple[int | bytes, ...] | None:
    """Where the stage's values are among those that come; None if they are the same."""
    if names == wanted and past is None:
        return None
    then = [name if past is None else past.then(name) for name in wanted]
    return tuple(names.index(one) if isinstance(one, str) else one for one in then)


def _marker(content: bytes) -> str | None:
    """A marker's id; None for anything else: whoever may log in may write under our prefix."""
    try:
        return str(uuid.UUID(content.decode()))
    except ValueError:
        return None


def _unidentified(rows: _Rows) -> StreamBroken:
    return StreamBroken(
        f"{rows.name} was changed without its old row being told in full: its replica identity is "
        "not what prepare set or found",
        hint="nothing wrong was written; which rows were meant is not in the log: set it back, "
        f"then `dbsplit plan refresh --anew {rows.root}` copies the table anew",
    )
