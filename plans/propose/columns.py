"""A table's columns, by the service that writes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from plans.catalog import Column, Table
from plans.propose.evidence import Evidence
from plans.propose.naming import service_prefixed
from plans.propose.roles import Roles
from plans.propose.tally import Activity, By, share
from plans.source_row import generated_reads
from plans.usage.model import Actor

# A column is a service's if this part of the writes is its own; the rest may be repairs.
WRITER_SURE: Final = 0.9
# How sure parts are: by who was seen to write; with columns that nobody was seen to write;
# by privileges alone.
SEEN: Final = 0.9
GUESSED: Final = 0.7
BY_GRANT: Final = 0.6

# Less than this part of the inserts may have been a repair.
INSERTER_MIN: Final = 0.02


@dataclass(frozen=True, slots=True)
class ColumnParts:
    """The parts, each with the key and in the table's order; or why there cannot be any."""

    parts: Mapping[str, tuple[str, ...]]
    said: tuple[str, ...] = ()
    guessed: tuple[str, ...] = ()  # columns that nobody was seen to write
    by_grant: bool = False  # by privileges, nobody having been seen
    problem: str = ""

    @property
    def confidence(self) -> float:
        """How sure the parts are, from 0 to 1."""
        if self.by_grant:
            return BY_GRANT
        return GUESSED if self.guessed else SEEN


def column_parts(
    table: Table, owner: str, activity: Activity, evidence: Evidence, roles: Roles
) -> ColumnParts | None:
    """The table in parts by column; None if nothing says that it is to be parted."""
    granted = _granted(table, evidence, roles)
    seen = {name for by in activity.columns.values() for name in by}
    services = [name for name in evidence.services if name in {owner, *seen, *granted}]
    if len(services) < 2:
        return None
    by_grant = len(seen) < 2
    problem = _problem(table, activity)
    if problem:
        return ColumnParts({}, problem=problem, by_grant=by_grant)
    open_columns = [
        column
        for column in table.columns
        if column.generated is None and column.name not in table.key
    ]
    owners: dict[str, str] = {}
    for column in open_columns:
        if by := activity.columns.get(column.name):
            owners[column.name] = max((one.weight, name) for name, one in by.items())[1]
    written = dict(owners)
    _follow_triggers(table, owners, evidence)
    guessed = _fill(open_columns, owners, owner, services, granted, activity)
    across = _place_generated(table, owners)
    if across:
        return ColumnParts({}, problem=across, by_grant=by_grant)
    parts = {
        name: tuple(
            column.name
            for column in table.columns
            if column.name in table.key or owners.get(column.name) == name
        )
        for name in sorted(services, key=lambda name: name != owner)
        if name in owners.values()
    }
    if len(parts) < 2:
        return None
    said = tuple(
        f"{name} {'may write' if by_grant else 'writes'} "
        + ", ".join(
            column.name
            for column in open_columns
            if column.name in ((granted.get(name) or ()) if by_grant else written)
            and owners[column.name] == name
        )
        for name in parts
        if not by_grant or name in granted
    )
    return ColumnParts(parts, said, tuple(guessed), by_grant)


def _granted(table: Table, evidence: Evidence, roles: Roles) -> dict[str, frozenset[str]]:
    """The columns that services may write which may not write the others."""
    found: dict[str, frozenset[str]] = {}
    held = evidence.statistics.privileges.column_writers.get(table.name, {})
    for role, columns in sorted(held.items()):
        if service := roles.service_of(Actor(role)):
            found[service] = found.get(service, frozenset()) | columns
    return found


def _problem(table: Table, activity: Activity) -> str:
    """Why columns cannot be told apart."""
    if not table.key:
        return "it has no key that all parts could have"
    inserters = [name for name in activity.inserts if share(activity.inserts, name) >= INSERTER_MIN]
    if len(inserters) > 1:
        return "both insert rows"
    contested = [
        column.name
        for column in table.columns
        if column.name not in table.key and _is_contested(activity.columns.get(column.name, {}))
    ]
    if contested:
        return f"more than one writes {', '.join(contested)}"
    return ""


def _is_contested(by: By) -> bool:
    return bool(by) and max(share(by, name) for name in by) < WRITER_SURE


def _follow_triggers(table: Table, owners: dict[str, str], evidence: Evidence) -> None:
    """Columns that a trigger watches or sets together have one owner, if that is known."""
    for one in evidence.statistics.touched:
        if one.table == table.name:
            known = {owners[column] for column in one.columns if column in owners}
            if len(known) == 1:
                for column in one.columns - set(table.key):
                    owners.setdefault(column, next(iter(known)))


def _fill(
    columns: list[Column],
    owners: dict[str, str],
    owner: str,
    services: list[str],
    granted: Mapping[str, frozenset[str]],
    activity: Activity,
) -> list[str]:
    """An owner for each column that nobody was seen to write; those without a hint."""
    guessed = []
    inserter = max(activity.inserts, key=lambda name: activity.inserts[name].weight, default=owner)
    for column in columns:
        name = column.name
        if name in owners:
            continue
        may = [service for service in granted if name in granted[service]]
        readers = list(activity.columns_read.get(name, {}))
        named = service_prefixed(name, services)
        if len(may) == 1:
            owners[name] = may[0]
        elif named:
            owners[name] = named
        elif column.default is not None or column.identity:
            owners[name] = inserter  # which fills it by leaving it out
        elif len(readers) == 1 and readers[0] in services:
            owners[name] = readers[0]
        else:
            owners[name] = owner
            guessed.append(name)
    return guessed


def _place_generated(table: Table, owners: dict[str, str]) -> str:
    """Put generated columns where all that they read is; or say that there is no such place."""
    for column in table.columns:
        if column.generated is None:
            continue
        needs = {owners[name] for name in generated_reads(column) if name in owners}
        if len(needs) > 1:
            return f"{column.name} is generated from columns of {' and '.join(sorted(needs))}"
        owners[column.name] = next(iter(needs), next(iter(owners.values()), ""))
    return ""
