"""Types for raw rows of the source on a target that has other types, or none.

The stream stages source rows as they are and evaluates the routes' expressions
on them.  Where the target lacks a type of the source (the orchestrator has no
``public.order_status``), it gets one of the same make in our own schema; a domain
is staged as its base type, since the source has checked the value already.  Only in
arrays a domain over an array is staged as itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg

from plans.catalog import Table
from plans.errors import NotReady
from plans.schema.reading import Cursor, reading

STAGING_SCHEMA = "dbsplit"

_TYPES = """
SELECT t.oid, t.typtype::text AS kind, format_type(t.oid, NULL) AS name,
       n.nspname AS schema, t.typname AS local,
       n.nspname = 'pg_catalog' AS builtin, s.staged, quote_ident(s.staged) AS staged_quoted,
       quote_ident(s.staged || '_multi') AS staged_multi,
       CASE WHEN t.typcategory = 'A' AND t.typtype = 'b' THEN t.typelem ELSE 0 END AS element,
       t.typbasetype AS base, format_type(t.typbasetype, t.typtypmod) AS base_name,
       coalesce((SELECT rngsubtype FROM pg_range
                  WHERE rngtypid = t.oid OR rngmultitypid = t.oid), 0) AS subtype,
       (SELECT rngtypid FROM pg_range WHERE rngmultitypid = t.oid) AS range,
       ARRAY(SELECT e.enumlabel::text FROM pg_enum e
              WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder) AS labels,
       (SELECT string_agg(quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder)
          FROM pg_enum e WHERE e.enumtypid = t.oid) AS label_literals,
       (SELECT e.extname FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
         WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e'
           AND d.refclassid = 'pg_extension'::regclass) AS extension
  FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace,
       concat(CASE n.nspname WHEN 'public' THEN '' ELSE n.nspname || '_' END, t.typname) s (staged)
 WHERE t.typtype <> 'p' AND n.nspname <> 'information_schema'
"""

_ATTRIBUTES = """
SELECT t.oid, quote_ident(a.attname) AS name, a.atttypid AS type,
       format_type(a.atttypid, a.atttypmod) AS written
  FROM pg_type t JOIN pg_attribute a ON a.attrelid = t.typrelid
  JOIN pg_namespace n ON n.oid = t.typnamespace
 WHERE t.typtype = 'c' AND a.attnum > 0 AND NOT a.attisdropped
   AND n.nspname NOT IN ('pg_catalog', 'information_schema')
 ORDER BY t.oid, a.attnum
"""

_COLUMNS = """
SELECT a.attname AS name, a.atttypid AS type, format_type(a.atttypid, a.atttypmod) AS written
  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %s AND c.relname = %s AND a.attnum > 0 AND NOT a.attisdropped
"""


@dataclass(frozen=True, slots=True)
class StagingTypes:
    """What the target needs before it can hold the table's raw rows."""

    statements: tuple[str, ...]  # to be run in this order; none if all is there
    types: Mapping[str, str]
    """A column's type on the source, as format_type() writes it, to that on the target.

    Every type of the table's columns is a key, the unchanged ones too.
    """


@dataclass(frozen=True, slots=True)
class _Types:
    """The types of one server."""

    by_oid: Mapping[int, Any]
    by_name: Mapping[tuple[str, str], Any]
    attributes: Mapping[int, tuple[Any, ...]]

    @classmethod
    def read(cls, cursor: Cursor) -> _Types:
        rows = cursor.execute(_TYPES).fetchall()
        attributes: dict[int, tuple[Any, ...]] = {}
        for row in cursor.execute(_ATTRIBUTES):
            attributes[row.oid] = (*attributes.get(row.oid, ()), row)
        by_name = {(row.schema, row.local): row for row in rows}
        return cls({row.oid: row for row in rows}, by_name, attributes)

    def is_domain_over_array(self, oid: int) -> bool:
        """Whether values of the type are arrays, though it is none."""
        row = self.by_oid[oid]
        if row.kind != "d":
            return False
        base = self.by_oid[row.base]
        return bool(base.element) or self.is_domain_over_array(base.oid)


@dataclass(slots=True)
class _Staging:
    source: _Types
    target: _Types
    made: dict[int, str] = field(default_factory=dict)  # source type -> name on the target
    statements: list[str] = field(default_factory=list)

    def name(self, oid: int, written: str) -> str:
        """How the target is to call the type that the source writes as `written`."""
        row = self.source.by_oid[oid]
        if row.element and not row.builtin:
            return self._element(row.element) + "[]"
        if row.builtin:
            return str(written)
        if row.kind == "d":
            return self.name(row.base, row.base_name)
        if self._is_there(row):
            return str(written)
        if row.extension:
            raise NotReady(
                f"type {row.name} comes from the extension {row.extension},"
                " which the target does not have",
                hint=f"CREATE EXTENSION {row.extension} in the target",
            )
        return self._made(row)

    def _element(self, oid: int) -> str:
        """How it is to call the type of an array's elements.

        A domain over an array stays one: an array of arrays is no type.
        """
        row = self.source.by_oid[oid]
        if not self.source.is_domain_over_array(oid):
            return self.name(oid, row.name)
        return str(row.name) if self._is_there(row) else self._made(row)

    def _made(self, row: Any) -> str:  # noqa: ANN401 - a row
        if row.oid not in self.made:
            self.made[row.oid] = self._make(row)
        return self.made[row.oid]

    def _is_there(self, row: Any) -> bool:  # noqa: ANN401 - a row
        """Whether the target has the same type under the same name."""
        other = self.target.by_name.get((row.schema, row.local))
        return other is not None and self._is_same(row, other)

    def _is_same(self, row: Any, other: Any) -> bool:  # noqa: ANN401 - rows
        if (row.kind, row.labels, row.extension) != (other.kind, other.labels, other.extension):
            return False
        if row.base and self._written(row.oid) != self._base(other.oid, other.name):
            return False
        if row.subtype and self._written(row.subtype) != self.target.by_oid[other.subtype].name:
            return False
        ours = [
            (a.name, self.name(a.type, a.written)) for a in self.source.attributes.get(row.oid, ())
        ]
        theirs = [
            (a.name, self._base(a.type, a.written))
            for a in self.target.attributes.get(other.oid, ())
        ]
        return ours == theirs

    def _base(self, oid: int, written: str) -> str:
        """The target's type, seen through its domains, as `name` does for the source's."""
        row = self.target.by_oid[oid]
        if row.element and not row.builtin:
            element = self.target.by_oid[row.element]
            if self.target.is_domain_over_array(element.oid):
                return f"{element.name}[]"
            return self._base(element.oid, element.name) + "[]"
        return self._base(row.base, row.base_name) if row.kind == "d" else written

    def _written(self, oid: int) -> str:
        return self.name(oid, self.source.by_oid[oid].name)

    def _make(self, row: Any) -> str:  # noqa: ANN401 - a row
        if row.kind == "m":
            return self._multirange(row)
        name = f"{STAGING_SCHEMA}.{row.staged_quoted}"
        what = "TYPE"
        match row.kind:
            case "d":
                what, body = "DOMAIN", self._written(row.oid)
            case "e":
                body = f"ENUM ({row.label_literals or ''})"
            case "r":
                multirange = f"MULTIRANGE_TYPE_NAME = {STAGING_SCHEMA}.{row.staged_multi}"
                body = f"RANGE (SUBTYPE = {self._written(row.subtype)}, {multirange})"
            case "c":
                attributes = self.source.attributes.get(row.oid, ())
                parts = (f"{a.name} {self.name(a.type, a.written)}" for a in attributes)
                body = f"({', '.join(parts)})"
            case _:
                raise NotReady(
                    f"type {row.name} is not an enum, domain, composite or range type,"
                    " and the target does not have it",
                    hint="create it in the target",
                )
        there = self.target.by_name.get((STAGING_SCHEMA, row.staged))
        if there is None or not self._is_same(row, there):
            self.statements += [f"DROP TYPE IF EXISTS {name}"] * (there is not None)
            self.statements.append(f"CREATE {what} {name} AS {body}")
        return name

    def _multirange(self, row: Any) -> str:  # noqa: ANN401 - a row
        range_type = self.source.by_oid[row.range]
        name = self.name(range_type.oid, range_type.name)
        if name.startswith(f"{STAGING_SCHEMA}."):
            return f"{STAGING_SCHEMA}.{range_type.staged_multi}"
        return str(row.name)


def staging_types(
    source: psycopg.Connection[Any], tables: Iterable[Table], target: psycopg.Connection[Any]
) -> StagingTypes:
    """Types for staging rows of `tables`, partly to be created in the target's own ``dbsplit``.

    Neither connection may be in a transaction (ValueError).  A type that was made
    by an earlier call is not made again; one whose labels changed is replaced.

    Raises NotReady for a type that cannot be made this way (of a missing extension).
    """
    with reading(target) as cursor:
        there = _Types.read(cursor)
    with reading(source) as cursor:
        staging = _Staging(_Types.read(cursor), there)
        types = {}
        for table in tables:
            columns = cursor.execute(_COLUMNS, [table.name.schema, table.name.name]).fetchall()
            wanted = {column.name for column in table.columns}
            for column in columns:
                if column.name in wanted:
                    types[column.written] = staging.name(column.type, column.written)
    return StagingTypes(tuple(staging.statements), types)
