"""Several comparisons at a time, each with connections of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from threading import Lock, Timer
from types import MappingProxyType

import psycopg

from plans.errors import NotReady
from validators.moment import GIVEN_UP, MORE_TIME, Moment
from validators.session import Cancelled, Ends, connected
from validators.sides import Pair


@dataclass(slots=True)
class Crew:
    """Connections to pairs of servers, lent to one comparison at a time."""

    moment: Moment | None = None  # that they see; each is as of now without one
    _free: dict[tuple[str, str], list[Ends]] = field(default_factory=dict)
    _busy: set[Ends] = field(default_factory=set)
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

    @contextmanager
    def at_work(self, pair: Pair) -> Iterator[Ends]:
        """Connections to the pair's sides; Cancelled after `cancel`.

        Raises NotReady, in the block as well, when the moment is over.
        """
        dsns = pair.leader.dsn, pair.follower.dsn
        ends = self._take(dsns) or self._connect(dsns)
        try:
            with self._lock:
                if self._cancelled:
                    raise Cancelled
                self._busy.add(ends)
            self._require_time()
            yield ends
            self._require_time()
        except psycopg.Error:
            self._require_time()
            raise
        finally:
            with self._lock:
                self._busy.discard(ends)
                if not ends.lost:
                    self._free.setdefault(dsns, []).append(ends)

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
