"""How a foreign key's rows are checked with the least work.

`VALIDATE CONSTRAINT` joins the two tables; the planner knows nothing of indexes that lie
in order, since they were built a moment ago, and hashes the referenced table.  Where both
tables were written frozen, so that an index-only scan need not look at them, a merge of two
indexes takes half of the CPU or less.
"""

from __future__ import annotations

from typing import Final

from psycopg import sql

from plans.schema.ddl import Build

# On tables that are not frozen an index-only scan visits every row, and without an index
# that begins with the key a merge has to sort: both are left to the planner.
_IN_ORDER: Final = """
SELECT set_config('enable_hashjoin', 'off', true),
       set_config('random_page_cost', current_setting('seq_page_cost'), true)
  FROM pg_catalog.pg_constraint AS c
       JOIN pg_catalog.pg_class AS f ON f.oid = c.conrelid
       JOIN pg_catalog.pg_class AS r ON r.oid = c.confrelid
       JOIN pg_catalog.pg_index AS u ON u.indexrelid = c.conindid
 WHERE c.conrelid = to_regclass({table}) AND c.conname = {name}
   AND f.relkind = 'r' AND f.relallvisible >= f.relpages
   AND r.relkind = 'r' AND r.relallvisible >= r.relpages
   AND (u.indkey::int2[])[0:cardinality(c.confkey) - 1] = c.confkey
   AND EXISTS (
       SELECT FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_class AS x ON x.oid = i.indexrelid
              JOIN pg_catalog.pg_am AS a ON a.oid = x.relam AND a.amname = 'btree'
        WHERE i.indrelid = f.oid AND i.indisvalid AND i.indpred IS NULL
          AND (i.indkey::int2[])[0:cardinality(c.conkey) - 1] = c.conkey)
"""


def in_order(build: Build) -> sql.Composed:
    """A query that has the transaction's joins merge indexes, if a key's check gains by it."""
    return sql.SQL(_IN_ORDER).format(
        table=sql.Literal(build.table.identifier.as_string(None)), name=sql.Literal(build.checks)
    )
