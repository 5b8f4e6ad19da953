"""Comparing routes, row by row: fingerprints, then candidates, then rechecks.

At most two scans of each side, unless so many rows differ that their keys do
not fit in memory: then every `Limits.candidates_held` of them cost one more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from threading import Lock

import psycopg

from cdc.connect import Connection
from plans.errors import SplitError
from validators.candidates import Extents, read_candidates
from validators.evidence import Counts
from validators.fingerprint import Fingerprint, bucket_count, read_extent, read_fingerprint
from validators.mismatches import read_differences
from validators.recheck import CatchUp, Limits, Recheck, Settled
from validators.results import Difference, Progress, Step, TableResult
from validators.session import Cancelled, Ends, connected
from validators.sides import Key, Pair, Side
from validators.tally import Tally

Report = Callable[[Progress], None]
Found = Callable[[Pair, Sequence[Difference]], None]
Settle = Callable[[Recheck, Sequence[Key]], Settled]

NOT_CAUGHT_UP = "rows differ, and whether the follower has applied the leader's changes is unknown"
TOO_MANY = "too many rows differ to recheck all of them"

UNREADABLE = (psycopg.Error, SplitError, UnicodeError, OSError)
"""What keeps a table from being compared, and is no bug of ours."""


def compare_routes(
    pairs: Sequence[Pair],
    catch_up: CatchUp,
    *,
    jobs: int = 2,
    limits: Limits | None = None,
    report: Report | None = None,
    found: Found | None = None,
) -> list[TableResult]:
    """Compare all pairs while applications write; results in the order of `pairs`.

    A pair that cannot be read is "unverified" and does not keep the others from
    being compared.  `found` is given every difference as soon as it is settled, in
    groups of a bounded size and with all differing columns; without it only the
    examples are read.  `catch_up` and `found` are called from several threads, each
    never by two at once; `report` is, from several threads.
    """
    turn, hand = Lock(), Lock()

    def in_turn(timeout_s: float) -> bool:
        with turn:
            return catch_up(timeout_s)

    def settle(recheck: Recheck, keys: Sequence[Key]) -> Settled:
        return recheck.settle(keys, in_turn)

    def hand_over(pair: Pair, differences: Sequence[Difference]) -> None:
        with hand:
            if found is not None:
                found(pair, differences)

    crew = _Crew(settle, limits or Limits(), report or _silent, hand_over if found else None)
    with ThreadPoolExecutor(max(1, jobs), thread_name_prefix="dbsplit-validate") as pool:
        futures = [pool.submit(crew.compare, pair) for pair in pairs]
        try:
            return [future.result() for future in futures]
        except BaseException:
            crew.cancel()
            raise


def compare_whole(ends: Ends, pair: Pair, *, limits: Limits | None = None) -> TableResult:
    """Compare all rows of a pair whose sides are both closed to writers."""
    return compare_pair(ends, pair, _settle_now, limits=limits or Limits(), report=_silent)


def compare_pair(
    ends: Ends,
    pair: Pair,
    settle: Settle,
    *,
    limits: Limits,
    report: Report,
    found: Found | None = None,
) -> TableResult:
    """Compare one pair; what keeps it from being read is the result's reason."""
    tally = Tally(pair, limits)
    try:
        _Comparison(ends, pair, settle, limits, report, found, tally).run()
    except UNREADABLE as error:
        return tally.unreadable(error)
    return tally.result()


def _settle_now(recheck: Recheck, keys: Sequence[Key]) -> Settled:
    return recheck.compare_now(keys)


def _silent(progress: Progress) -> None:
    """Report nothing."""


@dataclass(frozen=True, slots=True)
class _Comparison:
    """One pair on its way through the two passes."""

    ends: Ends
    pair: Pair
    settle: Settle
    limits: Limits
    report: Report
    found: Found | None
    tally: Tally

    def run(self) -> None:
        extents = Extents(*self.ends.both(read_extent, self.pair))
        rows = max(extents.leader.rows_estimated, extents.follower.rows_estimated)
        buckets = bucket_count(rows)
        self._say("fingerprint")
        leader, follower = self._fingerprints(extents, buckets)
        self.tally.rows, self.tally.fingerprint = leader.rows, leader.digest
        differing = tuple(sorted(leader.differing(follower)))
        while differing:
            self._say("open")
            batch = read_candidates(
                self.ends,
                self.pair,
                extents,
                differing=differing,
                buckets=buckets,
                most=self.limits.candidates_held,
            )
            self._settle(Recheck(self.ends, self.pair, extents, self.limits), batch.keys)
            differing = batch.left
        self._say("done")

    def _fingerprints(self, extents: Extents, buckets: int) -> tuple[Fingerprint, Fingerprint]:
        def read(connection: Connection, side: Side) -> Fingerprint:
            return read_fingerprint(
                connection,
                side,
                extent=extents.of(self.pair, side),
                hashing=self.ends.hashing,
                buckets=buckets,
            )

        return self.ends.both(read, self.pair)

    def _settle(self, recheck: Recheck, keys: Sequence[Key]) -> None:
        for group in self._groups(keys):
            if self.tally.found >= self.limits.candidates:
                self.tally.reason = self.tally.reason or TOO_MANY
            if self.tally.reason:
                self.tally.leave(group)
                continue
            settled = self.settle(recheck, group)
            self.tally.add(group, settled)
            self._hand_over(recheck.extents, settled.differing)
            if not settled.caught_up:
                self.tally.reason = NOT_CAUGHT_UP
            self._say("recheck")

    def _hand_over(self, extents: Extents, differing: Mapping[Key, Counts]) -> None:
        """Read what differs while it is fresh: all of it, or as much as is shown."""
        wanted = len(differing) if self.found else self.tally.examples_wanted
        some = dict(islice(differing.items(), wanted))
        for differences in read_differences(self.ends, self.pair, extents, some):
            self.tally.show(differences)
            if self.found:
                self.found(self.pair, differences)

    def _groups(self, keys: Sequence[Key]) -> Iterator[Sequence[Key]]:
        # Each look at a table without a key is a scan, so it takes all keys at once.
        size = self.limits.keys_per_round if self.pair.key else max(1, len(keys))
        for start in range(0, len(keys), size):
            yield keys[start : start + size]

    def _say(self, step: Step) -> None:
        tally = self.tally
        self.report(
            Progress(
                self.pair.route, step, rows=tally.rows, found=tally.found, settled=tally.settled
            )
        )


@dataclass(slots=True)
class _Crew:
    """Compares pairs in several threads, each with connections of its own."""

    settle: Settle
    limits: Limits
    report: Report
    found: Found | None
    busy: set[Ends] = field(default_factory=set)
    cancelled: bool = False
    lock: Lock = field(default_factory=Lock)

    def compare(self, pair: Pair) -> TableResult:
        try:
            with connected(pair.leader.dsn, pair.follower.dsn) as ends, self._at_work(ends):
                return compare_pair(
                    ends,
                    pair,
                    self.settle,
                    limits=self.limits,
                    report=self.report,
                    found=self.found,
                )
        except UNREADABLE as error:
            return Tally(pair, self.limits).unreadable(error)

    def cancel(self) -> None:
        """End all comparisons; those that wait for a thread do not begin."""
        with self.lock:
            self.cancelled = True
            busy = list(self.busy)
        for ends in busy:
            ends.cancel()

    @contextmanager
    def _at_work(self, ends: Ends) -> Iterator[None]:
        with self.lock:
            if self.cancelled:
                raise Cancelled
            self.busy.add(ends)
        try:
            yield
        finally:
            with self.lock:
                self.busy.discard(ends)
