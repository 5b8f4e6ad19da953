"""Applying changes to one follower: batches of whole transactions, progress included.

Theory of operation.  The reader hands over events in commit order.  The applier
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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import NamedTuple

import psycopg

from cdc.batch import TableBatch, gather
from cdc.connect import Connection, connect
from cdc.crash import crash_point
from cdc.flow import Flow
from cdc.lsn import LSN
from cdc.pgoutput import (
    Begin,
    Commit,
    Delete,
    Event,
    Insert,
    Message,
    Origin,
    Relation,
    Truncate,
    Tuple,
    Update,
)
from cdc.replication import Keepalive
from cdc.write import BatchWriter, Incomplete
from plans.catalog import TableName
from plans.errors import StreamBroken
from plans.names import APPLIER_SETTING, MARKER_PREFIX
from plans.routes import Kind

BATCH_CHANGES_MAX = 20_000
BATCH_BYTES_MAX = 32 << 20
IDLE_PROGRESS_S = 1.0
"""How often an idle stream's position is written to the follower."""

EPOCH_2000_US = 946_684_800_000_000


class Announcement(NamedTuple):
    """What the rows of a table look like, and which table of the plan they belong to."""

    relation: Relation
    root: TableName  # itself, or the partitioned table


Item = Event | Keepalive | Announcement


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One leader and one follower, and what flows between them."""

    split: str
    service: str
    stream: str  # the progress row's name
    origin: str  # ours in the follower, by which the other direction knows echo
    echoes: frozenset[str]  # origins in the leader whose changes the follower has
    foreign: frozenset[str]  # origins in the leader of other services' followers
    leader_dsn: str
    follower_dsn: str
    flows: tuple[Flow, ...]
    horizons: Mapping[str, LSN] = field(default_factory=dict)  # route → where its copy ends
    types: Mapping[str, str] = field(default_factory=dict)  # the stages' type names
    backwards: bool = False


@dataclass(slots=True)
class Counters:
    """What an applier has done since it was opened."""

    transactions: int = 0
    changes: int = 0
    echoes: int = 0


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows as the stream announced them, on their way into batches."""

    name: TableName
    root: TableName
    batches: tuple[TableBatch, ...]
    arrange: Callable[[Tuple], Tuple] | None  # into the stage's order; None if it is that
    full: bool  # old rows are told in full
    trusted: bool  # old rows tell what the batches need

    def in_order(self, change: Insert | Update | Delete) -> Insert | Update | Delete:
        """The change, with values in the stage's order."""
        arrange = self.arrange
        if arrange is None:
            return change
        if isinstance(change, Insert):
            return change._replace(new=arrange(change.new))
        if isinstance(change, Delete):
            return change._replace(old=arrange(change.old))
        old = None if change.old is None else arrange(change.old)
        return change._replace(old=old, new=arrange(change.new))


class Applier:
    """Applies one link's changes; for use by one thread."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.counters = Counters()
        self.committed = LSN(0)
        self._tables: dict[TableName, list[TableBatch]] = {}
        self._by_oid: dict[int, _Rows] = {}
        self._connection: Connection | None = None
        self._begin: Begin | None = None
        self._skip = False
        self._echo = False
        self._members_only = False
        self._open = False  # a transaction in the follower
        self._changes = 0
        self._bytes = 0
        self._batch_max = BATCH_CHANGES_MAX
        self._markers: list[tuple[str, LSN]] = []
        self._pending: Commit | None = None
        self._batched = 0
        self._written_at = 0.0

    # ------------------------------------------------------------ the session

    def open(self) -> LSN:
        """Connect, and return the position up to which the follower has everything."""
        connection = self._connection = connect(
            self.link.follower_dsn, name=f"dbsplit stream {self.link.stream}"
        )
        connection.execute("SET synchronous_commit = on")
        connection.execute("SET session_replication_role = replica")
        # The planner knows nothing of a temporary table; what is staged is small
        # beside the table that it goes to, and found there by the key's index.
        connection.execute("SET enable_hashjoin = off")
        connection.execute("SET enable_mergejoin = off")
        connection.execute("SELECT set_config(%s, %s, false)", [APPLIER_SETTING, self.link.split])
        self._set_up_origin(connection)
        connection.execute(
            "INSERT INTO dbsplit.progress (stream, lsn) VALUES (%s, '0/0') ON CONFLICT DO NOTHING",
            [self.link.stream],
        )
        row = connection.execute(
            "SELECT lsn::text FROM dbsplit.progress WHERE stream = %s", [self.link.stream]
        ).fetchone()
        assert row is not None  # noqa: S101
        self.committed = LSN.parse(row[0])
        self._prepare_stages(connection)
        return self.committed

    def close(self) -> None:
        """Give up what was not committed, and disconnect."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _set_up_origin(self, connection: Connection) -> None:
        connection.execute(
            "SELECT pg_replication_origin_create(%(origin)s)"
            " WHERE NOT EXISTS (SELECT FROM pg_replication_origin WHERE roname = %(origin)s)",
            {"origin": self.link.origin},
        )
        deadline = time.monotonic() + 10
        while True:
            try:
                connection.execute(
                    "SELECT pg_replication_origin_session_setup(%s)", [self.link.origin]
                )
            except psycopg.errors.ObjectInUse:
                # The session of a killed applier may live a moment longer.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                return

    def _prepare_stages(self, connection: Connection) -> None:
        for batch in gather(self.link.flows, self.link.horizons, self.link.types):
            connection.execute(batch.stage.create())
            self._tables.setdefault(batch.leader.name, []).append(batch)

    # ------------------------------------------------------------- the events

    def feed(self, items: Sequence[Item], size_bytes: int) -> None:
        """Take in events, of `size_bytes` together; commits when a batch is full."""
        self._bytes += size_bytes
        for item in items:
            if isinstance(item, (Insert, Update, Delete)):
                if not self._skip:
                    self._change(item)
            else:
                self._other(item)

    def _other(self, item: Item) -> None:
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
        self._echo = False
        # Records do not overlap: what was applied ends at or before the commit
        # record of the next transaction.
        self._skip = begin.commit_lsn < self.committed
        if not self.link.backwards:
            self._set_members_only(members_only=False)

    def _from_origin(self, origin: Origin) -> None:
        if origin.name in self.link.echoes:
            self._echo = self._skip = True
            self.counters.echoes += 1
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
        self._begin = None
        if commit.end_lsn <= self.committed:
            return
        self._pending = commit
        self._batched += not self._echo
        if self._markers or self._full():
            self._flush_and_commit()

    def _announce(self, announced: Announcement) -> None:
        relation, root = announced
        batches = tuple(self._tables.get(root, ()))
        names = tuple(column.name for column in relation.columns)
        wanted = batches[0].stage.columns if batches else names
        key = set(batches[0].leader.key) if batches else set[str]()
        told = {column.name for column in relation.columns if column.in_key}
        full = relation.replica_identity == "f"
        self._by_oid[relation.oid] = _Rows(
            name=TableName(relation.schema, relation.name),
            root=root,
            batches=batches,
            arrange=None if names == wanted else _arrangement(names, wanted),
            full=full,
            trusted=full or (told == key and not any(batch.needs_full_rows for batch in batches)),
        )

    def _message(self, message: Message) -> None:
        if message.prefix == MARKER_PREFIX and message.transactional and not self._skip:
            self._markers.append((message.content.decode(), message.lsn))

    def _change(self, change: Insert | Update | Delete) -> None:
        rows = self._by_oid[change.relation]
        if rows.arrange is not None:
            change = rows.in_order(change)
        if not rows.trusted and not isinstance(change, Insert):
            raise _unidentified(rows.name)
        for batch in rows.batches:
            if self._is_copied(batch):
                continue
            changes = batch.changes
            if isinstance(change, Insert):
                changes.insert(change.new)
            elif isinstance(change, Update):
                changes.update(change.old, change.new)
            else:
                changes.delete(change.old)
            self._changes += 1
        self.counters.changes += 1
        if self._full():
            self._flush(partly=True)

    def _is_copied(self, batch: TableBatch) -> bool:
        return self._begin is not None and self._begin.commit_lsn < batch.horizon

    def _full(self) -> bool:
        return self._changes >= self._batch_max or self._bytes >= BATCH_BYTES_MAX

    def _truncate(self, truncate: Truncate) -> None:
        if self._skip:
            return
        emptied = [self._by_oid[oid] for oid in truncate.relations if oid in self._by_oid]
        whole = {rows.name for rows in emptied}
        for rows in emptied:
            if rows.name != rows.root and rows.root in whole:
                continue
            for batch in rows.batches:
                if not self._is_copied(batch):
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
                self._execute(statement)
        self._changes += 1

    def _idle(self, keepalive: Keepalive) -> None:
        if self._begin is not None or keepalive.wal_end <= self.committed:
            return
        if self._pending is not None or self._changes:
            return
        if time.monotonic() - self._written_at >= IDLE_PROGRESS_S:
            self._execute(b"BEGIN")
            self._open = True
            self._commit(keepalive.wal_end, None)

    # --------------------------------------------------------------- the batch

    def settle(self) -> None:
        """Nothing more waits: commit what was gathered, if its transactions are whole."""
        if self._begin is None:
            self._flush_and_commit()

    def _flush_and_commit(self) -> None:
        if self._pending is None:
            return
        if not (self._changes or self._markers or self._open) and (
            time.monotonic() - self._written_at < IDLE_PROGRESS_S
        ):
            return  # only echo or other services' changes: the next batch takes it along
        self._flush(partly=False)
        self._begin_follower()
        pending, self._pending = self._pending, None
        self._commit(pending.end_lsn, pending.commit_time_us)

    def _begin_follower(self) -> None:
        if not self._open:
            self._execute(b"BEGIN")
            self._open = True

    def _flush(self, *, partly: bool) -> None:
        """Carry what was gathered into the follower's open transaction."""
        touched = [
            batch
            for batches in self._tables.values()
            for batch in batches
            if batch.touched and not (partly and batch.whole_transactions_only)
        ]
        if touched:
            self._begin_follower()
            self._execute(b"SAVEPOINT batch")
            if not self._try_write(touched, partly=partly):
                return
            for batch in touched:
                batch.clear()
        self._changes = self._bytes = 0
        self._batch_max = BATCH_CHANGES_MAX

    def _try_write(self, touched: list[TableBatch], *, partly: bool) -> bool:
        """Write, the slow way where the fast one does not do; False if it must wait."""
        rewrite = False
        while True:
            try:
                self._writer().write(
                    touched,
                    self._position(),
                    members_only=self._members_only or self._service_leads(),
                    rewrite=rewrite,
                )
            except Incomplete:
                self._execute(b"ROLLBACK TO SAVEPOINT batch")
            except (psycopg.errors.UniqueViolation, psycopg.errors.ExclusionViolation) as error:
                self._execute(b"ROLLBACK TO SAVEPOINT batch")
                if rewrite and not partly:
                    raise StreamBroken(
                        f"the follower refused a batch: {error}",
                        hint="somebody else wrote to it: run `dbsplit validate`, then remove "
                        "the rows that are in the way",
                    ) from None
                if rewrite:
                    # The value may become free later in this very transaction.
                    self._batch_max *= 2
                    self._bytes = 0
                    return False
                rewrite = True
            else:
                self._execute(b"RELEASE SAVEPOINT batch")
                return True

    def _service_leads(self) -> bool:
        """Whether the follower's service was moved; asked where it makes a difference."""
        if self.link.backwards or not any(f.kind is Kind.COLUMNS for f in self.link.flows):
            return False
        row = (
            self._session()
            .execute(
                "SELECT phase = 'moved' FROM dbsplit.service"
                " WHERE split = %s AND service = %s FOR SHARE",
                [self.link.split, self.link.service],
            )
            .fetchone()
        )
        return bool(row and row[0])

    def _commit(self, lsn: LSN, commit_time_us: int | None) -> None:
        connection = self._session()
        for marker, at in self._markers:
            connection.execute(
                "INSERT INTO dbsplit.marker (stream, id, lsn) VALUES (%s, %s, %s)"
                " ON CONFLICT DO NOTHING",
                [self.link.stream, marker, str(at)],
            )
        counters = self.counters
        connection.execute(
            "UPDATE dbsplit.progress SET lsn = %s, applied_at = clock_timestamp(),"
            " commit_time = coalesce(to_timestamp(%s::float8 / 1000000), commit_time),"
            " transactions = transactions + %s, changes = changes + %s, echoes = echoes + %s"
            " WHERE stream = %s",
            [
                str(lsn),
                None if commit_time_us is None else commit_time_us + EPOCH_2000_US,
                self._batched,
                counters.changes,
                counters.echoes,
                self.link.stream,
            ],
        )
        crash_point("stream.applied")
        connection.execute("COMMIT")
        crash_point("stream.committed")
        self.counters = Counters()
        self._markers.clear()
        self._batched = 0
        self._open = False
        self.committed = max(self.committed, lsn)
        self._written_at = time.monotonic()

    def _position(self) -> LSN:
        """Where the batch's last change was committed in the leader."""
        if self._begin is not None:
            return self._begin.commit_lsn
        return self._pending.end_lsn if self._pending else self.committed

    def _execute(self, statement: bytes) -> None:
        if not self._open and statement != b"BEGIN":
            self._begin_follower()
        self._session().execute(statement)

    def _writer(self) -> BatchWriter:
        return BatchWriter(
            self._session(), leader_dsn=self.link.leader_dsn, backwards=self.link.backwards
        )

    def _session(self) -> Connection:
        if self._connection is None:
            raise RuntimeError("the applier is not open")
        return self._connection


def _arrangement(names: tuple[str, ...], wanted: tuple[str, ...]) -> Callable[[Tuple], Tuple]:
    """Puts values that come in the order of `names` into the order of `wanted`."""
    positions = [names.index(name) for name in wanted]
    if len(positions) == 1:
        return lambda values: (values[positions[0]],)
    return itemgetter(*positions)


def _unidentified(table: TableName) -> StreamBroken:
    return StreamBroken(
        f"{table} was changed without its old row being told in full: its replica identity is "
        "not what prepare set or found",
        hint="nothing wrong was written; which rows were meant is not in the log: set it back, "
        "`dbsplit abort` and start the split again",
    )
