"""Repairing what a comparison found: who may, in which direction, in which order."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from typing import IO, Any, Final, Literal, Self

from cdc.connect import Connection, connect
from cdc.progress import turn_key, write_as_applier
from plans import names
from plans.catalog import ForeignKey, TableName
from plans.errors import GateClosed, NotReady
from plans.routes import Route
from toolkit import locks
from toolkit.catching_up import CatchUp
from toolkit.differences import Way
from toolkit.opened import Split
from toolkit.state import Direction, Phase, direction_of, note, phases
from toolkit.validation import pair_for
from validators.fingerprint import Extents, read_extent
from validators.recheck import Limits
from validators.repair import Repair, Repaired
from validators.repair_write import Place, RowWriter
from validators.results import Difference, How
from validators.session import connected
from validators.sides import Key

Toward = Literal["target", "source"]
KEYS_AT_ONCE: Final = 2_000
REASONS_SHOWN: Final = 5

_MAY: Final = {Phase.FOLLOWING, Phase.MOVED}


class Spool:
    """The keys of all differences, in a file without a name: they may be many, and secret."""

    masked = False

    def __init__(self) -> None:
        self._files: dict[str, IO[str]] = {}
        self.counts: dict[str, dict[How, int]] = {}
        self.ways: dict[str, Way] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for file in self._files.values():
            file.close()

    def begin(self, way: Way) -> None:
        """Begin a list."""
        self.ways[way.route.id] = way
        self.counts[way.route.id] = {"missing": 0, "extra": 0, "different": 0}

    def take(self, way: Way, differences: Sequence[Difference]) -> None:
        """Note their keys."""
        route = way.route.id
        if route not in self._files:
            self._files[route] = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        for one in differences:
            key = one.key or (one.row_hash,)
            self._files[route].write(json.dumps([one.how, *key]) + "\n")
            self.counts[route][one.how] += one.rows

    def keys(self, route: str, hows: tuple[How, ...]) -> Iterator[Key]:
        """The keys of a route that differ in one of these ways."""
        if (file := self._files.get(route)) is None:
            return
        file.seek(0)
        for line in file:
            how, *key = json.loads(line)
            if how in hows:
                yield tuple(key)

    @property
    def total(self) -> int:
        """Rows that differ."""
        return sum(sum(counts.values()) for counts in self.counts.values())


def require_toward(
    split: Split, routes: Sequence[Route], source: Connection, toward: Toward | None
) -> tuple[Route, ...]:
    """Those of the routes that may be repaired; `toward` is the side that is written.

    Raises GateClosed where the side that leads would be written, or nobody knows
    which it is.
    """
    now = phases(source, split.name)
    between = sorted({r.service for r in routes if now.get(r.service) not in _MAY})
    if between:
        told = ", ".join(f"{s} is {(now[s].value if s in now else 'planned')}" for s in between)
        raise GateClosed(
            f"rows are repaired while a service follows or has moved: {told}",
            hint="copy and stream first; let a cutover or rollback that is under way end",
        )
    back = [r for r in routes if direction_of(r, now) is Direction.ROLLBACK]
    moved = sorted({r.service for r in back})
    if toward == "source":
        if not back:
            raise GateClosed(
                "no table of these services flows back: the source leads, and is not repaired",
                hint="leave --direction out; the rows of the targets are what is to be repaired",
            )
        return tuple(back)
    if back and toward is None:
        raise GateClosed(
            f"{', '.join(moved)} moved: the rows that a repair would write are the source's",
            hint="say --direction source if that is meant, --direction target to repair"
            " only what the source still feeds",
        )
    return tuple(r for r in routes if r not in back)


def repair(
    split: Split,
    spool: Spool,
    routes: Sequence[Route],
    say: Callable[[str, dict[str, Any]], None],
) -> dict[str, Repaired]:
    """Repair the differences of these routes, parents first and deletions last.

    What the follower refused is tried once more when its rows that were too many are gone.

    Nobody can move a service meanwhile.  Raises NotReady if somebody does.
    """
    done: dict[str, Repaired] = {}
    dsn = split.plan.source.dsn
    with locks.sole_runner(dsn, split.name, locks.CUTOVER, name="repair") as control:
        now = phases(control, split.name)
        for route in routes:
            if spool.ways[route.id].direction is not direction_of(route, now):
                raise GateClosed(
                    f"{route.service} has moved since its rows were compared",
                    hint="run the command again",
                )
        ordered = parents_first(split, routes)
        work: list[tuple[tuple[How, ...], Route]] = [
            *((("missing", "different"), route) for route in ordered),
            *((("extra",), route) for route in reversed(ordered)),
        ]
        for hows, route in work:
            if not any(spool.counts[route.id][how] for how in hows):
                continue
            repaired = _repair_route(split, spool, route, spool.keys(route.id, hows), control)
            done[route.id] = done.get(route.id, Repaired()) + repaired
            say("repaired", _in_words(route, repaired))
        for route in ordered:
            before = done.get(route.id, Repaired())
            if before.left and before.deleted:  # which may have been in the way of what was left
                repaired = _repair_route(split, spool, route, iter(before.left), control)
                done[route.id] = replace(before, left={}) + repaired
                say("repaired", _in_words(route, repaired))
        counts = {route: one.written for route, one in done.items()}
        note(control, split.name, "repair", {"rows": counts})
    return done


def _in_words(route: Route, repaired: Repaired) -> dict[str, Any]:
    return {
        "route": route.id,
        "inserted": repaired.inserted,
        "updated": repaired.updated,
        "deleted": repaired.deleted,
        "left": len(repaired.left),
    }


def parents_first(split: Split, routes: Sequence[Route]) -> list[Route]:
    """Routes so that what a foreign key refers to comes before what refers to it."""
    by_service: dict[str, list[ForeignKey]] = {
        service: list(catalog.foreign_keys) for service, catalog in split.targets.items()
    }
    left, ordered = list(routes), list[Route]()
    while left:
        names_left = {(r.service, r.target) for r in left}
        free = [
            r for r in left if not _parents(by_service.get(r.service, []), r.target, names_left, r)
        ]
        ordered += free or left  # keys in a circle: any order will do
        left = [r for r in left if r not in ordered]
    return ordered


def _parents(
    keys: Sequence[ForeignKey],
    table: TableName,
    left: set[tuple[str, TableName]],
    route: Route,
) -> bool:
    return any(
        key.table == table and key.references != table and (route.service, key.references) in left
        for key in keys
    )


def origin_of(split: str, way: Way) -> str:
    """The origin under which a route's rows are repaired."""
    is_back = way.direction is Direction.ROLLBACK
    name = names.back_repair_origin if is_back else names.repair_origin
    return name(split, way.route.service)


def _repair_route(
    split: Split, spool: Spool, route: Route, keys: Iterator[Key], control: Connection
) -> Repaired:
    way = spool.ways[route.id]
    is_back = way.direction is Direction.ROLLBACK
    pair = pair_for(split, route, way.direction)
    done = Repaired()
    with ExitStack() as stack:
        ends = stack.enter_context(connected(pair.leader.dsn, pair.follower.dsn))
        extents = Extents(*ends.both(read_extent, pair))
        target = stack.enter_context(connect(split.dsn(route.service), name="dbsplit repair"))
        source = stack.enter_context(connect(split.plan.source.dsn, name="dbsplit repair"))
        leader, follower = (target, source) if is_back else (source, target)
        session = stack.enter_context(connect(pair.follower.dsn, name="dbsplit repair"))
        write_as_applier(session, split.name, origin_of(split.name, way))
        writer = RowWriter(
            session,
            Place(
                pair=pair,
                extent=extents.follower,
                flow=split.back(route) if is_back else split.forward(route),
                follower=route.source if is_back else split.target_table(route),
                turn=turn_key(way.direction.stream(split.name, way.route.service)),
                lock_timeout_ms=split.plan.limits.lock_timeout_ms,
            ),
            ends.hashing,
        )
        writer.open()
        work = Repair(
            ends=ends,
            pair=pair,
            extents=extents,
            writer=writer,
            catch_up=CatchUp(split, route.service, way.direction, source, leader, follower),
            hold=lambda: _require_held(control),
            limits=Limits(),
        )
        while some := list(islice(keys, KEYS_AT_ONCE)):
            done += work.run(some)
    return done


def _require_held(control: Connection) -> None:
    """The lock goes with the connection: while that lives, nobody else decides who leads."""
    try:
        control.execute("SELECT 1")
    except Exception as error:
        raise NotReady(
            "the connection that keeps others from moving a service was lost",
            hint="run the same command again",
        ) from error


def summary(done: Mapping[str, Repaired]) -> dict[str, Any]:
    """The part of the result object that tells what was repaired."""
    total = sum(done.values(), Repaired())
    return {
        "inserted": total.inserted,
        "updated": total.updated,
        "deleted": total.deleted,
        "left": sum(len(one.left) for one in done.values()),
        "routes": {
            route: {
                "inserted": one.inserted,
                "updated": one.updated,
                "deleted": one.deleted,
                "left": len(one.left),
                "reasons": sorted(set(one.left.values()))[:REASONS_SHOWN],
            }
            for route, one in done.items()
        },
    }
