"""Which table of the plan a relation of the log belongs to: by its number, not by its name.

The log tells rows under the name that their relation had when they were written.  It may have
been renamed or moved since, and have its old name again, and another may have had that name
meanwhile; its number stays.  A relation that is nobody's now had rows of ours if it was a
partition then: one that was made, and was detached or dropped again, before anybody knew
of it.  What was in it has gone with it, and what went from there to others was told as theirs.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final, LiteralString, NamedTuple

from cdc.connect import Connection
from plans.catalog import TableName
from plans.errors import StreamBroken
from plans.partitions_sql import ATTACHED

LOCK_S_MAX = 5.0
"""Who has just committed lets go of his locks in no time, unless he waits for a standby."""

LOCK_POLL_S = 0.02

# Not pg_partition_tree(), which waits for DDL.
_LEAVES: Final[LiteralString] = f"""
WITH RECURSIVE below AS (
    SELECT n.nspname AS schema, c.relname AS name, c.oid, '' AS places, false AS attached
      FROM unnest(%s::text[], %s::text[]) AS wanted (schema, name)
      JOIN pg_namespace n ON n.nspname = wanted.schema
      JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name AND c.relkind = 'p'
     UNION ALL
    SELECT b.schema, b.name, i.inhrelid, b.places || '/' || i.xmin::text, b.attached OR {ATTACHED}
      FROM below b JOIN pg_inherits i ON i.inhparent = b.oid
      JOIN pg_class c ON c.oid = i.inhrelid
      JOIN pg_type t ON t.oid = c.reltype
     WHERE NOT i.inhdetachpending
)
SELECT ln.nspname::text, l.relname::text, b.schema::text, b.name::text, b.places,
       b.attached AND l.relkind = 'r', l.oid::bigint
  FROM below b JOIN pg_class l ON l.oid = b.oid JOIN pg_namespace ln ON ln.oid = l.relnamespace
 WHERE l.relispartition
"""  # noqa: S608 -- all of it is ours

_NUMBERS: Final[LiteralString] = """
SELECT n.nspname::text, c.relname::text, c.oid::bigint
  FROM unnest(%s::text[], %s::text[]) AS wanted (schema, name)
  JOIN pg_namespace n ON n.nspname = wanted.schema
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name AND c.relkind IN ('r', 'p')
"""

_IS_BEING_ALTERED: Final[LiteralString] = """
SELECT EXISTS (
    SELECT FROM pg_locks
     WHERE locktype = 'relation' AND relation = %s AND mode = 'AccessExclusiveLock' AND granted
       AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
"""

# By itself, or as a partition.
_IS_PUBLISHED: Final[LiteralString] = """
WITH RECURSIVE above AS (
    SELECT oid, relispartition FROM pg_class WHERE oid = %s
     UNION ALL
    SELECT c.oid, c.relispartition
      FROM above a JOIN pg_inherits i ON i.inhrelid = a.oid JOIN pg_class c ON c.oid = i.inhparent
     WHERE a.relispartition
)
SELECT EXISTS (
    SELECT FROM above a JOIN pg_publication_rel r ON r.prrelid = a.oid
      JOIN pg_publication p ON p.oid = r.prpubid AND p.pubname = %s)
"""


class NewPartition(StreamBroken):
    """There are rows of a partition that came after the split was prepared, or refreshed."""

    def __init__(self, leaf: TableName, table: TableName) -> None:
        super().__init__(
            f"{table} has got partition {leaf}, which the targets do not have yet",
            hint="nothing wrong was written: `dbsplit plan refresh` creates it there; then start "
            "the stream again",
        )


class Leaf(NamedTuple):
    """A partition: the table that it belongs to, and how it came there."""

    root: TableName
    places: str  # by which transactions
    brings_rows: bool  # it was a table before, and has no partitions of its own
    number: int


class Owner(NamedTuple):
    """A relation of the plan: what it is called, and the table that it is or belongs to."""

    name: TableName
    root: TableName


class Relations:
    """The tables of the plan and their partitions, by number."""

    def __init__(
        self, connection: Connection, publication: str, tables: Iterable[TableName]
    ) -> None:
        self._connection = connection
        self._publication = publication
        names = list(tables)
        self._wanted = [[t.schema for t in names], [t.name for t in names]]
        self._owners: dict[int, Owner] = {}
        self.numbers = self.read_numbers()
        """Of the tables, as they were when it began."""
        self.leaves = self.read_leaves()
        """The same of the partitions."""
        self._owners |= {number: Owner(name, name) for name, number in self.numbers.items()}

    def read_numbers(self) -> dict[TableName, int]:
        """The numbers of the tables that are there now."""
        rows = self._connection.execute(_NUMBERS, self._wanted).fetchall()
        return {TableName(schema, name): number for schema, name, number in rows}

    def read_leaves(self) -> dict[TableName, Leaf]:
        """The partitions that are there now."""
        rows = self._connection.execute(_LEAVES, self._wanted).fetchall()
        found = {TableName(*row[:2]): Leaf(TableName(*row[2:4]), *row[4:]) for row in rows}
        for name, leaf in found.items():
            self._owners.setdefault(leaf.number, Owner(name, leaf.root))
        return found

    def known(self, number: int) -> Owner | None:
        """Whose a relation is, or was at some look; None if it was at none."""
        return self._owners.get(number)

    def found(self, number: int, name: TableName) -> Owner | None:
        """The same with a new look, behind the lock of whoever has made or altered it.

        A commit may be in the log before it is seen, but not before its locks are released.
        So what is nobody's then has been taken out again.  Raises StreamBroken if the lock is
        held for too long.
        """
        deadline = time.monotonic() + LOCK_S_MAX
        while self._asks(_IS_BEING_ALTERED, number):
            if time.monotonic() > deadline:
                raise StreamBroken(
                    f"the stream brings rows of {name}, and it is locked: whose they are cannot be "
                    "told yet",
                    hint="nothing wrong was written: start the stream again when the transaction "
                    "that holds it has ended",
                )
            time.sleep(LOCK_POLL_S)
        self.read_leaves()
        return self.known(number)

    def is_published(self, number: int) -> bool:
        """Whether a relation is in the publication now, by itself or as a partition."""
        return self._asks(_IS_PUBLISHED, number, self._publication)

    def _asks(self, question: LiteralString, *values: object) -> bool:
        row = self._connection.execute(question, values).fetchone()
        return row is not None and bool(row[0])
