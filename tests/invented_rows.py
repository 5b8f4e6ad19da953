"""Invented rows for tables that the inventor knows only from the catalog.

Foreign keys lead to rows that are there, unique columns get values that are new, and what
a check or a trigger refuses is tried again with other values, and then left.
"""

from __future__ import annotations

import random
import string
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, LiteralString

import psycopg
from psycopg import sql

TRIES_MAX = 4
KNOWN_ROWS_MAX = 200  # of a table, to which others may refer

COLUMNS: LiteralString = """
SELECT c.relname, a.attname, COALESCE(b.oid, t.oid)::regtype::text,
       COALESCE(b.typcategory, t.typcategory),
       CASE WHEN t.typname IN ('varchar', 'bpchar') AND a.atttypmod > 4 THEN a.atttypmod - 4 END,
       a.attnotnull, a.atthasdef OR a.attidentity <> '', a.attgenerated <> '',
       ARRAY(SELECT enumlabel::text FROM pg_enum AS e
             WHERE enumtypid = COALESCE(b.oid, t.oid) ORDER BY enumsortorder)
FROM pg_attribute AS a
JOIN pg_class AS c ON c.oid = attrelid
JOIN pg_type AS t ON t.oid = atttypid
LEFT JOIN pg_type AS b ON b.oid = t.typbasetype
WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace AND attnum > 0
      AND NOT attisdropped
ORDER BY c.relname, attnum
"""
KEYS: LiteralString = """
SELECT c.relname, contype::text, conname, COALESCE(o.relname, ''),
       ARRAY(SELECT attname::text FROM unnest(conkey) WITH ORDINALITY AS k (n, at)
             JOIN pg_attribute ON attrelid = conrelid AND attnum = n ORDER BY at),
       ARRAY(SELECT attname::text FROM unnest(confkey) WITH ORDINALITY AS k (n, at)
             JOIN pg_attribute ON attrelid = confrelid AND attnum = n ORDER BY at)
FROM pg_constraint JOIN pg_class AS c ON c.oid = conrelid
LEFT JOIN pg_class AS o ON o.oid = confrelid
WHERE contype IN ('p', 'f') AND c.relnamespace = 'public'::regnamespace
ORDER BY c.relname, conname
"""


@dataclass(frozen=True, slots=True)
class Column:
    """What is known of a column."""

    name: str
    type: str
    category: str
    length: int | None
    required: bool
    given: bool  # it has a default, or numbers itself
    generated: bool
    labels: list[str]  # of an enum


@dataclass(frozen=True, slots=True)
class Reference:
    """A foreign key."""

    columns: tuple[str, ...]
    table: str
    keys: tuple[str, ...]


@dataclass(slots=True)
class Invented:
    """A table, and those of its rows that others may refer to."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()
    key_name: str = ""
    references: list[Reference] = field(default_factory=list)
    rows: list[Mapping[str, Any]] = field(default_factory=list)

    def needs(self) -> set[str]:
        """Tables without a row of which this one can have none."""
        required = {column.name for column in self.columns if column.required}
        return {
            reference.table
            for reference in self.references
            if required.issuperset(reference.columns) and reference.table != self.name
        }


class RowInventor:
    """All tables of the schema `public`; not for several threads."""

    def __init__(self, connection: psycopg.Connection[Any], seed: str) -> None:
        self.chance = random.Random(seed)  # noqa: S311 - not a secret
        columns: dict[str, list[Column]] = {}
        for table, *described in connection.execute(COLUMNS):
            columns.setdefault(table, []).append(Column(*described))
        self.tables = {name: Invented(name, tuple(found)) for name, found in columns.items()}
        for table, kind, name, other, here, there in connection.execute(KEYS):
            if kind == "p":
                self.tables[table].key, self.tables[table].key_name = tuple(here), name
            else:
                reference = Reference(tuple(here), other, tuple(there))
                self.tables[table].references.append(reference)
        for one in self.tables.values():
            self.know(connection, one)

    def know(self, connection: psycopg.Connection[Any], table: Invented) -> None:
        """Read rows to which others may refer."""
        query = sql.SQL("SELECT * FROM {} LIMIT {}").format(
            sql.Identifier(table.name), sql.Literal(KNOWN_ROWS_MAX)
        )
        table.rows = _mappings(connection.execute(query))

    def fill(self, connection: psycopg.Connection[Any], rows: int) -> list[str]:
        """Give each table about so many rows more; return the tables that are still empty."""
        for table in self._in_order():
            if not table.rows:
                self.know(connection, table)  # a trigger may have filled it
            for _ in range(rows):
                self.insert(connection, table)
        return [table.name for table in self.tables.values() if not table.rows]

    def insert(
        self, connection: psycopg.Connection[Any], table: Invented
    ) -> Mapping[str, Any] | None:
        """Insert a row and return it; None if the database wants none of those tried."""
        for _ in range(TRIES_MAX):
            values = self.values(table)
            if values is None:
                return None
            query = sql.SQL("INSERT INTO {} ({}) VALUES ({}) RETURNING *").format(
                sql.Identifier(table.name),
                sql.SQL(", ").join(map(sql.Identifier, values)),
                sql.SQL(", ").join([sql.Placeholder()] * len(values)),
            )
            try:
                with connection.transaction():
                    (row,) = _mappings(connection.execute(query, list(values.values())))
            except (
                psycopg.errors.IntegrityError,
                psycopg.errors.DataError,
                psycopg.errors.RaiseException,
            ):
                continue
            table.rows.append(row)
            return row
        return None

    def values(self, table: Invented) -> dict[str, Any] | None:
        """Values for a new row; None if it would have to refer to a table that is empty."""
        values = self._referring(table)
        referring = {name for one in table.references for name in one.columns}
        for column in table.columns:
            if column.generated or column.name in values:
                continue
            if column.name in referring:
                if column.required:
                    return None
            elif not column.given or (column.name not in table.key and self.chance.random() < 0.5):
                values[column.name] = self.value(column)
        if not values:  # a row of defaults, and an INSERT that names a column
            column = next(one for one in table.columns if one.name not in table.key)
            values[column.name] = self.value(column)
        return values

    def _referring(self, table: Invented) -> dict[str, Any]:
        """Values for the columns of foreign keys, as far as there are rows to refer to."""
        values: dict[str, Any] = {}
        for reference in table.references:
            if rows := self.tables[reference.table].rows:
                row = self.chance.choice(rows)
                pairs = zip(reference.columns, reference.keys, strict=True)
                values.update({column: row[key] for column, key in pairs})
        return values

    def value(self, column: Column) -> object:
        """A value of the column's type; NULL now and then where it may be."""
        if not column.required and self.chance.random() < 0.2:
            return None
        number = self.chance.randrange(1, 30_000)
        if column.labels:
            return self.chance.choice(column.labels)
        match column.category:
            case "B":
                return self.chance.random() < 0.5
            case "N":
                return self.chance.randrange(1, 99) if column.type == "numeric" else number
            case "S":
                return self.text(column)
            case "A":
                return []
            case "D":
                return f"2024-{number % 12 + 1:02}-{number % 28 + 1:02}"
            case _:
                return self._other(column.type, number)

    def text(self, column: Column) -> str:
        """Text that has hardly been there before, as far as its length allows."""
        length = min(column.length or 40, 12 + self.chance.randrange(28))
        word = "".join(self.chance.choices(string.ascii_lowercase, k=length))
        return word if self.chance.random() < 0.7 else word[:-6] + " é%_\\'"[: len(word[-6:])]

    def _other(self, kind: str, number: int) -> object:
        match kind:
            case "json" | "jsonb":
                return f'{{"n": {number}, "of": [null, "\u00e9"]}}'
            case "bytea":
                return self.chance.randbytes(number % 300)
            case "ltree":
                return f"0.{number}"
            case "uuid":
                return f"{self.chance.getrandbits(128):032x}"
            case _:
                raise AssertionError(f"no value of type {kind} was ever invented")

    def _in_order(self) -> list[Invented]:
        """The tables, each after those that it needs."""
        ordered: dict[str, Invented] = {}
        while len(ordered) < len(self.tables):
            ready = self._ready(ordered)
            assert ready, f"tables that need each other: {self.tables.keys() - ordered.keys()}"
            ordered.update({name: self.tables[name] for name in ready})
        return list(ordered.values())

    def _ready(self, done: Collection[str]) -> list[str]:
        return [
            name
            for name, table in self.tables.items()
            if name not in done and table.needs().issubset(done)
        ]


def _mappings(cursor: psycopg.Cursor[Any]) -> list[Mapping[str, Any]]:
    names = [column.name for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor]
