"""The reader of a slot: decodes its messages once, and hands each applier those of its tables."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from cdc.apply import ROWS, Announcement, Item
from cdc.crash import crash_point
from cdc.lsn import LSN, confirmable
from cdc.pgoutput import Relation, decode
from cdc.replication import ConnectionLost, Keepalive
from cdc.sink import TRANSIENT, Sink
from cdc.watch import Watch
from plans.errors import StreamBroken

BLOCK_MESSAGES_MIN = 500
"""A block is handed over when it has so many, or when nothing more has arrived."""
CONFIRM_S = 0.2
READ_TIMEOUT_S = 0.2
DRAIN_S = 0.01

AWAY_S_MAX = 600.0
"""How long the others go on without a follower that cannot be reached: the leader keeps
all of its log for it."""

_BEGIN, _RELATION = b"BR"
_BOUNDS = frozenset(b"BC")


class Messages(Protocol):
    """Where messages come from."""

    @property
    def exhausted(self) -> bool:
        """Whether nothing more will come."""

    def read(self, timeout_s: float) -> list[bytes | Keepalive]:
        """What has arrived, or arrives within so many seconds."""

    def confirm(self, flushed: LSN, received: LSN) -> None:
        """What the followers have committed, and what was received."""


class Reader:
    """Reads, decodes and distributes, and confirms what was committed."""

    def __init__(
        self,
        connection: Messages,
        watch: Watch,
        sinks: Sequence[Sink],
        confirmed: Callable[[LSN], None],
    ) -> None:
        self._connection = connection
        self._watch = watch
        self._sinks = sinks
        self._tell = confirmed
        self._stop = threading.Event()
        self._wanted: dict[bytes, Sequence[Sink]] = {}
        self._received = LSN(0)
        self._confirmed = LSN(0)
        self._confirm_at = 0.0
        self._in_transaction = False
        self._commit = LSN(0)  # of the transaction that is being read

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
            place = self._watch.place_of(relation, self._commit)
            if place is None:
                self._wanted[message[1:5]] = ()
                return
            item = Announcement(relation, place.root, place.past)
            sinks = tuple(sink for sink in self._sinks if item.root in sink.tables)
            self._wanted[message[1:5]] = sinks
        elif kind in _BOUNDS:
            self._in_transaction = kind == _BEGIN
            if self._in_transaction:
                self._commit = LSN(int.from_bytes(message[1:9], "big"))
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
                raise ConnectionLost(f"{sink.link.stream} is back: all begin again where it was")
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


def _gone(sink: Sink) -> StreamBroken:
    return StreamBroken(
        f"{sink.link.stream} could not be written to for {AWAY_S_MAX:.0f} s: {sink.failure}",
        hint="see to its server, then start `dbsplit stream` again; nothing is lost",
    )
