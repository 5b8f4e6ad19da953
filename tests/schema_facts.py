"""What a schema is, object by object, as the server itself writes it.

Two databases that tell the same facts have the same schema, whatever DDL made them.
Definitions are only comparable between servers of one major version: newer ones write
some of them in another way.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import psycopg

from plans.catalog import TableName
from plans.schema.reading import reading

# Each: catalog, oid, subid, kind, relation, column numbers, definition.
_OBJECTS = """
SELECT 'pg_class' AS catalog, c.oid, 0 AS sub, 'table' AS kind, c.oid AS relation,
       NULL::int2[] AS columns,
       concat_ws(' ', c.relkind, c.relpersistence, 'identity ' || c.relreplident::text,
         c.reloptions::text, c.relrowsecurity, c.relforcerowsecurity,
         pg_get_expr(c.relpartbound, c.oid),
         CASE c.relkind WHEN 'p' THEN pg_get_partkeydef(c.oid) END) AS definition
  FROM pg_class c WHERE c.relkind IN ('r', 'p')
UNION ALL
SELECT 'pg_class', a.attrelid, a.attnum, 'column', a.attrelid, ARRAY[a.attnum],
       concat_ws(' ', format_type(a.atttypid, a.atttypmod),
         CASE WHEN a.attnotnull THEN 'not null' END,
         'collate ' || nullif(a.attcollation, 0)::regcollation::text,
         'storage ' || a.attstorage::text,
         'compression ' || nullif(a.attcompression::text, ''),
         'statistics ' || nullif(a.attstattarget, -1)::text,
         (SELECT string_agg(option, ' ' ORDER BY option) FROM unnest(a.attoptions) AS option
           WHERE split_part(option, '=', 1) IN ('n_distinct', 'n_distinct_inherited')),
         CASE WHEN a.attgenerated <> '' THEN concat('generated ', a.attgenerated, ' ',
           (SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d
             WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum)) END)
  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
 WHERE c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT 'pg_attrdef', d.oid, 0, 'default', d.adrelid, ARRAY[d.adnum],
       pg_get_expr(d.adbin, d.adrelid)
  FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
 WHERE a.attgenerated = ''
UNION ALL
SELECT 'pg_class', a.attrelid, a.attnum, 'numbers', a.attrelid, ARRAY[a.attnum],
       concat_ws(' ', a.attidentity, d.objid::regclass, s.seqtypid::regtype, s.seqstart, s.seqmin,
         s.seqmax, s.seqincrement, s.seqcache, s.seqcycle)
  FROM pg_depend d JOIN pg_sequence s ON s.seqrelid = d.objid
  JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
 WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
   AND d.deptype IN ('a', 'i')
UNION ALL
SELECT 'pg_class', s.seqrelid, 0, 'sequence', NULL, NULL,
       concat_ws(' ', s.seqtypid::regtype, s.seqstart, s.seqmin, s.seqmax, s.seqincrement,
         s.seqcache, s.seqcycle)
  FROM pg_sequence s
 WHERE NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = s.seqrelid AND d.deptype = 'i')
UNION ALL
SELECT 'pg_constraint', k.oid, 0,
       CASE k.contype WHEN 'f' THEN 'foreign key' WHEN 'c' THEN 'check' ELSE 'constraint' END,
       k.conrelid, k.conkey, concat_ws(' ', pg_get_constraintdef(k.oid), k.conislocal)
  FROM pg_constraint k
 WHERE k.conrelid <> 0 AND k.contype IN ('p', 'u', 'x', 'c', 'f') AND k.conparentid = 0
UNION ALL
SELECT 'pg_class', i.indexrelid, 0, 'index', i.indrelid,
       array_remove(i.indkey::int2[], 0::int2),
       concat_ws(' ', pg_get_indexdef(i.indexrelid), x.reloptions::text,
         (SELECT inhparent::regclass FROM pg_inherits WHERE inhrelid = i.indexrelid))
  FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
UNION ALL
SELECT 'pg_trigger', t.oid, 0, 'trigger', t.tgrelid, t.tgattr::int2[],
       concat_ws(' ', pg_get_triggerdef(t.oid), t.tgenabled)
  FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
 WHERE NOT t.tgisinternal AND t.tgparentid = 0 AND p.pronamespace::regnamespace::text <> 'dbsplit'
UNION ALL
SELECT 'pg_rewrite', r.oid, 0, 'rule', r.ev_class, NULL,
       concat_ws(' ', pg_get_ruledef(r.oid), r.ev_enabled)
  FROM pg_rewrite r WHERE r.rulename <> '_RETURN'
UNION ALL
SELECT 'pg_policy', p.oid, 0, 'policy', p.polrelid, NULL,
       concat_ws(' ', p.polcmd, p.polpermissive, pg_get_expr(p.polqual, p.polrelid), '/',
         pg_get_expr(p.polwithcheck, p.polrelid))
  FROM pg_policy p
UNION ALL
SELECT 'pg_statistic_ext', s.oid, 0, 'statistics object', s.stxrelid, s.stxkeys::int2[],
       concat_ws(' ', pg_get_statisticsobjdef(s.oid), nullif(s.stxstattarget, -1))
  FROM pg_statistic_ext s
UNION ALL
SELECT 'pg_class', v.oid, 0, CASE v.relkind WHEN 'v' THEN 'view' ELSE 'materialized view' END,
       NULL, NULL, concat_ws(' ', pg_get_viewdef(v.oid), v.reloptions::text)
  FROM pg_class v WHERE v.relkind IN ('v', 'm')
UNION ALL
SELECT 'pg_proc', p.oid, 0, CASE p.prokind WHEN 'p' THEN 'procedure' ELSE 'function' END,
       NULL, NULL, pg_get_functiondef(p.oid)
  FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
 WHERE p.prokind IN ('f', 'p') AND l.lanname <> 'internal'
UNION ALL
SELECT 'pg_type', t.oid, 0, 'type', NULL, NULL,
       concat_ws(' ', t.typtype, t.typdefault, format_type(nullif(t.typbasetype, 0), t.typtypmod),
         CASE WHEN t.typnotnull THEN 'not null' END,
         (SELECT string_agg(quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder)
            FROM pg_enum e WHERE e.enumtypid = t.oid),
         (SELECT string_agg(pg_get_constraintdef(k.oid), ', ' ORDER BY k.conname)
            FROM pg_constraint k WHERE k.contypid = t.oid),
         (SELECT string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', '
                            ORDER BY a.attnum)
            FROM pg_attribute a WHERE a.attrelid = t.typrelid AND NOT a.attisdropped))
  FROM pg_type t
 WHERE t.typtype IN ('e', 'd', 'r')
    OR t.typtype = 'c'
   AND EXISTS (SELECT FROM pg_class c WHERE c.oid = t.typrelid AND c.relkind = 'c')
"""

_FACTS = f"""
WITH object AS ({_OBJECTS}), comment AS (
  SELECT o.catalog, o.oid, o.sub, 'comment' AS kind, o.relation, o.columns, d.description
    FROM object o JOIN pg_description d
      ON d.classoid = format('pg_catalog.%I', o.catalog)::regclass AND d.objoid = o.oid
     AND d.objsubid = o.sub
   WHERE o.kind <> 'numbers'
)
SELECT f.kind, i.identity, rn.nspname AS schema, r.relname AS table,
       ARRAY(SELECT attname::text FROM pg_attribute
              WHERE attrelid = f.relation AND (attnum = ANY (f.columns) OR EXISTS (
                    SELECT FROM pg_depend d
                     WHERE d.classid = format('pg_catalog.%I', f.catalog)::regclass
                       AND d.objid = f.oid AND d.objsubid = f.sub AND d.refobjid = f.relation
                       AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid = attnum))
             ) AS columns,
       f.definition, f.sub AS place
  FROM (TABLE object UNION ALL TABLE comment) AS f
 CROSS JOIN LATERAL pg_identify_object(format('pg_catalog.%I', f.catalog)::regclass, f.oid, f.sub) i
  LEFT JOIN pg_class c ON c.oid = f.relation
  LEFT JOIN pg_class r ON r.oid = coalesce(pg_partition_root(c.oid), c.oid)
    AND r.relkind IN ('r', 'p')
  LEFT JOIN pg_namespace rn ON rn.oid = r.relnamespace
 WHERE f.oid >= 16384 AND i.identity !~ '^(pg_toast|dbsplit)\\.'
   AND coalesce(rn.nspname, '') !~ '^(pg_|dbsplit$|information_schema$)'
   AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.objid = f.oid AND e.deptype = 'e')
"""  # noqa: S608 - both are constants

# What a role may do, whether it was granted to it or to a role that it is a member of.
_PRIVILEGES = """
SELECT 'privilege' AS kind,
       format('%%s %%s on %%s', r.rolname, p.name, c.oid::regclass) AS identity,
       n.nspname AS schema, t.relname AS table, '{}'::text[] AS columns, '' AS definition,
       0 AS place
  FROM pg_class c JOIN pg_class t ON t.oid = coalesce(pg_partition_root(c.oid), c.oid)
  JOIN pg_namespace n ON n.oid = t.relnamespace
  JOIN pg_roles r ON r.rolname = ANY (%(roles)s)
 CROSS JOIN unnest('{DELETE,TRUNCATE,TRIGGER}'::text[]) p (name)
 WHERE c.relkind IN ('r', 'p') AND c.oid >= 16384 AND n.nspname <> 'dbsplit'
   AND has_table_privilege(r.oid, c.oid, p.name)
UNION ALL
SELECT 'privilege', format('%%s %%s on %%s.%%s', r.rolname, p.name, c.oid::regclass, a.attname),
       n.nspname, t.relname, ARRAY[a.attname::text], '', 0
  FROM pg_class c JOIN pg_class t ON t.oid = coalesce(pg_partition_root(c.oid), c.oid)
  JOIN pg_namespace n ON n.oid = t.relnamespace
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  JOIN pg_roles r ON r.rolname = ANY (%(roles)s)
 CROSS JOIN unnest('{SELECT,INSERT,UPDATE,REFERENCES}'::text[]) p (name)
 WHERE c.relkind IN ('r', 'p') AND c.oid >= 16384 AND n.nspname <> 'dbsplit'
   AND has_column_privilege(r.oid, c.oid, a.attnum, p.name)
UNION ALL
SELECT 'privilege', format('%%s %%s on %%s', r.rolname, p.name, c.oid::regclass),
       NULL, NULL, '{}', '', 0
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_roles r ON r.rolname = ANY (%(roles)s)
 CROSS JOIN unnest('{USAGE,SELECT,UPDATE}'::text[]) p (name)
 WHERE c.relkind = 'S' AND c.oid >= 16384 AND n.nspname <> 'dbsplit'
   AND has_sequence_privilege(r.oid, c.oid, p.name)
UNION ALL
SELECT 'privilege', format('%%s EXECUTE on %%s', r.rolname, f.oid::regprocedure),
       NULL, NULL, '{}', '', 0
  FROM pg_proc f JOIN pg_namespace n ON n.oid = f.pronamespace
  JOIN pg_roles r ON r.rolname = ANY (%(roles)s)
 WHERE f.oid >= 16384 AND n.nspname <> 'dbsplit' AND has_function_privilege(r.oid, f.oid, 'EXECUTE')
"""


@dataclass(frozen=True, slots=True, order=True)
class Fact:
    """One thing that can be told of a schema."""

    kind: str  # as people call it: "foreign key"
    identity: str  # as pg_identify_object() has it: "orders_fk on public.orders"
    definition: str
    table: TableName | None = None  # what it hangs on; of a partition, the root
    columns: frozenset[str] = frozenset()  # of the table, as far as it is about some
    place: int = 0  # of a column among the others

    @property
    def title(self) -> str:
        """What `plans.schema.choice` calls the thing."""
        return f"{self.kind} {self.identity}"


def read_facts(connection: psycopg.Connection[Any], roles: Iterable[str] = ()) -> frozenset[Fact]:
    """All facts of a database, with what each of `roles` may do; dbsplit's own are left out.

    `connection` must not be in a transaction.
    """
    with reading(connection) as cursor:
        found = {_fact(row) for row in cursor.execute(_FACTS)}
        found |= {_fact(row) for row in cursor.execute(_PRIVILEGES, {"roles": sorted(roles)})}
    return frozenset(found)


def _fact(row: Any) -> Fact:
    table = TableName(row.schema, row.table) if row.table is not None else None
    columns = frozenset(row.columns)
    return Fact(row.kind, row.identity, row.definition or "", table, columns, row.place)
