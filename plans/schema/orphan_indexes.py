"""Indexes for foreign keys that are not kept, and whose orphans are looked for instead.

`validators.orphans` reads the referencing columns in their order; without an index
that leads with them each of its steps would sort the whole table.
"""

from __future__ import annotations

from collections.abc import Iterator

from plans.schema.attached import called
from plans.schema.choice import Choice
from plans.schema.ddl import Build, Statement
from plans.schema.objects import Address
from plans.schema.reading import Cursor
from plans.schema.source import Source, is_here

# A name that may be too long for PostgreSQL (63 bytes) becomes one that cannot be.
_KEYS = """
WITH key AS (
  SELECT k.oid, k.conname, k.conrelid, k.conkey, n.nspname, c.relname,
         ARRAY(SELECT a.attname FROM unnest(k.conkey) WITH ORDINALITY AS p (attnum, place)
                 JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = p.attnum
                ORDER BY p.place) AS names
    FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
   WHERE k.contype = 'f' AND k.conparentid = 0
), named AS (
  SELECT *, concat_ws('_', relname, array_to_string(names, '_'), 'orphan_check') AS long FROM key
), short AS (
  SELECT *, CASE WHEN octet_length(long) <= 63 THEN long
                 ELSE 'orphan_check_' || left(md5(long), 16) END AS index FROM named
)
SELECT s.oid, s.conname AS name, s.conrelid AS relation, s.names,
       pg_relation_size(s.conrelid) / 4 AS size_bytes,  -- about what an index of it takes
       format('CREATE INDEX %I ON %I.%I (%s)', s.index, s.nspname, s.relname,
              (SELECT string_agg(quote_ident(one), ', ' ORDER BY place)
                 FROM unnest(s.names) WITH ORDINALITY AS o (one, place))) AS create,
       format('DROP INDEX IF EXISTS %I.%I', s.nspname, s.index) AS drop,
       ARRAY(SELECT i.indexrelid FROM pg_index i
              JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am m ON m.oid = x.relam
              WHERE i.indrelid = s.conrelid AND m.amname = 'btree' AND i.indisvalid
                AND cardinality(s.conkey) <= i.indnkeyatts
                AND (i.indkey::int2[])[0:cardinality(s.conkey) - 1] = s.conkey
                AND coalesce(pg_get_expr(i.indpred, i.indrelid)
                             = format('(%I IS NOT NULL)', s.names[1]), true)) AS indexes,
       ARRAY(SELECT k.oid FROM pg_constraint k JOIN pg_index i ON i.indexrelid = k.conindid
              WHERE k.conrelid = s.conrelid AND k.contype IN ('p', 'u')
                AND cardinality(s.conkey) <= i.indnkeyatts
                AND (i.indkey::int2[])[0:cardinality(s.conkey) - 1] = s.conkey) AS constraints
  FROM short s
 ORDER BY s.nspname, s.relname, s.conname
"""


def orphan_indexes(
    cursor: Cursor, source: Source, choice: Choice, keys: frozenset[str]
) -> Iterator[Statement]:
    """One index for each key of `keys` that is not kept, unless one leads with its columns."""
    done = set()
    for row in cursor.execute(_KEYS).fetchall() if keys else ():
        address = Address("pg_constraint", row.oid)
        if not is_here(source, row.relation) or address in choice.chosen:
            continue
        part = source.scope.parts[source.relations.root(row.relation).table]
        named = keys.intersection(called(source.relations, row.relation, row.name))
        if not (named and part.owned and part.columns.issuperset(row.names)):
            continue
        leading = {Address("pg_class", oid) for oid in row.indexes}
        leading |= {Address("pg_constraint", oid) for oid in row.constraints}
        if leading.isdisjoint(choice.chosen) and row.create not in done:
            done.add(row.create)
            relation = source.relations.by_oid[row.relation]
            build = Build(
                what=f"index for the orphan check of {row.name}",
                table=relation.table,
                root=source.relations.root(row.relation).table,
                gathers=relation.kind == "p",
                size_bytes=row.size_bytes,
            )
            yield Statement(row.create, row.drop, build)
