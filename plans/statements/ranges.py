"""The relations of one query level, and which columns of which tables a name means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from plans.catalog import TableName

Origin = tuple[TableName, str]
Columns = Mapping[str, tuple[Origin, ...]]
"""Visible names, and the tables' columns behind them; none if they were counted below."""


@dataclass(frozen=True, slots=True)
class Range:
    """One entry of FROM, or the target of a write."""

    alias: str
    columns: Columns
    tables: tuple[TableName, ...] = ()
    schema: str | None = None
    is_open: bool = False  # it may have more columns than are known
    is_hidden: bool = False  # only qualified names reach it: excluded, old, new


@dataclass(slots=True)
class Level:
    """A query's own relations and WITH queries, and the query around it."""

    parent: Level | None = None
    sees_parent: bool = True  # a subquery in FROM doesn't see its neighbours, unless LATERAL
    ranges: list[Range] = field(default_factory=list)
    ctes: dict[str, tuple[str, ...] | None] = field(default_factory=dict)

    def cte(self, name: str) -> tuple[bool, tuple[str, ...] | None]:
        """Whether a WITH query has this name, and its columns if they are known."""
        level: Level | None = self
        while level is not None:
            if name in level.ctes:
                return True, level.ctes[name]
            level = level.parent
        return False, None

    def visible(self) -> Iterator[Sequence[Range]]:
        """The relations that can be named here, level by level from the inside."""
        level: Level | None = self
        sees = True
        while level is not None:
            if sees:
                yield level.ranges
            sees, level = level.sees_parent, level.parent

    def star(self) -> tuple[str, ...] | None:
        """The columns of ``*`` here; None if they aren't known."""
        shown = [one for one in self.ranges if not one.is_hidden]
        if any(one.is_open for one in shown):
            return None
        return tuple(name for one in shown for name in one.columns)


def origins(level: Level, parts: Sequence[str]) -> Iterator[tuple[TableName, str | None]]:
    """The tables' columns that a name means; None for all columns of a table.

    A name that no relation here has is a variable of a function: nothing.
    """
    match parts:
        case ["*"]:
            shown = (one for one in level.ranges if not one.is_hidden)
            yield from ((table, None) for one in shown for table in one.tables)
        case [name]:
            yield from _unqualified(level, name)
        case [*qualifier, name]:
            if found := _range(level, qualifier):
                if name == "*":
                    yield from ((table, None) for table in found.tables)
                else:
                    yield from found.columns.get(name, ())
        case _:
            return


def not_a_column(level: Level, parts: Sequence[str]) -> Range | None:
    """The relation that qualifies a name which isn't one of its columns, if that is so."""
    if len(parts) == 1 or parts[-1] == "*":
        return None
    found = _range(level, parts[:-1])
    return None if found is None or parts[-1] in found.columns else found


def _unqualified(level: Level, name: str) -> Iterator[tuple[TableName, str | None]]:
    for ranges in level.visible():
        shown = [one for one in ranges if not one.is_hidden]
        having = [one for one in shown if name in one.columns]
        if having:
            for one in having:
                yield from one.columns[name]
            return
        if whole := [one for one in ranges if one.alias == name]:
            yield from ((table, None) for one in whole for table in one.tables)
            return


def _range(level: Level, qualifier: Sequence[str]) -> Range | None:
    alias, schema = qualifier[-1], qualifier[-2] if len(qualifier) > 1 else None
    for ranges in level.visible():
        for one in ranges:
            if one.alias == alias and schema in (None, one.schema):
                return one
    return None
