"""What is not as it was when the split was prepared, or refreshed last."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cdc.connect import Connection, connect
from plans.catalog import Catalog, TableName
from plans.catalog_read import read_catalog
from plans.errors import NotReady
from plans.evolution import Change, Kind, Numbers, changes
from plans.load import Plan
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The source as it is, and what of it is not as noted."""

    catalog: Catalog  # all of it
    numbers: Mapping[str, Numbers]
    changes: tuple[Change, ...]
    unassigned: tuple[TableName, ...]  # new tables of which the plan says nothing
    until: str  # the end of the log, behind all that was seen


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
    )


def see(plan: Plan, source: Connection, noted: Noted) -> Seen:
    """Everything that has changed, enums of the targets included."""
    catalog = read_catalog(source, plan.source.schemas)
    numbers = read_numbers(source, plan.source.schemas)
    followed = {name: noted.shapes[name] for name in noted.numbers}
    found = list(changes(followed, noted.numbers, catalog, numbers))
    found = [_unfilled(change, noted) for change in found]
    entries = {entry.name for name in plan.tables if (entry := catalog.find(name))}
    left = {
        table.name
        for name, entry in plan.tables.items()
        if entry.dropped and (table := catalog.find(name))
    }
    moved = {change.now for change in found if change.kind is Kind.RENAMED_TABLE}
    unassigned = []
    for name, table in sorted(catalog.tables.items()):
        if table.is_partition or table.parent or str(name) in followed:
            if str(name) in followed and (name in left or name not in entries):
                found.append(Change(Kind.GONE_TABLE, name))
            continue
        if name in entries - left:
            found.append(Change(Kind.NEW_TABLE, name))
        elif name not in entries and str(name) not in moved:
            unassigned.append(name)
    found += _labels(plan, source)
    row = source.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
    assert row is not None  # noqa: S101
    return Seen(
        catalog=catalog,
        numbers=numbers,
        changes=tuple(found),
        unassigned=tuple(unassigned),
        until=row[0],
    )


def ignored_columns(noted: Noted) -> dict[TableName, frozenset[str]]:
    """The columns that are left behind for the time being."""
    return {
        TableName(schema, name): frozenset(columns)
        for schema, name, columns in noted.past.get("ignored", ())
    }


def _unfilled(change: Change, noted: Noted) -> Change:
    """What was written to a column while it was ignored is unknown to the targets."""
    ignored = ignored_columns(noted).get(change.table, frozenset())
    if change.kind is Kind.ADDED_COLUMN and change.object in ignored:
        return Change(change.kind, change.table, change.object, change.was, change.now)
    return change


def _labels(plan: Plan, source: Connection) -> list[Change]:
    """Values that enums of the source have, and those of the targets lack."""
    ours = read_labels(source)
    found: dict[tuple[TableName, str], Change] = {}
    for service in plan.services:
        with connect(plan.services[service].dsn, name="dbsplit refresh") as target:
            theirs = read_labels(target)
        for name in ours.keys() & theirs.keys():
            for label in ours[name]:
                if label not in theirs[name]:
                    found[name, label] = Change(Kind.ENUM_LABEL, name, label)
    return list(found.values())
