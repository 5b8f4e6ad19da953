"""Going through a table on both sides, and naming the keys that do not seem equal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Protocol

from cdc.connect import Connection
from validators.candidates import Extents, read_candidates
from validators.fingerprint import Fingerprint, bucket_count, digest_of, read_fingerprint
from validators.moment import Moment
from validators.ranges import opened_keys, read_chunks
from validators.session import Ends, Reader
from validators.sides import Key, Pair, Side
from validators.units import FINER_FROM, ROWS_PER_UNIT, Chunks, Unit, differing, finer


@dataclass(frozen=True, slots=True)
class Proven:
    """What is known of a unit that was equal."""

    rows: int
    digest: int


class Memory(Protocol):
    """Where it is written down which units were equal, so that a killed comparison goes on."""

    def recall(self, route: str) -> tuple[Sequence[Unit], Mapping[int, Proven]]:
        """The units of a comparison that came to no end, and which were equal, by place.

        No units if there is no such comparison.
        """

    def plan(self, route: str, units: Sequence[Unit]) -> None:
        """A comparison of these units begins."""

    def prove(self, route: str, unit: int, proven: Proven) -> None:
        """The unit at this place is equal."""

    def forget(self, route: str) -> None:
        """The comparison has come to its end."""


class Forgetful:
    """Remembers nothing: a comparison that is killed begins anew."""

    def recall(self, route: str) -> tuple[Sequence[Unit], Mapping[int, Proven]]:
        """Nothing."""
        return (), {}

    def plan(self, route: str, units: Sequence[Unit]) -> None:
        """Nothing is kept."""

    def prove(self, route: str, unit: int, proven: Proven) -> None:
        """Nothing is kept."""

    def forget(self, route: str) -> None:
        """Nothing was kept."""


def never_pause() -> None:
    """Go on at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How a comparison goes along."""

    jobs: int = 2  # tables at a time, each with a connection to either side
    pause: Callable[[], None] = never_pause
    """Called before each unit, from several threads; returns when the servers may be read."""
    let_go: Callable[[], None] = never_pause
    """Called when the comparison is ended: makes those return that are in `pause`."""
    rows_per_unit: int = ROWS_PER_UNIT  # what is read by one statement
    memory: Memory = field(default_factory=Forgetful)
    moment: Moment | None = None  # that both sides are read at


@dataclass(slots=True)
class Scan:
    """One pair's way through its rows; iterating gives keys, `rows` and the rest come with it."""

    ends: Ends
    pair: Pair
    extents: Extents
    course: Course
    rows: int = 0  # of the leader
    digest: str = ""
    is_fine: bool = False  # many rows differ
    chunks: int = 0  # that were compared by a sum of hashes

    def by_units(self, units: Sequence[Unit]) -> Iterator[Sequence[Key]]:
        """Keys that differ, unit by unit; after each unit an empty sequence at least."""
        route = self.pair.route
        # What a comparison of a part proves is not what one of everything goes on with.
        memory = Forgetful() if self.pair.scope else self.course.memory
        known, proven = memory.recall(route)
        if known:
            units = known
        else:
            memory.plan(route, units)
        total = sum(unit.digest for unit in proven.values())
        self.rows = sum(unit.rows for unit in proven.values())
        for place, unit, ours, theirs in self._chunks(units, proven):
            self.rows += ours.total
            self.chunks += len(ours.numbers)
            total += ours.digest
            spans = differing(ours, theirs, unit)
            self.is_fine = sum(span.rows for span in spans) > ours.total * FINER_FROM
            yield from opened_keys(self.ends, self.pair, self.extents, unit, spans)
            if not spans:
                memory.prove(route, place, Proven(ours.total, ours.digest))
            yield ()
        self.digest = digest_of(self.rows, total)
        memory.forget(route)

    def by_buckets(self, held_max: int) -> Iterator[Sequence[Key]]:
        """Keys that differ, about `held_max` at a time; each time costs a scan."""
        self.course.pause()
        rows = max(self.extents.leader.rows_estimated, self.extents.follower.rows_estimated)
        buckets = bucket_count(rows)
        leader, follower = self._fingerprints(buckets)
        self.rows, self.digest, self.chunks = leader.rows, leader.digest, len(leader.buckets)
        differ = tuple(sorted(leader.differing(follower)))
        yield ()
        while differ:
            self.course.pause()
            batch = read_candidates(
                self.ends,
                self.pair,
                self.extents,
                differing=differ,
                buckets=buckets,
                most=held_max,
            )
            yield batch.keys
            differ = batch.left

    def _chunks(
        self, units: Sequence[Unit], proven: Mapping[int, Proven]
    ) -> Iterator[tuple[int, Unit, Chunks, Chunks]]:
        """Each unit's chunks on both sides; the next one is read while one is looked at."""

        def begin(unit: Unit) -> Callable[[], tuple[Chunks, Chunks]]:
            def read(connection: Connection, side: Side) -> Chunks:
                reader = Reader(connection, self.ends.hashing)
                return read_chunks(reader, side, self.extents.of(self.pair, side), unit)

            self.course.pause()
            return self.ends.begin(read, self.pair)

        left = [place for place in range(len(units)) if place not in proven]
        coming: Unit | None = units[left[0]] if left else None
        waiting = begin(coming) if coming else None
        for place, following in zip_longest(left, left[1:]):
            assert coming is not None  # noqa: S101 -- there is one for each place
            assert waiting is not None  # noqa: S101
            unit, (ours, theirs) = coming, waiting()
            if following is not None:
                coming = finer(units[following]) if self.is_fine else units[following]
                waiting = begin(coming)
            yield place, unit, ours, theirs

    def _fingerprints(self, buckets: int) -> tuple[Fingerprint, Fingerprint]:
        def read(connection: Connection, side: Side) -> Fingerprint:
            return read_fingerprint(
                connection,
                side,
                extent=self.extents.of(self.pair, side),
                hashing=self.ends.hashing,
                buckets=buckets,
            )

        return self.ends.both(read, self.pair)
