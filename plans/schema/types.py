"""Types, collations and extensions, in the words of DDL."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from plans.schema.objects import Address, Object
from plans.schema.reading import Cursor

_TYPES = """
WITH own AS (
  SELECT t.*, format('%I.%I', n.nspname, t.typname) AS identity
    FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
   WHERE t.oid >= 16384 AND n.nspname !~ '^pg_'
     AND n.nspname NOT IN ('information_schema', 'dbsplit')
)
SELECT oid, identity,
       format('CREATE TYPE %s AS ENUM (%s)', identity,
              (SELECT string_agg(quote_literal(enumlabel), ', ' ORDER BY enumsortorder)
                 FROM pg_enum WHERE enumtypid = own.oid)) AS "create"
  FROM own WHERE typtype = 'e'
UNION ALL
SELECT own.oid, identity, concat_ws(' ',
       format('CREATE DOMAIN %s AS %s', identity, format_type(typbasetype, typtypmod)),
       (SELECT format('COLLATE %I.%I', n.nspname, l.collname)
          FROM pg_collation l JOIN pg_namespace n ON n.oid = l.collnamespace
          JOIN pg_type b ON b.oid = own.typbasetype AND b.typcollation <> own.typcollation
         WHERE l.oid = own.typcollation),
       'DEFAULT ' || typdefault,
       CASE WHEN typnotnull THEN 'NOT NULL' END,
       (SELECT string_agg(format('CONSTRAINT %I %s', conname,
                                 regexp_replace(pg_get_constraintdef(c.oid), ' NOT VALID$', '')),
                          ' ' ORDER BY conname)
          FROM pg_constraint c WHERE c.contypid = own.oid AND c.contype = 'c'))
  FROM own WHERE typtype = 'd'
UNION ALL
SELECT own.oid, identity, format('CREATE TYPE %s AS (%s)', identity,
       (SELECT string_agg(concat_ws(' ', quote_ident(attname), format_type(atttypid, atttypmod),
                 (SELECT format('COLLATE %I.%I', n.nspname, l.collname)
                    FROM pg_collation l JOIN pg_namespace n ON n.oid = l.collnamespace
                    JOIN pg_type b ON b.oid = a.atttypid AND b.typcollation <> a.attcollation
                   WHERE l.oid = a.attcollation)), ', ' ORDER BY attnum)
          FROM pg_attribute a WHERE attrelid = own.typrelid AND attnum > 0 AND NOT attisdropped))
  FROM own JOIN pg_class c ON c.oid = own.typrelid AND c.relkind = 'c' WHERE typtype = 'c'
UNION ALL
SELECT own.oid, identity, format('CREATE TYPE %s AS RANGE (%s)', identity, concat_ws(', ',
       format('SUBTYPE = %s', format_type(r.rngsubtype, NULL)),
       (SELECT format('SUBTYPE_OPCLASS = %I.%I', n.nspname, o.opcname)
          FROM pg_opclass o JOIN pg_namespace n ON n.oid = o.opcnamespace
         WHERE o.oid = r.rngsubopc AND NOT o.opcdefault),
       (SELECT format('COLLATION = %I.%I', n.nspname, l.collname)
          FROM pg_collation l JOIN pg_namespace n ON n.oid = l.collnamespace
          JOIN pg_type b ON b.oid = r.rngsubtype AND b.typcollation <> r.rngcollation
         WHERE l.oid = r.rngcollation),
       (SELECT format('SUBTYPE_DIFF = %I.%I', n.nspname, p.proname)
          FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE p.oid = r.rngsubdiff),
       (SELECT format('MULTIRANGE_TYPE_NAME = %I.%I', n.nspname, m.typname)
          FROM pg_type m JOIN pg_namespace n ON n.oid = m.typnamespace
         WHERE m.oid = r.rngmultitypid)))
  FROM own JOIN pg_range r ON r.rngtypid = own.oid WHERE r.rngcanonical = 0
"""

# to_jsonb: colliculocale became colllocale in 17, and collicurules came in 16.
_COLLATIONS = """
SELECT c.oid, format('%I.%I', n.nspname, c.collname) AS identity, concat(
         format('CREATE COLLATION %I.%I (PROVIDER = %s, DETERMINISTIC = %s', n.nspname, c.collname,
                CASE c.collprovider WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' ELSE 'libc' END,
                c.collisdeterministic::text),
         ', LOCALE = ' || quote_literal(coalesce(j ->> 'colllocale', j ->> 'colliculocale')),
         ', LC_COLLATE = ' || quote_literal(j ->> 'collcollate'),
         ', LC_CTYPE = ' || quote_literal(j ->> 'collctype'),
         ', RULES = ' || quote_literal(j ->> 'collicurules'), ')') AS "create"
  FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace, to_jsonb(c) j
 WHERE c.oid >= 16384 AND n.nspname !~ '^pg_'
"""

_EXTENSIONS = """
SELECT e.oid, e.extname AS name, quote_ident(e.extname) AS identity,
       format('CREATE EXTENSION IF NOT EXISTS %I WITH SCHEMA %I', e.extname, n.nspname) AS "create"
  FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
 WHERE e.oid >= 16384
"""

_SCHEMAS = """
SELECT oid, quote_ident(nspname) AS identity,
       format('CREATE SCHEMA IF NOT EXISTS %I', nspname) AS "create"
  FROM pg_namespace
 WHERE oid >= 16384 AND nspname !~ '^pg_' AND nspname <> 'dbsplit'
"""

_KINDS = (
    # kind, catalog, query, what DROP calls it
    ("schema", "pg_namespace", _SCHEMAS, "SCHEMA"),
    ("extension", "pg_extension", _EXTENSIONS, "EXTENSION"),
    ("collation", "pg_collation", _COLLATIONS, "COLLATION"),
    ("type", "pg_type", _TYPES, "TYPE"),
)


def read_types(cursor: Cursor, extensions: Collection[str] | None) -> Iterator[Object]:
    """Schemas, extensions, collations, and enum, domain, composite and range types.

    `extensions` are those that the target can have, None for all.
    """
    for kind, catalog, query, word in _KINDS:
        for row in cursor.execute(query):
            thing = Object(
                address=Address(catalog, row.oid),
                kind=kind,
                identity=row.identity,
                create=(row.create,),
                drop=f"DROP {word} IF EXISTS {row.identity}",
            )
            absent = kind == "extension" and extensions is not None and row.name not in extensions
            yield thing.refused("is not available on the target's server") if absent else thing
