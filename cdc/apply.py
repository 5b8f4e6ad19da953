"""Applying changes to one follower: batches of whole transactions, progress included.

Theory of operation.  The reader hands over messages in commit order.  The applier
gathers the net effect of transaction after transaction, and when nothing more
waits, or the batch is large, carries it into the follower's tables as sets, in
one transaction together with the progress row.  So a batch is applied wholly or
not at all, and what was applied is skipped when it comes again.  A transaction
larger than a batch is carried over in pieces, but in one transaction too.

A change is echo if we wrote it ourselves from this very follower; its
replication origin tells.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import psycopg

from cdc.batch import TableBatch, gather
from cdc.link import Link
from cdc.lsn import LSN
from cdc.pgoutput import Begin, Commit, Event, Message, Origin, Relation, Truncate, decode
from cdc.progress import Counters, Reached, Session
from cdc.replication import Keepalive
from cdc.row_messages import DELETE, INSERT, UPDATE, rearranged
from cdc.write import BatchWriter, Incomplete, Manner, Unexpected, Way
from plans.catalog import TableName
from plans.errors import StreamBroken
from plans.names import MARKER_PREFIX
from plans.routes import Kind

BATCH_CHANGES_MAX = 40_000
BATCH_BYTES_MAX = 8 << 20
PART_CHANGES_MAX = 60_000
PART_BYTES_MAX = 12 << 20
"""A transaction that makes a batch larger than this is carried over in parts."""

IDLE_PROGRESS_S = 1.0
"""How often an idle stream's position is written to the follower."""

CAREFUL_BATCHES = 20
"""How long the fast way is not tried again after it did not do."""

ROWS = frozenset({INSERT, UPDATE, DELETE})


class Announcement(NamedTuple):
    """What the rows of a table look like, and which table of the plan they belong to."""

    relation: Relation
    root: TableName  # itself, or the partitioned table


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
    batches: tuple[TableBatch, ...]
    order: tuple[int, ...] | None  # of the values in the stage; None if they come so
    trusted: bool  # old rows tell what the batches need


class Applier:
    """Applies one link's changes; for use by one thread."""

    def __init__(self, link: Link, *, binary: bool) -> None:
        self.link = link
        self._binary = binary
        self._session: Session | None = None
        self._tables: dict[TableName, list[TableBatch]] = {}
        self._by_oid: dict[bytes, _Rows] = {}
        self._straight: dict[bytes, list[bytes]] = {}  # where rows go of which nothing is to ask
        self._counters = Counters()
        self._begin: Begin | None = None
        self._at = 0  # where the transaction was committed
        self._skip = False
        self._echo = False
        self._members_only = False
        self._changes = 0
        self._bytes = 0
        self._part_max = PART_CHANGES_MAX
        self._markers: list[tuple[str, LSN]] = []
        self._pending: Commit | None = None
        self._careful = 0

    # ------------------------------------------------------------ the session

    def open(self) -> LSN:
        """Connect, and return the position up to which the follower has everything."""
        session = self._session = Session.begin_with(self.link)
        link = self.link
        for batch in gather(link.flows, link.horizons, link.types, binary=self._binary):
            for statement in batch.stage.create():
                session.connection.execute(statement)
            self._tables.setdefault(batch.leader.name, []).append(batch)
        return session.committed

    def close(self) -> None:
        """Give up what was not committed, and disconnect."""
        if self._session is not None:
            self._session.close()

    @property
    def committed(self) -> LSN:
        """The position in the leader's log up to which the follower has everything."""
        return self._opened().committed

    def _opened(self) -> Session:
        if self._session is None:
            raise RuntimeError("the applier is not open")
        return self._session

    # ------------------------------------------------------------- the events

    def feed(self, items: Sequence[Item]) -> None:
        """Take in messages; writes when a batch is full."""
        self._bytes += size_of(items)
        straight = self._straight
        for item in items:
            if not isinstance(item, bytes):
                self._other(item)
            elif item[0] not in ROWS:
                event = decode(item)
                if event is not None:
                    self._other(event)
            elif not self._skip:
                self._counters.changes += 1
                messages = straight.get(item[1:5])
                if messages is None:
                    self._row(item)
                else:
                    messages.append(item)
                    self._changes += 1
                if self._changes >= self._part_max:
                    self._flush(partly=True)
        if self._bytes >= PART_BYTES_MAX:
            self._flush(partly=True)

    def _row(self, message: bytes) -> None:
        rows = self._by_oid[message[1:5]]
        if not rows.trusted and message[0] != INSERT:
            raise _unidentified(rows.name)
        if rows.order is not None:
            message = rearranged(message, rows.order)
        for batch in rows.batches:
            if self._at >= batch.horizon.value:  # else it is in the copy
                batch.messages.append(message)
                self._changes += 1

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
        self._begin = begin
        self._at = begin.commit_lsn.value
        self._echo = False
        # Records do not overlap: what was applied ends at or before the commit
        # record of the next transaction.
        self._skip = begin.commit_lsn < self.committed
        if not self.link.backwards:
            self._set_members_only(members_only=False)

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
            self._flush_and_commit()
        self._members_only = members_only

    def _finish(self, commit: Commit) -> None:
        if self._begin is None or self._begin.commit_lsn != commit.commit_lsn:
            raise StreamBroken(
                f"the stream ends a transaction at {commit.commit_lsn} that it has not begun",
                hint="this is a bug; nothing of that batch was written",
            )
        self._begin = None
        if commit.end_lsn <= self.committed:
            return
        self._pending = commit
        self._counters.transactions += not self._echo
        is_full = self._changes >= BATCH_CHANGES_MAX or self._bytes >= BATCH_BYTES_MAX
        if is_full or self._markers or self._opened().is_open:
            self._flush_and_commit()

    def _announce(self, announced: Announcement) -> None:
        relation, root = announced
        batches = tuple(self._tables.get(root, ()))
        names = tuple(column.name for column in relation.columns)
        wanted = batches[0].stage.columns if batches else names
        key = set(batches[0].leader.key) if batches else set[str]()
        told = {column.name for column in relation.columns if column.in_key}
        full = relation.replica_identity == "f"
        oid = relation.oid.to_bytes(4, "big")
        rows = self._by_oid[oid] = _Rows(
            name=TableName(relation.schema, relation.name),
            root=root,
            batches=batches,
            order=None if names == wanted else tuple(names.index(name) for name in wanted),
            trusted=full or (told == key and not any(batch.needs_full_rows for batch in batches)),
        )
        self._straight.pop(oid, None)
        if rows.trusted and rows.order is None and len(batches) == 1:
            (batch,) = batches
            if self._at >= batch.horizon.value:
                self._straight[oid] = batch.messages

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
            for batch in rows.batches:
                if self._at >= batch.horizon.value:
                    self._empty(batch, rows.name)

    def _empty(self, batch: TableBatch, name: TableName) -> None:
        self._changes += 1
        if name == batch.leader.name:
            batch.empty()
            return
        # What was gathered may be rows of this partition or of others.
        self._flush(partly=True)
        if batch.touched or not all(name in flow.empty_leaves for flow in batch.flows):
            raise StreamBroken(
                f"partition {name} was truncated, and which rows of the follower came from it "
                "is not known",
                hint="`dbsplit abort` and start the split again; until then delete rows of a "
                "partition instead",
            )
        for flow in batch.flows:
            for statement in flow.empty_leaves[name]:
                self._opened().execute(statement)
        self._changes += 1

    def _idle(self, keepalive: Keepalive) -> None:
        session = self._opened()
        if self._begin is not None or keepalive.wal_end <= session.committed:
            return
        if self._pending is not None or self._changes:
            return
        if time.monotonic() - session.committed_at >= IDLE_PROGRESS_S:
            self._commit(Reached(keepalive.wal_end))

    # --------------------------------------------------------------- the batch

    def settle(self) -> None:
        """Nothing more waits: commit what was gathered, if its transactions are whole."""
        if self._begin is None:
            self._flush_and_commit()

    def _flush_and_commit(self) -> None:
        pending, session = self._pending, self._opened()
        if pending is None:
            return
        if not (self._changes or self._markers or session.is_open) and (
            time.monotonic() - session.committed_at < IDLE_PROGRESS_S
        ):
            return  # only echo or other services' changes: the next batch takes it along
        self._flush(partly=False)
        self._pending = None
        self._commit(Reached(pending.end_lsn, pending.commit_time_us, tuple(self._markers)))

    def _commit(self, reached: Reached) -> None:
        self._opened().commit(reached, self._counters)
        self._counters = Counters()
        self._markers.clear()

    def _flush(self, *, partly: bool) -> None:
        """Carry what was gathered into the follower's open transaction."""
        touched = [
            batch
            for batches in self._tables.values()
            for batch in batches
            if batch.touched and not (partly and batch.whole_transactions_only)
        ]
        if touched:
            session = self._opened()
            session.begin()
            session.execute(b"SAVEPOINT batch")
            if not self._try_write(touched, partly=partly):
                return
            for batch in touched:
                batch.clear()
        self._changes = self._bytes = 0
        self._part_max = PART_CHANGES_MAX

    def _try_write(self, touched: list[TableBatch], *, partly: bool) -> bool:
        """Write, the slow way where the fast one does not do; False if it must wait."""
        session = self._opened()
        writer = BatchWriter(
            session.connection, leader_dsn=self.link.leader_dsn, backwards=self.link.backwards
        )
        members_only = self._members_only or self._service_leads()
        manner = Manner(Way.DIRECT, members_only, session.tracked())
        if self._careful:
            self._careful -= 1
            manner = Manner(Way.MERGE, members_only, manner.tracked)
        while True:
            try:
                writer.write(touched, self._position(), manner)
            except Incomplete:
                session.execute(b"ROLLBACK TO SAVEPOINT batch")
            except (
                Unexpected,
                psycopg.errors.UniqueViolation,
                psycopg.errors.ExclusionViolation,
            ) as error:
                session.execute(b"ROLLBACK TO SAVEPOINT batch")
                self._careful = CAREFUL_BATCHES
                way = manner.way.next
                if way is None and not partly:
                    raise StreamBroken(
                        f"the follower refused a batch: {error}",
                        hint="somebody else wrote to it: run `dbsplit validate`, then remove "
                        "the rows that are in the way",
                    ) from None
                if way is None:
                    # The value may become free later in this very transaction.
                    self._part_max *= 2
                    self._bytes = 0
                    return False
                manner = Manner(way, members_only, manner.tracked)
            else:
                session.execute(b"RELEASE SAVEPOINT batch")
                return True

    def _service_leads(self) -> bool:
        """Whether the follower's service was moved; asked where it makes a difference."""
        if self.link.backwards or not any(f.kind is Kind.COLUMNS for f in self.link.flows):
            return False
        return self._opened().service_leads()

    def _position(self) -> LSN:
        """Where the batch's last change was committed in the leader."""
        if self._begin is not None:
            return self._begin.commit_lsn
        return self._pending.end_lsn if self._pending else self.committed


def _unidentified(table: TableName) -> StreamBroken:
    return StreamBroken(
        f"{table} was changed without its old row being told in full: its replica identity is "
        "not what prepare set or found",
        hint="nothing wrong was written; which rows were meant is not in the log: set it back, "
        "`dbsplit abort` and start the split again",
    )
