"""All that a proposal is made from; values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from plans.catalog import Catalog, Table, TableName
from plans.dependents import Dependent
from plans.model import DROP, TablePlan
from plans.usage.model import Statistics, Usage


@dataclass(frozen=True, slots=True)
class Told:
    """What the owners file says of a table."""

    entry: TablePlan
    place: str  # "owners.yaml:12:5"

    @property
    def services(self) -> tuple[str, ...]:
        """The services that get the table or a part of it to write; () if it is left behind."""
        entry = self.entry
        parts = [*(entry.split_columns or {}), *(entry.split_rows or {})]
        named = [entry.owner] if entry.owner else parts
        return tuple(name for name in named if name and name != DROP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known of a database and of those who use it."""

    catalog: Catalog
    services: tuple[str, ...]
    roles: Mapping[str, str] = field(default_factory=dict)  # as told: role to service
    told: Mapping[TableName, Told] = field(default_factory=dict)
    copied: frozenset[TableName] = frozenset()  # the owners file's `reference`
    usage: Usage = field(default_factory=Usage)
    statistics: Statistics = field(default_factory=Statistics)
    dependents: tuple[Dependent, ...] = ()

    @property
    def tables(self) -> tuple[Table, ...]:
        """The tables that need an owner, in the order of their names: no partitions."""
        return tuple(table for table in self.catalog.tables.values() if not table.is_partition)

    def root(self, name: TableName) -> TableName:
        """The table that `name` is a partition of, at the top; else itself."""
        table = self.catalog.tables.get(name)
        while table and table.is_partition and table.parent and table.parent in self.catalog.tables:
            table = self.catalog.tables[table.parent]
        return table.name if table else name
