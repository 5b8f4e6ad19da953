"""Whose names count: those of pg_catalog, whatever search_path a database or role has."""

from __future__ import annotations

from typing import Final, LiteralString

from psycopg import sql

_FOR_GOOD: Final = sql.SQL("false")

# It is searched first unless the path names it further back.  Then a table, a function or an
# operator of anybody who may create them would stand in for the server's own.
_CATALOG_FIRST: Final[LiteralString] = """
CASE WHEN pg_catalog.array_position(pg_catalog.current_schemas(false), 'pg_catalog')
          OPERATOR(pg_catalog.>) 1
     THEN pg_catalog.set_config('search_path', (
         SELECT pg_catalog.string_agg(pg_catalog.quote_ident(one), ', ')
           FROM pg_catalog.unnest(pg_catalog.current_schemas(false)) AS one
          WHERE one OPERATOR(pg_catalog.<>) 'pg_catalog'), {is_local})
END
"""


def catalog_first(is_local: sql.Composable = _FOR_GOOD) -> sql.Composed:
    """The expression that sees to it, for the session or, if `is_local`, the transaction."""
    return sql.SQL(_CATALOG_FIRST).format(is_local=is_local)
