"""Following: one reader of a slot, and an applier for each of its followers.

The reader decodes the leader's changes once and hands each applier the events
of its tables, in blocks, through a bounded queue.  A full queue stops the
reader, and with it the sending server; nothing is kept in memory without end.
The slot is confirmed up to what all followers have committed, and no further.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

import psycopg

from cdc.apply import ROWS, Announcement, Applier, Item, size_of
from cdc.connect import connect
from cdc.crash import crash_point
from cdc.link import Link
from cdc.lsn import LSN, confirmable
from cdc.pgoutput import Relation, decode
from cdc.pull import Pull
from cdc.replication import ConnectionLost, Keepalive, ReplicationConnection
from cdc.slot import Server, require_unbroken
from cdc.stage import carries_binary
from cdc.watch import Watch
from plans.errors import NotReady, SplitError, StreamBroken

BLOCK_MESSAGES_MIN = 500
"""A block is handed over when it has so many, or when nothing more has arrived."""
QUEUE_BYTES_MAX = 1 << 24
QUEUE_MESSAGES_MAX = 100_000
CONFIRM_S = 0.2
PULL_BYTES_MIN = 1 << 25
"""A log longer than this is pulled before the stream begins."""
READ_TIMEOUT_S = 0.2
SETTLE_S = 0.2
BUSY_S = 0.002
DRAIN_S = 0.01
_BEGIN, _RELATION = b"BR"
_BOUNDS = frozenset(b"BC")

RETRY_S_MAX = 60.0
"""How long a broken connection is retried before the stream gives up."""

TRANSIENT = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.SerializationFailure,
    psycopg.errors.DeadlockDetected,
    ConnectionLost,
    NotReady,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """A slot, and the links that it feeds."""

    name: str
    leader_dsn: str
    slot: str
    publication: str
    links: tuple[Link, ...]
    server: Server | None = None  # that the slot was made on; None if it was not noted

    @property
    def binary(self) -> bool:
        """Whether all rows come in binary form."""
        return carries_binary(flow.leader for link in self.links for flow in link.flows)


class _Amount:
    """How much waits in a queue."""

    def __init__(self) -> None:
        self.messages = 0
        self.bytes = 0

    def has_space(self) -> bool:
        """Whether one more block may come: one always may, however large."""
        return not self.messages or (
            self.messages < QUEUE_MESSAGES_MAX and self.bytes < QUEUE_BYTES_MAX
        )

    def add(self, block: Sequence[Item]) -> None:
        """Count a block."""
        self.messages += len(block)
        self.bytes += size_of(block)

    def remove(self, block: Sequence[Item]) -> None:
        """Count it no more."""
        self.messages -= len(block)
        self.bytes -= size_of(block)


class _Sink(threading.Thread):
    """The thread of one applier."""

    def __init__(self, link: Link, stop: threading.Event, *, binary: bool) -> None:
        super().__init__(name=f"apply {link.stream}", daemon=True)
        self.link = link
        self.applier = Applier(link, stop, binary=binary)
        self.failure: BaseException | None = None
        self.tables = {flow.leader.name for flow in link.flows}
        self.block: list[Item] = []
        self._queue: queue.SimpleQueue[list[Item]] = queue.SimpleQueue()
        self._space = threading.Condition()
        self._waiting = _Amount()  # handed over, and not written
        self._halt = stop

    @property
    def idle(self) -> bool:
        """Whether everything handed over was written."""
        return not self._waiting.messages and not self.block and self.applier.idle

    def hand_over(self, timeout_s: float) -> bool:
        """Queue the gathered block; False if there was no space for it."""
        if not self.block:
            return True
        with self._space:
            if not self._space.wait_for(self._waiting.has_space, timeout_s):
                return False
            self._waiting.add(self.block)
        self._queue.put(self.block)
        self.block = []
        return True

    def run(self) -> None:
        rest_s = SETTLE_S
        try:
            while not self._halt.is_set():
                try:
                    items = self._queue.get(timeout=rest_s)
                except queue.Empty:
                    items = []
                crash_point("stream.received")
                self.applier.feed(items)
                is_settled = not self._queue.empty() or self.applier.settle()
                rest_s = SETTLE_S if is_settled else BUSY_S
                with self._space:
                    self._waiting.remove(items)
                    self._space.notify()
        except BaseException as error:  # noqa: BLE001  (handed to the supervisor)
            self.failure = error
        finally:
            self.applier.close()


class Follower(threading.Thread):
    """Follows one feed until stopped; reconnects when a connection breaks.

    `failure` holds what made it give up, and is None while it runs.
    """

    def __init__(self, feed: Feed) -> None:
        super().__init__(name=f"follow {feed.name}", daemon=True)
        self.feed = feed
        self.failure: SplitError | None = None
        self.connected = threading.Event()
        self.position = LSN(0)
        self._halt = threading.Event()

    def stop(self) -> None:
        """Ask it to end after the batch in hand."""
        self._halt.set()

    def run(self) -> None:
        """Follow; the thread's work."""
        broken_since: float | None = None
        while not self._halt.is_set():
            started = time.monotonic()
            try:
                self._follow()
            except TRANSIENT as error:
                self.connected.clear()
                now = time.monotonic()
                if broken_since is None or now - started > RETRY_S_MAX / 2:
                    broken_since = now
                if now - broken_since > RETRY_S_MAX:
                    self.failure = StreamBroken(
                        f"stream {self.feed.name} could not be continued for "
                        f"{RETRY_S_MAX:.0f} s: {_first_line(error)}",
                        hint="see to the server named, then start `dbsplit stream` again; "
                        "nothing is lost",
                    )
                    return
                self._halt.wait(0.5)
            except SplitError as error:
                self.failure = error
                return
            except psycopg.Error as error:
                self.failure = StreamBroken(
                    f"stream {self.feed.name}: the follower refused a change: {_first_line(error)}",
                    hint="nothing of that batch was written; mend the cause and start "
                    "`dbsplit stream` again",
                )
                return
            except Exception as error:  # noqa: BLE001  (a bug; told as such, not swallowed)
                self.failure = StreamBroken(
                    f"stream {self.feed.name}: {type(error).__name__}: {error}",
                    hint="this is a bug; nothing of that batch was written",
                )
                self.failure.__cause__ = error
                return

    def _follow(self) -> None:
        halt = threading.Event()
        binary = self.feed.binary
        sinks = [_Sink(link, halt, binary=binary) for link in self.feed.links]
        try:
            for sink in sinks:
                sink.applier.open()
            with (
                closing(self._watch()) as watch,
                ReplicationConnection(self.feed.leader_dsn, name="dbsplit stream") as connection,
            ):
                lag = self._require_no_gap([sink.applier for sink in sinks])
                self.position = confirmable(sink.applier.committed for sink in sinks)
                for sink in sinks:
                    sink.start()
                self.connected.set()
                if lag > PULL_BYTES_MIN:
                    self._catch_up(watch, sinks)
                connection.start(self.feed.slot, self.feed.publication, binary=binary)
                _Reader(connection, watch, sinks, self).run(self._halt)
        finally:
            self.connected.clear()
            halt.set()
            for sink in sinks:
                if sink.is_alive():
                    sink.join(timeout=30)
                else:
                    sink.applier.close()

    def _catch_up(self, watch: Watch, sinks: Sequence[_Sink]) -> None:
        """Take in the backlog; what has grown meanwhile is for the stream."""
        feed = self.feed
        try:
            pull = Pull(feed.leader_dsn, feed.slot, feed.publication, binary=feed.binary)
        except psycopg.Error:
            return  # no slot is free, or we may not: the stream brings the same
        with pull:
            reader = _Reader(pull, watch, sinks, self)
            reader.run(self._halt)
            reader.drain()
            pull.advance(self.position)

    def _require_no_gap(self, appliers: Sequence[Applier]) -> int:
        """Check that the slot begins where each follower ends; returns the log behind it, in bytes.

        A slot that was dropped and made anew, or moved on by somebody, goes on
        without a word behind changes that nobody has.
        """
        feed = self.feed
        with connect(feed.leader_dsn, name="dbsplit stream") as leader:
            ends = {}
            for applier in appliers:
                end = applier.committed
                if end == LSN(0):  # before the first change, the copy tells how far it reaches
                    end = min(applier.link.horizons.values(), default=end)
                if end > LSN(0):
                    ends[applier.link.stream] = end
            slot = require_unbroken(leader, feed.leader_dsn, feed.slot, feed.server, ends)
        if feed.server not in (None, slot.server):
            raise NotReady(
                f"the server of slot {feed.slot} was promoted to timeline {slot.server.timeline}",
                hint="start `dbsplit stream` again: it goes on if nothing was lost",
            )
        return max(0, slot.log_end - slot.confirmed)

    def _watch(self) -> Watch:
        tables = [flow.leader for link in self.feed.links for flow in link.flows]
        return Watch(self.feed.leader_dsn, self.feed.publication, tables)


class _Messages(Protocol):
    """Where messages come from."""

    @property
    def exhausted(self) -> bool:
        """Whether nothing more will come."""

    def read(self, timeout_s: float) -> list[bytes | Keepalive]:
        """What has arrived, or arrives within so many seconds."""

    def confirm(self, flushed: LSN, received: LSN) -> None:
        """What the followers have committed, and what was received."""


class _Reader:
    """Reads, decodes and distributes, and confirms what was committed."""

    def __init__(
        self,
        connection: _Messages,
        watch: Watch,
        sinks: Sequence[_Sink],
        owner: Follower,
    ) -> None:
        self._connection = connection
        self._watch = watch
        self._sinks = sinks
        self._owner = owner
        self._stop = threading.Event()
        self._wanted: dict[bytes, Sequence[_Sink]] = {}
        self._received = LSN(0)
        self._confirmed = LSN(0)
        self._confirm_at = 0.0
        self._in_transaction = False

    def run(self, stop: threading.Event) -> None:
        """Follow until `stop` is set or nothing more comes; raises what an applier met, too."""
        self._stop = stop
        while not (stop.is_set() or self._connection.exhausted):
            messages = self._connection.read(0)
            if not messages:
                # Nothing waits: let the appliers have what there is, then rest.
                self._distribute()
                self._check()
                messages = self._connection.read(READ_TIMEOUT_S)
            self._take_in(messages)
            self._confirm(now=not messages and self._has_advanced())
        self._distribute()
        self._confirm(now=True)

    def drain(self) -> None:
        """Wait until everything that was read is committed, or following is to stop."""
        while not self._stop.is_set() and not all(sink.idle for sink in self._sinks):
            self._check()
            self._confirm()
            time.sleep(DRAIN_S)
        self._confirm(now=True)

    def _take_in(self, messages: Sequence[bytes | Keepalive]) -> None:
        wanted = self._wanted
        for message in messages:
            if isinstance(message, bytes):
                if message[0] in ROWS:
                    for sink in wanted[message[1:5]]:
                        sink.block.append(message)
                else:
                    self._control(message)
            else:
                self._keepalive(message)
        for sink in self._sinks:
            if len(sink.block) >= BLOCK_MESSAGES_MIN:
                self._hand_over(sink)

    def _control(self, message: bytes) -> None:
        """Take in what is no row."""
        item: Item = message
        sinks = self._sinks
        kind = message[0]
        if kind == _RELATION:
            relation = decode(message)
            assert isinstance(relation, Relation)  # noqa: S101
            item = Announcement(relation, self._watch.root_of(relation))
            sinks = tuple(sink for sink in self._sinks if item.root in sink.tables)
            self._wanted[message[1:5]] = sinks
        elif kind in _BOUNDS:
            self._in_transaction = kind == _BEGIN
        for sink in sinks:
            sink.block.append(item)

    def _keepalive(self, keepalive: Keepalive) -> None:
        self._received = max(self._received, keepalive.wal_end)
        if not self._in_transaction:
            for sink in self._sinks:
                sink.block.append(keepalive)
            self._distribute()
        self._confirm(now=keepalive.reply_requested)

    def _distribute(self) -> None:
        for sink in self._sinks:
            self._hand_over(sink)

    def _hand_over(self, sink: _Sink) -> None:
        """Hand a block over, however long it takes, without falling silent."""
        while not sink.hand_over(READ_TIMEOUT_S):
            self._check()
            self._confirm()
            if self._stop.is_set():
                return

    def _check(self) -> None:
        for sink in self._sinks:
            if sink.failure is not None:
                raise sink.failure

    def _has_advanced(self) -> bool:
        return confirmable(sink.applier.committed for sink in self._sinks) > self._confirmed

    def _confirm(self, *, now: bool = False) -> None:
        clock = time.monotonic()
        if not now and clock < self._confirm_at:
            return
        self._check()
        self._watch.look()
        self._confirm_at = clock + CONFIRM_S
        self._confirmed = confirmable(sink.applier.committed for sink in self._sinks)
        self._owner.position = self._confirmed
        self._connection.confirm(self._confirmed, max(self._received, self._confirmed))
        crash_point("stream.confirmed")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
