"""A plan together with the databases that it speaks about, as they are now."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cdc.connect import Connection, connect
from cdc.flow import Flow, back, forward
from plans.catalog import Catalog, Table, TableName
from plans.catalog_read import read_catalog
from plans.compile import compile_all, compile_routes
from plans.errors import GateClosed, NotReady, PlanInvalid
from plans.load import Plan, Targets, load_plan
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


class Drifted(PlanInvalid):
    """The source's tables are not what the split was prepared for."""


class NoOwner(Drifted):
    """The source has tables that came after `prepare`, and the plan wants to know whose."""


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
        catalog = read_catalog(source, plan.source.schemas)
        if prepared or tolerant:
            catalog = without_ignored(catalog, plan, source)
        if prepared and not tolerant and not refreshing:
            _require_prepared(plan, catalog, source)
            require_owned(plan, catalog, source)
    targets: dict[str, Catalog] = {}
    if with_targets:
        for service, target in plan.services.items():
            try:
                with connect(target.dsn) as connection:
                    targets[service] = read_catalog(connection, schemas_of(connection))
            except NotReady:
                if not tolerant:
                    raise
    if tolerant:
        routes = compile_all(plan, catalog, targets or None).routes
    else:
        routes = compile_routes(plan, catalog, targets or None)
    return Split(plan=plan, catalog=catalog, targets=targets, routes=routes)


def past_of(source: Connection, split: str) -> dict[str, Any]:
    """What refreshes have noted of how the source's tables were before, see `cdc.past`."""
    if source.execute("SELECT to_regclass('dbsplit.split')").fetchone() == (None,):
        return {}
    row = source.execute(
        "SELECT settings -> 'past' FROM dbsplit.split WHERE split = %s", [split]
    ).fetchone()
    return dict(row[0]) if row and row[0] else {}


def passed_of(source: Connection, split: str) -> dict[str, list[str]]:
    """By route of a moved service, where what comes back of it begins, see `refresh_work`."""
    row = source.execute(
        "SELECT settings -> 'passed' FROM dbsplit.split WHERE split = %s", [split]
    ).fetchone()
    return dict(row[0]) if row and row[0] else {}


def past_of_leader(source: Connection, split: str, service: str) -> dict[str, Any]:
    """The same for a moved service's own tables."""
    row = source.execute(
        "SELECT settings -> 'leaders' -> %s FROM dbsplit.split WHERE split = %s", [service, split]
    ).fetchone()
    return dict(row[0]) if row and row[0] else {}


def without_ignored(catalog: Catalog, plan: Plan, source: Connection) -> Catalog:
    """The catalog as the split sees it: what the plan's `ddl:` lets it ignore is not there.

    That is, columns which were noted as such, and tables that came after `prepare`.
    """
    row = _control_row(plan, source)
    if row is None:
        return catalog
    ignored = {
        TableName(schema, name): set(columns)
        for schema, name, columns in past_of(source, plan.split).get("ignored", ())
    }
    tables = dict(catalog.tables)
    for name in ignored.keys() & tables.keys():
        kept = tuple(c for c in tables[name].columns if c.name not in ignored[name])
        tables[name] = replace(tables[name], columns=kept)
    if plan.ddl.new_tables == "ignore" and row[4] is not None:
        for name in _new_tables(plan, catalog, row[4]):
            del tables[name]
    return replace(catalog, tables=tables)


def require_owned(plan: Plan, catalog: Catalog, source: Connection) -> None:
    """Check that no table has come since `prepare` that is nobody's, if the plan wants it so.

    Raises NoOwner with their names.
    """
    row = _control_row(plan, source)
    if plan.ddl.new_tables != "stop" or row is None or row[4] is None:
        return
    new = _new_tables(plan, catalog, row[4])
    if new:
        answers = " ".join(f"--owner {name}=SERVICE" for name in new)
        raise NoOwner(
            f"the source has changed since split {plan.split} was prepared: "
            f"{'; '.join(f'table {name} is new and has no owner' for name in new)}",
            hint=f"nothing wrong was written. `dbsplit plan refresh {plan.path} {answers}` gives "
            "it to a service, =drop instead leaves it behind; then start the stream again. With "
            "ddl.new_tables: ignore the stream goes on without it",
        )


def _new_tables(plan: Plan, catalog: Catalog, before: Iterable[str]) -> list[TableName]:
    """The tables, and partitions of such, of which neither the plan nor `prepare` knew."""
    known = {found.name for name in (*plan.tables, *before) if (found := catalog.find(name))}
    return [name for name in catalog.tables if catalog.root(name) not in known]


def schemas_of(connection: Connection) -> list[str]:
    """The schemas of a target that may hold a service's tables."""
    rows = connection.execute(
        "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_'"
        " AND nspname NOT IN ('information_schema', 'dbsplit') ORDER BY nspname"
    ).fetchall()
    return [row[0] for row in rows]


def require_prepared(split: Split, source: Connection) -> None:
    """Check that `prepare` was run, with this very plan and for these tables.

    Raises NotReady if it was not, PlanInvalid if the plan has changed since, and
    Drifted if tables have.
    """
    _require_prepared(split.plan, split.catalog, source)


def require_begun(plan: Plan, source: Connection) -> None:
    """Check that there is something of the split on the source; NotReady if not."""
    if _control_row(plan, source) is None:
        raise NotReady(
            f"split {plan.split} is not prepared on the source",
            hint=f"run `dbsplit prepare {plan.path}`",
        )


def require_same_plan(plan: Plan, source: Connection) -> bool:
    """Check that what was begun on the source, if anything, was begun with this plan.

    Returns whether something was.  Raises PlanInvalid if the plan has changed since.
    """
    row = _control_row(plan, source)
    if row is not None and row[0] != plan.digest:
        raise PlanInvalid(
            f"{plan.path} has changed since split {plan.split} was prepared",
            hint="restore the plan as it was, or let `dbsplit plan refresh` carry it over as far "
            "as it can; else `dbsplit abort` with the old one and prepare with the new one",
        )
    return row is not None


def is_completed(plan: Plan, source: Connection) -> bool:
    """Whether `complete` has ended the split, or has begun to."""
    row = _control_row(plan, source)
    return row is not None and row[3] is not None


def require_not_completed(plan: Plan, source: Connection) -> None:
    """Check that `complete` has not ended the split; GateClosed if it has."""
    if is_completed(plan, source):
        raise GateClosed(
            f"split {plan.split} is completed: its tables have moved for good",
            hint=f"there is nothing left to do; `dbsplit complete {plan.path} --drop` drops the "
            "retired tables",
        )


def require_same_tables(plan: Plan, catalog: Catalog, source: Connection) -> None:
    """Check that the tables are what the split was prepared for, as far as it is.

    Raises Drifted with all that has changed, GateClosed if `complete` has ended the split.
    """
    require_not_completed(plan, source)
    row = _control_row(plan, source)
    before: dict[str, Any] = (row[2] if row else None) or {}
    now = {name: shape_of(table) for name, table in _named(catalog).items()}
    changed = [
        said
        for name, then in sorted(before.items())
        if (said := _change(then, now.get(name), name))
    ]
    if changed:
        raise Drifted(
            f"the source has changed since split {plan.split} was prepared: {'; '.join(changed)}",
            hint=f"nothing wrong was written: `dbsplit plan refresh {plan.path}` carries it over, "
            "and says how; then start the stream again",
        )


def shape_of(table: Table) -> dict[str, Any]:
    """What of a table the routes and the schemas of the targets rely on, for JSON."""
    return {
        "columns": {c.name: [c.type, c.not_null, c.generated] for c in table.columns},
        "key": list(table.key),
    }


def _require_prepared(plan: Plan, catalog: Catalog, source: Connection) -> None:
    row = _control_row(plan, source)
    if row is None or row[1] is None:
        raise NotReady(
            f"split {plan.split} is not prepared on the source",
            hint=f"run `dbsplit prepare {plan.path}`",
        )
    if row[5] is not None:
        raise NotReady(
            f"a refresh of split {plan.split} was begun and has not ended",
            hint=f"run `dbsplit plan refresh {plan.path}`: it goes on where it stopped",
        )
    require_same_plan(plan, source)
    require_same_tables(plan, catalog, source)


def _control_row(plan: Plan, source: Connection) -> tuple[Any, ...] | None:
    if source.execute("SELECT to_regclass('dbsplit.split')").fetchone() == (None,):
        return None
    return source.execute(
        "SELECT plan_digest, prepared_at, settings -> 'shapes', settings -> 'retiring',"
        " settings -> 'entries', settings -> 'refreshing'"
        " FROM dbsplit.split WHERE split = %s",
        [plan.split],
    ).fetchone()


def _named(catalog: Catalog) -> dict[str, Table]:
    return {str(name): table for name, table in catalog.tables.items()}


def _change(then: dict[str, Any], now: dict[str, Any] | None, name: str) -> str:
    """What has become of a table, in words; "" if nothing has."""
    if now is None:
        return f"table {name} is gone"
    if then == now:
        return ""
    before, after = then["columns"], now["columns"]
    said = [f"lost column {column}" for column in before if column not in after]
    said += [f"has a new column {column}" for column in after if column not in before]
    said += [
        f"column {column} was {_in_words(before[column])} and is {_in_words(after[column])}"
        for column in before
        if column in after and before[column] != after[column]
    ]
    if then["key"] != now["key"]:
        said.append(f"its key was ({', '.join(then['key'])}) and is ({', '.join(now['key'])})")
    return f"table {name} {', '.join(said)}"


def _in_words(column: list[Any]) -> str:
    type_, not_null, generated = column
    return f"{type_}{' NOT NULL' if not_null else ''}{f' from {generated}' if generated else ''}"
