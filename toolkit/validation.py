"""Comparing every row of some routes while the stream goes on, and at the fence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg

from cdc.connect import Connection, connect
from cdc.throttle import Verdict
from plans import names
from plans.errors import GateClosed, PlanInvalid
from plans.routes import Route
from toolkit import locks, markers
from toolkit.compared_units import ControlMemory
from toolkit.differences import Handover, Way
from toolkit.opened import Split
from toolkit.state import Direction, Phase, phases
from toolkit.throttling import throttled
from validators.compare import compare_routes
from validators.results import Progress, TableResult, consistent
from validators.scans import Course
from validators.scope import Scope
from validators.sides import Pair, pair_of
from validators.visibility import position

PEEKED_MAX = 10_000
SHRINK_ROUNDS = 3
REHEARSED_KEYS = 2_000
SHRUNK = 500  # dirty keys that a pause hardly notices
SHRINK_S_MAX = 60.0
VISIBLE_S_MAX = 5.0
Say = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is asked of a comparison."""

    handover: Handover | None = None  # takes every difference; without one, only examples are read
    scope: Scope = field(default_factory=Scope)
    """With one nothing is noted: what a part is like proves nothing of the rest."""


@dataclass(frozen=True, slots=True)
class Compared:
    """The results of one comparison."""

    results: tuple[TableResult, ...]

    @property
    def consistent(self) -> bool:
        """Whether everything was proven equal."""
        return consistent(self.results)

    @property
    def differences(self) -> int:
        """Rows that are missing, extra or different."""
        return sum(r.missing + r.extra + r.different for r in self.results)

    @property
    def verdict(self) -> int | None:
        """The number of differences, None if some table could not be told."""
        if any(r.state == "unverified" for r in self.results):
            return None
        return self.differences


def validate(
    split: Split,
    routes: Sequence[Route],
    direction: Direction,
    source: Connection,
    say: Say,
    asked: Asked | None = None,
) -> Compared:
    """Compare routes of services that follow (cutover) or lead (rollback), and note the result."""
    results: list[TableResult] = []
    services = list(dict.fromkeys(route.service for route in routes))
    for service in services:
        some = [r for r in routes if r.service == service]
        results += _Run(split, direction, source, say, asked or Asked()).compare(some)
    return Compared(tuple(results))


def chosen_routes(
    split: Split, services: Sequence[str], tables: Sequence[str]
) -> tuple[Route, ...]:
    """The routes of some services and tables, of all without any.

    Raises PlanInvalid for a name that no route has.
    """
    known = {r.service for r in split.routes}
    for service in services:
        if service not in known:
            raise PlanInvalid(
                f"the plan has no service {service!r} with tables",
                hint=f"services with tables are {', '.join(sorted(known))}",
            )
    chosen = [r for r in split.routes if not services or r.service in services]
    if not tables:
        return tuple(chosen)
    found: list[Route] = []
    for table in tables:
        named = [
            r
            for r in chosen
            if table in (r.target.name, str(r.target), r.source.name.name, str(r.source.name))
        ]
        if not named:
            raise PlanInvalid(f"no route of the plan has a table {table!r}", hint="see the plan")
        found += [r for r in named if r not in found]
    return tuple(found)


def validate_all(
    split: Split,
    routes: Sequence[Route],
    source: Connection,
    say: Say,
    asked: Asked | None = None,
) -> Compared:
    """Compare routes, each in the direction in which it flows now.

    What a service owns flows back once it has moved; what it is fed flows on.
    """
    now = phases(source, split.name)
    results: list[TableResult] = []
    for direction in Direction:
        chosen = [r for r in routes if direction_of(r, now) is direction]
        if chosen:
            results += validate(split, chosen, direction, source, say, asked).results
    return Compared(tuple(results))


def direction_of(route: Route, now: Mapping[str, Phase]) -> Direction:
    """How a route flows: what a service owns flows back once it has moved."""
    moved = now.get(route.service) is Phase.MOVED and route.kind.owned
    return Direction.ROLLBACK if moved else Direction.CUTOVER


@dataclass(frozen=True, slots=True)
class _Run:
    """One comparison of some services' routes."""

    split: Split
    direction: Direction
    source: Connection
    say: Say
    asked: Asked

    def compare(self, routes: list[Route]) -> list[TableResult]:
        """Compare routes of one service, and note what is proven of them."""
        split, direction, handover = self.split, self.direction, self.asked.handover
        service = routes[0].service
        with ExitStack() as stack:
            control = stack.enter_context(connect(split.plan.source.dsn, name="dbsplit validate"))
            target = stack.enter_context(connect(split.dsn(service), name="dbsplit validate"))
            leader, follower = (
                (control, target) if direction is Direction.CUTOVER else (target, control)
            )
            catch_up = CatchUp(split, service, direction, control, leader, follower)
            pairs = [self.asked.scope.of(pair_for(split, route, direction)) for route in routes]
            _track(follower, routes)
            # Before the first row is read: what changes from here on is dirty again.
            since = position(leader, VISIBLE_S_MAX)
            memory = ControlMemory(control, split.name, service, direction, since)
            pause = stack.enter_context(_paused_by_load(split, self.say))
            ways = [Way(route, direction, since) for route in routes]
            results = compare_routes(
                pairs,
                catch_up,
                course=Course(pause=pause, memory=memory),
                report=lambda progress: _tell(self.say, progress),
                found=handover.taking(ways) if handover is not None else None,
            )
            if handover is not None:
                by_id = {route.id: route for route in routes}
                results = [handover.shown(one, by_id[one.route]) for one in results]
            for result in results:
                if not result.scope:
                    proven_since = memory.since_of(result.route)
                    _note(split, self.source, follower, result, direction, proven_since)
            return results


@contextmanager
def _paused_by_load(split: Split, say: Say) -> Iterator[Callable[[], None]]:
    """What waits while the source has too much to do, or an operator wishes it."""

    def tell(verdict: Verdict) -> None:
        say("throttled", {"slowed_by": verdict.reasons, "warnings": verdict.warnings})

    def pause() -> None:
        # Log that the slot retains does not grow by reading, and is no reason to stop.
        with suppress(GateClosed):
            throttle.pause(0)

    with throttled(split, "validate", tell=tell, paused=_unheard, details=dict) as throttle:
        yield pause


def _unheard(seconds: float) -> None:
    """Nobody counts how long a comparison was paused."""


@dataclass(frozen=True, slots=True)
class CatchUp:
    """Whether the follower has applied what the leader had committed a moment ago."""

    split: Split
    service: str
    direction: Direction
    control: Connection
    leader: Connection
    follower: Connection

    def __call__(self, timeout_s: float) -> bool:
        """Wait at most so long; False if it was not in time, or cannot be told."""
        if not locks.is_held(self.control, self.split.name, locks.STREAM):
            return self._nothing_pending()
        return markers.passes(self.leader, self.follower, self._stream(), timeout_s)

    def _stream(self) -> str:
        name = names.stream if self.direction is Direction.CUTOVER else names.back_stream
        return name(self.split.name, self.service)

    def _nothing_pending(self) -> bool:
        """Whether, without a stream process, its slot holds nothing that is not applied."""
        split, service = self.split.name, self.service
        if self.direction is Direction.CUTOVER:
            slot, publication = names.slot(split), names.publication(split)
        else:
            slot = names.back_slot(split, service)
            publication = names.back_publication(split, service)
        reached = self.follower.execute(
            "SELECT lsn::text FROM dbsplit.progress WHERE stream = %s", [self._stream()]
        ).fetchone()
        try:
            row = self.leader.execute(
                "SELECT count(*) FROM pg_logical_slot_peek_binary_changes(%s, NULL, %s,"
                " 'proto_version', '1', 'publication_names', %s) WHERE lsn > %s::pg_lsn",
                [slot, PEEKED_MAX, publication, reached[0] if reached else "0/0"],
            ).fetchone()
        except psycopg.Error:
            return False
        return row == (0,)


def pair_for(split: Split, route: Route, direction: Direction) -> Pair:
    """The two sides of a route; the leader is the side that gives in this direction."""
    return pair_of(
        route,
        source_dsn=split.plan.source.dsn,
        target_dsn=split.dsn(route.service),
        leader="source" if direction is Direction.CUTOVER else "target",
        schemas=tuple(split.plan.source.schemas),
    )


def _track(follower: Connection, routes: list[Route]) -> None:
    """Have the stream note the keys that it changes from here on.

    A batch that does not know of it yet was committed on the leader before this.
    """
    follower.execute(
        "INSERT INTO dbsplit.tracked (route) SELECT unnest(%s::text[]) ON CONFLICT DO NOTHING",
        [[route.id for route in routes]],
    )


def _note(
    split: Split,
    source: Connection,
    follower: Connection,
    result: TableResult,
    direction: Direction,
    since: str,
) -> None:
    source.execute(
        "INSERT INTO dbsplit.validated (split, route, direction, at, since, rows, missing, extra,"
        " different, state) VALUES (%s, %s, %s, clock_timestamp(), %s, %s, %s, %s, %s, %s)"
        " ON CONFLICT (split, route, direction) DO UPDATE SET at = excluded.at,"
        " since = excluded.since, rows = excluded.rows, missing = excluded.missing,"
        " extra = excluded.extra, different = excluded.different, state = excluded.state",
        [
            split.name,
            result.route,
            direction.value,
            since,
            result.rows,
            result.missing,
            result.extra,
            result.different,
            result.state,
        ],
    )
    if result.state == "equal":
        note_forgotten(follower, result.route, since)
        follower.execute(
            "DELETE FROM dbsplit.dirty WHERE route = %s AND lsn < %s::pg_lsn", [result.route, since]
        )


def _tell(say: Say, progress: Progress) -> None:
    told = {"route": progress.route, "rows": progress.rows}
    if progress.step == "done":
        say("compared", told)
    else:
        more = {"step": progress.step, "found": progress.found, "settled": progress.settled}
        say("comparing", {**told, **more})


def note_forgotten(follower: Connection, route: str, since: str) -> None:
    """Before dirty keys are forgotten: a repair's script relies on them."""
    follower.execute(
        "UPDATE dbsplit.tracked SET forgotten = greatest(forgotten, %s::pg_lsn) WHERE route = %s",
        [since, route],
    )
