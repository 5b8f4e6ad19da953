"""What a database says must hold of its rows: NOT NULL, CHECK, domains, enums, keys.

Exclusion constraints are left out: whether two rows exclude each other is their operators'
to say, for each pair of rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, LiteralString

from cdc.connect import Connection
from plans.catalog import TableName
from plans.expressions import read_expression
from validators.session import pinned

READ_S_MAX: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """Something that a table's definition says of its rows."""

    table: TableName
    name: str
    reads: frozenset[str]  # the columns that it is about


@dataclass(frozen=True, slots=True, kw_only=True)
class NotNull(Constraint):
    """These columns hold no NULL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check(Constraint):
    """A condition over a row, which NULL satisfies."""

    condition: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainCheck(Constraint):
    """A condition over VALUE, for one column; the type is what the domain is made of."""

    column: str
    type: str
    condition: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels(Constraint):
    """A column of an enum has one of these labels."""

    column: str
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unique(Constraint):
    """No two rows have the same values of these expressions."""

    expressions: tuple[str, ...]
    predicate: str | None = None  # of a partial index
    nulls_distinct: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class References(Constraint):
    """A row that refers to another is referring to one that is there."""

    columns: tuple[str, ...]
    references: TableName
    referenced: tuple[str, ...]
    match_full: bool = False


_NOT_NULL: Final[LiteralString] = """
SELECT n.nspname, c.relname, array_agg(a.attname::text ORDER BY a.attnum)
  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_type t ON t.oid = a.atttypid
 WHERE n.nspname = ANY ($1) AND c.relkind IN ('r', 'p') AND NOT c.relispartition
   AND a.attnum > 0 AND NOT a.attisdropped AND (a.attnotnull OR t.typnotnull)
 GROUP BY 1, 2
"""

_CHECKS: Final[LiteralString] = """
SELECT n.nspname, c.relname, k.conname, pg_get_expr(k.conbin, k.conrelid)
  FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = ANY ($1) AND k.contype = 'c' AND NOT c.relispartition
"""

# A domain may be made of another; each has conditions of its own.
_DOMAINS: Final[LiteralString] = """
WITH RECURSIVE chain (domain, above, base) AS (
    SELECT t.oid, t.oid, t.typbasetype FROM pg_type t WHERE t.typtype = 'd'
    UNION ALL
    SELECT chain.domain, t.oid, t.typbasetype
      FROM chain JOIN pg_type t ON t.oid = chain.base WHERE t.typtype = 'd')
SELECT n.nspname, c.relname, a.attname, k.conname, format_type(t.typbasetype, t.typtypmod),
       pg_get_expr(k.conbin, 0)
  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN chain ON chain.domain = a.atttypid
  JOIN pg_type t ON t.oid = chain.above
  JOIN pg_constraint k ON k.contypid = chain.above AND k.contype = 'c'
 WHERE n.nspname = ANY ($1) AND c.relkind IN ('r', 'p') AND NOT c.relispartition
   AND a.attnum > 0 AND NOT a.attisdropped
"""

_ENUMS: Final[LiteralString] = """
SELECT n.nspname, c.relname, a.attname, array_agg(e.enumlabel::text ORDER BY e.enumsortorder)
  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_enum e ON e.enumtypid = a.atttypid
 WHERE n.nspname = ANY ($1) AND c.relkind IN ('r', 'p') AND NOT c.relispartition
   AND a.attnum > 0 AND NOT a.attisdropped
 GROUP BY 1, 2, 3
"""

_UNIQUE: Final[LiteralString] = """
SELECT n.nspname, c.relname, x.relname, i.indnullsnotdistinct,
       pg_get_expr(i.indpred, i.indrelid),
       ARRAY(SELECT pg_get_indexdef(i.indexrelid, p, true)
               FROM generate_series(1, i.indnkeyatts) AS p)
  FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
  JOIN pg_class x ON x.oid = i.indexrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = ANY ($1) AND i.indisunique AND NOT c.relispartition
"""

_REFERENCES: Final[LiteralString] = """
SELECT n.nspname, c.relname, k.conname, rn.nspname, r.relname, k.confmatchtype = 'f',
       ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY AS u (num, place)
               JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.num
              ORDER BY u.place),
       ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY AS u (num, place)
               JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.num
              ORDER BY u.place)
  FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_class r ON r.oid = k.confrelid JOIN pg_namespace rn ON rn.oid = r.relnamespace
 WHERE n.nspname = ANY ($1) AND k.contype = 'f' AND k.conparentid = 0 AND NOT c.relispartition
"""


def read_constraints(connection: Connection, schemas: list[str]) -> tuple[Constraint, ...]:
    """The constraints of all tables in these schemas; what they name is qualified."""
    found: list[Constraint] = []
    # An empty path, so that names in expressions are written out.
    with pinned(connection, (), timeout_s=READ_S_MAX) as cursor:
        for query, made in (
            (_NOT_NULL, _not_null),
            (_CHECKS, _check),
            (_DOMAINS, _domain),
            (_ENUMS, _enum),
            (_UNIQUE, _unique),
            (_REFERENCES, _references),
        ):
            found += [made(*row) for row in cursor.execute(query, [schemas]).fetchall()]
    return tuple(sorted(found, key=lambda one: (one.table, type(one).__name__, one.name)))


def _not_null(schema: str, table: str, columns: list[str]) -> Constraint:
    return NotNull(table=TableName(schema, table), name="", reads=frozenset(columns))


def _check(schema: str, table: str, name: str, condition: str) -> Constraint:
    reads = read_expression(condition).reads
    return Check(table=TableName(schema, table), name=name, reads=reads, condition=condition)


def _domain(*row: Any) -> Constraint:  # noqa: ANN401 - what the query selects
    schema, table, column, name, type_, condition = row
    return DomainCheck(
        table=TableName(schema, table),
        name=f"{column} {name}",
        reads=frozenset({column}),
        column=column,
        type=type_,
        condition=condition,
    )


def _enum(schema: str, table: str, column: str, labels: list[str]) -> Constraint:
    return Labels(
        table=TableName(schema, table),
        name=column,
        reads=frozenset({column}),
        column=column,
        labels=tuple(labels),
    )


def _unique(*row: Any) -> Constraint:  # noqa: ANN401 - what the query selects
    schema, table, name, nulls_not_distinct, predicate, expressions = row
    return Unique(
        table=TableName(schema, table),
        name=name,
        reads=frozenset(_read_by([*expressions, *([predicate] if predicate else [])])),
        expressions=tuple(expressions),
        predicate=predicate,
        nulls_distinct=not nulls_not_distinct,
    )


def _references(*row: Any) -> Constraint:  # noqa: ANN401 - what the query selects
    schema, table, name, other_schema, other, match_full, columns, referenced = row
    return References(
        table=TableName(schema, table),
        name=name,
        reads=frozenset(columns),
        columns=tuple(columns),
        references=TableName(other_schema, other),
        referenced=tuple(referenced),
        match_full=match_full,
    )


def _read_by(expressions: list[str]) -> Iterator[str]:
    for text in expressions:
        yield from read_expression(text).reads


def label_of(expression: str) -> str:
    """A name for a key's expression: the column, if it is nothing else."""
    return read_expression(expression).plain or expression
