"""The reader of a slot: decodes its messages once, and hands each applier those of its tables."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from cdc.crash import crash_point
from cdc.lsn import LSN, confirmable
from cdc.messages import BEGIN, COMMIT, IS_ROW, NONE, Messages, Places
from cdc.parts import NO_ROWS, Announcement, Item, Part
from cdc.pgoutput import Relation, decode
from cdc.replication import ConnectionLost, Keepalive, Received
from cdc.sink import TRANSIENT, Sink
from cdc.spool import count_of, size_of
from cdc.watch import Watch
from plans.errors import StreamBroken

BLOCK_MESSAGES_MIN = 500
BLOCK_BYTES_MIN = 1 << 20
"""A block is handed over when it has so many, or when nothing more has arrived."""
CONFIRM_S = 0.2
READ_TIMEOUT_S = 0.2
DRAIN_S = 0.01

AWAY_S_MAX = 600.0
"""How long the others go on without a follower that cannot be reached: the leader keeps
all of its log for it."""

_RELATION = ord("R")
_BOUNDS = frozenset((BEGIN, COMMIT))


class Stream(Protocol):
    """Where messages come from."""

    @property
    def exhausted(self) -> bool:
        """Whether nothing more will come."""

    def read(self, timeout_s: float) -> Received:
        """What has arrived, or arrives within so many seconds."""

    def confirm(self, flushed: LSN, received: LSN) -> None:
        """What the followers have committed, and what was received."""


class Reader:
    """Reads, decodes and distributes, and confirms what was committed."""

    def __init__(
        self,
        connection: Stream,
        watch: Watch,
        sinks: Sequence[Sink],
        confirmed: Callable[[LSN], None],
    ) -> None:
        self._connection = connection
        self._watch = watch
        self._sinks = sinks
        self._tell = confirmed
        self._stop = threading.Event()
        self._wanted: dict[int, Sequence[Sink]] = {}
        self._received = LSN(0)
        self._confirmed = LSN(0)
        self._confirm_at = 0.0
        self._in_transaction = False
        self._begun = b""  # the message by which the transaction that is being read began

    def run(self, stop: threading.Event) -> None:
        """Follow until `stop` is set or nothing more comes; raises what an applier met, too."""
        self._stop = stop
        while not (stop.is_set() or self._connection.exhausted):
            received = self._connection.read(0)
            if not received:
                # Nothing waits: let the appliers have what there is, then rest.
                self._distribute()
                self._check()
                received = self._connection.read(READ_TIMEOUT_S)
            self._take_in(received)
            self._confirm(now=not received and self._has_advanced())
        self._distribute()
        self._confirm(now=True)

    def drain(self) -> None:
        """Wait until everything that was read is committed, or following is to stop."""
        while not self._stop.is_set() and not all(sink.idle for sink in self._sinks):
            self._check()
            self._confirm()
            time.sleep(DRAIN_S)
        self._confirm(now=True)

    def _take_in(self, received: Received) -> None:
        if len(received.messages):
            self._divide(received.messages)
        if received.alive is not None:
            self._keepalive(received.alive)
        for sink in self._sinks:
            if count_of(sink.block) >= BLOCK_MESSAGES_MIN or size_of(sink.block) >= BLOCK_BYTES_MIN:
                self._hand_over(sink)

    def _divide(self, messages: Messages) -> None:
        """Give each applier the rows of its tables, and what else comes in between."""
        is_row = IS_ROW[messages.kinds]
        rows = messages.only(is_row)
        others: list[list[tuple[int, Item]]] = [[] for _ in self._sinks]
        given = 0
        for number, place in enumerate(np.flatnonzero(~is_row).tolist()):
            message, before = messages[place], place - number
            if message[0] != _RELATION:
                if message[0] in _BOUNDS:
                    self._bound(message)
                for some in others:
                    some.append((before - given, message))
                continue
            relation = decode(message)
            assert isinstance(relation, Relation)  # noqa: S101
            if relation.oid in self._wanted:  # rows so far may be for others than those behind it
                self._give(rows.only(slice(given, before)), others)
                given, others = before, [[] for _ in self._sinks]
            item = self._announcement(relation)
            for some, sink in zip(others, self._sinks, strict=True):
                if item is not None and item.root in sink.tables:
                    some.append((before - given, item))
        self._give(rows.only(slice(given, None)), others)

    def _bound(self, message: bytes) -> None:
        self._in_transaction = message[0] == BEGIN
        if self._in_transaction:
            self._begun = message

    def _announcement(self, relation: Relation) -> Announcement | None:
        """What is told of a table, and note who wants its rows; None if nobody does."""
        place = self._watch.place_of(relation, LSN(int.from_bytes(self._begun[1:9], "big")))
        if place is None:
            self._wanted[relation.oid] = ()
            return None
        item = Announcement(relation, *place)
        self._wanted[relation.oid] = tuple(sink for sink in self._sinks if item.root in sink.tables)
        return item

    def _give(self, rows: Messages, others: Sequence[list[tuple[int, Item]]]) -> None:
        relations = rows.relations
        wanted = {oid: self._wanted[oid] for oid in np.unique(relations).tolist()}
        for sink, items in zip(self._sinks, others, strict=True):
            theirs = [oid for oid, sinks in wanted.items() if sink in sinks]
            if len(theirs) == len(wanted):
                part = Part(rows, relations, items)
            else:
                part = _only(rows, relations, items, theirs)
            if len(part):
                sink.block.append(part)

    def _keepalive(self, keepalive: Keepalive) -> None:
        self._received = max(self._received, keepalive.wal_end)
        if not self._in_transaction:
            for sink in self._sinks:
                sink.block.append(Part(NONE, NO_ROWS, ((0, keepalive),)))
            self._distribute()
        self._confirm(now=keepalive.reply_requested)

    def _distribute(self) -> None:
        for sink in self._sinks:
            self._hand_over(sink)

    def _hand_over(self, sink: Sink) -> None:
        """Hand a block over, however long it takes, without falling silent."""
        while not sink.hand_over(READ_TIMEOUT_S):
            self._check()
            self._confirm()
            if self._stop.is_set():
                return

    def _check(self) -> None:
        """Raise what an applier met, unless it may pass and others can go on meanwhile."""
        for sink in self._sinks:
            if sink.returned.is_set():
                raise ConnectionLost(
                    f"{sink.link.stream} is back, all begin again where it was; it was away, as "
                    f"{sink.why}"
                )
            if sink.away and time.monotonic() - sink.away_since > AWAY_S_MAX:
                raise _gone(sink)
            if sink.failure is None or sink.away:
                continue
            if not isinstance(sink.failure, TRANSIENT) or not self._others(sink):
                raise sink.failure
            sink.away = True

    def _others(self, sink: Sink) -> bool:
        return any(other is not sink and not other.away for other in self._sinks)

    def _has_advanced(self) -> bool:
        return confirmable(sink.committed for sink in self._sinks) > self._confirmed

    def _confirm(self, *, now: bool = False) -> None:
        clock = time.monotonic()
        if not now and clock < self._confirm_at:
            return
        self._check()
        self._watch.look()
        self._confirm_at = clock + CONFIRM_S
        self._confirmed = confirmable(sink.committed for sink in self._sinks)
        self._tell(self._confirmed)
        self._connection.confirm(self._confirmed, max(self._received, self._confirmed))
        crash_point("stream.confirmed")


def _only(
    rows: Messages, relations: Places, others: Sequence[tuple[int, Item]], oids: Sequence[int]
) -> Part:
    """The part of one who wants these relations' rows."""
    chosen = np.isin(relations, oids)
    before = np.concatenate((np.zeros(1, np.int64), np.cumsum(chosen)))
    # Without the text of the others: it would be held as long as this part waits.
    own = Messages.joined([rows.only(chosen)])
    moved = [(int(before[place]), item) for place, item in others]
    return Part(own, relations[chosen], moved)


def _gone(sink: Sink) -> StreamBroken:
    return StreamBroken(
        f"{sink.link.stream} could not be written to for {AWAY_S_MAX:.0f} s: {sink.failure}",
        hint="see to its server, then start `dbsplit stream` again; nothing is lost",
    )
