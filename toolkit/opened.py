"""A plan together with the databases that it speaks about, as they are now."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cdc.connect import Connection, connect
from cdc.flow import Flow, back, forward
from plans.catalog import Catalog, Table, TableName
from plans.catalog_read import read_catalog
from plans.compile import compile_all, compile_routes
from plans.errors import NotReady, PlanInvalid
from plans.load import Plan, load_plan
from plans.routes import Route


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


def open_split(path: Path, *, with_targets: bool = True, tolerant: bool = False) -> Split:
    """Load the plan, read the catalogs, compile the routes.

    With `tolerant`, routes that cannot be compiled are left out: what is to be
    removed need not be right.

    Raises PlanInvalid with all that is wrong in the plan, NotReady if a server
    cannot be reached.
    """
    plan = load_plan(path, os.environ)
    with connect(plan.source.dsn) as source:
        catalog = read_catalog(source, plan.source.schemas)
    targets: dict[str, Catalog] = {}
    if with_targets:
        for service, target in plan.services.items():
            with connect(target.dsn) as connection:
                targets[service] = read_catalog(connection, schemas_of(connection))
    if tolerant:
        routes = compile_all(plan, catalog, targets or None).routes
    else:
        routes = compile_routes(plan, catalog, targets or None)
    return Split(plan=plan, catalog=catalog, targets=targets, routes=routes)


def schemas_of(connection: Connection) -> list[str]:
    """The schemas of a target that may hold a service's tables."""
    rows = connection.execute(
        "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_'"
        " AND nspname NOT IN ('information_schema', 'dbsplit') ORDER BY nspname"
    ).fetchall()
    return [row[0] for row in rows]


def require_prepared(split: Split, source: Connection) -> None:
    """Check that `prepare` was run, with this very plan.

    Raises NotReady if it was not, PlanInvalid if the plan has changed since.
    """
    if not source.execute("SELECT to_regclass('dbsplit.split')").fetchone() == ("dbsplit.split",):
        raise _unprepared(split)
    row = source.execute(
        "SELECT plan_digest, prepared_at FROM dbsplit.split WHERE split = %s", [split.name]
    ).fetchone()
    if row is None or row[1] is None:
        raise _unprepared(split)
    if row[0] != split.plan.digest:
        raise PlanInvalid(
            f"{split.plan.path} has changed since split {split.name} was prepared",
            hint="restore the plan, or `dbsplit abort` with it and prepare again",
        )


def _unprepared(split: Split) -> NotReady:
    return NotReady(
        f"split {split.name} is not prepared on the source",
        hint=f"run `dbsplit prepare {split.plan.path}`",
    )
