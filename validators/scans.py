"""Going through a table on both sides, and naming the keys that do not seem equal."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

from plans.errors import NotReady
from validators.crew import Team
from validators.fingerprint import Extents, digest_of
from validators.moment import GIVEN_UP, MORE_TIME, Moment
from validators.ranges import Look, begin_chunks, begin_rows
from validators.results import ChunkHash, Step
from validators.sides import Key, Pair
from validators.units import MODULUS, OPENED_FROM, Sizes, Unit, pieces

T = TypeVar("T")
LOOK_S = 1.0
SNAPSHOT_S_MAX = 3600.0
CHUNKS_TOLD_MAX = 1_000
"""Of each table: a certificate is for people, too."""


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


class Pause(Protocol):
    """Waits, so many seconds at most, until the servers may be read; whether they may."""

    def __call__(self, wait_s: float) -> bool:
        """It is called by several threads."""


def never_pause(wait_s: float) -> bool:
    """Go on at once."""
    return True


def never_wait() -> None:
    """There is nobody who waits."""


def ahead(begun: Iterable[Callable[[], T]], team: Team) -> Iterator[T]:
    """Results, each waited for when all of the team have begun more: servers do not wait for us."""
    waiting: deque[Callable[[], T]] = deque()
    for now in begun:
        waiting.append(now)
        if len(waiting) > len(team):
            yield waiting.popleft()()
    while waiting:
        yield waiting.popleft()()


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How a comparison goes along."""

    jobs: int = 2  # tables, or parts of a large one, at a time; each a connection to either side
    pause: Pause = never_pause
    """Called before each unit."""
    let_go: Callable[[], None] = never_wait
    """Called when the comparison is ended: makes those return that are in `pause`."""
    sizes: Sizes = field(default_factory=Sizes)
    memory: Memory = field(default_factory=Forgetful)
    moment: Moment | None = None  # that both sides are read at
    snapshot_s_max: float = SNAPSHOT_S_MAX
    """How long a table that is read under one snapshot may hold it, if there is no moment."""

    def wait(self) -> None:
        """Wait until the servers may be read; NotReady if the moment's time is over by then."""
        while not self.pause(LOOK_S):
            if self.moment is not None and time.monotonic() > self.moment.ends_at:
                raise NotReady(GIVEN_UP, hint=MORE_TIME)


@dataclass(frozen=True, slots=True)
class _Part:
    """A unit, or a piece of one."""

    place: int  # of the unit
    unit: Unit
    is_opened: bool  # all rows are read, not chunks
    is_last: bool  # of the unit


@dataclass(slots=True)
class Scan:
    """One pair's way through its units; iterating gives keys, `rows` and the rest come with it."""

    team: Team
    pair: Pair
    extents: Extents
    course: Course
    sizes: Sizes
    units: Sequence[Unit]
    rows: int = 0  # of the leader
    digest: str = ""
    share: float = 0.0  # of the rows read last, that lie in chunks that differ
    sums: int = 0  # of hashes, that were compared
    chunks: tuple[ChunkHash, ...] = ()

    @property
    def step(self) -> Step:
        """Where it has got to."""
        return "fingerprint"

    @property
    def read(self) -> int:
        """The rows that were read up to now."""
        return self.rows

    def differing(self) -> Iterator[Sequence[Key]]:
        """Keys that differ, unit by unit; after each unit an empty sequence at least."""
        route, units = self.pair.route, self.units
        # What a comparison of a part proves is not what one of everything goes on with.
        memory = Forgetful() if self.pair.scope else self.course.memory
        known, proven = memory.recall(route)
        if known:
            units = known
        else:
            memory.plan(route, units)
        told = dict(proven)
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
                told[part.place] = Proven(rows, digest % MODULUS)
                if not (differing or look.share):
                    memory.prove(route, part.place, told[part.place])
                rows = digest = differing = 0
            yield ()
        self.digest = digest_of(self.rows, total)
        self.chunks = hashes_of(units, [told[place] for place in range(len(units))])
        memory.forget(route)

    def _looks(
        self, units: Sequence[Unit], proven: Mapping[int, Proven]
    ) -> Iterator[tuple[_Part, Look]]:
        """Each part as it is on both sides; the next ones are read while one is looked at."""
        return ahead(self._begun(units, proven), self.team)

    def _begun(
        self, units: Sequence[Unit], proven: Mapping[int, Proven]
    ) -> Iterator[Callable[[], tuple[_Part, Look]]]:
        for part in self._parts(units, proven):
            self.course.wait()
            begin = begin_rows if part.is_opened else begin_chunks
            ends = self.team.turn(len(units) - part.place)
            waiting = begin(ends, self.pair, self.extents, part.unit)
            yield partial(_looked, part, waiting)

    def _parts(self, units: Sequence[Unit], proven: Mapping[int, Proven]) -> Iterator[_Part]:
        """What is read by one statement: a unit's chunks, or all rows of a piece of it."""
        for place, unit in enumerate(units):
            if place in proven:
                continue
            # At first pieces, too: they tell how all that follows is best read.
            whole = self.sums and self.share <= OPENED_FROM
            parts = [unit] if whole else pieces(unit, self.sizes.rows_per_unit)
            for part in parts:
                is_opened = self.share > OPENED_FROM
                yield _Part(place, part, is_opened=is_opened, is_last=part is parts[-1])


def hashes_of(units: Sequence[Unit], told: Sequence[Proven]) -> tuple[ChunkHash, ...]:
    """The hashes of neighbouring units, of as many together as keeps them few."""
    each = -(-len(units) // CHUNKS_TOLD_MAX)
    chunks = []
    for start in range(0, len(units), each):
        some = told[start : start + each]
        total = sum(one.digest for one in some)
        hashed = digest_of(sum(one.rows for one in some), total)
        chunks.append(ChunkHash(units[start].lower, units[start:][:each][-1].upper, hashed))
    return tuple(chunks)


def _looked(part: _Part, waiting: Callable[[], Look]) -> tuple[_Part, Look]:
    return part, waiting()
