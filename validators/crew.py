"""Several comparisons at a time, each with connections of its own.

Once no table waits for its turn, those that are left share the connections of the others:
a large table is read by several at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from threading import Lock, Timer
from types import MappingProxyType

import psycopg

from plans.errors import NotReady, SplitError
from validators.moment import GIVEN_UP, MORE_TIME, Moment
from validators.session import Cancelled, Ends, connected
from validators.sides import Pair

PARTS_PER_JOB_MIN = 4
"""Parts of a table that are still to be read, for each of those who read it."""


def _nobody() -> None:
    """There is nobody else."""


@dataclass(slots=True)
class Team:
    """Who reads one table: a pair of connections at first, more as soon as others are idle."""

    ends: Ends  # for all that is not read part by part
    borrow: Callable[[], Ends | None] = _nobody
    give_back: Callable[[Ends], None] = lambda _: None
    _borrowed: list[Ends] = field(default_factory=list)
    _turn: int = 0

    def __len__(self) -> int:
        return 1 + len(self._borrowed)

    def turn(self, parts_left: int) -> Ends:
        """Whose turn it is to read a part; so many are still to be read."""
        if parts_left >= PARTS_PER_JOB_MIN * (len(self) + 1) and (more := self.borrow()):
            self._borrowed.append(more)
        self._turn = (self._turn + 1) % len(self)
        return [self.ends, *self._borrowed][self._turn]

    def disband(self) -> None:
        """Give back what was borrowed."""
        while self._borrowed:
            self.give_back(self._borrowed.pop())


@dataclass(slots=True)
class Crew:
    """Connections to pairs of servers, lent to one comparison at a time."""

    moment: Moment | None = None  # that they see; each is as of now without one
    jobs: int = 1  # at most so many pairs of connections are at work
    _unbegun: int = 0  # comparisons, each of which will want one
    _free: dict[tuple[str, str], list[Ends]] = field(default_factory=dict)
    _busy: set[Ends] = field(default_factory=set)
    _opening: int = 0  # connections that are about to be lent
    _cancelled: bool = False
    _over: bool = False
    _lock: Lock = field(default_factory=Lock)
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Crew:
        if self.moment is not None:
            timer = Timer(max(0.0, self.moment.ends_at - time.monotonic()), self._end)
            timer.daemon = True
            timer.start()
            self._stack.callback(timer.cancel)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def expect(self, comparisons: int) -> None:
        """So many will begin, and no connections are lent for anything else until they have."""
        self._unbegun = comparisons

    @contextmanager
    def team(self, pair: Pair) -> Iterator[Team]:
        """A comparison that was expected; otherwise like `at_work`."""
        with self._lock:
            self._unbegun -= 1
        with self.at_work(pair) as ends:
            dsns = pair.leader.dsn, pair.follower.dsn
            team = Team(ends, partial(self._lend, pair, ends), partial(self._return, dsns))
            try:
                yield team
            finally:
                team.disband()

    @contextmanager
    def at_work(self, pair: Pair) -> Iterator[Ends]:
        """Connections to the pair's sides; Cancelled after `cancel`.

        Raises NotReady, in the block as well, when the moment is over.
        """
        dsns = pair.leader.dsn, pair.follower.dsn
        ends = self._take(dsns) or self._connect(dsns)
        try:
            with self._lock:
                self._busy.add(ends)
            self._require_going()
            self._require_time()
            yield ends
            self._require_time()
        except psycopg.Error:
            self._require_time()
            raise
        finally:
            self._return(dsns, ends)

    def _require_going(self) -> None:
        if self._cancelled:
            raise Cancelled

    def _require_time(self) -> None:
        if self._over:
            raise NotReady(GIVEN_UP, hint=MORE_TIME)

    def _end(self) -> None:
        """Let nobody read the moment any more."""
        with self._lock:
            self._over = True
            busy = list(self._busy)
        for ends in busy:
            for connection in (ends.leader, ends.follower):
                connection.cancel_safe(timeout=5.0)

    def cancel(self) -> None:
        """End all comparisons; those that wait for a thread do not begin."""
        with self._lock:
            self._cancelled = True
            busy = list(self._busy)
        for ends in busy:
            ends.cancel()

    def _lend(self, pair: Pair, like: Ends) -> Ends | None:
        """Connections of a job that has nothing to do; None if there is none."""
        with self._lock:
            at_work = len(self._busy) + self._opening
            if self._cancelled or self._over or self._unbegun > 0 or at_work >= self.jobs:
                return None
            self._opening += 1
        dsns = pair.leader.dsn, pair.follower.dsn
        ends = None
        try:
            with suppress(psycopg.Error, SplitError):
                ends = self._take(dsns) or self._connect(dsns)
        finally:
            with self._lock:
                self._opening -= 1
                if ends is None or ends.hashing != like.hashing:
                    self.jobs = at_work  # the servers have no more room: go on with what there is
                    ends = None
                else:
                    self._busy.add(ends)
        if ends is not None:
            self._require_going()
        return ends

    def _return(self, dsns: tuple[str, str], ends: Ends) -> None:
        with self._lock:
            self._busy.discard(ends)
            if not ends.lost:
                self._free.setdefault(dsns, []).append(ends)

    def _take(self, dsns: tuple[str, str]) -> Ends | None:
        with self._lock:
            free = self._free.get(dsns)
            return free.pop() if free else None

    def _connect(self, dsns: tuple[str, str]) -> Ends:
        opened = ExitStack()
        snapshots = self.moment.snapshots if self.moment else MappingProxyType({})
        ends = opened.enter_context(connected(*dsns, snapshots))
        with self._lock:
            self._stack.push(opened)
        return ends
