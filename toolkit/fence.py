"""Fences: triggers that refuse an application's writes on the side that does not lead.

The applier is let through by a session setting, not by its role: where an
application logs in as the role that runs the split, the role would tell nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from plans.catalog import Table, TableName

TRIGGER = "dbsplit_fence"
PART_TRIGGER = "dbsplit_fence_part"  # for each row, where others still write the table
TRUNCATE_TRIGGER = "dbsplit_fence_truncate"  # beside that one, which cannot see TRUNCATE
INSERT_TRIGGER = "dbsplit_fence_insert"  # on a side that leads, and is open for all but inserts
ROWS_TRIGGER = "dbsplit_fence_rows"  # on a side that leads, and is open for its own rows alone
ON_LEAVES = (TRIGGER, TRUNCATE_TRIGGER, INSERT_TRIGGER)  # a leaf's row trigger is its table's
ALL_TRIGGERS = (*ON_LEAVES, PART_TRIGGER, ROWS_TRIGGER)


@dataclass(frozen=True, slots=True)
class Part:
    """What of a table is fenced while other services still write the rest."""

    service: str
    predicate: str | None = None  # rows of a table split by rows
    columns: tuple[str, ...] = ()  # columns, but the key, of one split by columns


@dataclass(frozen=True, slots=True)
class Fence:
    """The fence of one table: what is refused, and what the writer is told."""

    split: str
    table: Table
    message: str
    hint: str
    parts: tuple[Part, ...] = ()  # () fences the whole table
    inserts_only: bool = False
    rows: str | None = None  # fences all rows for which this is not true
    is_last: bool = True  # whether it takes the place of all others

    @property
    def relations(self) -> tuple[TableName, ...]:
        """The relations that carry a trigger: leaves can be written directly."""
        return (self.table.name, *self.table.leaves)

    @property
    def trigger(self) -> str:
        """The trigger by which each of the relations tells that the fence stands."""
        if self.parts:
            return PART_TRIGGER
        if self.rows is not None:
            return ROWS_TRIGGER
        return INSERT_TRIGGER if self.inserts_only else TRIGGER


def moved(split: str, table: Table, services: Iterable[str]) -> Fence:
    """The fence of a table that its service took along."""
    names = " and ".join(sorted(services))
    return Fence(
        split,
        table,
        f"table {table.name.name} has moved to service {names}",
        f"write to the database of service {names}",
    )


def not_yet(split: str, table: Table, service: str) -> Fence:
    """The fence of a table in a target that does not lead yet."""
    return Fence(
        split,
        table,
        f"table {table.name.name} has not moved to service {service}",
        "write to the source; this database follows it",
    )


def no_inserts(split: str, table: Table, service: str, missing: Iterable[str]) -> Fence:
    """What stays of a fence where rows that the service inserts could not travel back."""
    return Fence(
        split,
        table,
        f"rows of {table.name.name} cannot be inserted by service {service} until the split is "
        f"complete: the source needs {', '.join(missing)}, and a rollback would not have it",
        "let the service that owns these columns insert the row, or give them a default in the "
        "source before the cutover",
        inserts_only=True,
    )


def own_rows(
    split: str,
    table: Table,
    service: str,
    others: Iterable[str],
    predicate: str,
    *,
    is_last: bool,
) -> Fence:
    """What stays of a fence around a table whose other rows other services own.

    A row that came to be another service's here would be in both databases, and each
    would go on writing it.  `is_last` if no other fence comes in place of the whole one.
    """
    return Fence(
        split,
        table,
        f"this row of {table.name.name} is not one of service {service}: {predicate} is not true",
        f"such rows belong to the database of service {' or '.join(sorted(others))}: let that "
        "service insert the row, and delete it here",
        rows=predicate,
        is_last=is_last,
    )


def copy_of(split: str, table: Table, owners: Iterable[str]) -> Fence:
    """The fence of a table that is fed from rows that other services own, or nobody."""
    names = " and ".join(sorted(owners))
    whose = f"the data of service {names}" if names else "the source"
    return Fence(
        split,
        table,
        f"table {table.name.name} is kept from {whose}, and read-only here",
        f"write to the database of service {names}" if names else "write to the source",
    )
