"""Several comparisons at a time, each with connections of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from threading import Lock

from validators.session import Cancelled, Ends, connected
from validators.sides import Pair


@dataclass(slots=True)
class Crew:
    """Connections to pairs of servers, lent to one comparison at a time."""

    _free: dict[tuple[str, str], list[Ends]] = field(default_factory=dict)
    _busy: set[Ends] = field(default_factory=set)
    _cancelled: bool = False
    _lock: Lock = field(default_factory=Lock)
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextmanager
    def at_work(self, pair: Pair) -> Iterator[Ends]:
        """Connections to the pair's sides; Cancelled after `cancel`."""
        dsns = pair.leader.dsn, pair.follower.dsn
        ends = self._take(dsns) or self._connect(dsns)
        try:
            with self._lock:
                if self._cancelled:
                    raise Cancelled
                self._busy.add(ends)
            yield ends
        finally:
            with self._lock:
                self._busy.discard(ends)
                if not ends.lost:
                    self._free.setdefault(dsns, []).append(ends)

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
        ends = opened.enter_context(connected(*dsns))
        with self._lock:
            self._stack.push(opened)
        return ends
