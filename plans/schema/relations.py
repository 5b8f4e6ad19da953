"""Tables, views and sequences with their columns, as DDL has to write them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from plans.catalog import TableName
from plans.schema.objects import Address
from plans.schema.reading import Cursor

_RELATIONS = """
SELECT c.oid, n.nspname AS schema, c.relname AS name, c.relkind::text AS kind,
       format('%I.%I', n.nspname, c.relname) AS quoted,
       c.relpersistence::text AS persistence, c.relispartition AS is_partition,
       c.relreplident::text AS replica_identity,
       c.relrowsecurity AS row_security, c.relforcerowsecurity AS forced_row_security,
       coalesce((SELECT array_agg(i.inhparent::int8 ORDER BY i.inhseqno)
                   FROM pg_inherits i WHERE i.inhrelid = c.oid), '{}') AS parents,
       concat_ws(', ',
         (SELECT string_agg(format('%I=%L', option_name, option_value), ', ')
            FROM pg_options_to_table(c.reloptions)),
         (SELECT string_agg(format('toast.%I=%L', option_name, option_value), ', ')
            FROM pg_class t, pg_options_to_table(t.reloptions)
           WHERE t.oid = c.reltoastrelid)) AS options,
       (SELECT quote_ident(a.amname) FROM pg_am a
         WHERE a.oid = c.relam AND a.amname <> 'heap') AS access_method,
       CASE c.relkind WHEN 'p' THEN pg_get_partkeydef(c.oid) END AS partition_key,
       pg_get_expr(c.relpartbound, c.oid) AS bound,
       (SELECT array_agg(k ORDER BY k) FROM pg_partitioned_table p, unnest(p.partattrs) k
         WHERE p.partrelid = c.oid) AS partition_columns
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND c.relpersistence <> 't'
   AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'dbsplit')
"""

# Of a column's options n_distinct and n_distinct_inherited are all that a user can set.  Minor
# releases of the server note options of their own there (pg_attver), which others refuse.
_COLUMNS = """
SELECT a.attrelid AS relation, a.attnum AS number, a.attname AS name,
       quote_ident(a.attname) AS quoted, format_type(a.atttypid, a.atttypmod) AS type,
       CASE WHEN a.attcollation <> t.typcollation THEN
         (SELECT format('%I.%I', n.nspname, l.collname)
            FROM pg_collation l JOIN pg_namespace n ON n.oid = l.collnamespace
           WHERE l.oid = a.attcollation) END AS collation,
       a.attnotnull AS not_null,
       CASE WHEN k.conname <> concat(c.relname, '_', a.attname, '_not_null')
         THEN quote_ident(k.conname) END AS not_null_name,
       coalesce(k.convalidated, true) AS not_null_valid,
       a.attidentity::text AS identity, a.attgenerated::text AS generated,
       pg_get_expr(d.adbin, d.adrelid) AS expression, d.oid AS default_oid,
       a.attislocal AS is_local,
       CASE WHEN a.attstorage <> t.typstorage THEN a.attstorage::text END AS storage,
       nullif(a.attcompression::text, '') AS compression,
       nullif(a.attstattarget, -1) AS statistics,
       (SELECT string_agg(format('%I=%L', option_name, option_value), ', ')
          FROM pg_options_to_table(a.attoptions)
         WHERE option_name IN ('n_distinct', 'n_distinct_inherited')) AS options
  FROM pg_attribute a
  JOIN pg_class c ON c.oid = a.attrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_type t ON t.oid = a.atttypid
  LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
  LEFT JOIN pg_constraint k
    ON k.conrelid = a.attrelid AND k.contype = 'n' AND k.conkey = ARRAY[a.attnum]
 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND a.attnum > 0 AND NOT a.attisdropped
   AND c.relpersistence <> 't'
   AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'dbsplit')
 ORDER BY a.attrelid, a.attnum
"""

STORAGE = {"p": "PLAIN", "e": "EXTERNAL", "m": "MAIN", "x": "EXTENDED"}
COMPRESSION = {"p": "pglz", "l": "lz4"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """A table, view, materialized view, sequence or foreign table."""

    oid: int
    schema: str
    name: str
    kind: Literal["r", "p", "v", "m", "S", "f"]
    quoted: str
    persistence: str
    is_partition: bool
    replica_identity: str
    row_security: bool
    forced_row_security: bool
    parents: tuple[int, ...]
    options: str  # for WITH (...)
    access_method: str | None
    partition_key: str | None  # for PARTITION BY
    bound: str | None  # FOR VALUES ..., of a partition
    partition_columns: tuple[int, ...]  # numbers; 0 is an expression

    @property
    def table(self) -> TableName:
        """Its name, not quoted."""
        return TableName(self.schema, self.name)

    @property
    def address(self) -> Address:
        """Where ``pg_depend`` finds it."""
        return Address("pg_class", self.oid)


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnText:
    """A column, in the words of DDL."""

    relation: int
    number: int
    name: str
    quoted: str
    type: str
    collation: str | None
    not_null: bool
    not_null_name: str | None  # unless it is the one that the server would choose
    not_null_valid: bool
    identity: str
    generated: str
    expression: str | None  # the default's or the generation's
    default_oid: int | None
    is_local: bool
    storage: str | None
    compression: str | None
    statistics: int | None
    options: str | None

    @property
    def address(self) -> Address:
        """Where ``pg_depend`` finds it."""
        return Address("pg_class", self.relation, self.number)

    @property
    def default(self) -> Address | None:
        """Where ``pg_depend`` finds its default or generation expression."""
        return Address("pg_attrdef", self.default_oid) if self.default_oid else None


@dataclass(frozen=True, slots=True)
class Relations:
    """Every relation of the database that a person made."""

    by_oid: Mapping[int, Relation]
    columns: Mapping[int, tuple[ColumnText, ...]]

    def root(self, oid: int) -> Relation:
        """The table that a partition is a part of in the end; other relations are their own."""
        relation = self.by_oid[oid]
        while relation.is_partition:
            relation = self.by_oid[relation.parents[0]]
        return relation

    def depth(self, oid: int) -> int:
        """How many partitioned tables lie above."""
        relation, depth = self.by_oid[oid], 0
        while relation.is_partition:
            relation, depth = self.by_oid[relation.parents[0]], depth + 1
        return depth

    def column(self, address: Address) -> ColumnText | None:
        """The column that an address names."""
        for column in self.columns.get(address.oid, ()):
            if column.number == address.column:
                return column
        return None


def read_relations(cursor: Cursor) -> Relations:
    """Read them all; a database of thousands is two queries as well."""
    by_oid = {}
    for row in cursor.execute(_RELATIONS):
        values = row._asdict()
        values["parents"] = tuple(values["parents"])
        values["partition_columns"] = tuple(values["partition_columns"] or ())
        by_oid[values["oid"]] = Relation(**values)
    columns: dict[int, list[ColumnText]] = {}
    for row in cursor.execute(_COLUMNS):
        column = ColumnText(**row._asdict())
        columns.setdefault(column.relation, []).append(column)
    return Relations(by_oid, {oid: tuple(of_one) for oid, of_one in columns.items()})
