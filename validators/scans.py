"""Going through a table on both sides, and naming the keys that do not seem equal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cdc.connect import Connection
from validators.candidates import Extents, read_candidates
from validators.fingerprint import bucket_count, digest_of, read_buckets
from validators.moment import Moment
from validators.ranges import Look, begin_chunks, begin_rows
from validators.session import Ends, Reader
from validators.sides import Key, Pair, Side
from validators.units import MODULUS, OPENED_FROM, ROWS_PER_UNIT, Chunks, Unit, pieces


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


@dataclass(frozen=True, slots=True)
class _Part:
    """A unit, or a piece of one."""

    place: int  # of the unit
    unit: Unit
    is_opened: bool  # all rows are read, not chunks
    is_last: bool  # of the unit


@dataclass(slots=True)
class Scan:
    """One pair's way through its rows; iterating gives keys, `rows` and the rest come with it."""

    ends: Ends
    pair: Pair
    extents: Extents
    course: Course
    rows: int = 0  # of the leader
    digest: str = ""
    share: float = 0.0  # of the rows read last, that lie in chunks that differ
    sums: int = 0  # of hashes, that were compared

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
        rows = digest = differing = 0  # of the unit's parts so far
        for part, look in self._looks(units, proven):
            self.rows += look.rows
            self.sums += look.sums
            total += look.digest
            self.share = look.share
            rows, digest = rows + look.rows, digest + look.digest
            for keys in look.keys:
                differing += len(keys)
                yield keys
            if part.is_last:
                if not (differing or look.share):
                    memory.prove(route, part.place, Proven(rows, digest % MODULUS))
                rows = digest = differing = 0
            yield ()
        self.digest = digest_of(self.rows, total)
        memory.forget(route)

    def by_buckets(self, held_max: int) -> Iterator[Sequence[Key]]:
        """Keys that differ, about `held_max` at a time; each time costs a scan."""
        self.course.pause()
        rows = max(self.extents.leader.rows_estimated, self.extents.follower.rows_estimated)
        buckets = bucket_count(rows)
        leader, follower = self._buckets(buckets)
        self.rows, self.digest = leader.total, digest_of(leader.total, leader.digest)
        self.sums = leader.count
        differ = _differing(leader, follower)
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

    def _looks(
        self, units: Sequence[Unit], proven: Mapping[int, Proven]
    ) -> Iterator[tuple[_Part, Look]]:
        """Each part as it is on both sides; the next one is read while one is looked at."""
        before: tuple[_Part, Callable[[], Look]] | None = None
        for part in self._parts(units, proven):
            self.course.pause()
            begin = begin_rows if part.is_opened else begin_chunks
            now = part, begin(self.ends, self.pair, self.extents, part.unit)
            if before:
                yield before[0], before[1]()
            before = now
        if before:
            yield before[0], before[1]()

    def _parts(self, units: Sequence[Unit], proven: Mapping[int, Proven]) -> Iterator[_Part]:
        """What is read by one statement: a unit's chunks, or all rows of a piece of it."""
        for place, unit in enumerate(units):
            if place in proven:
                continue
            # At first pieces, too: they tell how all that follows is best read.
            whole = self.sums and self.share <= OPENED_FROM
            parts = [unit] if whole else pieces(unit, self.course.rows_per_unit)
            for part in parts:
                is_opened = self.share > OPENED_FROM
                yield _Part(place, part, is_opened=is_opened, is_last=part is parts[-1])

    def _buckets(self, buckets: int) -> tuple[Chunks, Chunks]:
        def read(connection: Connection, side: Side) -> Chunks:
            reader = Reader(connection, self.ends.hashing)
            return read_buckets(
                reader, side, extent=self.extents.of(self.pair, side), buckets=buckets
            )

        return self.ends.both(read, self.pair)


def _differing(leader: Chunks, follower: Chunks) -> tuple[int, ...]:
    if leader == follower:
        return ()
    from validators.differing import differing_chunks

    return tuple(number for number, _ in differing_chunks(leader, follower))
