"""The queries by which a catalog is read; they run on PostgreSQL 15 and later."""

# ruff: noqa: S608 - constants are put together

from __future__ import annotations

from typing import Final, LiteralString

from plans.holders import SHUTS

READ_ONLY: Final[LiteralString] = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"

SETTINGS: Final[tuple[LiteralString, ...]] = (
    READ_ONLY,
    # Names outside pg_catalog come out qualified, so they mean the same everywhere.
    "SET LOCAL search_path = ''",
    # The settings by which pg_get_expr() would print one expression in two ways.
    "SET LOCAL quote_all_identifiers = off",
    "SET LOCAL DateStyle = 'ISO, YMD'",
    "SET LOCAL IntervalStyle = 'postgres'",
    "SET LOCAL TimeZone = 'UTC'",
    "SET LOCAL bytea_output = 'hex'",
    "SET LOCAL extra_float_digits = 1",
)

# Tables that cannot be opened now.
_SHUT: Final[LiteralString] = f"SELECT relation FROM pg_locks WHERE {SHUTS}"

SERVER: Final[LiteralString] = """
SELECT current_setting('server_version_num')::int AS version,
       current_database()::text AS database,
       ARRAY(SELECT nspname::text FROM pg_namespace
              WHERE nspname !~ '^pg_' ORDER BY nspname) AS schemas
"""

# Partitions may be in a schema that the plan doesn't name.
RELATIONS: Final[LiteralString] = f"""
WITH RECURSIVE wanted AS (
    SELECT c.oid
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname = ANY (%(schemas)s) AND c.relkind IN ('r', 'p', 'f', 'v', 'm')
       AND c.relpersistence <> 't'
       AND NOT EXISTS (SELECT FROM pg_depend d
                        WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                          AND d.objsubid = 0 AND d.deptype = 'e')
     UNION
    SELECT i.inhrelid
      FROM wanted w JOIN pg_inherits i ON i.inhparent = w.oid
      JOIN pg_class c ON c.oid = i.inhrelid AND c.relispartition
)
SELECT c.oid::bigint AS oid, n.nspname::text AS schema, c.relname::text AS name,
       c.relkind::text AS kind, c.relpersistence::text AS persistence,
       c.relreplident::text AS identity, c.relispartition AS is_partition,
       p.oid::bigint AS parent_oid,
       CASE WHEN p.oid IS NOT NULL THEN ARRAY[pn.nspname::text, p.relname::text] END AS parent,
       CASE WHEN c.relkind = 'r' THEN greatest(c.reltuples, 0)::bigint ELSE 0 END AS rows,
       CASE WHEN c.relkind <> 'r' THEN 0
            WHEN c.oid IN ({_SHUT}) THEN c.relpages * current_setting('block_size')::bigint
            ELSE coalesce(pg_table_size(c.oid), 0) END AS bytes
  FROM wanted
  JOIN pg_class c USING (oid)
  JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_inherits i ON i.inhrelid = c.oid AND i.inhseqno = 1
  LEFT JOIN pg_class p ON p.oid = i.inhparent
  LEFT JOIN pg_namespace pn ON pn.oid = p.relnamespace
"""

# A default has no columns in it, and is read without its table, which may be locked.
#
# `portable`: the binary form means the same on every server, for which all that a value is
# made of must.  An enum's is its label.  Arrays and composites name the types of what is in
# them, but since 14 a server believes that of the types of initdb alone, which have the same
# OID everywhere (below FirstGenbkiObjectId, 10000): array_recv() and record_recv().  reg*
# types are OIDs of objects.  Of extensions' types, those are trusted whose send functions
# write no OID and have written the same in all of their versions that run on 15 and later.
#
# `toastable` doesn't ask attstorage: SET STORAGE leaves old values where they
# are.  A value moves out of line only if it is longer than the pointer to it
# (TOAST_POINTER_SIZE, 18 bytes, aligned 24), so short types are ruled out.  Of
# values made of others, all are long ones.
COLUMNS: Final[LiteralString] = (
    "WITH RECURSIVE shut AS (" + _SHUT + ")"
    r"""
, used AS (
    SELECT DISTINCT atttypid AS type, atttypid AS part
      FROM pg_attribute WHERE attrelid = ANY (%(oids)s::oid[]) AND attnum > 0
     UNION
    SELECT u.type, p.part
      FROM used u JOIN pg_type t ON t.oid = u.part
      CROSS JOIN LATERAL (
          SELECT t.typbasetype WHERE t.typtype = 'd'
           UNION ALL
          SELECT t.typelem WHERE t.typtype = 'b' AND t.typsend = 'array_send'::regproc
           UNION ALL
          SELECT rngsubtype FROM pg_range WHERE rngtypid = t.oid
           UNION ALL
          SELECT rngtypid FROM pg_range WHERE rngmultitypid = t.oid
           UNION ALL
          SELECT atttypid FROM pg_attribute
           WHERE attrelid = t.typrelid AND t.typtype = 'c' AND attnum > 0 AND NOT attisdropped
      ) AS p (part)
), types AS (
    SELECT u.type,
           bool_and(
               t.typtype IN ('d', 'e', 'c', 'r', 'm')
               OR (t.typtype = 'b' AND t.typsend = 'array_send'::regproc)
               OR (t.oid::bigint < 10000 AND t.typtype = 'b'
                   AND t.typsend <> 0 AND t.typreceive <> 0
                   AND left(t.typname, 3) <> 'reg'
                   AND t.typname <> ALL ('{pg_node_tree,pg_ndistinct,pg_dependencies,
                       pg_mcv_list,pg_brin_bloom_summary,pg_brin_minmax_multi_summary,
                       gtsvector}'::name[])
               )
               OR (t.typname = ANY ('{citext,hstore,ltree,lquery,ltxtquery,cube,
                       geometry,geography,vector,halfvec,sparsevec}'::name[])
                   AND t.typsend <> 0 AND t.typreceive <> 0
                   AND EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_type'::regclass
                                  AND d.objid = t.oid AND d.deptype = 'e')
               )
           ) AS portable,
           bool_or(
               t.typlen = -1 AND t.typstorage <> 'p' AND t.typname <> ALL ('{inet,cidr}'::name[])
           ) FILTER (WHERE t.typtype <> 'd') AS long
      FROM used u JOIN pg_type t ON t.oid = u.part
     GROUP BY u.type
), named AS (
    -- What a function's text draws from; a name without a schema is of the function's own.
    SELECT p.oid AS routine, s.oid AS sequence,
           '\mnextval\s*\(\s*''' || replace(m.found[1], '$', '\$') || '''' AS call
      FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
      CROSS JOIN LATERAL coalesce(pg_get_function_sqlbody(p.oid), p.prosrc) AS b (text)
      CROSS JOIN LATERAL regexp_matches(
          b.text,
          'nextval\s*\(\s*''((?:"[^"'']+"|[a-z_][\w$]*)(?:\.(?:"[^"'']+"|[a-z_][\w$]*))?)''', 'gi'
      ) AS m (found)
      JOIN pg_class s ON s.relkind = 'S' AND s.oid = coalesce(
          to_regclass(m.found[1]), to_regclass(quote_ident(n.nspname) || '.' || m.found[1]))
     WHERE p.oid >= 16384 AND p.prokind IN ('f', 'p')
), sequences AS (
    SELECT d.refobjid AS relation, d.refobjsubid AS number, d.objid AS sequence,
           CASE d.deptype WHEN 'i' THEN 1 ELSE 3 END AS rank
      FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
     WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
       AND d.refobjid = ANY (%(oids)s::oid[]) AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
     UNION ALL
    SELECT f.adrelid, f.adnum, d.refobjid, 2
      FROM pg_attrdef f
      JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid
                      AND d.refclassid = 'pg_class'::regclass
      JOIN pg_class s ON s.oid = d.refobjid AND s.relkind = 'S'
     WHERE f.adrelid = ANY (%(oids)s::oid[])
     UNION ALL
    SELECT f.adrelid, f.adnum, n.sequence, 4
      FROM pg_attrdef f
      JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid
                      AND d.refclassid = 'pg_proc'::regclass
      JOIN named n ON n.routine = d.refobjid
     WHERE f.adrelid = ANY (%(oids)s::oid[])
     UNION ALL
    SELECT t.tgrelid, a.attnum, n.sequence, 5
      FROM pg_trigger t JOIN named n ON n.routine = t.tgfoid
      JOIN pg_proc p ON p.oid = t.tgfoid
      JOIN pg_attribute a ON a.attrelid = t.tgrelid AND a.attnum > 0 AND NOT a.attisdropped
     WHERE t.tgrelid = ANY (%(oids)s::oid[]) AND NOT t.tgisinternal AND a.attname ~ '^\w+$'
       AND (p.prosrc ~* ('\mNEW\."?' || a.attname || '"?\s*:?=[^;]*' || n.call)
            OR p.prosrc ~* (n.call || '[^;]*\mINTO\s+NEW\."?' || a.attname || '\M'))
), drawn AS (
    SELECT DISTINCT ON (q.relation, q.number) q.relation, q.number,
           ARRAY[n.nspname::text, s.relname::text] AS sequence
      FROM sequences q JOIN pg_class s ON s.oid = q.sequence
      JOIN pg_namespace n ON n.oid = s.relnamespace
     ORDER BY q.relation, q.number, q.rank, n.nspname, s.relname
)
SELECT a.attrelid::bigint AS relation, a.attname::text AS name,
       format_type(a.atttypid, a.atttypmod) AS type,
       coalesce(t.portable, false) AS portable,
       a.attnotnull AS not_null, a.attidentity::text AS identity,
       a.attgenerated::text AS generated,
       CASE WHEN a.attgenerated = '' THEN pg_get_expr(f.adbin, 0)
            WHEN NOT %(patient)s AND a.attrelid IN (TABLE shut) THEN 'NULL'
            ELSE pg_get_expr(f.adbin, f.adrelid) END AS expression,
       CASE WHEN a.attcollation <> 0 AND a.attcollation <> y.typcollation
            THEN quote_ident(cn.nspname) || '.' || quote_ident(co.collname) END AS collation,
       coalesce(t.long, y.typlen = -1)
       AND NOT (a.atttypid = ANY ('{varchar,bpchar}'::regtype[])
                AND a.atttypmod BETWEEN 5 AND 8) AS toastable,
       drawn.sequence
  FROM pg_attribute a
  JOIN pg_type y ON y.oid = a.atttypid
  LEFT JOIN types t ON t.type = a.atttypid
  LEFT JOIN pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
  LEFT JOIN pg_collation co ON co.oid = a.attcollation
  LEFT JOIN pg_namespace cn ON cn.oid = co.collnamespace
  LEFT JOIN drawn ON drawn.relation = a.attrelid AND drawn.number = a.attnum
 WHERE a.attrelid = ANY (%(oids)s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attrelid, a.attnum
"""
)

# An exclusion is a key only where it is one WITHOUT OVERLAPS; older servers have no conperiod.
KEYS: Final[LiteralString] = """
SELECT i.indrelid::bigint AS relation, i.indisprimary AS is_primary,
       i.indisreplident AS is_identity, NOT i.indimmediate AS is_deferrable,
       i.indisexclusion AS is_temporal,
       array_agg(a.attname::text ORDER BY k.place) AS columns
  FROM pg_index i
  CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, place)
  JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
 WHERE i.indrelid = ANY (%(oids)s::oid[]) AND (i.indisprimary OR i.indisreplident)
   AND k.place <= i.indnkeyatts
 GROUP BY i.indexrelid, i.indrelid, i.indisprimary, i.indisreplident, i.indimmediate,
          i.indisexclusion
"""

# A key of a partitioned table is listed once, not once for each partition.
FOREIGN_KEYS: Final[LiteralString] = """
SELECT c.conname::text AS name, ARRAY[tn.nspname::text, t.relname::text] AS "table",
       ARRAY[n.nspname::text, r.relname::text] AS "references",
       (SELECT array_agg(a.attname::text ORDER BY k.place)
          FROM unnest(c.conkey) WITH ORDINALITY AS k (number, place)
          JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.number) AS columns,
       (SELECT array_agg(a.attname::text ORDER BY k.place)
          FROM unnest(c.confkey) WITH ORDINALITY AS k (number, place)
          JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.number)
           AS referenced_columns,
       pg_get_constraintdef(c.oid) AS definition,
       c.confdeltype::text AS on_delete, c.confupdtype::text AS on_update,
       c.condeferrable AS is_deferrable
  FROM pg_constraint c
  JOIN pg_class t ON t.oid = c.conrelid
  JOIN pg_namespace tn ON tn.oid = t.relnamespace
  JOIN pg_class r ON r.oid = c.confrelid
  JOIN pg_namespace n ON n.oid = r.relnamespace
 WHERE c.contype = 'f' AND c.conparentid = 0
   AND (c.conrelid = ANY (%(oids)s::oid[]) OR c.confrelid = ANY (%(oids)s::oid[]))
"""
