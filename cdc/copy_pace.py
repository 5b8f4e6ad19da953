"""How far a copy is, and how long it will take.

Work is counted in bytes of source tables; other work, such as building an index, is
told in as many bytes as could be copied meanwhile.  The rate is what was done since
the beginning, over all workers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from plans.routes import Route

REPORT_S = 0.2
FEW_PARTS = 50
"""So many are looked at each time that something is told."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast all of it goes, and how long it will still take."""

    bytes_per_s: float
    eta_s: float | None  # None as long as nothing tells


@dataclass(frozen=True, slots=True)
class CopyProgress:
    """How far the copy of one route is."""

    route: Route
    rows: int
    size_bytes: int
    done: bool
    pace: Pace


@dataclass(frozen=True, slots=True)
class BuildProgress:
    """That something was built after the data."""

    service: str
    what: str  # such as "index public.orders_customer_id_idx"
    took_s: float
    pace: Pace


@dataclass(frozen=True, slots=True)
class CatchUpProgress:
    """How far the targets are behind the moment at which they hold together."""

    behind_bytes: int


@dataclass(frozen=True, slots=True)
class ThrottleProgress:
    """That it goes slower than it could, or as fast again, and what may become a reason."""

    paused: bool
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]


Progress = CopyProgress | BuildProgress | CatchUpProgress | ThrottleProgress
Report = Callable[[Progress], None]


@dataclass(slots=True)
class _Part:
    """A piece of work in hand or done."""

    work: float
    done: float = 0.0
    rows: int = 0
    size_bytes: int = 0


@dataclass(slots=True)
class _Copied:
    route: Route
    parts: dict[str, _Part] = field(default_factory=dict)
    reported_at: float = 0.0


class Tally:
    """Adds up what the workers have done, and tells of it; for use by all of them."""

    def __init__(self, report: Report, *, workers: int) -> None:
        self._report = report
        self._workers = workers
        self._lock = threading.Lock()
        self._parts: dict[str, _Part] = {}
        self._routes: dict[str, _Copied] = {}
        self._began = time.monotonic()
        self._copied_bytes = 0
        self._work = self._done = 0.0  # of all parts
        self._longest = self._longest_at = 0.0

    def begin(self) -> None:
        """The work begins, if it has not; what was before it tells nothing of its pace."""
        with self._lock:
            if not any(part.done for part in self._parts.values()):
                self._began = time.monotonic()

    def expect(self, name: str, work: float, route: Route | None = None) -> None:
        """There is such a piece of work, of a route or something else."""
        self._parts[name] = part = _Part(max(work, 1.0))
        self._work += part.work
        if route is not None:
            self._routes.setdefault(route.id, _Copied(route)).parts[name] = part

    def moving(self, name: str, route: Route, rows: int, size_bytes: int) -> None:
        """A part of a route has come so far."""
        estimated = max(1, route.source.rows_estimated) / len(self._routes[route.id].parts)
        with self._lock:
            part = self._parts[name]
            self._copied_bytes += size_bytes - part.size_bytes
            part.rows, part.size_bytes = rows, size_bytes
            self._advance(part, part.work * min(1.0, rows / estimated))
            self._tell(route.id, done=False)

    def moved(self, name: str, route: Route, rows: int, size_bytes: int) -> None:
        """A part of a route is copied for good."""
        with self._lock:
            part = self._parts[name]
            self._copied_bytes += size_bytes - part.size_bytes
            part.rows, part.size_bytes = rows, size_bytes
            self._advance(part, part.work)
            parts = self._routes[route.id].parts.values()
            self._tell(route.id, done=all(part.done >= part.work for part in parts))

    def built(self, name: str, service: str, what: str, took_s: float) -> None:
        """Something else is done."""
        with self._lock:
            part = self._parts[name]
            self._advance(part, part.work)
            self._report(BuildProgress(service, what, took_s, self._pace(time.monotonic())))

    def fills_all(self, name: str) -> bool:
        """Whether the others have enough to do for as long as one does this part alone."""
        with self._lock:
            part = self._parts[name]
            left = part.work - part.done
            return 0 < left * (self._workers - 1) <= self._work - self._done - left

    def rested(self, seconds: float) -> None:
        """Meanwhile nothing of this was done, nor could it be."""
        with self._lock:
            self._began += seconds

    def pace(self) -> Pace:
        """How fast it goes now."""
        with self._lock:
            return self._pace(time.monotonic())

    def _tell(self, route: str, *, done: bool) -> None:
        copied, now = self._routes[route], time.monotonic()
        if not done and now - copied.reported_at < REPORT_S:
            return
        copied.reported_at = now
        rows = sum(part.rows for part in copied.parts.values())
        size = sum(part.size_bytes for part in copied.parts.values())
        self._report(CopyProgress(copied.route, rows, size, done, self._pace(now)))

    def _advance(self, part: _Part, done: float) -> None:
        self._done += done - part.done
        part.done = done

    def _pace(self, now: float) -> Pace:
        took_s = max(now - self._began, 1e-3)
        eta = None
        if self._done > 0.0:
            each = self._done / took_s / self._workers
            eta = max((self._work - self._done) / self._workers, self._longest_left(now)) / each
        return Pace(self._copied_bytes / took_s, eta)

    def _longest_left(self, now: float) -> float:
        """What is left of the part of which most is; of many looked for now and then."""
        if len(self._parts) < FEW_PARTS or now - self._longest_at >= REPORT_S:
            self._longest = max((one.work - one.done for one in self._parts.values()), default=0.0)
            self._longest_at = now
        return self._longest
