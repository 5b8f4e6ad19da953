"""The queries by which a server is asked what it has counted."""

from __future__ import annotations

from typing import Final, LiteralString

# Who may not read the setting is told by the view itself that it isn't loaded.
EXTENSION: Final[LiteralString] = """
SELECT n.nspname::text AS schema,
       coalesce((SELECT g.setting LIKE '%%pg_stat_statements%%' FROM pg_settings g
                  WHERE g.name = 'shared_preload_libraries'), true) AS loaded,
       to_regclass(format('%%I.pg_stat_statements_info', n.nspname)) IS NOT NULL AS has_info
  FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
 WHERE e.extname = 'pg_stat_statements'
"""

STATEMENTS: Final[LiteralString] = """
SELECT coalesce(r.rolname::text, '') AS role, s.query AS text, sum(s.calls)::float8 AS calls
  FROM {statements} s
  JOIN pg_database d ON d.oid = s.dbid
  LEFT JOIN pg_roles r ON r.oid = s.userid
 WHERE d.datname = current_database() AND s.query IS NOT NULL
 GROUP BY 1, 2 ORDER BY 1, 2
"""

# Since 14; before, what the whole statistics of the database say.
RESET: Final[LiteralString] = "SELECT stats_reset, dealloc FROM {info}"
DATABASE_RESET: Final[LiteralString] = """
SELECT coalesce(stats_reset, pg_postmaster_start_time()) AS since, clock_timestamp() AS now
  FROM pg_stat_database WHERE datname = current_database()
"""

# Of partitions the root is told apart later.
VOLUMES: Final[LiteralString] = """
SELECT schemaname::text AS schema, relname::text AS name,
       n_tup_ins + n_tup_upd + n_tup_del AS written,
       coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) AS read
  FROM pg_stat_user_tables
"""

# Login roles only; what they have through groups is theirs.
WRITERS: Final[LiteralString] = """
SELECT n.nspname::text AS schema, c.relname::text AS name, r.rolname::text AS role
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  CROSS JOIN pg_roles r
 WHERE c.relkind IN ('r', 'p') AND n.nspname = ANY (%(schemas)s)
   AND r.rolcanlogin AND NOT r.rolsuper
   AND has_schema_privilege(r.oid, n.oid, 'USAGE')
   AND has_table_privilege(r.oid, c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE')
"""

COLUMN_WRITERS: Final[LiteralString] = """
SELECT n.nspname::text AS schema, c.relname::text AS name, a.attname::text AS column,
       r.rolname::text AS role
  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
  CROSS JOIN pg_roles r
 WHERE c.relkind IN ('r', 'p') AND n.nspname = ANY (%(schemas)s) AND a.attacl IS NOT NULL
   AND a.attnum > 0 AND NOT a.attisdropped AND r.rolcanlogin AND NOT r.rolsuper
   AND has_column_privilege(r.oid, c.oid, a.attnum, 'INSERT, UPDATE')
   AND NOT has_table_privilege(r.oid, c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE')
"""

OWNERS: Final[LiteralString] = """
SELECT n.nspname::text AS schema, c.relname::text AS name, pg_get_userbyid(c.relowner)::text AS role
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND n.nspname = ANY (%(schemas)s)
"""

ROLES: Final[LiteralString] = "SELECT rolname::text AS role, rolsuper AS super FROM pg_roles"

# Few values, of types that an application sorts rows by.
COLUMNS: Final[LiteralString] = """
SELECT s.schemaname::text AS schema, s.tablename::text AS name, s.attname::text AS column,
       s.n_distinct AS distinct, s.most_common_vals::text::text[] AS common
  FROM pg_stats s
  JOIN pg_namespace n ON n.nspname = s.schemaname
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = s.tablename
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = s.attname
  JOIN pg_type t ON t.oid = a.atttypid
 WHERE s.schemaname = ANY (%(schemas)s) AND NOT s.inherited
   AND s.n_distinct BETWEEN 2 AND %(most)s
   AND (t.typtype = 'e' OR t.typname IN ('text', 'varchar', 'bpchar', 'bool', 'int2', 'int4'))
"""

# What a trigger on some columns sets in the same row, by the text of its function.
TOUCHED: Final[LiteralString] = """
SELECT n.nspname::text AS schema, c.relname::text AS name,
       (SELECT array_agg(a.attname::text ORDER BY a.attnum)
          FROM pg_attribute a
         WHERE a.attrelid = c.oid AND a.attnum = ANY (t.tgattr::int2[])) AS columns,
       p.prosrc AS text
  FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_proc p ON p.oid = t.tgfoid
 WHERE NOT t.tgisinternal AND t.tgparentid = 0 AND n.nspname = ANY (%(schemas)s)
   AND cardinality(t.tgattr::int2[]) > 0
 ORDER BY 1, 2, t.tgname
"""

# The narrower setting comes later.
SEARCH_PATHS: Final[LiteralString] = """
SELECT coalesce(r.rolname::text, '') AS role, substr(c.setting, 13) AS path
  FROM pg_db_role_setting s CROSS JOIN LATERAL unnest(s.setconfig) AS c (setting)
  LEFT JOIN pg_roles r ON r.oid = s.setrole
 WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
   AND left(c.setting, 12) = 'search_path='
 ORDER BY s.setdatabase <> 0
"""
