"""The files that the source's tables lie in, which tell that a table was rewritten.

A snapshot does not protect from everything.  After a TRUNCATE, or an ALTER TABLE that
rewrites the rows, a table is empty for whoever has an older snapshot (the manual, 13.6
"Caveats"), without an error: rows that no change tells of would be missing.  And what
VACUUM FULL moves to other blocks is not where a chunk looks for it.  Each of these
gives the table another file.  So the files are noted before the snapshot is taken, and
compared when a table is locked and about to be read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from psycopg import sql

from cdc.connect import Connection
from plans.catalog import TableName


@dataclass(frozen=True, slots=True)
class SourceFile:
    """How a table lies on the source's disk."""

    number: int  # pg_relation_filenode(); 0 if it has none of its own
    blocks: int = field(compare=False)
    parts: tuple[str, ...] = ()
    """Its partitions and the tables that inherit from it, each with its file's number."""


# What these functions tell is of now, whatever the snapshot.
_FILES = """
SELECT w.place, coalesce(pg_relation_filenode(w.oid), 0),
       coalesce(pg_relation_size(w.oid), 0) / current_setting('block_size')::bigint,
       ARRAY(SELECT concat_ws(':', p.relid::oid, pg_relation_filenode(p.relid))
               FROM (SELECT relid FROM pg_partition_tree(w.oid)
                     UNION SELECT inhrelid FROM pg_inherits WHERE inhparent = w.oid) AS p
              WHERE p.relid <> w.oid ORDER BY p.relid)
  FROM (SELECT t.place, to_regclass(t.name) AS oid
          FROM unnest(%s::text[]) WITH ORDINALITY AS t (name, place)) AS w
 WHERE w.oid IS NOT NULL
"""


def files_of(source: Connection, tables: Iterable[TableName]) -> dict[TableName, SourceFile]:
    """How some tables lie on disk now; those that are gone are missing."""
    names = sorted(set(tables))
    texts = [name.identifier.as_string(None) for name in names]
    rows = source.execute(_FILES, [texts]).fetchall() if names else []
    return {
        names[place - 1]: SourceFile(number, blocks, tuple(parts))
        for place, number, blocks, parts in rows
    }


def lock(source: Connection, tables: Collection[TableName]) -> None:
    """Keep tables from being rewritten or truncated while this transaction holds the lock."""
    names = sql.SQL(", ").join(name.identifier for name in sorted(set(tables)))
    source.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(names))
