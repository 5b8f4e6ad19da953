"""A plan together with the databases that it speaks about, as they are now."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cdc.connect import Connection, connect
from cdc.flow import Flow, back, forward
from plans.catalog import Catalog, Table, TableName
from plans.catalog_read import LOCK_WAIT_MS, read_catalog
from plans.compile import compile_all, compile_routes
from plans.errors import Locked, NotReady
from plans.load import Plan, Targets, load_plan
from plans.routes import Route
from toolkit import locks
from toolkit.prepared import require_owned, require_prepared, without_ignored

BESIDE_COPY_MS = 300
"""How long a target's catalog is waited for while a copy runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The plan, compiled against the catalogs of all its databases."""

    plan: Plan
    catalog: Catalog
    targets: Mapping[str, Catalog]
    routes: tuple[Route, ...]

    @property
    def name(self) -> str:
        """The split's name, by which its control rows are found."""
        return self.plan.split

    def routes_of(self, services: Iterable[str]) -> tuple[Route, ...]:
        """The routes into these services."""
        wanted = set(services)
        return tuple(route for route in self.routes if route.service in wanted)

    def owned(self, services: Iterable[str]) -> tuple[Route, ...]:
        """The routes whose rows a cutover gives to these services."""
        return tuple(route for route in self.routes_of(services) if route.kind.owned)

    def owners(self, table: TableName) -> frozenset[str]:
        """The services that own something of a source table."""
        return frozenset(
            route.service
            for route in self.routes
            if route.kind.owned and route.source.name == table
        )

    def target_table(self, route: Route) -> Table:
        """The route's table as it is in the target; NotReady if it is not there."""
        catalog = self.targets.get(route.service)
        table = catalog.tables.get(route.target) if catalog else None
        if table is None:
            raise NotReady(
                f"table {route.target} does not exist in the database of service {route.service}",
                hint=f"run `dbsplit prepare {self.plan.path}`",
            )
        return table

    def forward(self, route: Route) -> Flow:
        """The route as the source's changes take it."""
        return forward(route, self.target_table(route))

    def back(self, route: Route) -> Flow:
        """The route as the target's changes take it."""
        return back(route, self.target_table(route))

    def dsn(self, service: str) -> str:
        """Where a service's new database is."""
        return self.plan.services[service].dsn


def open_split(
    path: Path,
    *,
    with_targets: bool = True,
    prepared: bool = True,
    tolerant: bool = False,
    refreshing: bool = False,
    dsns: Targets = Targets.NEEDED,
) -> Split:
    """Load the plan, read the catalogs, compile the routes.

    With `prepared`, the split has to be prepared, with this very plan and for the
    tables as they are.  With `tolerant`, what cannot be compiled is passed over, and so
    is a target that does not answer: what is to be shown or removed need not be right.

    `refreshing` is for a refresh alone, which is between two states.

    Raises PlanInvalid with all that is wrong in the plan, Drifted for tables that
    have changed, NotReady if a server cannot be reached or `prepare` has not been run.
    """
    plan = load_plan(path, os.environ, targets=dsns)
    with connect(plan.source.dsn) as source:
        catalog = read_catalog(source, plan.source.schemas, patient=not tolerant)
        if prepared or tolerant:
            catalog = without_ignored(catalog, plan, source)
        if prepared and not tolerant and not refreshing:
            require_prepared(plan, catalog, source)
            require_owned(plan, catalog, source)
        at_work = locks.at_work(source, plan.split, locks.SETUP)
    targets = read_targets(plan, tolerant=tolerant, at_work=at_work) if with_targets else {}
    if tolerant:
        routes = compile_all(plan, catalog, targets or None).routes
        return Split(plan=plan, catalog=catalog, targets=targets, routes=routes)
    return compile_split(plan, catalog, targets)


def read_targets(
    plan: Plan, *, tolerant: bool = False, at_work: locks.Held | None = None
) -> dict[str, Catalog]:
    """The targets' catalogs by service; without those that do not answer, if `tolerant`.

    A copy `at_work` locks the tables that it fills, for long: it is not waited for, and told.
    """
    wait_ms = BESIDE_COPY_MS if at_work else LOCK_WAIT_MS
    targets: dict[str, Catalog] = {}
    for service, target in plan.services.items():
        try:
            with connect(target.dsn) as connection:
                schemas = schemas_of(connection)
                targets[service] = read_catalog(
                    connection, schemas, patient=not tolerant, lock_wait_ms=wait_ms
                )
        except NotReady as error:
            if tolerant:
                continue
            if at_work and isinstance(error, Locked):
                raise at_work from None
            raise
    return targets


def compile_split(plan: Plan, catalog: Catalog, targets: Mapping[str, Catalog]) -> Split:
    """The plan against the source's catalog, and the targets' where there are any.

    Raises PlanInvalid with all that is wrong in the plan.
    """
    routes = compile_routes(plan, catalog, targets or None)
    return Split(plan=plan, catalog=catalog, targets=targets, routes=routes)


def schemas_of(connection: Connection) -> list[str]:
    """The schemas of a target that may hold a service's tables."""
    rows = connection.execute(
        "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_'"
        " AND nspname NOT IN ('information_schema', 'dbsplit') ORDER BY nspname"
    ).fetchall()
    return [row[0] for row in rows]
