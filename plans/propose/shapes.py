"""What becomes of tables that several services use: parts by column or row, copies.

Parts are written into a plan only where they are known to be right: columns by who
writes them, rows by a column whose values are known to differ.  Everything else is
left to a person, with the plan's text to choose from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from plans.catalog import Table, TableName
from plans.propose.columns import WRITER_SURE, ColumnParts, column_parts
from plans.propose.evidence import Evidence, Told
from plans.propose.owners import Owned
from plans.propose.roles import Roles
from plans.propose.row_parts import row_parts, rows_suggested
from plans.propose.tally import Activity, share

# A copy is kept fresh by every write; larger tables need a reason of somebody.
COPY_BYTES_MAX: Final = 256 * 2**20
# What is read so much more often than written is cheap to copy, whatever its size.
READS_PER_WRITE: Final = 10.0
# How sure parts by row are where all inserts were seen.
ROWS_SEEN: Final = 0.9
# Less than this part of the writes may have been a repair or a migration.
WRITER_MIN: Final = 0.02


@dataclass(frozen=True, slots=True)
class Shape:
    """The plan's entry for a table, and what else it could be."""

    entry: Mapping[str, Any]
    services: tuple[str, ...]  # that own it or a part of it
    candidates: tuple[str, ...] = ()  # entries to choose from, as YAML
    said: tuple[str, ...] = ()  # about the entry, for its comment
    decide: str = ""
    confidence: float | None = None  # in the parts; None where there is one owner


@dataclass(frozen=True, slots=True)
class _Choice:
    """Parts, or what else a table could be."""

    entry: dict[str, Any] = field(default_factory=dict)
    services: tuple[str, ...] = ()
    candidates: tuple[str, ...] = ()
    said: tuple[str, ...] = ()
    decide: str = ""
    confidence: float | None = None


def shape(
    table: Table, owned: Owned, activity: Activity, evidence: Evidence, roles: Roles
) -> Shape:
    """What becomes of a table whose owner is proposed, or told."""
    if owned.told is not None:
        return Shape(_told_entry(table, owned.told, evidence), owned.told.services)
    choice = _parts(table, owned, activity, evidence, roles)
    if len(choice.services) > 1:
        return Shape(
            choice.entry, choice.services, said=choice.said, decide=choice.decide,
            confidence=choice.confidence,
        )  # fmt: skip
    readers = _readers(table, owned, activity)
    said = choice.said
    entry: dict[str, Any] = {"owner": owned.owner}
    if readers:
        entry["reference_in"] = list(readers)
        said = (*said, f"read by {', '.join(readers)}")
    decide = choice.decide or _seldom(owned, activity)
    return Shape(entry, (owned.owner,), choice.candidates, said, decide)


def _writers(activity: Activity) -> tuple[str, ...]:
    """Services that write a part worth the name, or some column all by themselves."""
    alone = {
        name for by in activity.columns.values() for name in by if share(by, name) >= WRITER_SURE
    }
    return tuple(
        name
        for name in sorted(activity.writes)
        if name in alone or share(activity.writes, name) >= WRITER_MIN
    )


def _seldom(owned: Owned, activity: Activity) -> str:
    """Who else writes, so seldom that it may have been a repair."""
    writers = {owned.owner, *_writers(activity)}
    found = [name for name in sorted(activity.writes) if name not in writers]
    return f"{' and '.join(found)} writes it too, seldom" if found else ""


def _parts(
    table: Table, owned: Owned, activity: Activity, evidence: Evidence, roles: Roles
) -> _Choice:
    """One owner, or parts; the choice is empty in all but what is to be decided if it is one."""
    writers = _writers(activity)
    columns = column_parts(table, owned.owner, activity, evidence, roles)
    if len(writers) < 2 and not (columns and columns.by_grant):
        return _Choice()
    if columns is not None and not columns.problem:
        return _by_columns(columns)
    if len(writers) < 2:
        return _Choice()
    rows = row_parts(table, writers, activity, evidence, roles)
    if rows is not None:
        return _Choice(
            {"split_rows": dict(rows.predicates)}, tuple(rows.predicates), said=(rows.why,),
            confidence=ROWS_SEEN,
        )  # fmt: skip
    suggested = rows_suggested(table, owned.owner, writers, activity, evidence, roles)
    decide = f"{' and '.join(writers)} write it"
    if suggested:
        decide += "; perhaps its rows can be told apart, see there"
    elif columns and columns.problem:
        decide += f"; {columns.problem}"
    return _Choice(candidates=suggested, decide=decide)


def _by_columns(columns: ColumnParts) -> _Choice:
    entry = {"split_columns": {name: list(part) for name, part in columns.parts.items()}}
    decide = ""
    if columns.guessed:
        decide = f"nobody was seen to write {', '.join(columns.guessed)}"
    return _Choice(
        entry, tuple(columns.parts), said=columns.said, decide=decide,
        confidence=columns.confidence,
    )  # fmt: skip


def _readers(table: Table, owned: Owned, activity: Activity) -> tuple[str, ...]:
    """Services that read what another writes, where a copy is cheap."""
    if not table.key or table.persistence == "u":
        return ()
    writes = sum(one.weight for one in activity.writes.values())
    reads = sum(one.weight for one in activity.reads.values())
    if table.size_bytes > COPY_BYTES_MAX and reads < READS_PER_WRITE * max(writes, 1.0):
        return ()
    writers = {owned.owner, *_writers(activity)}
    return tuple(name for name in sorted(activity.reads) if name not in writers)


def _told_entry(table: Table, told: Told, evidence: Evidence) -> dict[str, Any]:
    """The entry as it was told; of a table under `reference` with the copies that it needs."""
    entry = told.entry.model_dump(mode="json", exclude_defaults=True)
    if table.name in evidence.copied and told.services and set(entry) == {"owner"}:
        entry["reference_in"] = list(_pointing(table, evidence, told.services[0]))
    return entry


def _pointing(table: Table, evidence: Evidence, owner: str) -> tuple[str, ...]:
    """The services whose tables point to it; if there is none, all others."""
    pointing = {
        service
        for key in evidence.catalog.foreign_keys
        if evidence.root(key.references) == table.name
        and (told := evidence.told.get(evidence.root(key.table)))
        for service in told.services
    }
    others = [name for name in evidence.services if name != owner]
    return tuple(name for name in others if name in pointing) or tuple(others)


def shapes(
    owned: Mapping[TableName, Owned],
    activity: Mapping[TableName, Activity],
    evidence: Evidence,
    roles: Roles,
) -> dict[TableName, Shape]:
    """The shape of every table."""
    return {
        table.name: shape(
            table, owned[table.name], activity.get(table.name, Activity()), evidence, roles
        )
        for table in evidence.tables
    }
