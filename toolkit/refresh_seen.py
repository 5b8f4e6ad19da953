"""What is not as it was when the split was prepared, or refreshed last."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

from cdc.connect import Connection, connect
from plans.catalog import Catalog, TableName
from plans.catalog_read import read_catalog
from plans.errors import NotReady, PlanInvalid
from plans.evolution import Change, Kind, Numbers, changes, labels_changed
from plans.load import Plan
from toolkit import state
from toolkit.refresh_attached import domain_changes, read_domains
from toolkit.refresh_composites import Attributes, composite_changes, read_composites
from toolkit.schema_numbers import read_labels, read_numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted:
    """The split as its control row has it."""

    digest: str
    shapes: Mapping[str, Any]
    numbers: Mapping[str, Numbers]
    entries: Mapping[str, Any]  # of the plan
    past: Mapping[str, Any]
    work: Mapping[str, Any] | None  # of a refresh that was begun
    passed: Mapping[str, Sequence[str]] = field(default_factory=dict)  # see `Work.passed`
    leaders: Mapping[str, Any] = field(default_factory=dict)  # see `Work.leaders`


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The source as it is, and what of it is not as noted."""

    catalog: Catalog  # all of it
    numbers: Mapping[str, Numbers]
    changes: tuple[Change, ...]
    unassigned: tuple[TableName, ...]  # new tables of which the plan says nothing
    until: str  # the end of the log, behind all that was seen
    moved: frozenset[str] = frozenset()  # services that lead
    uncopied: bool = False  # the copy has not ended


def read_noted(plan: Plan, source: Connection) -> Noted:
    """What was noted; NotReady if the split is not prepared, or by an older version."""
    row = None
    if source.execute("SELECT to_regclass('dbsplit.split')").fetchone() != (None,):
        row = source.execute(
            "SELECT plan_digest, settings, prepared_at FROM dbsplit.split WHERE split = %s",
            [plan.split],
        ).fetchone()
    if row is None or row[2] is None:
        raise NotReady(
            f"split {plan.split} is not prepared on the source",
            hint=f"run `dbsplit prepare {plan.path}`",
        )
    digest, settings, _ = row
    if "numbers" not in settings:
        raise NotReady(
            f"split {plan.split} was prepared by a version that could not refresh",
            hint="`dbsplit abort` and prepare again, with a plan for what has changed",
        )
    return Noted(
        digest=digest,
        shapes=settings["shapes"],
        numbers={name: Numbers.of(one) for name, one in settings["numbers"].items()},
        entries=settings["entries"],
        past=settings.get("past") or {},
        work=settings.get("refreshing"),
        passed=settings.get("passed") or {},
        leaders=settings.get("leaders") or {},
    )


def see(plan: Plan, source: Connection, noted: Noted) -> Seen:
    """Everything that has changed, enums of the targets included."""
    catalog = read_catalog(source, plan.source.schemas)
    numbers = read_numbers(source, plan.source.schemas)
    followed = {name: noted.shapes[name] for name in noted.numbers}
    found = list(changes(followed, noted.numbers, catalog, numbers))
    found = [_unfilled(change, noted) for change in found]
    found = [_placed(change, noted, source) for change in found]
    entries = {entry.name for name in plan.tables if (entry := catalog.find(name))}
    left = {
        table.name
        for name, entry in plan.tables.items()
        if entry.dropped and (table := catalog.find(name))
    }
    renamed = {change.now for change in found if change.kind is Kind.RENAMED_TABLE}
    unassigned = []
    for name, table in sorted(catalog.tables.items()):
        if table.is_partition or str(name) in followed:
            if str(name) in followed and (name in left or name not in entries):
                found.append(Change(Kind.GONE_TABLE, name))
            continue
        if name in entries - left:
            found.append(Change(Kind.NEW_TABLE, name))
        elif name not in entries and str(name) not in renamed:
            unassigned.append(name)
    now = state.phases(source, plan.split)
    moved = frozenset(service for service, phase in now.items() if phase is state.Phase.MOVED)
    found += _of_types(plan, source, catalog, followed, moved)
    row = source.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
    assert row is not None  # noqa: S101
    return Seen(
        catalog=catalog,
        numbers=numbers,
        changes=tuple(found),
        unassigned=tuple(unassigned),
        until=row[0],
        moved=moved,
        uncopied=not {state.Phase.PREPARED, state.Phase.COPYING}.isdisjoint(now.values()),
    )


def ignored_columns(noted: Noted) -> dict[TableName, frozenset[str]]:
    """The columns that are left behind for the time being."""
    return {
        TableName(schema, name): frozenset(columns)
        for schema, name, columns in noted.past.get("ignored", ())
    }


def met(noted: Noted, seen: Seen) -> tuple[Change, ...]:
    """What has changed, but for what is left behind already."""
    hidden = ignored_columns(noted)
    return tuple(c for c in seen.changes if c.object not in hidden.get(c.table, ()))


def _unfilled(change: Change, noted: Noted) -> Change:
    """What was written to a column while it was ignored is unknown to the targets."""
    ignored = ignored_columns(noted).get(change.table, frozenset())
    if change.kind is Kind.ADDED_COLUMN and change.object in ignored:
        return Change(change.kind, change.table, change.object, change.was, change.now)
    return change


def _placed(change: Change, noted: Noted, source: Connection) -> Change:
    """Where a table is that went out of sight."""
    before = noted.numbers.get(str(change.table))
    if change.kind is not Kind.GONE_TABLE or before is None:
        return change
    row = source.execute(
        "SELECT n.nspname, c.relname FROM pg_class AS c"
        " JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = %s",
        [before.oid],
    ).fetchone()
    return replace(change, now=str(TableName(*row))) if row else change


def _of_types(
    plan: Plan,
    source: Connection,
    catalog: Catalog,
    followed: Container[str],
    moved: frozenset[str],
) -> list[Change]:
    """Types of the targets that are not as the source's; each change once.

    Raises PlanInvalid if it cannot be told how an enum has changed.
    """
    labels, domains, composites = (
        read_labels(source),
        read_domains(source),
        read_composites(source),
    )
    found: dict[Change, None] = {}
    for service in sorted(plan.services.keys() - moved):
        with connect(plan.services[service].dsn, name="dbsplit refresh") as target:
            theirs = read_labels(target)
            found |= dict.fromkeys(domain_changes(domains, read_domains(target)))
            found |= dict.fromkeys(composite_changes(composites, read_composites(target)))
        for name in sorted(labels.keys() & theirs.keys()):
            some, unclear = labels_changed(name, labels[name], theirs[name])
            if unclear:
                raise PlanInvalid(
                    unclear,
                    hint=f"rename it in the database of {service} as on the source (ALTER TYPE "
                    f"{name} RENAME VALUE … TO …), then repeat; nothing was changed",
                )
            found |= dict.fromkeys(some)
    renamed = {change.table for change in found if change.kind is Kind.ENUM_RENAMED}
    altered = holding(composites, {c.table for c in found if c.kind is Kind.ATTRIBUTES})
    for table in sorted(catalog.tables) if renamed or altered else ():
        for column in catalog.tables[table].columns if str(table) in followed else ():
            for kind, types in ((Kind.RELABELLED, renamed), (Kind.RECOMPOSED, altered)):
                if any(is_of(column.type, one) for one in types):
                    found[Change(kind, table, column.name)] = None
    return list(found)


def holding(
    composites: Mapping[TableName, Attributes], changed: Set[TableName]
) -> frozenset[TableName]:
    """These types, and those with attributes of them."""
    found = frozenset(changed)
    while True:
        more = {
            name
            for name, attributes in composites.items()
            if any(is_of(type_, one) for _, type_ in attributes for one in found)
        }
        if more <= found:
            return found
        found |= more


def is_of(type_: str, enum: TableName) -> bool:
    """Whether a column's type is an enum, or an array of it."""
    bare = type_.removesuffix("[]")
    return bare in (enum.identifier.as_string(None), str(enum), enum.name)
