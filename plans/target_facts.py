"""What the servers of source and targets say about themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, LiteralString

import psycopg
from psycopg.rows import dict_row

Connection = psycopg.Connection[Any]

# datlocale was daticulocale before 17.  Our own sessions pin lc_monetary; what others get is asked.
DATABASE: Final[LiteralString] = """
SELECT current_setting('server_version_num')::int AS version,
       j ->> 'datlocprovider' AS provider, j ->> 'datcollversion' AS collation_version,
       coalesce(j ->> 'datlocale', j ->> 'daticulocale', j ->> 'datcollate') AS locale,
       (SELECT replace(reset_val, 'POSIX', 'C') FROM pg_settings WHERE name = 'lc_monetary')
         AS money,
       current_user::text AS role, r.rolsuper OR r.rolbypassrls AS sees_all
  FROM pg_database d CROSS JOIN to_jsonb(d) j
  JOIN pg_roles r ON r.rolname = current_user
 WHERE d.datname = current_database()
"""

AVAILABLE: Final[LiteralString] = """
SELECT a.name::text AS name, coalesce(e.extversion, a.default_version)::text AS version
  FROM pg_available_extensions a LEFT JOIN pg_extension e ON e.extname = a.name
"""

# Of ICU's, `unicode` is in every catalog from 16 on, whether the server is built with ICU or not.
COLLATIONS: Final[LiteralString] = """
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.collname) AS name,
       c.collprovider = 'i' AND c.collname <> 'unicode' AS is_icu,
       NOT c.collisdeterministic AS is_loose
  FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace
"""

ROLES: Final[LiteralString] = "SELECT rolname::text AS name FROM pg_roles"


@dataclass(frozen=True, slots=True)
class Facts:
    """What a target's server says about itself."""

    database: Mapping[str, Any]
    extensions: Mapping[str, str]  # that it offers -> version
    collations: Mapping[str, bool]  # -> whether ICU provides it
    loose: frozenset[str]  # of these collations, those for which unlike texts may be equal
    roles: frozenset[str]
    has_xml: bool  # a server may be built without


def read_facts(conn: Connection) -> Facts:
    """Read them; `conn` may be the source's as well."""
    (database,) = rows(conn, DATABASE)
    collations = rows(conn, COLLATIONS)
    return Facts(
        database,
        {row["name"]: row["version"] for row in rows(conn, AVAILABLE)},
        {row["name"]: row["is_icu"] for row in collations},
        frozenset(row["name"] for row in collations if row["is_loose"]),
        frozenset(row["name"] for row in rows(conn, ROLES)),
        _has_xml(conn),
    )


def _has_xml(conn: Connection) -> bool:
    try:
        conn.execute("SELECT xmlparse(CONTENT '')")
    except psycopg.NotSupportedError:
        return False
    return True


def rows(conn: Connection, query: LiteralString) -> list[dict[str, Any]]:
    """What a query of the catalog finds."""
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query).fetchall()
