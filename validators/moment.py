"""Reading two servers as they were at one position of the leader's log.

Each server's snapshot is exported by a session that holds it; whoever reads joins it in a
transaction that stays open.  A snapshot keeps its server from cleaning up what it may
still show, so it is given up at `ends_at`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cdc.connect import Connection
from validators.session import pinned
from validators.sides import Side

GIVEN_UP = (
    "the snapshots were given up when their time was over: they keep the servers from cleaning up"
)
MORE_TIME = "compare fewer tables at a time, or allow more time"
REWRITTEN = (
    "it was truncated or rewritten after the snapshot, which does not show its rows any more"
)

# What the function tells is of now, and the catalog is read as of the snapshot.
_SAME_FILES = """
SELECT bool_and(coalesce(c.relfilenode = pg_relation_filenode(t.oid), false))
  FROM (SELECT to_regclass($1)::oid AS oid
        UNION SELECT relid FROM pg_partition_tree(to_regclass($1))) AS t
  LEFT JOIN pg_class AS c ON c.oid = t.oid
 WHERE coalesce(pg_relation_filenode(t.oid), 0) <> 0
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A position, and the snapshots that show what was committed before it."""

    position: str  # in the leader's log
    snapshots: Mapping[str, str] = field(repr=False)  # names, by the DSN of their database
    ends_at: float  # of time.monotonic()


def is_as_it_was(connection: Connection, side: Side) -> bool:
    """Whether the snapshot shows the table's rows still.

    After a TRUNCATE, or an ALTER TABLE that rewrites it, a table is empty for whoever has
    an older snapshot (the manual, 13.6 "Caveats").
    """
    with pinned(connection, side.schemas) as cursor:
        row = cursor.execute(_SAME_FILES, [side.table.identifier.as_string(None)]).fetchone()
    return bool(row and row[0] is not False)
