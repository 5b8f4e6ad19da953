"""Comparing round after round while the split follows, until it is stopped.

What was proven longest ago is compared first.  So one that was killed begins with the
table that it was at, and there with the first unit that was not proven.  A difference is
told once when it is found, and once when it is gone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import psycopg

from cdc.connect import Connection, connect
from plans.errors import SplitError
from plans.routes import Route
from toolkit import locks, state
from toolkit.differences import ControlTable, Handover
from toolkit.freshness import Freshness, read_freshness
from toolkit.links import require_copied
from toolkit.open_differences import Examples, OpenDifferences, note_told
from toolkit.opened import Split
from toolkit.prepared import require_prepared
from toolkit.say import Say
from toolkit.state import Phase
from toolkit.validation import Asked, validate_all
from validators.results import TableResult

SMALL_ROWS = 20_000
TOGETHER_MAX = 100
"""Small tables of a service are compared with each other, at most so many at a time."""
REST_S = 0.5
DEAD_S_MAX = 60.0
"""The stream ends a move whose process is gone within a second, but it may not run."""

STUCK_HINT = (
    "a move was begun and its process is gone: `dbsplit stream` ends it, or the same command again"
)
BETWEEN = (Phase.DRAINING, Phase.SETTLED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What is known when it ends."""

    split: str
    rounds: int
    tables: tuple[Freshness, ...]

    @property
    def consistent(self) -> bool:
        """Whether each table was equal when it was last compared."""
        return bool(self.tables) and all(one.state == "equal" for one in self.tables)

    @property
    def is_fine(self) -> bool:
        """Whether nothing that was compared is anything but equal."""
        return all(one.state in ("equal", "never") for one in self.tables)

    def as_dict(self) -> dict[str, Any]:
        """The result object that scripts read."""
        return {
            "outcome": "stopped",
            "consistent": self.consistent,
            "rounds": self.rounds,
            "tables": [one.as_dict() for one in self.tables],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often, and by how many."""

    every_s: float  # at least, from the begin of a round to that of the next
    jobs: int = 2  # sessions on each side


def keep_validating(
    split: Split,
    routes: Sequence[Route],
    say: Say,
    *,
    pace: Pace,
    still: Callable[[], None],
    stop: threading.Event,
) -> Watched:
    """Compare routes again and again, until KeyboardInterrupt ends it, with `stop` set.

    Rounds come at this pace.  `still` is called before each and
    raises if the plan or the source's tables are not what they were.  Raises NotReady if
    another process validates the split, or if rows are not copied yet.
    """
    dsn = split.plan.source.dsn
    watch: _Watch | None = None
    try:
        with (
            locks.sole_runner(dsn, split.name, locks.VALIDATE, name=locks.CONTINUOUS) as source,
            ExitStack() as stack,
        ):
            require_prepared(split.plan, split.catalog, source)
            require_copied(split, routes)
            watch = _Watch(split, tuple(routes), source, say, stop, pace.jobs)
            watch.recall()
            watch.handover = stack.enter_context(Handover(split, watch.sinks))
            while watch.goes_on():
                began = time.monotonic()
                still()
                watch.round()
                watch.rest(began + pace.every_s)
    except KeyboardInterrupt:
        if watch is None:
            raise
    except (psycopg.Error, SplitError):
        # What was interrupted may have left a query in hand on a connection.
        if watch is None or not stop.is_set():
            raise
    with connect(dsn, name="dbsplit validate") as watch.source:
        return Watched(split=split.name, rounds=watch.rounds, tables=tuple(watch.freshness()))


def in_groups(routes: Sequence[Route], age_s: Mapping[str, float | None]) -> list[list[Route]]:
    """Routes that are compared together, those first that were compared longest ago, or never."""
    left = sorted(routes, key=lambda r: (age_s[r.id] is not None, -(age_s[r.id] or 0.0)))
    groups = []
    while left:
        first = left[0]
        group = [first]
        if _is_small(first):
            alike = (r for r in left if _is_small(r) and r.service == first.service)
            group = list(islice(alike, TOGETHER_MAX))
        left = [route for route in left if route not in group]
        groups.append(group)
    return groups


def _is_small(route: Route) -> bool:
    return route.source.rows_estimated <= SMALL_ROWS


@dataclass(slots=True)
class _Watch:
    """The rounds of one process."""

    split: Split
    routes: tuple[Route, ...]
    source: Connection
    say: Say
    stop: threading.Event
    jobs: int
    rounds: int = 0  # that came to their end
    handover: Handover | None = None
    _open: OpenDifferences = field(default_factory=OpenDifferences)
    _examples: Examples = field(default_factory=Examples)
    _stuck: tuple[str, ...] = ()  # services whose move nobody ends, which was told
    _reasons: dict[str, str] = field(default_factory=dict)  # why a table was last unverified

    @property
    def sinks(self) -> list[Any]:
        return [ControlTable(self.split.name, self.source), self._open, self._examples]

    def recall(self) -> None:
        """Know what was told before this process was started."""
        self._open.recall(self.source, self.split.name, self.routes)

    def goes_on(self) -> bool:
        """Whether the split still follows: nothing is left to compare after `complete`."""
        now = state.phases(self.source, self.split.name)
        return bool(now) and set(now.values()) != {Phase.COMPLETED}

    def freshness(self) -> list[Freshness]:
        """What is known of all routes; what could not be read last is unverified."""
        now = state.phases(self.source, self.split.name)
        return [
            replace(one, state="unverified") if self._reasons.get(one.route) else one
            for one in read_freshness(self.source, self.split.name, self.routes, now)
        ]

    def round(self) -> None:
        """Compare every route once."""
        began = time.monotonic()
        number = self.rounds + 1
        results: list[TableResult] = []
        ages = {one.route: one.age_s for one in self.freshness()}
        for some in in_groups(self.routes, ages):
            self._let_moves_pass()
            state.beat(self.source, self.split.name, "continuous", {"round": number})
            compared = self._compared(some)
            results += compared
            self._tell(compared, some)
        self.rounds = number
        counts = {
            name: sum(one.state == name for one in results)
            for name in ("equal", "different", "unverified")
        }
        took_s = round(time.monotonic() - began, 1)
        self.say("round", {"round": number, "tables": len(results), **counts, "took_s": took_s})

    def rest(self, until: float) -> None:
        """Wait until the next round."""
        while (left_s := until - time.monotonic()) > 0:
            time.sleep(min(REST_S, left_s))

    def _let_moves_pass(self) -> None:
        """A cutover compares for itself, and wants the servers for it.

        That of a live process is waited for, as it has limits of its own.  Of a dead one it
        is told that nobody ends it, and comparing goes on.
        """
        died = time.monotonic()
        while True:
            now = state.phases(self.source, self.split.name)
            between = [service for service, phase in now.items() if phase in BETWEEN]
            if locks.is_held(self.source, self.split.name, locks.CUTOVER):
                died = time.monotonic()
            elif not between:
                self._stuck = ()
                return
            elif time.monotonic() > died + DEAD_S_MAX or self._stuck == tuple(between):
                if not self._stuck:
                    self.say("stuck", {"services": between, "hint": STUCK_HINT})
                self._stuck = tuple(between)
                return
            time.sleep(REST_S)

    def _compared(self, routes: Sequence[Route]) -> list[TableResult]:
        """The results; a server that is away for a while makes them unverified."""
        asked = Asked(handover=self.handover, jobs=self.jobs)
        try:
            return list(validate_all(self.split, routes, self.source, self.say, asked).results)
        except (psycopg.Error, SplitError) as error:
            if self.stop.is_set():
                raise
            self.source.execute("SELECT")  # without it, the role is lost: that ends it
            reason = str(error).strip().splitlines()[0]
            return [
                TableResult(
                    table=route.target,
                    service=route.service,
                    route=route.id,
                    state="unverified",
                    reason=reason,
                )
                for route in routes
            ]

    def _tell(self, results: Sequence[TableResult], routes: Sequence[Route]) -> None:
        fresh = {
            one.route: one
            for one in read_freshness(
                self.source,
                self.split.name,
                routes,
                state.phases(self.source, self.split.name),
            )
        }
        by_id = {route.id: route for route in routes}
        for result in results:
            where = {"service": result.service, "table": str(result.table)}
            news = self._open.news(result)
            if news.new:
                shown = self._examples.by_route.get(result.route, [])
                told = {"new": len(news.new), "open": news.open, "examples": shown}
                self.say("differs", {**where, **told})
            if news.closed:
                self.say("closed", {**where, "closed": len(news.closed), "open": news.open})
            if news.new or news.closed:
                note_told(self.source, self.split.name, by_id[result.route], news)
            if result.state == "unverified" and self._reasons.get(result.route) != result.reason:
                self.say("unverified", {**where, "reason": result.reason})
            self._reasons[result.route] = result.reason if result.state == "unverified" else ""
            if result.state == "equal":
                one = fresh[result.route]
                told = {"rows": result.rows, "at": one.as_dict()["equal_at"], "as_of": one.as_of}
                self.say("proven", {**where, **told})
