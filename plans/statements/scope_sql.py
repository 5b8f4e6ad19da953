"""The queries of `plans.statements.scope`: what stands between a statement and tables."""

# ruff: noqa: S608 - constants are put together

from __future__ import annotations

from typing import LiteralString

# Under an empty path, definitions come out with every name qualified.
SETTINGS: tuple[LiteralString, ...] = (
    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
    "SET LOCAL search_path = pg_catalog",
    "SET LOCAL lock_timeout = '10s'",
    "SET LOCAL statement_timeout = '60s'",
)

# pg_get_viewdef only for what a view is defined by; a table has no definition to read.
RELATIONS: LiteralString = """
SELECT n.nspname::text AS schema, c.relname::text AS name, c.relkind::text AS kind,
       CASE WHEN c.relkind IN ('v', 'm') THEN pg_get_viewdef(c.oid) END AS definition,
       CASE WHEN c.relkind IN ('v', 'm') THEN
            (SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute a
              WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) END AS columns,
       EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
                  AND d.objid = c.oid AND d.deptype = 'e') AS of_extension
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND c.relpersistence <> 't'
   AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
   AND n.nspname !~ '^pg_(temp|toast)'
"""

ROUTINES: LiteralString = """
SELECT p.oid::bigint AS oid, n.nspname::text AS schema, p.proname::text AS name,
       p.prokind::text AS kind, l.lanname::text AS language,
       pg_get_function_identity_arguments(p.oid) AS arguments,
       CASE WHEN l.lanname IN ('sql', 'plpgsql') AND p.prokind IN ('f', 'p')
            THEN pg_get_functiondef(p.oid) END AS definition,
       p.pronargs - p.pronargdefaults AS args_min, p.pronargs AS args,
       p.provariadic <> 0 AS is_variadic,
       cardinality(array_positions(p.proargmodes::text[], 'o')) AS outputs,
       (SELECT s FROM unnest(p.proconfig) s WHERE s ~ '^search_path=') AS search_path,
       EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass
                  AND d.objid = p.oid AND d.deptype = 'e') AS of_extension,
       (SELECT array_agg(f::oid::bigint) FROM pg_aggregate a,
               unnest(ARRAY[a.aggtransfn, a.aggfinalfn, a.aggmtransfn, a.aggmfinalfn]) f
         WHERE a.aggfnoid = p.oid AND f::oid <> 0) AS steps
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
  JOIN pg_language l ON l.oid = p.prolang
 WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', %(control)s)
   AND n.nspname !~ '^pg_temp'
"""

# tgtype's bits are those of catalog/pg_trigger.h.
TRIGGERS: LiteralString = """
SELECT t.tgname::text AS name, t.tgfoid::bigint AS function,
       n.nspname::text AS schema, c.relname::text AS relation,
       t.tgtype & 4 <> 0 AS on_insert, t.tgtype & 8 <> 0 AS on_delete,
       t.tgtype & 16 <> 0 AS on_update, t.tgtype & 32 <> 0 AS on_truncate,
       t.tgtype & 3 = 3 AS before_row,
       t.tgargs AS arguments,
       (SELECT array_agg(a.attname::text) FROM pg_attribute a
         WHERE a.attrelid = c.oid AND a.attnum = ANY (t.tgattr::int2[])) AS columns,
       array_remove(ARRAY[t.tgoldtable::text, t.tgnewtable::text], NULL) AS transitions
  FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE NOT t.tgisinternal AND t.tgparentid = 0 AND t.tgenabled <> 'D'
"""

RULES: LiteralString = """
SELECT r.rulename::text AS name, n.nspname::text AS schema, c.relname::text AS relation,
       r.ev_type::text AS event, r.is_instead, pg_get_ruledef(r.oid) AS definition
  FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE r.rulename <> '_RETURN' AND r.ev_enabled <> 'D' AND r.ev_type <> '1'
   AND n.nspname NOT IN ('pg_catalog', 'information_schema')
"""

# What depends on functions that don't come with the server, themselves or behind an operator.
_USED: LiteralString = """
WITH own AS (
    SELECT p.oid FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
     WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', %(control)s)
), used AS (
    SELECT d.classid, d.objid, d.objsubid, own.oid AS function
      FROM pg_depend d JOIN own ON d.refclassid = 'pg_proc'::regclass AND d.refobjid = own.oid
    UNION
    SELECT d.classid, d.objid, d.objsubid, own.oid
      FROM pg_depend d JOIN pg_operator o
        ON d.refclassid = 'pg_operator'::regclass AND d.refobjid = o.oid
      JOIN own ON own.oid = o.oprcode
)
"""

# A CHECK, an index and a generated column are worked out anew for every row that is written,
# whatever columns are named; a column of a domain holds the domain's CHECKs.
ATTACHED: LiteralString = (
    _USED
    + """
, found AS (
    SELECT c.conrelid AS relation, 'constraint ' || c.conname AS name, u.function
      FROM used u JOIN pg_constraint c
        ON u.classid = 'pg_constraint'::regclass AND u.objid = c.oid
     WHERE c.conrelid <> 0 AND c.contype IN ('c', 'x')
    UNION
    SELECT i.indrelid, 'index ' || c.relname, u.function
      FROM used u JOIN pg_index i ON u.classid = 'pg_class'::regclass AND u.objid = i.indexrelid
      JOIN pg_class c ON c.oid = i.indexrelid
    UNION
    SELECT a.attrelid, 'column ' || a.attname, u.function
      FROM used u JOIN pg_attrdef d ON u.classid = 'pg_attrdef'::regclass AND u.objid = d.oid
      JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
     WHERE a.attgenerated <> ''
    UNION
    SELECT a.attrelid, 'domain of column ' || a.attname, u.function
      FROM used u JOIN pg_constraint c
        ON u.classid = 'pg_constraint'::regclass AND u.objid = c.oid
      JOIN pg_attribute a ON a.atttypid = c.contypid AND a.attnum > 0 AND NOT a.attisdropped
     WHERE c.contypid <> 0
)
SELECT n.nspname::text AS schema, c.relname::text AS relation, f.name::text AS name,
       array_agg(f.function::bigint ORDER BY f.function) AS functions
  FROM found f JOIN pg_class c ON c.oid = f.relation JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p')
 GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""
)

OPERATORS: LiteralString = (
    _USED
    + """
SELECT n.nspname::text AS schema, o.oprname::text AS name,
       array_agg(o.oprcode::oid::bigint) AS functions
  FROM pg_operator o JOIN own ON own.oid = o.oprcode JOIN pg_namespace n ON n.oid = o.oprnamespace
 GROUP BY 1, 2
"""
)

# By the type that a value is cast to: with a function, or into a domain with a CHECK.
CASTS: LiteralString = (
    _USED
    + """
SELECT n.nspname::text AS schema, t.typname::text AS name,
       array_agg(f.function::bigint) AS functions
  FROM (SELECT c.casttarget AS type, c.castfunc AS function
          FROM pg_cast c JOIN own ON own.oid = c.castfunc
        UNION
        SELECT c.contypid, u.function FROM used u JOIN pg_constraint c
            ON u.classid = 'pg_constraint'::regclass AND u.objid = c.oid
         WHERE c.contypid <> 0) f
  JOIN pg_type t ON t.oid = f.type JOIN pg_namespace n ON n.oid = t.typnamespace
 GROUP BY 1, 2
"""
)

BUILTINS: LiteralString = """
SELECT coalesce(array_agg(DISTINCT p.proname::text), '{}') AS functions,
       (SELECT array_agg(c.relname::text) FROM pg_class c
         WHERE c.relnamespace = 'pg_catalog'::regnamespace
           AND c.relkind IN ('r', 'v')) AS relations
  FROM pg_proc p WHERE p.pronamespace = 'pg_catalog'::regnamespace
"""

# A policy's expressions name the table's columns as they are, everything else qualified.
POLICIES: LiteralString = """
SELECT p.polname::text AS name, n.nspname::text AS schema, c.relname::text AS relation,
       p.polcmd::text AS command,
       pg_get_expr(p.polqual, p.polrelid) AS rows_seen,
       pg_get_expr(p.polwithcheck, p.polrelid) AS rows_written
  FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relrowsecurity
"""
