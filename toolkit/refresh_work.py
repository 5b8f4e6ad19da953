"""What a refresh is to do, decided once and noted before the first step.

Whoever finds the note, goes on from it: nothing is decided a second time, unless the source
has changed since.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from cdc.connect import Connection, connect
from plans.catalog import Catalog, TableName
from plans.catalog_read import read_catalog
from plans.compile import compile_routes
from plans.errors import GateClosed
from plans.evolution import OF_TYPES, Kind, Numbers
from plans.load import Plan
from plans.routes import Kind as Kinds
from plans.routes import Route
from toolkit.after_data import built_on
from toolkit.opened import Split, schemas_of
from toolkit.prepare import entries_of
from toolkit.prepared import shape_of
from toolkit.refresh_attached import read_domains
from toolkit.refresh_composites import read_composites
from toolkit.refresh_ddl import Revision, revision
from toolkit.refresh_edits import require_expressions, require_followable, require_labels
from toolkit.refresh_in_place import Uncopied, Wanted
from toolkit.refresh_past import Facts, fills_of, past_of_leaders, past_of_log
from toolkit.refresh_seen import Noted, Seen
from toolkit.schema_numbers import read_labels
from toolkit.service_schema import digest_of, has_after_data
from toolkit.target_server import ask_server, schema_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceWork:
    """What is run in one target."""

    revision: Revision
    routes: tuple[str, ...]  # that are copied anew
    forgotten: tuple[str, ...]  # routes that are no more
    undoing: Mapping[str, list[str]]
    made: tuple[str, ...]
    unbuilt: tuple[str, ...] = ()  # what was built on tables that are made anew, see `AfterData`


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A whole refresh."""

    id: str
    said: tuple[str, ...]  # the changes, in words
    services: Mapping[str, ServiceWork]
    digest: str
    shapes: Mapping[str, Any]
    numbers: Mapping[str, Any]
    entries: Mapping[str, Any]
    past: Mapping[str, Any]
    publish: tuple[tuple[str, str], ...]
    unpublish: tuple[tuple[str, str], ...]
    until: str
    passed: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By route of a moved service, where what comes back begins anew: in its log, and in
    the source's, where only what came back is."""

    leaders: Mapping[str, Any] = field(default_factory=dict)
    """By moved service, what its log may tell in another way than its catalog."""

    repaired: tuple[str, ...] = ()  # routes of which the source may not have all

    # What older versions have not noted.
    under: tuple[str, ...] | None = None
    """The keys of the plan's `ddl:` that it falls under, see `toolkit.by_itself`; None if a
    person has decided something."""

    edits: tuple[Mapping[str, str], ...] = ()  # of the plan file
    edited: str = ""  # the digest of the plan that they are for
    broken: bool = False  # whether a stream has met what it could not go on with
    uncopied: bool = False
    """Whether the copy has not ended: it copies what this makes anew."""

    def decided(self, noted: Noted) -> Noted:
        """What was noted, as it is once this has ended: what differs has changed since."""
        numbers = {name: Numbers.of(one) for name, one in self.numbers.items()}
        return replace(noted, shapes=self.shapes, numbers=numbers, past=self.past)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def of(cls, noted: Mapping[str, Any]) -> Work:
        """As it was noted."""
        services = {
            service: ServiceWork(**{**one, "revision": Revision(**one["revision"])})
            for service, one in noted["services"].items()
        }
        return cls(**{**noted, "services": services})

    @property
    def is_something(self) -> bool:
        """Whether there is anything to do."""
        revisions = [one.revision for one in self.services.values()]
        runs = any(one.statements for one in revisions)
        return bool(self.said or self.copied or self.repaired or runs)

    @property
    def copied(self) -> tuple[str, ...]:
        """The routes that are copied anew."""
        return tuple(route for one in self.services.values() for route in one.routes)


def decide(
    plan: Plan,
    source: Connection,
    noted: Noted,
    seen: Seen,
    ignored: Mapping[TableName, set[str]],
    *,
    also_anew: frozenset[TableName] = frozenset(),
) -> Work:
    """What brings the targets to where plan and source are; `ignored` columns stay behind.

    `also_anew` are tables that are copied anew though it may not be necessary.  Of what
    moved services lead, nothing is changed or copied in their databases: they agree with
    the source already (`toolkit.leading`).

    Tries the targets' DDL and rolls it back.  Raises PlanInvalid for a plan that does not
    fit the source, NotReady for a statement that a target refuses.
    """
    catalog = without(seen, ignored)
    routes = compile_routes(plan, catalog)
    require_followable(plan, catalog, routes)
    require_expressions(plan, catalog, routes, source)
    require_labels(plan, catalog, routes, seen.changes)
    split = Split(plan=plan, catalog=catalog, targets={}, routes=routes)
    changes = [c for c in seen.changes if c.object not in ignored.get(c.table, ())]
    anew = frozenset(
        TableName(*change.now.split(".", 1)) if change.kind is Kind.RENAMED_TABLE else change.table
        for change in changes
        if not (change.in_place and (change.kind in _KEPT or not seen.uncopied))
    )
    anew |= also_anew
    facts = Facts(
        noted=noted,
        seen=seen,
        changes=tuple(changes),
        anew=anew,
        ignored=ignored,
        fills=fills_of(source, catalog, changes, anew, seen.numbers),
        labels=read_labels(source),
        moved=seen.moved,
        domains=read_domains(source),
        composites=read_composites(source),
    )
    _require_not_led(routes, noted, seen.moved)
    services = {service: _service(split, source, service, facts) for service in plan.services}
    followed = sorted({route.source.name for route in routes})
    tables = {route.source.name: route.source for route in routes}
    before = {TableName(*name.split(".", 1)) for name in noted.numbers}
    remade = {change.table for change in changes if change.kind is Kind.REMADE_TABLE}
    leaders, unknown = past_of_leaders(plan, routes, facts)
    passed = _passed(plan, routes, facts, unknown)
    shaped = {c.table for c in changes if c.kind in _SHAPE} | facts.anew
    repaired = sorted(
        route.id
        for route in routes
        if route.service in seen.moved and route.kind.owned and route.source.name in shaped
    )
    work = Work(
        id="",
        said=tuple(str(change) for change in changes),
        services=services,
        digest=plan.digest,
        shapes={str(name): shape_of(tables[name]) for name in followed},
        numbers={
            str(name): _visible(seen.numbers[str(name)], ignored.get(name, set())).as_dict()
            for name in followed
        },
        entries=entries_of(plan),
        past=past_of_log(facts, set(followed)),
        publish=tuple(
            (name.schema, name.name) for name in followed if name not in before or name in remade
        ),
        unpublish=tuple((name.schema, name.name) for name in sorted(before - set(followed))),
        until=seen.until,
        passed={**noted.passed, **passed},
        leaders=leaders,
        repaired=tuple(repaired),
        uncopied=seen.uncopied,
    )
    return replace(work, id=digest_of(json.dumps(work.as_dict(), sort_keys=True))[:12])


_SHAPE = frozenset(
    {
        Kind.ADDED_COLUMN,
        Kind.DROPPED_COLUMN,
        Kind.RENAMED_COLUMN,
        Kind.EXCHANGED_COLUMN,
        Kind.WIDENED_COLUMN,
        Kind.RETYPED_COLUMN,
        Kind.GENERATED_COLUMN,
        Kind.REMADE_COLUMN,
        Kind.KEY,
        Kind.REMADE_TABLE,
    }
)
"""What changes how rows are told in the log."""


_KEPT = OF_TYPES | {Kind.GONE_TABLE, Kind.LOST_PARTITION}
"""What leaves the rows of tables as they are while the copy has not ended: those of all other
tables that have changed are copied from the beginning, under a horizon behind the change."""


_OTHERWISE = frozenset(
    {
        Kind.RENAMED_COLUMN,
        Kind.EXCHANGED_COLUMN,
        Kind.RETYPED_COLUMN,
        Kind.GENERATED_COLUMN,
        Kind.KEY,
    }
)
"""What cannot be read in the shape of before."""


def _require_not_led(routes: Iterable[Route], noted: Noted, moved: frozenset[str]) -> None:
    """Check that no table is new whose rows a moved service would lead."""
    new = sorted(
        f"table {route.source.name} is new, and service {route.service}, which is to own it, "
        "has moved"
        for route in routes
        if route.kind.owned and route.service in moved
        if str(route.source.name) not in noted.numbers
    )
    if new:
        raise GateClosed(
            "; ".join(new),
            hint="leave it behind for now (--owner TABLE=drop, or `drop` in the plan), and let "
            "the service create it in its own database; or roll the service back first",
        )


def _passed(
    plan: Plan, routes: Iterable[Route], facts: Facts, unknown: frozenset[TableName]
) -> dict[str, list[str]]:
    """Where what comes back of tables that have changed begins, by route.

    What a moved service's log tells of before is in another shape.  It is passed over,
    and a repair of the source brings what was in it.
    """
    by_change = {change.table for change in facts.changes if not change.in_place}
    changed = {change.table for change in facts.changes if change.kind in _OTHERWISE}
    changed |= unknown | (facts.anew - by_change)
    found: dict[str, list[str]] = {}
    for service in sorted(facts.moved):
        mine = [
            route.id
            for route in routes
            if route.service == service and route.kind.owned and route.source.name in changed
        ]
        if mine:
            with connect(plan.services[service].dsn, name="dbsplit refresh") as target:
                row = target.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
            assert row is not None  # noqa: S101
            found |= {route: [str(row[0]), facts.seen.until] for route in mine}
    return found


def without(seen: Seen, ignored: Mapping[TableName, set[str]]) -> Catalog:
    """The source without what stays behind for now."""
    tables = {
        name: replace(
            table, columns=tuple(c for c in table.columns if c.name not in ignored.get(name, ()))
        )
        for name, table in seen.catalog.tables.items()
        if seen.catalog.root(name) not in seen.unassigned
    }
    return replace(seen.catalog, tables=tables)


def _visible(numbers: Numbers, ignored: set[str]) -> Numbers:
    return replace(
        numbers, columns={n: one for n, one in numbers.columns.items() if n not in ignored}
    )


def _uncopied(split: Split, service: str) -> Uncopied:
    return Uncopied.HAS_ALL if has_after_data(split, service) else Uncopied.LACKS_KEYS


def _service(split: Split, source: Connection, service: str, facts: Facts) -> ServiceWork:
    dsn = split.dsn(service)
    leads = service in facts.moved
    mine = tuple(r for r in split.routes_of([service]) if not (leads and r.kind.owned))
    led = {r.target for r in split.owned([service])} if leads else frozenset[TableName]()
    changes = tuple(c for c in facts.changes if c.table not in led)
    with connect(dsn, name="dbsplit refresh") as target:
        there = read_catalog(target, schemas_of(target))
        enums = frozenset(read_labels(target))
        row = target.execute(
            "SELECT coalesce(settings -> 'made', '[]'), settings -> 'undoing'"
            " FROM dbsplit.split WHERE split = %s",
            [split.name],
        ).fetchone()
        domains_there = read_domains(target)
        composites_there = read_composites(target)
        copied = [r for (r,) in target.execute("SELECT route FROM dbsplit.copied").fetchall()]
        begun = target.execute("SELECT DISTINCT route FROM dbsplit.copied_chunk").fetchall()
    schema = schema_of(split, source, service, ask_server(dsn))
    made_for_us = {route.target for route in mine if route.kind is not Kinds.DERIVED}
    gone = tuple(
        change.table
        for change in changes
        if change.kind in (Kind.GONE_TABLE, Kind.RENAMED_TABLE)
        and change.table in there.tables
        and str(change.table) in facts.noted.shapes
    )
    wanted = Wanted(
        routes=mine,
        changes=changes,
        anew=facts.anew & made_for_us,
        # What was begun is made once more, though a later look does not find it changed.
        only=frozenset(made_for_us & ({c.table for c in changes} | facts.anew)) if leads else None,
        gone=gone,
        schema=schema,
        there=there,
        literals={place: fill["sql"] for place, fill in facts.fills.items() if fill is not None},
        labels=facts.labels,
        enums_there=enums,
        made=frozenset(row[0]) if row else frozenset(),
        noted=tuple(d for part in row[1].values() for d in part) if row and row[1] else (),
        domains={} if leads else facts.domains,
        domains_there=domains_there,
        composites={} if leads else facts.composites,
        composites_there=composites_there,
        uncopied=_uncopied(split, service) if facts.seen.uncopied else None,
    )
    ids = {route.id for route in split.routes_of([service])}
    statements = (*schema.before_data, *schema.after_data)
    return ServiceWork(
        revision=revision(dsn, wanted),
        routes=tuple(
            r.id
            for r in mine
            if r.source.name in facts.anew or not (facts.seen.uncopied or r.id in copied)
        ),
        forgotten=tuple(sorted({*copied, *(route for (route,) in begun)} - ids)),
        undoing={
            "before": [statement.drop for statement in schema.before_data],
            "after": [statement.drop for statement in schema.after_data],
        },
        made=tuple(sorted({digest_of(statement.create) for statement in statements})),
        unbuilt=built_on(schema, facts.anew),
    )
