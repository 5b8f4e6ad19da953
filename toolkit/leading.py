"""Tables that a moved service leads: its own database and the source have to agree on them.

While a service is moved, its database leads, and the source follows for the way back.
Nobody but our applier writes these tables in the source.  DDL on one of the two sides
alone would end what flows between them, so it is told with what makes the sides agree
again: the change undone, which loses nothing in the source, where nobody has written, or
the same change on the other side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cdc.connect import Connection, connect
from plans.catalog import Catalog, Column, Table, TableName
from plans.catalog_read import read_catalog
from plans.errors import GateClosed
from plans.load import Plan
from plans.model import DROP, TablePlan
from toolkit.opened import schemas_of
from toolkit.prepared import without_ignored
from toolkit.refresh_edits import entry_key
from toolkit.refresh_seen import Noted
from toolkit.schema_numbers import read_labels

Leaders = Mapping[TableName, frozenset[str]]
"""Source tables, and the moved services that lead them, or a part of them."""


@dataclass(frozen=True, slots=True)
class Disagreement:
    """What is on one side alone, and the ways to make it agree."""

    said: str
    remedy: str


def owners_of(entry: TablePlan) -> frozenset[str]:
    """The services that own something of a table."""
    named = {*(entry.split_columns or {}), *(entry.split_rows or {}), entry.owner or DROP}
    return frozenset(named - {DROP})


def leaders(plan: Plan, noted: Noted, moved: frozenset[str]) -> dict[TableName, frozenset[str]]:
    """What moved services lead, as it was noted last: a table may be gone since."""
    found = {}
    for name in noted.shapes:
        table = TableName(*name.split(".", 1))
        key = entry_key(plan, table)
        if key is not None and (led := owners_of(plan.tables[key]) & moved):
            found[table] = led
    return found


def require_agreement(plan: Plan, source: Connection, noted: Noted, moved: frozenset[str]) -> None:
    """Check that each table led by a moved service is the same on both sides.

    Raises GateClosed with all that is not, and how it is made so.
    """
    if not moved:
        return
    catalog = without_ignored(read_catalog(source, plan.source.schemas), plan, source)
    found: list[Disagreement] = []
    theirs: dict[str, Catalog] = {}
    for service in sorted(moved):
        with connect(plan.services[service].dsn, name="dbsplit refresh") as target:
            theirs[service] = read_catalog(target, schemas_of(target))
            found += _of_enums(service, read_labels(source), read_labels(target))
    for name, services in sorted(leaders(plan, noted, moved).items()):
        table = catalog.tables.get(name)
        if table is None:
            found.append(_gone(source, name, noted, services))
            continue
        for service in sorted(services):
            there = theirs[service].tables.get(name)
            found += disagreements(plan, service, table, there, noted.shapes[str(name)])
    if found:
        raise GateClosed(
            f"source and services do not agree: {'; '.join(one.said for one in found)}",
            hint=f"nothing wrong was written, and nothing is lost: {'; '.join(_remedies(found))}. "
            f"Then `dbsplit plan refresh {plan.path}`, and start the stream again",
        )


def _remedies(found: list[Disagreement]) -> list[str]:
    return list(dict.fromkeys(one.remedy for one in found))


def _gone(
    source: Connection, name: TableName, noted: Noted, services: frozenset[str]
) -> Disagreement:
    oid = noted.numbers[str(name)].oid if str(name) in noted.numbers else 0
    row = source.execute(
        "SELECT c.oid::regclass::text FROM pg_class AS c WHERE c.oid = %s", [oid]
    ).fetchone()
    if row is not None:
        return Disagreement(
            f"table {name} is called {row[0]} in the source",
            f"on the source: ALTER TABLE {row[0]} RENAME TO {_last(name)}",
        )
    whose = " and ".join(sorted(services))
    return Disagreement(
        f"table {name} is gone from the source, and all its rows are in the database of {whose}",
        f"on the source: create it again, as `pg_dump --schema-only --table={name}` of {whose} "
        f"writes it; after the refresh `dbsplit validate --table {name} --repair --direction "
        "source` fills it",
    )


def _of_enums(
    service: str, ours: Mapping[TableName, Sequence[str]], theirs: Mapping[TableName, Sequence[str]]
) -> Iterator[Disagreement]:
    """Values that the service may write, and the source does not know."""
    for name in sorted(ours.keys() & theirs.keys()):
        own = [label for label in theirs[name] if label not in ours[name]]
        if own:
            values = ", ".join(f"'{label}'" for label in own)
            yield Disagreement(
                f"type {name} has {values} in {service} and not in the source",
                f"on the source: ALTER TYPE {name} ADD VALUE for each of them, or, if it was "
                "renamed there, ALTER TYPE … RENAME VALUE back",
            )


def _last(name: TableName) -> str:
    return name.identifier.as_string(None).rpartition(".")[2]


def disagreements(
    plan: Plan, service: str, table: Table, there: Table | None, before: Mapping[str, Any]
) -> Iterator[Disagreement]:
    """`table` is the source's, which was noted as `before`; `there` is what the service leads.

    What differs and has not changed in the source was there before the service moved.
    """
    name = table.name
    if there is None:
        yield Disagreement(
            f"table {name} is gone from the database of {service}, which leads it",
            f"in the database of {service}: name it {name} again, or restore it from a backup",
        )
        return
    key = entry_key(plan, name)
    assert key is not None  # noqa: S101
    entry = plan.tables[key]
    part = frozenset((entry.split_columns or {}).get(service, ())) | frozenset(table.key)
    ours = {
        one.name: one
        for one in table.columns
        if one.name not in entry.drop and (entry.split_columns is None or one.name in part)
    }
    theirs = {one.name: one for one in there.columns}
    for column in ours.keys() - theirs.keys():
        if not (plan.ddl.added_columns == "ignore" and _can_be_left(ours[column])):
            yield _only_in_source(name, ours[column], service)
    for column in () if _is_derived_into(plan, service, name) else theirs.keys() - ours.keys():
        yield _only_in_service(name, theirs[column], service)
    for column in sorted(ours.keys() & theirs.keys()):
        then = before["columns"].get(column)
        yield from _of_column(name, ours[column], theirs[column], service, then)
    if list(table.key) != before["key"] and table.key != there.key:
        yield Disagreement(
            f"table {name} has the key ({', '.join(table.key)}) in the source and "
            f"({', '.join(there.key)}) in {service}",
            f"give {name} one primary key on both sides",
        )


def _is_derived_into(plan: Plan, service: str, name: TableName) -> bool:
    """Whether rows of other tables are computed into this one, with columns of their own."""
    places = {f"{service}.{name.name}", f"{service}.{name}"}
    return any(one.into in places for entry in plan.tables.values() for one in entry.derive)


def _can_be_left(column: Column) -> bool:
    return not column.not_null or column.default is not None


def _only_in_source(name: TableName, column: Column, service: str) -> Disagreement:
    table, text = name.identifier.as_string(None), _quoted(column.name)
    return Disagreement(
        f"column {column.name} of {name} is in the source only",
        f"on the source, where nobody has written to it: ALTER TABLE {table} DROP COLUMN {text}; "
        f"or in the database of {service}: ALTER TABLE {table} ADD COLUMN {text} "
        f"{_with_default(column)}",
    )


def _with_default(column: Column) -> str:
    """The column as the source has it, or nullable: there are rows that lack it."""
    if column.default is None or column.sequence is not None:
        return column.type
    return f"{column.type} DEFAULT {column.default}{' NOT NULL' if column.not_null else ''}"


def _only_in_service(name: TableName, column: Column, service: str) -> Disagreement:
    table, text = name.identifier.as_string(None), _quoted(column.name)
    return Disagreement(
        f"column {column.name} of {name} is in the database of {service} only: what is written "
        "to it would not survive a rollback",
        f"on the source, nullable: ALTER TABLE {table} ADD COLUMN {text} {column.type}",
    )


def _of_column(
    name: TableName, ours: Column, theirs: Column, service: str, then: Sequence[Any] | None
) -> Iterator[Disagreement]:
    table, text = name.identifier.as_string(None), _quoted(ours.name)
    if (then is None or then[0] != ours.type) and ours.type != theirs.type:
        yield Disagreement(
            f"column {ours.name} of {name} is {ours.type} in the source and {theirs.type} in "
            f"{service}",
            f"on the source: ALTER TABLE {table} ALTER COLUMN {text} TYPE {theirs.type}",
        )
    if (ours.generated is None) != (theirs.generated is None):
        yield Disagreement(
            f"column {ours.name} of {name} is not generated alike in the source and in {service}",
            f"make {name}.{ours.name} on the source as it is in {service}",
        )
    if (then is None or not then[1]) and ours.not_null and not theirs.not_null:
        yield Disagreement(
            f"column {ours.name} of {name} is NOT NULL in the source and not in {service}",
            f"on the source: ALTER TABLE {table} ALTER COLUMN {text} DROP NOT NULL",
        )


def _quoted(name: str) -> str:
    return TableName("x", name).identifier.as_string(None).partition(".")[2]
