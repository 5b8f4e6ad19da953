"""What becomes of the differences that a comparison finds: all of them, as they come.

Each is told who wrote the row and the likely cause, then handed to the sinks: the
control schema's table, files, a repair.  Sinks that show something are given masked
differences; those that repair need the values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, Protocol, Self

from cdc.connect import Connection, connect
from plans import names
from plans.routes import Route
from toolkit.opened import Split
from toolkit.state import Direction
from toolkit.stored import stored
from validators.causes import cause_of
from validators.compare import Found
from validators.masks import Masks
from validators.results import Cause, Difference, How, TableResult, Writer, Written
from validators.sides import Pair
from validators.writers import Writers, read_writers

KEPT_MAX: Final = 10_000_000
"""Differences of a route that the control schema keeps; beyond them they are counted."""


@dataclass(frozen=True, slots=True)
class Way:
    """A route, and the direction in which it flows now."""

    route: Route
    direction: Direction
    since: str = "0/0"  # the leader's position when the comparison began

    @property
    def leads(self) -> str:
        """The side that applications write."""
        return "source" if self.direction is Direction.CUTOVER else "target"


class Sink(Protocol):
    """Takes differences in; for use by one thread at a time."""

    masked: bool
    """Whether it shows what it is given."""

    def begin(self, way: Way) -> None:
        """A comparison of the route begins: what was found before counts no more."""

    def take(self, way: Way, differences: Sequence[Difference]) -> None:
        """Some differences of the route."""


class Handover:
    """Hands differences over to sinks; a context manager, as it holds connections."""

    def __init__(self, split: Split, sinks: Sequence[Sink]) -> None:
        self._split = split
        self._sinks = sinks
        self._masks = Masks()
        self._stack = ExitStack()
        self._followers: dict[tuple[str, Direction], Connection] = {}
        self._writers: dict[str, Writers] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def taking(self, ways: Sequence[Way]) -> Found:
        """What `compare_routes` hands its differences to."""
        by_route = {way.route.id: way for way in ways}
        for way in ways:
            self._writers[way.route.id] = self._who_may_write(way)
            for sink in self._sinks:
                sink.begin(way)

        def found(pair: Pair, differences: Sequence[Difference]) -> None:
            self._hand_over(by_route[pair.route], differences)

        return found

    def shown(self, result: TableResult, route: Route) -> TableResult:
        """A result whose examples and keys may be shown."""
        if not route.masked:
            return result
        return replace(
            result,
            differences=tuple(self._shown(one, route) for one in result.differences),
            examples=tuple(self._shown(one, route) for one in result.examples),
        )

    def _shown(self, difference: Difference, route: Route) -> Difference:
        return self._masks.difference(difference, route.key, route.masked)

    def _hand_over(self, way: Way, differences: Sequence[Difference]) -> None:
        versions = {one.version for one in differences if one.version is not None}
        written = read_writers(self._follower(way), versions, self._writers[way.route.id])
        computed = {column.name for column in way.route.columns if column.plain is None}
        told = [_told(one, written, computed) for one in differences]
        shown = [self._shown(one, way.route) for one in told]
        for sink in self._sinks:
            sink.take(way, shown if sink.masked else told)

    def _follower(self, way: Way) -> Connection:
        service = way.route.service
        known = self._followers.get((service, way.direction))
        if known is None or known.closed:
            is_source = way.direction is Direction.ROLLBACK
            dsn = self._split.plan.source.dsn if is_source else self._split.dsn(service)
            connection = self._stack.enter_context(connect(dsn, name="dbsplit validate"))
            self._followers[service, way.direction] = connection
        return self._followers[service, way.direction]

    def _who_may_write(self, way: Way) -> Writers:
        split, service = self._split.name, way.route.service
        follower = self._follower(way)
        if way.direction is Direction.ROLLBACK:
            # In the source, every service's applier writes.
            both = (names.back_origin, names.back_repair_origin)
            origins = [name(split, s) for name in both for s in self._split.plan.services]
            before = _moment(
                follower,
                "SELECT max(ended_at) FROM dbsplit.attempt WHERE split = %s"
                " AND %s = ANY (services) AND outcome = 'moved'",
                [split, service],
            )
        else:
            origins = [names.origin(split, service), names.repair_origin(split, service)]
            # The copy notes a route in the transaction that holds its last rows.
            before = _moment(
                follower,
                "SELECT CASE current_setting('track_commit_timestamp') WHEN 'on'"
                " THEN pg_xact_commit_timestamp(xmin) END FROM dbsplit.copied WHERE route = %s",
                [way.route.id],
            )
        return Writers(origins=frozenset(origins), before=before)


def _moment(connection: Connection, query: str, values: list[str]) -> datetime | None:
    row = connection.execute(query.encode(), values).fetchone()
    return row[0] if row else None


def _told(difference: Difference, written: Mapping[int, Written], computed: set[str]) -> Difference:
    by = written.get(difference.version or 0, Written())
    return replace(difference, written=by, cause=cause_of(difference, by, computed))


@dataclass(slots=True)
class ControlTable:
    """Keeps the differences in `dbsplit.difference` of the source."""

    split: str
    source: Connection
    kept_max: int = KEPT_MAX
    masked: bool = True
    kept: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)

    def begin(self, way: Way) -> None:
        """Forget what the comparison before found."""
        self.kept[way.route.id] = 0
        self.source.execute(
            "DELETE FROM dbsplit.difference WHERE split = %s AND route = %s",
            [self.split, way.route.id],
        )

    def take(self, way: Way, differences: Sequence[Difference]) -> None:
        """Keep them, as many as are to be kept."""
        route = way.route.id
        some = differences[: max(0, self.kept_max - self.kept[route])]
        self.kept[route] += len(some)
        if more := len(differences) - len(some):
            self.left_out[route] = self.left_out.get(route, 0) + more
        if not some:
            return
        with (
            self.source.cursor() as cursor,
            cursor.copy(
                "COPY dbsplit.difference (split, route, direction, key, how, rows, columns,"
                " written_by, written_at, cause) FROM STDIN"
            ) as copy,
        ):
            for one in some:
                said = as_dict(way, one)
                copy.write_row(
                    [
                        self.split,
                        route,
                        way.direction.value,
                        stored(self.source, said["key"]),
                        one.how,
                        one.rows,
                        stored(self.source, said["columns"]),
                        one.written.by,
                        one.written.at,
                        one.cause,
                    ]
                )


Class = tuple[How, Cause, Writer]


@dataclass(slots=True)
class Shown:
    """Holds the first differences of each route, cut to a readable length, for a report."""

    most: int = 200
    masked: bool = True
    by_route: dict[str, list[Difference]] = field(default_factory=dict)
    classes: dict[str, Counter[Class]] = field(default_factory=dict)  # rows; of all of them

    def begin(self, way: Way) -> None:
        """Begin a list."""
        self.by_route[way.route.id] = []
        self.classes[way.route.id] = Counter()

    def take(self, way: Way, differences: Sequence[Difference]) -> None:
        """Count all, and hold as many as are shown."""
        for one in differences:
            self.classes[way.route.id][one.how, one.cause, one.written.by] += one.rows
        held = self.by_route[way.route.id]
        held += [one.shortened() for one in differences[: self.most - len(held)]]


def as_dict(way: Way, difference: Difference) -> dict[str, Any]:
    """A difference as JSON has it: by sides of the split, whoever of them leads."""
    route = way.route
    is_source = way.direction is Direction.CUTOVER
    return {
        "service": route.service,
        "table": str(route.target),
        "route": route.id,
        "leads": way.leads,
        "how": difference.how,
        "key": dict(zip(route.key, difference.key, strict=True)) if difference.key else None,
        "rows": difference.rows,
        "columns": [
            {
                "column": one.column,
                "source": one.leader if is_source else one.follower,
                "target": one.follower if is_source else one.leader,
            }
            for one in difference.columns
        ],
        "written_by": difference.written.by,
        "written_at": difference.written.at and difference.written.at.isoformat(),
        "cause": difference.cause,
        **({"masked": sorted(route.masked)} if route.masked else {}),
    }
