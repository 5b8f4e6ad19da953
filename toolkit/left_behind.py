"""What the source's fences refuse of services that stay, since it reaches tables that have moved.

A trigger or a foreign key with an action works within one database.  Once the table that it
writes has moved, the fence there refuses it, and with it the statement that set it off: also
one that would have changed no row there, for a fence looks at statements.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from cdc.connect import Connection
from plans.catalog import TableName
from plans.dependents import Dependent, read_dependents, sets_for_others
from toolkit.opened import Split

_DELETES = {"c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}


def refused_meanwhile(split: Split, source: Connection, gone: Iterable[str]) -> tuple[str, ...]:
    """A line for each trigger and key that would be in the way with these services gone.

    `source` must not be in a transaction.
    """
    away = frozenset(gone)
    return tuple(decide(split, read_dependents(source, split.catalog), away))


def decide(split: Split, dependents: Sequence[Dependent], away: frozenset[str]) -> Iterator[str]:
    """The same, from what was read."""
    for one in dependents:
        if one.table is None or not _stays(split, one.table, away):
            continue
        moved = sorted(table for table in one.writes if _has_left(split, table, away))
        if moved:
            names = ", ".join(map(str, moved))
            yield (
                f"trigger {one.name} writes {names}, which {_owners(split, moved, away)} has taken"
                f" along: what sets it off on {one.table} is refused"
            )
        parts = [r for r in split.routes if r.source.name == split.catalog.root(one.table)]
        for found in sets_for_others(one, parts):
            staying = " and ".join(service for service in found.others if service not in away)
            if found.owner in away and staying:
                yield (
                    f"trigger {one.name} sets {', '.join(found.columns)}, which {found.owner} has"
                    f" taken along: each UPDATE by {staying} that sets it off is refused"
                )
    for key in split.catalog.foreign_keys:
        table, references = split.catalog.root(key.table), split.catalog.root(key.references)
        actions = " and ".join(
            f"{event} {_DELETES[action]}"
            for event, action in (("ON DELETE", key.on_delete), ("ON UPDATE", key.on_update))
            if action in _DELETES
        )
        if actions and _stays(split, references, away) and _has_left(split, table, away):
            yield (
                f"foreign key {key.name} ({actions}) reaches {table}, which"
                f" {_owners(split, [table], away)} has taken along: such changes of"
                f" {references} are refused"
            )


def _stays(split: Split, table: TableName, away: frozenset[str]) -> bool:
    """Whether somebody still writes it to the source."""
    return bool(split.owners(split.catalog.root(table)) - away)


def _has_left(split: Split, table: TableName, away: frozenset[str]) -> bool:
    """Whether a fence stands there, around all of it or around a part."""
    return bool(split.owners(split.catalog.root(table)) & away)


def _owners(split: Split, tables: Sequence[TableName], away: frozenset[str]) -> str:
    found = frozenset[str]().union(*(split.owners(split.catalog.root(one)) for one in tables))
    return " and ".join(sorted(found & away))
