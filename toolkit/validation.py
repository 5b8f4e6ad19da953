"""Comparing every row of some routes while the stream goes on, and at the fence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace

from cdc.connect import Connection, connect
from cdc.throttle import Verdict
from plans.errors import GateClosed
from plans.routes import Route
from toolkit.catching_up import CatchUp
from toolkit.compared_units import ControlMemory
from toolkit.differences import Handover, Way
from toolkit.noting import note, track
from toolkit.one_position import has_one, moment_of
from toolkit.opened import Split
from toolkit.say import Say
from toolkit.state import Direction, direction_of, epoch_of, phases
from toolkit.throttling import throttled
from validators.compare import compare_routes
from validators.moment import Moment
from validators.results import Progress, TableResult, consistent
from validators.scans import Course, Forgetful, Pause
from validators.scope import Scope
from validators.sides import Pair, pair_of
from validators.visibility import position

MOVED_MEANWHILE = "the right to write moved while it was compared: compare it again"
VISIBLE_S_MAX = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is asked of a comparison."""

    handover: Handover | None = None  # takes every difference; without one, only examples are read
    scope: Scope = field(default_factory=Scope)
    """With one nothing is noted: what a part is like proves nothing of the rest."""
    resume: bool = True
    """Whether it goes on with what an earlier one, which came to no end, had proven."""
    snapshot_s: float | None = None
    """Compare at one position, and hold its snapshots so long at most; None: live."""
    jobs: int = 2  # sessions on each side


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
    asked = asked or Asked()
    results: list[TableResult] = []
    placed: Sequence[Route] = ()
    if asked.snapshot_s is not None:
        now = phases(source, split.name)
        placed = [r for r in routes if has_one(split, r, direction, now)]
    # One leader at a time: the source has all services for followers, each service the source.
    services = _services(placed)
    together = [services] if direction is Direction.CUTOVER else [(s,) for s in services]
    for some in filter(None, together):
        chosen = [r for r in placed if r.service in some]
        with _moment(split, chosen, direction, source, say, asked) as moment:
            run = _Run(split, direction, source, say, asked, moment)
            for service in some:
                results += run.compare([r for r in chosen if r.service == service])
    run = _Run(split, direction, source, say, asked)
    others = [r for r in routes if r not in placed]
    for service in _services(others):
        results += run.compare([r for r in others if r.service == service])
    return Compared(tuple(results))


def _services(routes: Sequence[Route]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(route.service for route in routes))


@contextmanager
def _moment(
    split: Split,
    routes: Sequence[Route],
    direction: Direction,
    source: Connection,
    say: Say,
    asked: Asked,
) -> Iterator[Moment]:
    """The moment of routes with one leader; what changes after it is dirty."""
    services = _services(routes)
    for service in services if direction is Direction.CUTOVER else ():
        with connect(split.dsn(service), name="dbsplit validate") as follower:
            track(follower, [r for r in routes if r.service == service])
    if direction is Direction.ROLLBACK:
        track(source, routes)
    assert asked.snapshot_s is not None  # noqa: S101 -- else there is no moment
    with moment_of(split, direction, services, source, say, asked.snapshot_s) as moment:
        yield moment


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


@dataclass(frozen=True, slots=True)
class _Run:
    """One comparison of some services' routes."""

    split: Split
    direction: Direction
    source: Connection
    say: Say
    asked: Asked
    moment: Moment | None = None

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
            epoch = epoch_of(control, split.name, service)
            pairs = [self.asked.scope.of(pair_for(split, route, direction)) for route in routes]
            # Before the first row is read: what changes from here on is dirty again.
            if self.moment is None:
                track(follower, routes)
                since = position(leader, VISIBLE_S_MAX)
            else:
                since = self.moment.position
            kept = ControlMemory(control, split.name, service, direction, since, self.asked.resume)
            pause, let_go = stack.enter_context(_paused_by_load(split, self.say))
            ways = [Way(route, direction, since) for route in routes]
            # Nobody could go on with snapshots that went with the process.
            memory = kept if self.moment is None else Forgetful()
            results = compare_routes(
                pairs,
                catch_up,
                course=Course(
                    jobs=self.asked.jobs,
                    pause=pause,
                    let_go=let_go,
                    memory=memory,
                    moment=self.moment,
                    snapshot_s_max=split.plan.limits.snapshot_s_max,
                ),
                report=lambda progress: _tell(self.say, progress),
                found=handover.taking(ways) if handover is not None else None,
            )
            if epoch_of(control, split.name, service) != epoch or self._has_turned(control, routes):
                # Applications may have begun to write the side that was to follow.
                return [_void(one) for one in results]
            if handover is not None:
                by_id = {route.id: route for route in routes}
                results = [handover.shown(one, by_id[one.route]) for one in results]
            for result in results:
                if not result.scope:
                    proven_since = kept.since_of(result.route)
                    note(split, self.source, follower, result, direction, proven_since)
            return results

    def _has_turned(self, control: Connection, routes: Sequence[Route]) -> bool:
        """Whether it was decided before the comparison that a route flows the other way."""
        now = phases(control, self.split.name)
        return any(direction_of(route, now) is not self.direction for route in routes)


@contextmanager
def _paused_by_load(split: Split, say: Say) -> Iterator[tuple[Pause, Callable[[], None]]]:
    """What waits while the source has too much to do, or an operator wishes it; what ends that."""

    def tell(verdict: Verdict) -> None:
        say("throttled", {"slowed_by": verdict.reasons, "warnings": verdict.warnings})

    def pause(wait_s: float) -> bool:
        # Log that the slot retains does not grow by reading, and is no reason to stop.
        with suppress(GateClosed):
            return throttle.pause_within(0, wait_s)
        return True

    with throttled(split, "validate", tell=tell, paused=_unheard, details=dict) as throttle:
        yield pause, lambda: throttle.set(Verdict())


def _unheard(seconds: float) -> None:
    """Nobody counts how long a comparison was paused."""


def pair_for(split: Split, route: Route, direction: Direction) -> Pair:
    """The two sides of a route; the leader is the side that gives in this direction."""
    return pair_of(
        route,
        source_dsn=split.plan.source.dsn,
        target_dsn=split.dsn(route.service),
        leader="source" if direction is Direction.CUTOVER else "target",
        schemas=tuple(split.plan.source.schemas),
    )


def _void(result: TableResult) -> TableResult:
    """What a comparison is worth whose sides have changed their parts meanwhile."""
    return replace(
        result,
        state="unverified",
        missing=0,
        extra=0,
        different=0,
        differences=(),
        examples=(),
        reason=MOVED_MEANWHILE,
    )


def _tell(say: Say, progress: Progress) -> None:
    told = {"route": progress.route, "rows": progress.rows}
    if progress.step == "done":
        say("compared", told)
    else:
        more = {"step": progress.step, "found": progress.found, "settled": progress.settled}
        say("comparing", {**told, **more})
