"""Comparing every row of some routes while the stream goes on, and at the fence."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psycopg

from cdc.connect import Connection, connect
from cdc.throttle import Verdict
from plans import names
from plans.errors import GateClosed, GivenUp, PlanInvalid
from plans.routes import Route
from toolkit import locks, markers
from toolkit.compared_units import ControlMemory
from toolkit.differences import Handover, Way
from toolkit.opened import Split
from toolkit.sides import Sides
from toolkit.state import Direction, Phase, phases
from toolkit.throttling import throttled
from validators.compare import compare_routes, compare_whole
from validators.keys import compare_keys
from validators.results import KeysResult, Progress, TableResult, consistent
from validators.scans import Course
from validators.session import Ends, connected
from validators.sides import Key, Pair, pair_of
from validators.visibility import position

PEEKED_MAX = 10_000
SHRINK_ROUNDS = 3
REHEARSED_KEYS = 2_000
SHRUNK = 500  # dirty keys that a pause hardly notices
SHRINK_S_MAX = 60.0
VISIBLE_S_MAX = 5.0
Say = Callable[[str, dict[str, Any]], None]


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
    handover: Handover | None = None,
) -> Compared:
    """Compare routes of services that follow (cutover) or lead (rollback), and note the result.

    Every difference goes to `handover`; without one, only examples are read.
    """
    results: list[TableResult] = []
    services = list(dict.fromkeys(route.service for route in routes))
    for service in services:
        some = [r for r in routes if r.service == service]
        results += _validate_service(split, some, direction, source, say, handover)
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
    handover: Handover | None = None,
) -> Compared:
    """Compare routes, each in the direction in which it flows now.

    What a service owns flows back once it has moved; what it is fed flows on.
    """
    now = phases(source, split.name)
    results: list[TableResult] = []
    for direction in Direction:
        chosen = [r for r in routes if direction_of(r, now) is direction]
        if chosen:
            results += validate(split, chosen, direction, source, say, handover).results
    return Compared(tuple(results))


@contextmanager
def open_ends(sides: Sides) -> Iterator[Mapping[str, Ends]]:
    """Connections for comparing keys, by service: opened before anybody has to wait for them."""
    with ExitStack() as stack:
        ends = {}
        for service in sides.movers:
            dsns = sides.split.plan.source.dsn, sides.split.dsn(service)
            ordered = dsns if sides.direction is Direction.CUTOVER else dsns[::-1]
            ends[service] = stack.enter_context(connected(*ordered))
        yield ends


def shrink_dirty(sides: Sides, ends: Mapping[str, Ends]) -> int:
    """Prove dirty keys equal while writers go on, so that fewer are left for the pause.

    A key that is equal now needs no proof later unless it changes again, which the
    stream notes with a later position.  Returns the number that is left.
    """
    left = 0
    for _ in range(SHRINK_ROUNDS):
        left = 0
        for service in sides.movers:
            leader, follower = sides.leader(service), sides.follower(service)
            for route, keys in _with_dirty(sides, service):
                if route.key:
                    left += _shrink(sides, ends[service], route, keys, leader, follower)
        if left <= SHRUNK:
            break
    return left


def verification_s(sides: Sides, ends: Mapping[str, Ends], compared: Compared) -> float:
    """How long `verify_dirty` would take now, by what a part of the dirty keys takes.

    Tables without a key are compared as a whole, which took as long a moment ago.
    """
    took_s = {result.route: result.elapsed_s for result in compared.results}

    def estimate(service: str) -> float:
        total = 0.0
        for route, keys in _with_dirty(sides, service):
            if not route.key:
                total += took_s.get(route.id, 0.0)
                continue
            some = keys[:REHEARSED_KEYS]
            began = time.monotonic()
            pair = pair_for(sides.split, route, sides.direction)
            compare_keys(ends[service], pair, some, timeout_s=SHRINK_S_MAX)
            total += (time.monotonic() - began) * len(keys) / len(some)
        return total

    # The services are verified at the same time.
    return max((estimate(service) for service in sides.movers), default=0.0)


def verify_dirty(sides: Sides, ends: Mapping[str, Ends], deadline: float) -> dict[str, Any]:
    """Compare, at the fence, every key that changed since it was last proven equal.

    Raises GivenUp if one differs, or if that cannot be told.
    """

    def verify(service: str) -> dict[str, int]:
        return {
            route.id: _verify(
                ends[service], pair_for(sides.split, route, sides.direction), keys, deadline
            )
            for route, keys in dirty[service]
        }

    dirty = {service: _with_dirty(sides, service) for service in sides.movers}
    with ThreadPoolExecutor(max(1, len(dirty)), thread_name_prefix="verify") as pool:
        found = list(pool.map(verify, dirty))
    told = {route: count for counts in found for route, count in counts.items()}
    return {"dirty_keys": told, "compared": sum(told.values())}


def _with_dirty(sides: Sides, service: str) -> list[tuple[Route, list[Key]]]:
    """The routes of a service that have dirty keys, with these."""
    rows = sides.follower(service).execute(
        "SELECT route, jsonb_agg(key) FROM dbsplit.dirty WHERE route = ANY (%s) GROUP BY route",
        [[route.id for route in sides.split.owned([service])]],
    )
    keys = {route: [tuple(key) for key in some] for route, some in rows.fetchall()}
    return [(r, keys[r.id]) for r in sides.split.owned([service]) if r.id in keys]


def _shrink(
    sides: Sides,
    ends: Ends,
    route: Route,
    keys: list[Key],
    leader: Connection,
    follower: Connection,
) -> int:
    """Forget the keys that are equal; returns how many are not, or could not be told."""
    since = position(leader, VISIBLE_S_MAX)
    pair = pair_for(sides.split, route, sides.direction)
    result = compare_keys(ends, pair, keys, timeout_s=SHRINK_S_MAX)
    if result.state == "unverified":
        return len(keys)
    _note_forgotten(follower, route.id, since)
    follower.execute(
        "DELETE FROM dbsplit.dirty WHERE route = %s AND lsn < %s::pg_lsn"
        " AND key <> ALL (%s::jsonb[])",
        [route.id, since, [json.dumps(key) for key in result.differing]],
    )
    return len(result.differing)


def _verify(ends: Ends, pair: Pair, keys: list[Key], deadline: float) -> int:
    if not pair.key:
        whole = compare_whole(ends, pair)
        differing = whole.missing + whole.extra + whole.different
        _require_equal(whole.route, whole.state, f"{differing} rows", whole.reason)
        return whole.rows
    left_s = max(deadline - time.monotonic(), 0.1)
    result: KeysResult = compare_keys(ends, pair, keys, timeout_s=left_s)
    rows = f"{len(result.differing)} rows"  # whose keys may be masked
    _require_equal(result.route, result.state, rows, result.reason)
    return result.compared


def direction_of(route: Route, now: Mapping[str, Phase]) -> Direction:
    """How a route flows: what a service owns flows back once it has moved."""
    moved = now.get(route.service) is Phase.MOVED and route.kind.owned
    return Direction.ROLLBACK if moved else Direction.CUTOVER


def _validate_service(
    split: Split,
    routes: list[Route],
    direction: Direction,
    source: Connection,
    say: Say,
    handover: Handover | None,
) -> list[TableResult]:
    service = routes[0].service
    with ExitStack() as stack:
        control = stack.enter_context(connect(split.plan.source.dsn, name="dbsplit validate"))
        target = stack.enter_context(connect(split.dsn(service), name="dbsplit validate"))
        leader, follower = (
            (control, target) if direction is Direction.CUTOVER else (target, control)
        )
        catch_up = CatchUp(split, service, direction, control, leader, follower)
        _track(follower, routes)
        # Before the first row is read: what changes from here on is dirty again.
        since = position(leader, VISIBLE_S_MAX)
        memory = ControlMemory(control, split.name, service, direction, since)
        pause = stack.enter_context(_paused_by_load(split, say))
        found = None
        if handover is not None:
            found = handover.taking([Way(route, direction, since) for route in routes])
        results = compare_routes(
            [pair_for(split, route, direction) for route in routes],
            catch_up,
            course=Course(pause=pause, memory=memory),
            report=lambda progress: _tell(say, progress),
            found=found,
        )
        if handover is not None:
            by_id = {route.id: route for route in routes}
            results = [handover.shown(one, by_id[one.route]) for one in results]
        for result in results:
            _note(split, source, follower, result, direction, memory.since_of(result.route))
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
        _note_forgotten(follower, result.route, since)
        follower.execute(
            "DELETE FROM dbsplit.dirty WHERE route = %s AND lsn < %s::pg_lsn", [result.route, since]
        )


def _note_forgotten(follower: Connection, route: str, since: str) -> None:
    """Before dirty keys are forgotten: a repair's script relies on them."""
    follower.execute(
        "UPDATE dbsplit.tracked SET forgotten = greatest(forgotten, %s::pg_lsn) WHERE route = %s",
        [since, route],
    )


def _require_equal(route: str, state: str, what: str, reason: str) -> None:
    if state == "different":
        raise GivenUp(
            f"{what} of {route} differ at the fence",
            hint="run `dbsplit validate` and mend what differs",
        )
    if state != "equal":
        raise GivenUp(
            f"{route} could not be compared at the fence: {reason}",
            hint="repeat the command; allow a longer limits.write_pause_s_max",
        )


def _tell(say: Say, progress: Progress) -> None:
    told = {"route": progress.route, "rows": progress.rows}
    if progress.step == "done":
        say("compared", told)
    else:
        more = {"step": progress.step, "found": progress.found, "settled": progress.settled}
        say("comparing", {**told, **more})
