"""What a database holds, as its own catalog tells it.

Values only; `plans.catalog_read` fills them from ``pg_catalog`` in one
snapshot.  Types are written as ``format_type`` writes them under an empty
``search_path``, so that a name means the same on every server.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from psycopg import sql

_NAME_PART = re.compile(r'"(?:[^"]|"")*"|[^."]+')


@dataclass(frozen=True, slots=True, order=True)
class TableName:
    """A relation's qualified name."""

    schema: str
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def identifier(self) -> sql.Identifier:
        """The name, quoted for SQL."""
        return sql.Identifier(self.schema, self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column, with what a copy of it has to know."""

    name: str
    type: str  # format_type(), qualified unless in pg_catalog
    is_portable: bool  # its binary form means the same on every server
    not_null: bool = False
    default: str | None = None  # pg_get_expr(); None also for generated columns
    identity: Literal["", "a", "d"] = ""
    generated: str | None = None  # the generation expression
    generated_kind: Literal["", "s", "v"] = ""
    collation: str | None = None  # qualified and quoted; None for the type's own
    toastable: bool = False  # a long value may stay out of line, and out of the stream
    sequence: TableName | None = None  # the sequence its default or identity draws from


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table or a partitioned table; leaves are listed with their root."""

    name: TableName
    kind: Literal["r", "p"]
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...] = ()
    key_deferrable: bool = False
    temporal_keys: frozenset[tuple[str, ...]] = frozenset()  # those WITHOUT OVERLAPS, since 18
    replica_identity: Literal["d", "n", "f", "i"] = "d"
    identity_index_columns: tuple[str, ...] = ()  # with replica_identity 'i'
    parent: TableName | None = None  # of a partition or an inheritance child
    is_partition: bool = False
    leaves: tuple[TableName, ...] = ()  # all partitions without partitions of their own
    persistence: Literal["p", "u", "t"] = "p"
    rows_estimated: int = 0
    size_bytes: int = 0

    @property
    def key(self) -> tuple[str, ...]:
        """The columns by which a row is told apart, () if there are none."""
        if self.replica_identity == "i" and self.identity_index_columns:
            return self.identity_index_columns
        return self.primary_key

    @property
    def has_deferrable_key(self) -> bool:
        """Whether two rows may have the same key until a transaction's end."""
        return self.key_deferrable and self.key == self.primary_key

    @property
    def logs_key(self) -> bool:
        """Whether the log says by the key which row was changed, and no more of it."""
        is_key = self.replica_identity == "i" or (
            self.replica_identity == "d" and not self.key_deferrable
        )
        return bool(self.key) and is_key

    @property
    def has_temporal_key(self) -> bool:
        """Whether rows are told apart WITHOUT OVERLAPS, which an exclusion sees to."""
        return self.key in self.temporal_keys

    def column(self, name: str) -> Column:
        """The column called `name`; KeyError if there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignKey:
    """A foreign key between two tables."""

    name: str
    table: TableName
    columns: tuple[str, ...]
    references: TableName
    referenced_columns: tuple[str, ...]
    definition: str  # pg_get_constraintdef()
    on_delete: str  # 'a' no action, 'r', 'c' cascade, 'n' set null, 'd' set default
    on_update: str
    deferrable: bool = False


def name_parts(name: str) -> tuple[str, ...]:
    """The identifiers of a dotted name, each quoted as in SQL or not at all."""
    return tuple(
        part[1:-1].replace('""', '"') if part.startswith('"') else part
        for part in _NAME_PART.findall(name)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """The schemas of one database that a plan speaks about."""

    server_version: int  # server_version_num
    database: str
    schemas: tuple[str, ...]
    tables: Mapping[TableName, Table] = field(default_factory=dict)
    foreign_keys: tuple[ForeignKey, ...] = ()
    foreign_tables: tuple[TableName, ...] = ()  # their rows are in another database
    foreign_partitions: frozenset[TableName] = frozenset()  # those of them that are partitions
    views: tuple[TableName, ...] = ()  # materialized ones too
    schemas_there: tuple[str, ...] = ()  # all of the database; () if it was not asked

    def root(self, name: TableName) -> TableName:
        """The partitioned table that `name` is a partition of, at any depth; else `name`."""
        table = self.tables.get(name)
        while table and table.is_partition and table.parent:
            name, table = table.parent, self.tables.get(table.parent)
        return name

    def find(self, name: str) -> Table | None:
        """The table that a plan calls ``name`` or ``schema.name``; see `named`."""
        found = self.named(name, self.tables)
        return self.tables[found] if found else None

    def named(self, name: str, among: Container[TableName]) -> TableName | None:
        """The relation, of those given, that is called ``name`` or ``schema.name``.

        A name may be quoted as in SQL, and need not be.  An unqualified name is
        looked up in the plan's schemas in their order.
        """
        return next((one for one in self._readings(name) if one in among), None)

    def _readings(self, name: str) -> Iterator[TableName]:
        if '"' in name and len(parts := name_parts(name)) in (1, 2):
            for schema in parts[:-1] or self.schemas:
                yield TableName(schema, parts[-1])
        if "." in name:
            schema, _, table = name.partition(".")
            yield TableName(schema, table)
        for schema in self.schemas:
            yield TableName(schema, name)
