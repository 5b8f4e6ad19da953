"""The thread that writes one follower's batches, while the next is gathered.

Theory of operation.  The follower's server works on a batch for as long as it takes
to read and net the next one.  So a batch is handed over and written in a thread of
its own, one at a time and in order.  A part of a large transaction is waited for:
whether it could be written decides what happens to the rest.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import psycopg

from cdc.batch import TableBatch
from cdc.inflow import Unexpected
from cdc.link import Link
from cdc.lsn import LSN
from cdc.progress import Counters, Reached, Session
from cdc.write import BatchWriter, Incomplete, Manner, Way
from plans.errors import StreamBroken
from plans.routes import Kind

CAREFUL_BATCHES = 20
"""How long the fast way is not tried again after it did not do."""

WAIT_S = 0.2


@dataclass(frozen=True, slots=True)
class Batch:
    """What is to be written, and how far it goes."""

    tables: Sequence[TableBatch]
    position: LSN  # where its last change was committed in the leader
    members_only: bool
    xids: Sequence[int]  # of its transactions
    reached: Reached | None = None  # None: it is a part of a transaction
    counters: Counters = field(default_factory=Counters)


class Writer(threading.Thread):
    """Writes batches in a session of its own; for use by one other thread."""

    def __init__(self, link: Link, stop: threading.Event) -> None:
        super().__init__(name=f"write {link.stream}", daemon=True)
        self.session = Session.begin_with(link)
        self._link = link
        self._halt = stop
        self._ended = threading.Event()
        self._batch: Batch | None = None
        self._changed = threading.Condition()
        self._written = True  # the last part of a transaction
        self._careful = 0
        self._stages: set[int] = set()  # that exist, by their numbers
        self._failure: BaseException | None = None
        self._asks_who_leads = not link.backwards and any(
            flow.kind is Kind.COLUMNS for flow in link.flows
        )

    @property
    def busy(self) -> bool:
        """Whether a batch is being written."""
        return self._batch is not None

    def submit(self, batch: Batch) -> None:
        """Hand a batch over, when the one before is written; raises what that one met."""
        self.wait()
        with self._changed:
            self._batch = batch
            self._changed.notify_all()

    def carry_part(self, batch: Batch) -> bool:
        """Write a part of a transaction; False if it cannot be written without the rest."""
        self.submit(batch)
        self.wait()
        return self._written

    def execute(self, statement: bytes) -> None:
        """Run a statement in the transaction that is open, after what was handed over."""
        self.wait()
        self.session.execute(statement)

    def wait(self) -> None:
        """Return when nothing is being written; raises what was met, or if it was told to stop."""
        with self._changed:
            while self._batch is not None and self._failure is None:
                if self._halt.is_set() and not self.is_alive():
                    raise psycopg.OperationalError("the stream is ending")
                self._changed.wait(WAIT_S)
        self.check()

    def check(self) -> None:
        """Raise what was met, if something was."""
        if self._failure is not None:
            raise self._failure

    def end(self, timeout_s: float) -> None:
        """Give up what was not committed, and disconnect."""
        self._ended.set()
        with self._changed:
            self._changed.notify_all()
        if self.is_alive():
            self.join(timeout_s)
        self.session.close()

    def run(self) -> None:
        """Write until told to stop; the thread's work."""
        try:
            while True:
                with self._changed:
                    while self._batch is None:
                        if self._halt.is_set() or self._ended.is_set():
                            return
                        self._changed.wait(WAIT_S)
                self._write(self._batch)
                with self._changed:
                    self._batch = None
                    self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001  (raised to whoever hands over next)
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _write(self, batch: Batch) -> None:
        if batch.tables:
            stages = {table.to.stage.number: table.to.stage for table in batch.tables}
            new = [stages[number] for number in stages.keys() - self._stages]
            tracked = self.session.begin_batch(new)
            self._stages |= stages.keys()
            self._written = self._try(batch, tracked)
        if batch.reached is not None:
            self.session.commit(batch.reached, batch.counters)

    def _try(self, batch: Batch, tracked: Collection[str]) -> bool:
        """Write, the slow way where the fast one does not do; False if it must wait."""
        session = self.session
        writer = BatchWriter(
            session,
            leader_dsn=self._link.leader_dsn,
            backwards=self._link.backwards,
            xids=batch.xids,
        )
        members_only = batch.members_only or (self._asks_who_leads and session.service_leads())
        manner = Manner(self._first_way(), members_only, tracked)
        while True:
            try:
                writer.write(batch.tables, batch.position, manner)
            except Incomplete:
                session.undo()
            except (
                Unexpected,
                psycopg.errors.UniqueViolation,
                psycopg.errors.ExclusionViolation,
            ) as error:
                session.undo()
                self._careful = CAREFUL_BATCHES
                way = manner.way.next
                if way is None and batch.reached is None:
                    return False  # a value may become free later in this very transaction
                if way is None:
                    raise StreamBroken(
                        f"the follower refused a batch: {error}",
                        hint="somebody else wrote to it: run `dbsplit validate`, then remove "
                        "the rows that are in the way",
                    ) from None
                manner = replace(manner, way=way)
            else:
                if batch.reached is None:  # else it is committed at once
                    session.execute(b"RELEASE SAVEPOINT batch")
                return True

    def _first_way(self) -> Way:
        if not self._careful:
            return Way.DIRECT
        self._careful -= 1
        return Way.MERGE
