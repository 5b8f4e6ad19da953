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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cdc.batch import Destination, TableBatch, destinations
from cdc.gate import Gate
from cdc.link import Link
from cdc.lsn import LSN
from cdc.past import PastShape
from cdc.pgoutput import Begin, Commit, Event, Message, Origin, Relation, Truncate, decode
from cdc.progress import Counters, Reached
from cdc.replication import Keepalive
from cdc.row_messages import DELETE, INSERT, UPDATE, rearranged
from cdc.writer import Batch, Writer
from plans.catalog import TableName
from plans.errors import StreamBroken
from plans.names import MARKER_PREFIX
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

ROWS = frozenset({INSERT, UPDATE, DELETE})


class Announcement(NamedTuple):
    """What the rows of a table look like, and which table of the plan they belong to."""

    relation: Relation
    root: TableName  # itself, or the partitioned table
    past: PastShape | None = None  # the table looked so when the rows were written


Item = bytes | Keepalive | Announcement
"""A message of the output plugin, but for those that announce a table, and what else comes."""


def size_of(items: Sequence[Item]) -> int:
    """The bytes of the messages among them."""
    return sum([len(item) for item in items if isinstance(item, bytes)])


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows as the stream announced them, on their way into batches."""

    name: TableName
    root: TableName
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
        self._begins = LSN(0)
        self._destinations: dict[TableName, list[Destination]] = {}
        self._batches: dict[Destination, TableBatch] = {}
        self._by_oid: dict[bytes, _Rows] = {}
        self._straight: dict[bytes, list[bytes]] = {}  # where rows go of which nothing is to ask
        self._counters = Counters()
        self._begin: Begin | None = None
        self._at = 0  # where the transaction was committed
        self._skip = False
        self._echo = False
        self._in_parts = False
        self._members_only = False
        self._changes = 0
        self._bytes = 0
        self._part_max = PART_CHANGES_MAX
        self._markers: list[tuple[str, LSN]] = []
        self._pending: Commit | None = None
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
        writer.prepare(found)
        for destination in found:
            self._destinations.setdefault(destination.leader.name, []).append(destination)
        self._renew(found)
        self._begins = self.committed
        writer.start()
        return self._begins

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
        for oid in self._straight:
            self._straight[oid] = self._batches[self._by_oid[oid].to[0]].messages

    # ------------------------------------------------------------- the events

    def feed(self, items: Sequence[Item]) -> None:
        """Take in messages; has them written when a batch is full."""
        self._bytes += size_of(items)
        straight = self._straight
        for item in items:
            if not isinstance(item, bytes) or item[0] not in ROWS:
                self._control(item)
            elif not self._skip:
                self._counters.changes += 1
                messages = straight.get(item[1:5])
                if messages is None:
                    self._ask_where(item)
                else:
                    messages.append(item)
                    self._changes += 1
                if self._changes >= self._part_max:
                    self._carry_part()
        if self._bytes >= PART_BYTES_MAX:
            self._carry_part()

    def _ask_where(self, message: bytes) -> None:
        rows = self._by_oid[message[1:5]]
        wanted = [to for to in rows.to if self._at >= to.horizon.value]  # else it is in the copy
        if wanted and not rows.trusted and message[0] != INSERT:
            raise _unidentified(rows.name)
        if wanted and rows.order is not None:
            message = rearranged(message, rows.order)
        for to in wanted:
            self._batches[to].messages.append(message)
            self._changes += 1

    def _control(self, item: Item) -> None:
        event = decode(item) if isinstance(item, bytes) else item
        if event is not None:
            self._other(event)

    def _other(self, item: Event | Keepalive | Announcement) -> None:
        match item:
            case Begin():
                self._start(item)
            case Commit():
                self._finish(item)
            case Origin():
                self._from_origin(item)
            case Announcement():
                self._announce(item)
            case Message():
                self._message(item)
            case Truncate():
                self._truncate(item)
            case Keepalive():
                self._idle(item)
            case _:
                raise TypeError(f"unexpected event {item!r}")

    def _start(self, begin: Begin) -> None:
        if self._gate.stops(begin.commit_lsn):
            self._stand(begin.commit_lsn)
        self._begin = begin
        self._at = begin.commit_lsn.value
        self._echo = False
        # Records do not overlap: what was applied ends at or before the commit
        # record of the next transaction.
        self._skip = begin.commit_lsn < self._begins
        if not self.link.backwards:
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
            self._finish_batch()
        self._members_only = members_only

    def _finish(self, commit: Commit) -> None:
        if self._begin is None or self._begin.commit_lsn != commit.commit_lsn:
            raise StreamBroken(
                f"the stream ends a transaction at {commit.commit_lsn} that it has not begun",
                hint="this is a bug; nothing of that batch was written",
            )
        self._begin = None
        if commit.end_lsn <= self._begins:
            return
        self._pending = commit
        self._counters.transactions += not self._echo
        is_full = self._changes >= BATCH_CHANGES_MAX or self._bytes >= BATCH_BYTES_MAX
        if is_full or self._markers or self._in_parts:
            self._finish_batch()

    def _announce(self, announced: Announcement) -> None:
        relation, root, past = announced
        to = tuple(self._destinations.get(root, ()))
        names = tuple(column.name for column in relation.columns)
        wanted = to[0].stage.columns if to else names
        key = set(to[0].leader.key) if to else set[str]()
        told = {column.name for column in relation.columns if column.in_key}
        if past is not None:
            told = {name for name in wanted if past.then(name) in told}
        full = relation.replica_identity == "f"
        oid = relation.oid.to_bytes(4, "big")
        rows = self._by_oid[oid] = _Rows(
            name=TableName(relation.schema, relation.name),
            root=root,
            to=to,
            order=_order(names, wanted, past),
            trusted=full or (told == key and not any(one.needs_full_rows for one in to)),
        )
        self._straight.pop(oid, None)
        is_plain = rows.trusted and rows.order is None and len(to) == 1
        if is_plain and self._at >= to[0].horizon.value:
            self._straight[oid] = self._batches[to[0]].messages

    def _message(self, message: Message) -> None:
        if message.prefix == MARKER_PREFIX and message.transactional and not self._skip:
            self._markers.append((message.content.decode(), message.lsn))

    def _truncate(self, truncate: Truncate) -> None:
        if self._skip:
            return
        known = (self._by_oid.get(oid.to_bytes(4, "big")) for oid in truncate.relations)
        emptied = [rows for rows in known if rows is not None]
        whole = {rows.name for rows in emptied}
        for rows in emptied:
            if rows.name != rows.root and rows.root in whole:
                continue
            for to in rows.to:
                if self._at >= to.horizon.value:
                    self._empty(to, rows.name)

    def _empty(self, to: Destination, name: TableName) -> None:
        self._changes += 1
        if name == to.leader.name:
            self._batches[to].empty()
            return
        # What was gathered may be rows of this partition or of others.
        self._carry_part()
        if self._batches[to].touched or not all(name in flow.empty_leaves for flow in to.flows):
            raise StreamBroken(
                f"partition {name} was truncated, and which rows of the follower came from it "
                "is not known",
                hint="`dbsplit abort` and start the split again; until then delete rows of a "
                "partition instead",
            )
        for flow in to.flows:
            for statement in flow.empty_leaves[name]:
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
        self._hand_over(Reached(pending.end_lsn, pending.commit_time_us, tuple(self._markers)))

    def _hand_over(self, reached: Reached) -> None:
        """Have everything written, and committed as what goes so far."""
        tables = [batch for batch in self._batches.values() if batch.touched]
        for batch in tables:
            batch.take_in()
        self._handed_over_at = time.monotonic()
        self._opened().submit(
            Batch(tables, reached.lsn, self._members_only, reached, self._counters)
        )
        self._renew(batch.to for batch in tables)
        self._counters = Counters()
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
        position = self._begin.commit_lsn if self._begin else self.committed
        if tables and not self._opened().carry_part(Batch(tables, position, self._members_only)):
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


def _unidentified(table: TableName) -> StreamBroken:
    return StreamBroken(
        f"{table} was changed without its old row being told in full: its replica identity is "
        "not what prepare set or found",
        hint="nothing wrong was written; which rows were meant is not in the log: set it back, "
        "`dbsplit abort` and start the split again",
    )
