"""Comments and grants on what came along."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from plans.schema.ddl import Statement
from plans.schema.objects import Address
from plans.schema.reading import Cursor

_MAINTAIN_SINCE = 17

_COMMENTS = """
SELECT c.relname AS catalog, d.objoid AS oid, d.objsubid AS "column",
       format('COMMENT ON %s %s IS ',
              CASE WHEN i.type LIKE '% column' THEN 'COLUMN'
                   WHEN i.type = 'table constraint' THEN 'CONSTRAINT'
                   WHEN i.type = 'statistics object' THEN 'STATISTICS'
                   ELSE upper(i.type) END, i.identity) AS head,
       quote_literal(d.description) AS text
  FROM pg_description d
  JOIN pg_class c ON c.oid = d.classoid,
       pg_identify_object(d.classoid, d.objoid, d.objsubid) i
 WHERE d.objoid >= 16384 AND i.type NOT IN ('domain constraint', 'extension')
 ORDER BY i.type, i.identity
"""

# Privileges that a role has by way of another role become its own: the other need not exist there.
_GRANTS = """
WITH held AS (
  SELECT 'pg_class' AS catalog, c.oid, 0 AS "column", '' AS part,
         CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS word,
         format('%%I.%%I', n.nspname, c.relname) AS identity,
         coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char",
                                       c.relowner)) AS acl
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
   WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S') AND c.oid >= 16384
  UNION ALL
  SELECT 'pg_class', c.oid, a.attnum, format(' (%%I)', a.attname), 'TABLE',
         format('%%I.%%I', n.nspname, c.relname), a.attacl
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
   WHERE a.attacl IS NOT NULL AND NOT a.attisdropped AND c.oid >= 16384
  UNION ALL
  SELECT 'pg_namespace', oid, 0, '', 'SCHEMA', quote_ident(nspname),
         coalesce(nspacl, acldefault('n', nspowner))
    FROM pg_namespace
  UNION ALL
  SELECT 'pg_proc', p.oid, 0, '', CASE p.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END,
         format('%%I.%%I(%%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)),
         coalesce(p.proacl, acldefault('f', p.proowner))
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE p.oid >= 16384
), granted AS (
  SELECT h.*, coalesce(quote_ident(r.rolname), 'PUBLIC') AS grantee, x.privilege_type,
         bool_or(x.is_grantable) AS grantable
    FROM held h CROSS JOIN aclexplode(h.acl) x
    LEFT JOIN pg_roles r ON r.rolname = ANY (%(roles)s) AND NOT r.rolsuper AND x.grantee <> 0
                        AND pg_has_role(r.oid, x.grantee, 'USAGE')
   WHERE r.oid IS NOT NULL OR x.grantee = 0 AND h.catalog = 'pg_class'
   GROUP BY h.catalog, h.oid, h."column", h.part, h.word, h.identity, h.acl, r.rolname,
            x.privilege_type
)
SELECT catalog, oid, "column", word, identity, grantee, grantable,
       array_agg(privilege_type ORDER BY privilege_type) AS privileges, part
  FROM granted
 GROUP BY catalog, oid, "column", word, identity, grantee, grantable, part
 ORDER BY word, identity, grantee, "column", grantable
"""

_CLOSED_FUNCTIONS = """
SELECT p.oid, format('%s %I.%I(%s)', CASE p.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END,
              n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)) AS identity
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE p.oid >= 16384 AND p.proacl IS NOT NULL
   AND NOT EXISTS (SELECT FROM aclexplode(p.proacl) x WHERE x.grantee = 0)
 ORDER BY 2
"""

Privileges = Callable[[Address], frozenset[str] | None]
"""Which privileges may be granted on a thing; None for all."""


def read_comments(cursor: Cursor, here: Callable[[Address], bool]) -> Iterator[Statement]:
    """Comments on what is `here`."""
    for row in cursor.execute(_COMMENTS).fetchall():
        if here(Address(row.catalog, row.oid, row.column)):
            yield Statement(row.head + row.text, row.head + "NULL")


def read_grants(
    cursor: Cursor,
    roles: Iterable[str],
    major: int,
    here: Callable[[Address], bool],
    allowed: Privileges,
) -> Iterator[Statement]:
    """Grants to `roles` and to PUBLIC on what is `here`, as far as `allowed`."""
    for row in cursor.execute(_CLOSED_FUNCTIONS).fetchall():
        if here(Address("pg_proc", row.oid)):
            yield Statement(
                f"REVOKE ALL ON {row.identity} FROM PUBLIC",
                f"GRANT ALL ON {row.identity} TO PUBLIC",
            )
    for row in cursor.execute(_GRANTS, {"roles": sorted(roles)}).fetchall():
        address = Address(row.catalog, row.oid, row.column)
        if not here(address):
            continue
        limit = allowed(address)
        privileges = [
            f"{privilege}{row.part}"
            for privilege in row.privileges
            if (limit is None or privilege in limit)
            and (privilege != "MAINTAIN" or major >= _MAINTAIN_SINCE)
        ]
        if privileges:
            what = f"{', '.join(privileges)} ON {row.word} {row.identity}"
            option = " WITH GRANT OPTION" if row.grantable else ""
            yield Statement(
                f"GRANT {what} TO {row.grantee}{option}", f"REVOKE {what} FROM {row.grantee}"
            )
