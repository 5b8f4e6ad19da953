"""Who leads and who follows in a move of some services, and what is fenced where."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from cdc.connect import Connection, connect
from plans.catalog import Table
from plans.check_tables import unfilled_columns
from plans.model import Limits
from plans.routes import Kind, Route
from toolkit import fence
from toolkit.fence import Fence, Part
from toolkit.opened import Split
from toolkit.state import Direction, Phase


@dataclass(frozen=True, slots=True)
class Sides:
    """The connections of one move; the source is also where the control rows are."""

    split: Split
    direction: Direction
    services: tuple[str, ...]
    source: Connection
    targets: Mapping[str, Connection]
    phases: Mapping[str, Phase]

    @property
    def limits(self) -> Limits:
        """The plan's."""
        return self.split.plan.limits

    @property
    def movers(self) -> tuple[str, ...]:
        """The services that own rows, and so have something to give away."""
        return tuple(s for s in self.services if self.split.owned([s]))

    def leader(self, service: str) -> Connection:
        """The side that gives the right to write away."""
        return self.source if self.direction is Direction.CUTOVER else self.targets[service]

    def follower(self, service: str) -> Connection:
        """The side that is to have it."""
        return self.targets[service] if self.direction is Direction.CUTOVER else self.source

    def stream(self, service: str) -> str:
        """The progress row of the changes that the follower takes in."""
        return self.direction.stream(self.split.name, service)

    def return_stream(self, service: str) -> str:
        """The progress row of the changes that come back afterwards."""
        return self.direction.opposite.stream(self.split.name, service)

    def leader_fences(self) -> list[tuple[Connection, list[Fence]]]:
        """What shuts the leaders' writers out."""
        if self.direction is Direction.CUTOVER:
            return [(self.source, source_fences(self.split, self.services, self.phases))]
        return [
            (self.targets[service], target_fences(self.split, service, owned=True))
            for service in self.movers
        ]

    def open_follower(self) -> list[tuple[Connection, list[Table]]]:
        """The tables that the new leaders' writers may write; fed ones stay closed."""
        if self.direction is Direction.ROLLBACK:
            return [(self.source, source_tables(self.split, self.services))]
        return [
            (
                self.targets[service],
                [self.split.target_table(route) for route in self.split.owned([service])],
            )
            for service in self.movers
        ]


@contextmanager
def open_sides(
    split: Split,
    direction: Direction,
    services: tuple[str, ...],
    phases: Mapping[str, Phase],
    *,
    source: Connection | None = None,
    without_targets: bool = False,
) -> Iterator[Sides]:
    """Connect to all sides of a move.

    `source` is the connection that holds the role: a process that has lost the role
    without knowing it, its connection having been cut, can then change nothing there.
    """
    with ExitStack() as stack:
        if source is None:
            source = stack.enter_context(connect(split.plan.source.dsn, name="dbsplit cutover"))
        targets = {
            service: stack.enter_context(connect(split.dsn(service), name="dbsplit cutover"))
            for service in (() if without_targets else services)
        }
        for connection in (source, *targets.values()):
            connection.execute("SET synchronous_commit = on")
            connection.execute("SET statement_timeout = '60s'")
        yield Sides(split, direction, services, source, targets, phases)


def source_tables(split: Split, services: Iterable[str]) -> list[Table]:
    """The source's tables of which these services own something."""
    tables = {route.source.name: route.source for route in split.owned(services)}
    return [tables[name] for name in sorted(tables)]


def source_fences(
    split: Split, services: tuple[str, ...], phases: Mapping[str, Phase]
) -> list[Fence]:
    """The source's fences once `services` have moved, beside those that have already.

    A table is fenced as a whole when nobody is left who writes it in the source;
    until then only the rows or columns of those who have left.
    """
    gone = {s for s, phase in phases.items() if phase in (Phase.MOVED, Phase.COMPLETED)}
    gone |= set(services)
    fences = []
    for table in source_tables(split, services):
        owners = split.owners(table.name)
        left = owners & gone
        if left == owners:
            fences.append(fence.moved(split.name, table, left))
            continue
        whole = fence.moved(split.name, table, left)
        parts = tuple(
            _part(route) for route in split.owned(sorted(left)) if route.source.name == table.name
        )
        fences.append(Fence(split.name, table, whole.message, whole.hint, parts))
    return fences


def target_fences(split: Split, service: str, *, owned: bool) -> list[Fence]:
    """The fences of a target: of what the service owns, or of what it is fed."""
    fences: dict[str, Fence] = {}
    for route in split.routes_of([service]):
        if route.kind.owned is not owned:
            continue
        table = split.target_table(route)
        fences[str(table.name)] = (
            fence.not_yet(split.name, table, service)
            if owned
            else fence.copy_of(split.name, table, split.owners(route.source.name))
        )
    return list(fences.values())


def insert_guards(split: Split, services: Iterable[str]) -> dict[str, list[Fence]]:
    """What stays closed on the targets of services that lead, by service."""
    guards: dict[str, list[Fence]] = {}
    for route in split.owned(services):
        table, here = split.target_table(route), guards.setdefault(route.service, [])
        missing = unfilled_columns(route)
        if route.where is not None:
            others = split.owners(route.source.name) - {route.service}
            here.append(
                fence.own_rows(
                    split.name, table, route.service, others, route.where, is_last=not missing
                )
            )
        if missing:
            here.append(fence.no_inserts(split.name, table, route.service, missing))
    return guards


def _part(route: Route) -> Part:
    if route.kind is Kind.ROWS:
        return Part(route.service, predicate=route.where)
    key = {route.column(name).plain for name in route.key}
    columns = tuple(c.plain for c in route.columns if c.plain and c.plain not in key)
    return Part(route.service, columns=columns)
