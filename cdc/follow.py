"""Following: one reader of a slot, and an applier for each of its followers.

The reader decodes the leader's changes once and hands each applier the events
of its tables, in blocks, through a bounded queue.  A full queue stops the
reader, and with it the sending server; nothing is kept in memory without end.
The slot is confirmed up to what all followers have committed, and no further.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import psycopg

from cdc.apply import Applier
from cdc.connect import connect
from cdc.gate import Gate
from cdc.link import Link
from cdc.lsn import LSN, NEVER, confirmable
from cdc.past import NO_PAST, Past
from cdc.pull import Pull
from cdc.pull_line import PullRefused
from cdc.reader import Reader, Stream
from cdc.replication import ReplicationConnection, unreadable
from cdc.sink import TRANSIENT, Behind, Sink
from cdc.slot import Server, require_unbroken
from cdc.spool import SPILL_BYTES_MAX
from cdc.stage import carries_binary
from cdc.watch import Watch
from plans.catalog import Table, TableName
from plans.errors import NotReady, SplitError, StreamBroken
from plans.evolution import Numbers

PULL_BYTES_MIN = 1 << 23
"""A log longer than this is pulled before the stream begins."""

REACH_S_MAX = 24 * 3600.0
"""For what a copy has left; a follower that falls behind for longer never gets there."""

REACH_POLL_S = 0.1

_UNKNOWN_VALUE = (
    psycopg.errors.InvalidTextRepresentation,
    psycopg.errors.InvalidBinaryRepresentation,
)
"""What an enum's input functions raise for a value that it does not have."""

RETRY_S_MAX = 60.0
"""How long a broken connection is retried before the stream gives up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """A slot, and the links that it feeds."""

    name: str
    leader_dsn: str
    slot: str
    publication: str
    links: tuple[Link, ...]
    elsewhere: tuple[Table, ...] = ()
    """Tables that are published, and whose rows none of the links takes."""
    past: Past = NO_PAST
    noted: Mapping[TableName, Numbers] = field(default_factory=dict)
    """How the leader's tables were known when the split was prepared, or refreshed."""
    server: Server | None = None  # that the slot was made on; None if it was not noted

    @property
    def horizons(self) -> dict[TableName, LSN]:
        """By leader table, where the earliest copy of it ends."""
        found = {table.name: NEVER for table in self.elsewhere}
        for link in self.links:
            for flow in link.flows:
                table, horizon = flow.leader.name, link.horizons.get(flow.route, LSN(0))
                found[table] = min(horizon, found.get(table, horizon))
        return found

    @property
    def tables(self) -> list[Table]:
        """All tables whose rows come."""
        leaders = [flow.leader for link in self.links for flow in link.flows]
        return [*leaders, *self.elsewhere]

    @property
    def binary(self) -> bool:
        """Whether all rows come in binary form, be it that nobody takes them.

        What has no binary form, a server refuses to send in an array.
        """
        return carries_binary(self.tables)


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
        self.gate = Gate()
        self._reached: dict[str, LSN] = {}  # by stream, what its follower had when we last knew
        self._halt = threading.Event()
        self._sinks: Sequence[Sink] = ()
        self._connected_at: float | None = None  # of time.monotonic(), in this try
        self._pulls = True  # until the leader's server has refused it

    @property
    def behind(self) -> tuple[Behind, ...]:
        """The followers that hold up nobody but themselves, and the log."""
        return tuple(one for sink in self._sinks if (one := sink.behind) is not None)

    def stop(self) -> None:
        """Ask it to end after the batch in hand."""
        self._halt.set()

    def reach(self, goal: LSN, report: Callable[[int], None] = lambda _bytes: None) -> None:
        """Return when all that comes before `goal` is applied; `report` gets what is left.

        Raises what ended it, NotReady if that takes longer than a day.
        """
        deadline = time.monotonic() + REACH_S_MAX
        while self.position < goal:
            if self.failure is not None:
                raise self.failure
            if time.monotonic() > deadline:
                raise NotReady(
                    f"stream {self.feed.name} has not come to {goal} within "
                    f"{REACH_S_MAX / 3600:.0f} h",
                    hint="see what holds up its targets (locks, a slow disk), then run the same "
                    "command again: it goes on where it stopped",
                )
            if self.position > LSN(0):  # or the whole log would seem to be left
                report(goal - self.position)
            time.sleep(REACH_POLL_S)

    def run(self) -> None:
        """Follow; the thread's work."""
        broken_since: float | None = None
        while not self._halt.is_set():
            self._connected_at = None
            try:
                self._follow()
            except TRANSIENT as error:
                self.connected.clear()
                now = time.monotonic()
                if broken_since is None or self._has_followed(RETRY_S_MAX / 2):
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
                self.failure = self._refused(error)
                return
            except Exception as error:  # noqa: BLE001  (a bug; told as such, not swallowed)
                self.failure = StreamBroken(
                    f"stream {self.feed.name}: {type(error).__name__}: {error}",
                    hint="this is a bug; nothing of that batch was written",
                )
                self.failure.__cause__ = error
                return

    def _has_followed(self, seconds: float) -> bool:
        """Whether it was connected for so long, and did not wait in vain for its servers."""
        return self._connected_at is not None and time.monotonic() - self._connected_at > seconds

    def _refused(self, error: psycopg.Error) -> StreamBroken:
        if isinstance(error, psycopg.errors.CharacterNotInRepertoire):
            return unreadable(_first_line(error))
        said = f"stream {self.feed.name}: the follower refused a change: {_first_line(error)}"
        if isinstance(error, _UNKNOWN_VALUE):
            return StreamBroken(
                said,
                hint="nothing of that batch was written. `dbsplit plan refresh` renames a value of "
                "an enum as on the source; if it was set back there, and only the log has it: "
                "`dbsplit plan refresh --anew TABLE` copies a table with such a column anew",
            )
        return StreamBroken(
            said,
            hint="nothing of that batch was written; mend the cause and start "
            "`dbsplit stream` again. If the source has dropped what refuses it, "
            "`dbsplit plan refresh` drops it here, too",
        )

    def _follow(self) -> None:
        binary = self.feed.binary
        several = len(self.feed.links) > 1
        sinks = [
            Sink(
                link,
                self.gate,
                known=self._reached.get(link.stream, LSN(0)),
                binary=binary,
                spill_bytes_max=SPILL_BYTES_MAX if several else 0,
            )
            for link in self.feed.links
        ]
        self._sinks = sinks
        try:
            self._open(sinks)
            with (
                closing(self._watch()) as watch,
                ReplicationConnection(self.feed.leader_dsn, name="dbsplit stream") as connection,
            ):
                lag = self._require_no_gap([sink.applier for sink in sinks if not sink.away])
                self.position = confirmable(sink.committed for sink in sinks)
                for sink in sinks:
                    sink.start()
                self.connected.set()
                self._connected_at = time.monotonic()
                if lag > PULL_BYTES_MIN and self._pulls:
                    self._catch_up(watch, sinks)
                connection.start(self.feed.slot, self.feed.publication, binary=binary)
                self._reader(connection, watch, sinks).run(self._halt)
        finally:
            self.connected.clear()
            for sink in sinks:
                sink.stop()
            for sink in sinks:
                sink.end()
                self._reached[sink.link.stream] = sink.committed

    def _open(self, sinks: Sequence[Sink]) -> None:
        """Connect to the followers; some may be away, but not all."""
        for sink in sinks:
            sink.open()
        failures = [sink.failure for sink in sinks if sink.failure is not None]
        if len(failures) == len(sinks):
            raise failures[0]

    def _reader(self, messages: Stream, watch: Watch, sinks: Sequence[Sink]) -> Reader:
        def confirmed(position: LSN) -> None:
            self.position = position

        return Reader(messages, watch, sinks, confirmed)

    def _catch_up(self, watch: Watch, sinks: Sequence[Sink]) -> None:
        """Take in the backlog; what has grown meanwhile is for the stream."""
        feed = self.feed
        try:
            pull = Pull(feed.leader_dsn, feed.slot, feed.publication, binary=feed.binary)
        except psycopg.Error:
            return  # no slot is free, or we may not: the stream brings the same
        with pull:
            reader = self._reader(pull, watch, sinks)
            try:
                reader.run(self._halt)
            except PullRefused:
                self._pulls = False  # the stream brings the same, or tells better why not
                raise
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
        feed = self.feed
        return Watch(
            feed.leader_dsn, feed.publication, feed.tables, feed.past, feed.horizons, feed.noted
        )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
