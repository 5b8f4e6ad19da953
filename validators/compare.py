"""Comparing routes, row by row: fingerprints, then candidates, then rechecks.

A table whose key begins with an integer is compared unit by unit (`validators.ranges`),
any other in ranges of its blocks (`validators.passes`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from threading import Lock

import psycopg

from plans.errors import NotReady, SplitError
from validators.crew import Crew, Team
from validators.evidence import Counts
from validators.fingerprint import Extents, digest_of, read_extent, read_without_nulls
from validators.glance import glance, small_groups
from validators.mismatches import read_differences
from validators.moment import REWRITTEN, Moment, is_as_it_was
from validators.passes import Passes
from validators.ranges import units_of
from validators.recheck import CatchUp, Limits, Recheck, Settled
from validators.results import Difference, Progress, Step, TableResult
from validators.scans import Course, Scan
from validators.session import Ends
from validators.sides import Key, Pair
from validators.tally import Tally

Report = Callable[[Progress], None]
Found = Callable[[Pair, Sequence[Difference]], None]
Settle = Callable[[Recheck, Sequence[Key]], Settled]

NOT_CAUGHT_UP = "rows differ, and whether the follower has applied the leader's changes is unknown"
TOO_MANY = "too many rows differ to recheck all of them"

SETTLE_WITHIN_S = 5.0
"""A key waits so long at most for others to be settled with: each time takes several waits."""

EXAMPLE_READ_MAX = 100_000
"""Characters of a value of which some are shown, and all were compared by their hash."""

UNREADABLE = (psycopg.Error, SplitError, UnicodeError, OSError)
"""What keeps a table from being compared, and is no bug of ours."""


def compare_routes(
    pairs: Sequence[Pair],
    catch_up: CatchUp,
    *,
    course: Course | None = None,
    limits: Limits | None = None,
    report: Report | None = None,
    found: Found | None = None,
) -> list[TableResult]:
    """Compare all pairs while applications write; results in the order of `pairs`.

    With a moment in its course both sides are read as they were at it: what differs is different,
    and `catch_up` is not asked.

    A pair that cannot be read is "unverified" and does not keep the others from
    being compared.  `found` is given every difference as soon as it is settled, in
    groups of a bounded size and with all differing columns; without it only the
    examples are read.  `catch_up` and `found` are called from several threads, each
    never by two at once; `report` is, from several threads.
    """
    turn, hand = Lock(), Lock()
    course = course or Course()
    moment = course.moment

    def in_turn(timeout_s: float) -> bool:
        with turn:
            return catch_up(timeout_s)

    def settle(recheck: Recheck, keys: Sequence[Key]) -> Settled:
        return recheck.settle(keys, in_turn) if moment is None else recheck.compare_now(keys)

    def hand_over(pair: Pair, differences: Sequence[Difference]) -> None:
        with hand:
            if found is not None:
                found(pair, differences)

    work = _Work(
        settle,
        limits or Limits(),
        report or _silent,
        hand_over if found else None,
        course,
    )
    jobs = max(1, work.course.jobs)
    with (
        Crew(moment, jobs) as crew,
        ThreadPoolExecutor(jobs, thread_name_prefix="dbsplit-validate") as pool,
    ):
        try:
            results = _glanced(crew, pool, work, pairs)
            others = [place for place in range(len(pairs)) if place not in results]
            crew.expect(len(others))
            futures = {place: pool.submit(_compared, crew, work, pairs[place]) for place in others}
            results |= {place: future.result() for place, future in futures.items()}
        except BaseException:
            crew.cancel()
            course.let_go()
            raise
    return [results[place] for place in range(len(pairs))]


def compare_whole(ends: Ends, pair: Pair, *, limits: Limits | None = None) -> TableResult:
    """Compare all rows of a pair whose sides are both closed to writers."""
    return _Work(_settle_now, limits or Limits(), _silent, None, Course()).compare(Team(ends), pair)


@dataclass(frozen=True, slots=True)
class _Work:
    """What all comparisons of one call have in common."""

    settle: Settle
    limits: Limits
    report: Report
    found: Found | None
    course: Course

    @property
    def moment(self) -> Moment | None:
        return self.course.moment

    def compare(self, team: Team, pair: Pair) -> TableResult:
        """Compare one pair; what keeps it from being read is the result's reason."""
        tally = Tally(pair, self.limits)
        try:
            _Comparison(self, team, _with_statistics(team.ends, pair), tally).run()
            self.require_shown(team.ends, pair)
        except UNREADABLE as error:
            return tally.unreadable(error)
        return self.placed(tally.result())

    def require_shown(self, ends: Ends, pair: Pair) -> None:
        """Check, after reading, that a moment's snapshots showed all rows of it."""
        if self.moment is not None and not all(ends.both(is_as_it_was, pair)):
            raise NotReady(REWRITTEN, hint="repeat the command")

    def placed(self, result: TableResult) -> TableResult:
        """The result with the position that it was proven at."""
        return result if self.moment is None else replace(result, position=self.moment.position)


def _compared(crew: Crew, work: _Work, pair: Pair) -> TableResult:
    try:
        with crew.team(pair) as team:
            return work.compare(team, pair)
    except UNREADABLE as error:
        return Tally(pair, work.limits).unreadable(error)


def _glanced(
    crew: Crew, pool: ThreadPoolExecutor, work: _Work, pairs: Sequence[Pair]
) -> dict[int, TableResult]:
    """The small tables that are equal at a glance, by their places."""
    places: dict[tuple[str, str], list[int]] = {}
    for place, pair in enumerate(pairs):
        places.setdefault((pair.leader.dsn, pair.follower.dsn), []).append(place)
    results: dict[int, TableResult] = {}
    for some in places.values():
        if len(some) > 1:
            numbers = {id(pairs[place]): place for place in some}
            groups = _groups(crew, [pairs[place] for place in some])
            for equal in pool.map(partial(_equal, crew, work), groups):
                results |= {numbers[id(pair)]: result for pair, result in equal}
    return results


def _groups(crew: Crew, pairs: Sequence[Pair]) -> list[list[tuple[Pair, Extents]]]:
    try:
        with crew.at_work(pairs[0]) as ends:
            return small_groups(ends, pairs)
    except UNREADABLE:
        return []  # each of them will tell


def _equal(
    crew: Crew, work: _Work, group: Sequence[tuple[Pair, Extents]]
) -> list[tuple[Pair, TableResult]]:
    tallies = [Tally(pair, work.limits) for pair, _ in group]
    try:
        work.course.wait()
        with crew.at_work(group[0][0]) as ends:
            looks = glance(ends, group)
            for pair, _ in group:
                work.require_shown(ends, pair)
    except UNREADABLE:
        return []  # one of them spoils it for the others: each for itself
    equal = []
    for (pair, _), tally, look in zip(group, tallies, looks, strict=True):
        if look.equal:
            tally.rows, tally.fingerprint = look.rows, digest_of(look.rows, look.total)
            tally.sums = 1
            equal.append((pair, work.placed(tally.result())))
            work.report(Progress(pair.route, "done", rows=look.rows))
    return equal


def _with_statistics(ends: Ends, pair: Pair) -> Pair:
    """The pair, with what the tables' statistics say of NULLs as hints for its hashes."""
    if not pair.key:  # a row's hash is its name, for a repair and for the next comparison, too
        return pair
    both = zip((pair.leader, pair.follower), ends.both(read_without_nulls, pair), strict=True)
    # The pair has the target's names of columns.
    return pair.hinted(frozenset.intersection(*(n for s, n in both if s.table == pair.table)))


def _settle_now(recheck: Recheck, keys: Sequence[Key]) -> Settled:
    return recheck.compare_now(keys)


def _silent(progress: Progress) -> None:
    """Report nothing."""


@dataclass(frozen=True, slots=True)
class _Comparison:
    """One pair on its way."""

    work: _Work
    team: Team
    pair: Pair
    tally: Tally

    @property
    def ends(self) -> Ends:
        return self.team.ends

    def run(self) -> None:
        extents = Extents(*self.ends.both(read_extent, self.pair))
        recheck = Recheck(self.ends, self.pair, extents, self.work.limits)
        course = self.work.course
        sizes = course.sizes.of(len(self.pair.columns))
        units = units_of(self.ends, self.pair, extents, sizes)
        scan = (
            Passes(self.team, self.pair, extents, course, sizes)
            if units is None
            else Scan(self.team, self.pair, extents, course, sizes, units)
        )
        self._say(scan.step)
        waiting: list[Key] = []
        since = time.monotonic()
        for keys in scan.differing():
            self.tally.rows, self.tally.sums = scan.rows, scan.sums
            since = since if waiting else time.monotonic()
            waiting += keys
            if waiting and (
                len(waiting) >= self.work.limits.keys_per_round
                or time.monotonic() - since >= SETTLE_WITHIN_S
            ):
                self._settle(recheck, waiting)
                waiting.clear()
            self._say(scan.step, scan.read)
        self._settle(recheck, waiting)
        self.tally.rows, self.tally.fingerprint = scan.rows, scan.digest
        self.tally.chunks = scan.chunks
        self._say("done")

    def _settle(self, recheck: Recheck, keys: Sequence[Key]) -> None:
        for group in self._groups(keys):
            if self.tally.found >= self.work.limits.candidates:
                self.tally.reason = self.tally.reason or TOO_MANY
            if self.tally.reason:
                self.tally.leave(group)
                continue
            settled = self.work.settle(recheck, group)
            self.tally.add(group, settled)
            self._hand_over(recheck.extents, settled.differing)
            if not settled.caught_up:
                self.tally.reason = NOT_CAUGHT_UP
            self._say("recheck")

    def _hand_over(self, extents: Extents, differing: Mapping[Key, Counts]) -> None:
        """Read what differs while it is fresh: all of it, or as much as is shown."""
        wanted = len(differing) if self.work.found else self.tally.examples_wanted
        some = dict(islice(differing.items(), wanted))
        most = None if self.work.found else EXAMPLE_READ_MAX
        for differences in read_differences(
            self.ends, self.pair, extents, some, characters_max=most
        ):
            self.tally.show(differences)
            if self.work.found:
                self.work.found(self.pair, differences)

    def _groups(self, keys: Sequence[Key]) -> Iterator[Sequence[Key]]:
        # Each look at a table without a key is a scan, so it takes all keys at once.
        size = self.work.limits.keys_per_round if self.pair.key else max(1, len(keys))
        for start in range(0, len(keys), size):
            yield keys[start : start + size]

    def _say(self, step: Step, read: int | None = None) -> None:
        tally = self.tally
        rows = tally.rows if read is None else read
        self.work.report(Progress(self.pair.route, step, rows, tally.found, tally.settled))
