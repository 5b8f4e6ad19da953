"""Comparing routes, row by row: fingerprints, then candidates, then rechecks.

A table whose key begins with an integer is compared unit by unit (`validators.ranges`),
any other by two scans of each side (`validators.fingerprint`), unless so many rows
differ that their keys do not fit in memory: then every `Limits.candidates_held` of
them cost one more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from threading import Lock

import psycopg

from cdc.connect import Connection
from plans.errors import SplitError
from validators.candidates import Extents, read_candidates
from validators.examples import read_examples
from validators.fingerprint import (
    Fingerprint,
    bucket_count,
    digest_of,
    read_extent,
    read_fingerprint,
)
from validators.ranges import opened_keys, read_chunks, units_of
from validators.recheck import CatchUp, Limits, Recheck, Settled
from validators.results import Progress, Step, TableResult
from validators.session import Cancelled, Ends, Reader, connected
from validators.sides import Key, Pair, Side
from validators.tally import Tally
from validators.units import Chunks, Unit, differing

Report = Callable[[Progress], None]
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
) -> list[TableResult]:
    """Compare all pairs while applications write; results in the order of `pairs`.

    A pair that cannot be read is "unverified" and does not keep the others from
    being compared.  `catch_up` is called from several threads, never by two at
    once; `report` is, from several threads.
    """
    turn = Lock()

    def in_turn(timeout_s: float) -> bool:
        with turn:
            return catch_up(timeout_s)

    def settle(recheck: Recheck, keys: Sequence[Key]) -> Settled:
        return recheck.settle(keys, in_turn)

    crew = _Crew(settle, limits or Limits(), report or _silent)
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
    ends: Ends, pair: Pair, settle: Settle, *, limits: Limits, report: Report
) -> TableResult:
    """Compare one pair; what keeps it from being read is the result's reason."""
    tally = Tally(pair, limits)
    try:
        _Comparison(ends, pair, settle, limits, report, tally).run()
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
    tally: Tally

    def run(self) -> None:
        extents = Extents(*self.ends.both(read_extent, self.pair))
        units = units_of(self.ends, self.pair, extents)
        if units is None:
            self._by_buckets(extents)
        else:
            self._by_units(extents, units)
        examples = self.tally.to_show()
        self.tally.examples = read_examples(self.ends, self.pair, extents, examples)
        self._say("done")

    def _by_units(self, extents: Extents, units: Sequence[Unit]) -> None:
        recheck = Recheck(self.ends, self.pair, extents, self.limits)
        digest = 0
        self._say("fingerprint")
        for unit, ours, theirs in self._chunks(extents, units):
            self.tally.rows += ours.total
            digest += ours.digest
            if spans := differing(ours, theirs, unit):
                for keys in opened_keys(self.ends, self.pair, extents, unit, spans):
                    self._settle(recheck, keys)
            self._say("fingerprint")
        self.tally.fingerprint = digest_of(self.tally.rows, digest)

    def _chunks(
        self, extents: Extents, units: Sequence[Unit]
    ) -> Iterator[tuple[Unit, Chunks, Chunks]]:
        """Each unit's chunks on both sides; the next one is read while one is looked at."""

        def begin(unit: Unit) -> Callable[[], tuple[Chunks, Chunks]]:
            def read(connection: Connection, side: Side) -> Chunks:
                reader = Reader(connection, self.ends.hashing)
                return read_chunks(reader, side, extents.of(self.pair, side), unit)

            return self.ends.begin(read, self.pair)

        waiting = begin(units[0])
        for unit, following in zip_longest(units, units[1:]):
            ours, theirs = waiting()
            if following is not None:
                waiting = begin(following)
            yield unit, ours, theirs

    def _by_buckets(self, extents: Extents) -> None:
        rows = max(extents.leader.rows_estimated, extents.follower.rows_estimated)
        buckets = bucket_count(rows)
        self._say("fingerprint")
        leader, follower = self._fingerprints(extents, buckets)
        self.tally.rows, self.tally.fingerprint = leader.rows, leader.digest
        differ = tuple(sorted(leader.differing(follower)))
        while differ:
            self._say("open")
            batch = read_candidates(
                self.ends,
                self.pair,
                extents,
                differing=differ,
                buckets=buckets,
                most=self.limits.candidates_held,
            )
            self._settle(Recheck(self.ends, self.pair, extents, self.limits), batch.keys)
            differ = batch.left

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
            if not settled.caught_up:
                self.tally.reason = NOT_CAUGHT_UP
            self._say("recheck")

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
    busy: set[Ends] = field(default_factory=set)
    cancelled: bool = False
    lock: Lock = field(default_factory=Lock)

    def compare(self, pair: Pair) -> TableResult:
        try:
            with connected(pair.leader.dsn, pair.follower.dsn) as ends, self._at_work(ends):
                return compare_pair(ends, pair, self.settle, limits=self.limits, report=self.report)
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
