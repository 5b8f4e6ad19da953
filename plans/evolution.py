"""How a source's tables have changed since they were noted; comparing only.

What was noted is a table's shape, and by which numbers the server knows it and its
columns: so a renamed column is told from one that was dropped while another was added.
A change is carried over in place if it is known what it did to the rows that are there.
Otherwise the table is copied anew: a copy has a horizon of its own, and what the log
tells of the table before it does not matter any more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from plans.catalog import Catalog, Column, Table, TableName

_TEXT = re.compile(r"character varying(?:\((\d+)\))?|text")


class Kind(Enum):
    """What a change is, and the policy of the plan's `ddl:` that it falls under."""

    ADDED_COLUMN = "added_columns"
    DROPPED_COLUMN = "dropped_columns"
    RENAMED_COLUMN = "changed_columns:renamed"
    EXCHANGED_COLUMN = "changed_columns:exchanged"  # renamed to what another was called
    WIDENED_COLUMN = "changed_columns:widened"
    RETYPED_COLUMN = "changed_columns:retyped"
    NULLABLE_COLUMN = "changed_columns:null"
    GENERATED_COLUMN = "changed_columns:generated"
    REMADE_COLUMN = "changed_columns:remade"
    KEY = "changed_columns:key"
    NEW_TABLE = "new_tables"
    GONE_TABLE = "gone_tables"
    RENAMED_TABLE = "gone_tables:renamed"
    REMADE_TABLE = "gone_tables:remade"
    NEW_PARTITION = "new_partitions"
    ATTACHED_PARTITION = "new_partitions:attached"
    LOST_PARTITION = "lost_partitions"
    ENUM_LABEL = "enum_labels"
    ENUM_RENAMED = "changed_columns:label"  # of the type
    RELABELLED = "changed_columns:labels"  # of each table with such a column
    DOMAIN = "changed_columns:domain"
    ATTRIBUTES = "changed_columns:attributes"  # of a composite type
    RECOMPOSED = "changed_columns:composed"  # of each table with such a column

    @property
    def policy(self) -> str:
        """The key below `ddl:`."""
        return self.value.partition(":")[0]


_IN_PLACE = frozenset(
    {
        Kind.DROPPED_COLUMN,
        Kind.RENAMED_COLUMN,
        Kind.WIDENED_COLUMN,
        Kind.NULLABLE_COLUMN,
        Kind.NEW_PARTITION,
        Kind.LOST_PARTITION,
        Kind.ENUM_LABEL,
        Kind.ENUM_RENAMED,
        Kind.DOMAIN,
        Kind.ATTRIBUTES,
        Kind.GONE_TABLE,
    }
)
OF_TYPES = frozenset({Kind.ENUM_LABEL, Kind.ENUM_RENAMED, Kind.DOMAIN, Kind.ATTRIBUTES})
"""Changes of types, not of tables."""


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that is not as it was noted."""

    kind: Kind
    table: TableName  # of an enum's label: the type's name
    object: str = ""  # the column, partition or label
    was: str = ""
    now: str = ""
    filled: bool = False  # of an added column: what the rows of before have is known

    @property
    def in_place(self) -> bool:
        """Whether it can be carried over without copying the table anew."""
        return self.kind in _IN_PLACE or (self.kind is Kind.ADDED_COLUMN and self.filled)

    def __str__(self) -> str:
        said = {
            Kind.ADDED_COLUMN: f"has a new column {self.object} ({self.now})",
            Kind.DROPPED_COLUMN: f"has lost column {self.object}",
            Kind.RENAMED_COLUMN: f"has column {self.was} renamed to {self.object}",
            Kind.EXCHANGED_COLUMN: f"has column {self.was} renamed to {self.object}, which was"
            " another's name",
            Kind.WIDENED_COLUMN: f"has column {self.object} as {self.now} instead of {self.was}",
            Kind.RETYPED_COLUMN: f"has column {self.object} as {self.now} instead of {self.was}",
            Kind.NULLABLE_COLUMN: f"has column {self.object} {self.now}",
            Kind.GENERATED_COLUMN: f"has column {self.object} generated in another way",
            Kind.REMADE_COLUMN: f"has column {self.object} dropped and made anew",
            Kind.KEY: f"has the key ({self.now}) instead of ({self.was})",
            Kind.NEW_TABLE: "is new",
            Kind.GONE_TABLE: f"is {self.now} now, in a schema that the plan does not list"
            if self.now
            else "is gone",
            Kind.REMADE_TABLE: "was dropped and created again",
            Kind.RENAMED_TABLE: f"is renamed to {self.now}",
            Kind.NEW_PARTITION: f"has a new partition {self.object}",
            Kind.ATTACHED_PARTITION: f"has got partition {self.object}, which had rows before",
            Kind.LOST_PARTITION: f"has lost partition {self.object}",
            Kind.ENUM_LABEL: f"has a new value {self.object!r}",
            Kind.ENUM_RENAMED: f"has the value {self.was!r} renamed to {self.object!r}",
            Kind.RELABELLED: f"has column {self.object} of a type with a renamed value",
            Kind.DOMAIN: "has other constraints, or another default",
            Kind.ATTRIBUTES: f"has the attributes ({self.now}) instead of ({self.was})",
            Kind.RECOMPOSED: f"has column {self.object} of a type with other attributes",
        }[self.kind]
        subject = "type" if self.kind in OF_TYPES else "table"
        return f"{subject} {self.table} {said}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnNumbers:
    """How the server knows a column."""

    number: int
    type_oid: int
    type_mod: int
    missing: bool = False  # rows of before have a constant, which the server keeps
    has_default: bool = False

    @property
    def type(self) -> tuple[int, int]:
        """The type and its modifier."""
        return self.type_oid, self.type_mod


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """How the server knows a table; for a moment, or as it was noted."""

    oid: int
    columns: Mapping[str, ColumnNumbers]
    leaves: Mapping[str, bool] = field(default_factory=dict)  # to: whether it was attached
    files: Mapping[str, int] = field(default_factory=dict)  # of itself and of its leaves
    places: Mapping[str, str] = field(default_factory=dict)
    """By leaf, the transactions that have put it and what it is in there."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON; what only counts at the moment is left out."""
        return {
            "oid": self.oid,
            "columns": {
                name: [one.number, one.type_oid, one.type_mod] for name, one in self.columns.items()
            },
            "leaves": sorted(self.leaves),
            "files": dict(self.files),
            "places": dict(self.places),
        }

    @classmethod
    def of(cls, noted: Mapping[str, Any]) -> Numbers:
        """As it was noted."""
        return cls(
            oid=noted["oid"],
            columns={
                name: ColumnNumbers(number=number, type_oid=oid, type_mod=mod)
                for name, (number, oid, mod) in noted["columns"].items()
            },
            leaves=dict.fromkeys(noted["leaves"], False),
            files=noted["files"],
            places=noted.get("places", {}),
        )


Shapes = Mapping[str, Mapping[str, Any]]


def changes(
    shapes: Shapes,
    noted: Mapping[str, Numbers],
    catalog: Catalog,
    now: Mapping[str, Numbers],
) -> Iterator[Change]:
    """All changes of tables, in the order of their names.

    `shapes` and `noted` are what was noted of the tables that are followed; `catalog`
    and `now` are as things are.
    """
    tables = {str(name): table for name, table in catalog.tables.items()}
    by_oid = {numbers.oid: name for name, numbers in now.items()}
    for name, shape in sorted(shapes.items()):
        table, before = tables.get(name), noted.get(name)
        if table is not None and before is not None and name in now:
            if before.oid != now[name].oid:
                yield Change(Kind.REMADE_TABLE, table.name)
            yield from _of_columns(table, shape, before, now[name])
            yield from _of_partitions(table, before, now[name])
            continue
        moved = by_oid.get(before.oid) if before is not None else None
        gone = TableName(*name.split(".", 1))
        if moved is not None and moved not in shapes:
            yield Change(Kind.RENAMED_TABLE, gone, now=moved)
        else:
            yield Change(Kind.GONE_TABLE, gone)


def labels_changed(
    name: TableName, ours: Sequence[str], theirs: Sequence[str]
) -> tuple[list[Change], str]:
    """How a source's enum has changed, seen from a target's; and what cannot be told, or "".

    A value cannot be dropped.  So one that only the target has was renamed, or is its own;
    between two values that both have, as many new ones as lost ones are those renamed.
    """
    common = [label for label in ours if label in theirs]
    found: list[Change] = []
    unclear = ""
    for came, went in zip(_between(ours, common), _between(theirs, common), strict=True):
        if not went:
            found += [Change(Kind.ENUM_LABEL, name, label) for label in came]
        elif len(came) == len(went):
            pairs = zip(went, came, strict=True)
            found += [Change(Kind.ENUM_RENAMED, name, new, was=old) for old, new in pairs]
        elif came:
            unclear = (
                f"type {name} has {', '.join(map(repr, came))} where a target has "
                f"{', '.join(map(repr, went))}: which of them was renamed cannot be told"
            )
    return found, unclear


def _between(labels: Sequence[str], common: Sequence[str]) -> list[list[str]]:
    """What stands before the first of the common ones, between them, and behind the last."""
    found: list[list[str]] = [[]]
    for label in labels:
        if label in common:
            found.append([])
        else:
            found[-1].append(label)
    return found


def _of_columns(
    table: Table, shape: Mapping[str, Any], before: Numbers, now: Numbers
) -> Iterator[Change]:
    then: Mapping[str, Any] = shape["columns"]
    renamed = dict(_renamed(before, now))
    old_names = {new: old for old, new in renamed.items()}
    for old, new in renamed.items():
        kind = Kind.EXCHANGED_COLUMN if new in then else Kind.RENAMED_COLUMN
        yield Change(kind, table.name, new, was=old)
    for name in then:
        if name not in renamed and (name not in now.columns or name in old_names):
            yield Change(Kind.DROPPED_COLUMN, table.name, name)
    for column in table.columns:
        old = old_names.get(column.name, column.name)
        if old in then:
            yield from _of_column(table, column, then[old], before, now, old)
        else:
            filled = _is_filled(table, column.name, before, now)
            yield Change(Kind.ADDED_COLUMN, table.name, column.name, now=column.type, filled=filled)
    key = [renamed.get(name, name) for name in shape["key"]]
    if key != list(table.key):
        yield Change(Kind.KEY, table.name, was=", ".join(shape["key"]), now=", ".join(table.key))


def _of_column(
    table: Table, column: Column, then: Sequence[Any], before: Numbers, now: Numbers, old: str
) -> Iterator[Change]:
    type_, not_null, generated = then
    name, numbers, was = column.name, now.columns[column.name], before.columns[old]
    is_rewritten = _is_rewritten(before, now)
    if was.number != numbers.number:
        yield Change(Kind.REMADE_COLUMN, table.name, name)
    elif type_ != column.type or was.type != numbers.type:
        # What was written anew may hold other values, such as by USING.
        kept = widens(type_, column.type) and not is_rewritten
        kind = Kind.WIDENED_COLUMN if kept else Kind.RETYPED_COLUMN
        yield Change(kind, table.name, name, was=type_, now=column.type)
    if generated != column.generated:
        yield Change(Kind.GENERATED_COLUMN, table.name, name)
    if not_null != column.not_null:
        said = "NOT NULL" if column.not_null else "without NOT NULL"
        yield Change(Kind.NULLABLE_COLUMN, table.name, name, now=said)


def _renamed(before: Numbers, now: Numbers) -> Iterator[tuple[str, str]]:
    by_number = {one.number: name for name, one in now.columns.items()}
    for name, one in before.columns.items():
        new = by_number.get(one.number)
        if new is not None and new != name:
            yield name, new


def widens(was: str, now: str) -> bool:
    """Whether every value of the old type is one of the new, in the same bytes."""
    old, new = _TEXT.fullmatch(was), _TEXT.fullmatch(now)
    if old is None or new is None:
        return False
    return new[1] is None or (old[1] is not None and int(old[1]) <= int(new[1]))


def _is_filled(table: Table, name: str, before: Numbers, now: Numbers) -> bool:
    """Whether it is known what an added column holds in the rows of before.

    A table that was not written anew has NULL there, or the constant that the server
    keeps for it.
    """
    column, numbers = table.column(name), now.columns[name]
    if column.generated is not None:
        return True
    if numbers.missing:
        return True
    same_files = not _is_rewritten(before, now)
    return same_files and not numbers.has_default and not column.identity and not column.not_null


def _is_rewritten(before: Numbers, now: Numbers) -> bool:
    """Whether a table or a partition of it has other files than before."""
    return any(now.files.get(one, file) != file for one, file in before.files.items())


def _of_partitions(table: Table, before: Numbers, now: Numbers) -> Iterator[Change]:
    for leaf, attached in sorted(now.leaves.items()):
        if leaf not in before.leaves:
            kind = Kind.ATTACHED_PARTITION if attached else Kind.NEW_PARTITION
            yield Change(kind, table.name, leaf)
        elif before.places.get(leaf, now.places.get(leaf)) != now.places.get(leaf):
            # What was written to it while it was detached is in no log that we follow.
            yield Change(Kind.ATTACHED_PARTITION, table.name, leaf)
    for leaf in sorted(before.leaves):
        if leaf not in now.leaves:
            yield Change(Kind.LOST_PARTITION, table.name, leaf)
