"""Watching the leader's tables: what the stream relies on must stay as it was.

The stream carries rows, not DDL.  A retyped column, a table that was taken out of
the publication or a detached partition leave no trace among the rows, and the
follower would silently become another table.  So the leader's catalog is looked
at when following begins and every few seconds, and each announcement of a table
in the stream is held against it: that one stands exactly before the first row
that would be wrong.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, LiteralString, NamedTuple

import psycopg
from psycopg import sql

from cdc.connect import Connection, connect
from cdc.lsn import LSN
from cdc.past import NO_PAST, Past, PastShape
from cdc.pgoutput import Relation
from plans.catalog import Table, TableName
from plans.errors import StreamBroken
from plans.partitions_sql import ATTACHED

CHECK_S = 5.0
"""How often the catalog is read; some milliseconds of the leader each."""

LOCK_S_MAX = 2.0

_COLUMNS: Final[LiteralString] = """
SELECT n.nspname::text, c.relname::text, a.attname::text, a.atttypid::bigint, a.atttypmod,
       format_type(a.atttypid, a.atttypmod), a.attnum
  FROM unnest(%s::text[], %s::text[]) AS wanted (schema, name)
  JOIN pg_namespace n ON n.nspname = wanted.schema
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name AND c.relkind IN ('r', 'p')
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
   AND a.attgenerated = ''
"""

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
       b.attached AND l.relkind = 'r'
  FROM below b JOIN pg_class l ON l.oid = b.oid JOIN pg_namespace ln ON ln.oid = l.relnamespace
 WHERE l.relispartition
"""  # noqa: S608 -- all of it is ours

_PUBLISHED: Final[LiteralString] = """
SELECT n.nspname::text, c.relname::text
  FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid
  JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE p.pubname = %s AND r.prqual IS NULL AND r.prattrs IS NULL
   AND p.pubinsert AND p.pubupdate AND p.pubdelete AND p.pubtruncate AND NOT p.pubviaroot
"""


class _Type(NamedTuple):
    """A column's type, as announcements have it and as people write it, and its number."""

    oid: int
    mod: int
    written: str
    number: int


class _Leaf(NamedTuple):
    """A partition: the table that it belongs to, and how it came there."""

    root: TableName
    places: str  # by which transactions
    brings_rows: bool  # it was a table before, and has no partitions of its own


_Columns = dict[str, _Type]


class UnknownShape(StreamBroken):
    """The log has rows of a table in a shape that it had between two changes."""

    def __init__(self, table: TableName, columns: Iterable[str]) -> None:
        super().__init__(
            f"the stream brings rows of {table} with the columns {', '.join(columns)}, which it "
            "had between two changes that were carried over together",
            hint=f"nothing wrong was written: `dbsplit plan refresh --anew {table}` copies it anew",
        )
        self.table = table


class Place(NamedTuple):
    """Where rows belong: the plan's table, and how it looked if that was otherwise."""

    root: TableName
    past: PastShape | None = None


class Watch:
    """The leader's tables; a session of its own, for one thread.

    Raises StreamBroken when it is made, and by its methods, if a table is not what
    the flows were compiled for.
    """

    def __init__(
        self,
        dsn: str,
        publication: str,
        tables: Iterable[Table],
        past: Past = NO_PAST,
        horizons: Mapping[TableName, LSN] = MappingProxyType({}),
    ) -> None:
        """`horizons`: before them nobody waits for a table's changes."""
        self._connection: Connection = connect(dsn, name="dbsplit watch")
        self._publication = publication
        self._tables = {table.name: table for table in tables}
        self._check_at = 0.0
        self._past = past
        self._horizons = horizons
        try:
            # Types outside pg_catalog come out qualified, as in the plan's catalog.
            self._connection.execute("SET search_path = ''")
            self._connection.execute("SET statement_timeout = '10s'")
            self._columns = self._read_columns()
            self._leaves = self._read_leaves()
            self._roots = {leaf: at.root for leaf, at in self._leaves.items()}
            self.check()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the session."""
        self._connection.close()

    def look(self) -> None:
        """Check, if it was not done for a while."""
        if time.monotonic() >= self._check_at:
            self.check()

    def check(self) -> None:
        """Check all tables and the publication."""
        now = self._read_columns()
        for name, table in sorted(self._tables.items()):
            then = {c.name: c.type for c in table.columns if c.generated is None}
            _require_same(name, then, {n: t.written for n, t in now.get(name, {}).items()})
            _require_same_columns(name, self._columns.get(name, {}), now.get(name, {}))
        self._check_published()
        self._check_partitions()
        self._check_at = time.monotonic() + CHECK_S

    def place_of(self, relation: Relation, at: LSN) -> Place | None:
        """Where the rows that are announced belong, at this position of the log.

        That is a table itself, or that of a partition.  None if nobody waits for them.
        """
        name = TableName(relation.schema, relation.name)
        if at < self._past.gone.get(name, LSN(0)):
            return None
        if name not in self._tables and name not in self._roots:
            self._roots = self._read_roots()  # a partition that is new
        root = self._roots.get(name, name)
        announced = {c.name: (c.type_oid, c.type_mod) for c in relation.columns}
        for column in self._past.ignored.get(root, ()):
            announced.pop(column, None)
        expected = self._columns.get(root)
        if expected is not None and announced != _numbers(expected):
            if at < self._horizons.get(root, LSN(0)):
                return None
            if self._has_only_lost(root, announced):
                return Place(root, PastShape(table=root, until=at, columns=announced, values={}))
            if (past := self._past_of(root, announced, at)) is not None:
                return Place(root, past)
        self._require_as_expected(name, root, announced)
        return Place(root)

    def _has_only_lost(self, root: TableName, announced: dict[str, tuple[int, int]]) -> bool:
        """Whether all that is announced too much are columns that came and went again.

        The catalog is asked anew, behind the lock of whoever has altered the table: a commit
        may be in the log before it is seen, but not before its locks are released.  So what
        the catalog lacks then is gone.
        """
        expected = _numbers(self._columns[root])
        if any(announced.get(name) != type_ for name, type_ in expected.items()):
            return False
        try:
            with self._connection.transaction():
                self._connection.execute(
                    "SELECT set_config('lock_timeout', %s, true)", [f"{LOCK_S_MAX:.0f}s"]
                )
                self._connection.execute(
                    sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(root.identifier)
                )
                now = self._read_columns()
        except (psycopg.errors.LockNotAvailable, psycopg.errors.UndefinedTable):
            return False
        return _numbers(now.get(root, {})) == expected

    def _past_of(
        self, root: TableName, announced: dict[str, tuple[int, int]], at: LSN
    ) -> PastShape | None:
        """How the table looked at this position; None if it was not changed behind that.

        Raises UnknownShape if it was, and what it looked like was never seen.
        """
        shapes = [one for one in self._past.shapes if one.table == root and at < one.until]
        now = _numbers(self._columns[root])
        for shape in shapes:
            if (found := shape.seen_in(announced, now)) is not None:
                return found
        if shapes:
            raise UnknownShape(root, announced)
        return None

    def _require_as_expected(
        self, name: TableName, root: TableName, announced: dict[str, tuple[int, int]]
    ) -> None:
        expected = self._columns.get(root)
        if root not in self._tables or expected is None:
            raise StreamBroken(
                f"the stream brings rows of {name}, which is no table of the plan: a table was"
                " renamed, or added to the publication",
                hint="nothing wrong was written: `dbsplit plan refresh` makes the plan follow it",
            )
        if announced != _numbers(expected):
            _require_same(
                root,
                {name: type_.written for name, type_ in expected.items()},
                {
                    name: expected[name].written
                    if name in expected and expected[name][:2] == type_
                    else self._in_words(*type_)
                    for name, type_ in announced.items()
                },
            )

    def _in_words(self, oid: int, mod: int) -> str:
        """A type that the catalog may not show: it is of the past, or not committed yet."""
        row = self._connection.execute("SELECT format_type(%s::oid, %s)", [oid, mod]).fetchone()
        return f"{row[0] if row else '???'} (type {oid})"

    def _check_published(self) -> None:
        rows = self._connection.execute(_PUBLISHED, [self._publication]).fetchall()
        missing = sorted(set(self._tables) - {TableName(*row) for row in rows})
        if missing:
            (table, *_) = missing
            if table not in self._read_columns():  # since it was looked at
                _require_same(table, {n: t.written for n, t in self._columns[table].items()}, {})
            raise StreamBroken(
                f"publication {self._publication} does not publish all of {table} any more",
                hint="what was changed since is unknown to the stream: `dbsplit abort` and start"
                " the split again",
            )

    def _check_partitions(self) -> None:
        now = self._read_leaves()
        lost = sorted(
            leaf for table in self._tables.values() for leaf in table.leaves if leaf not in now
        )
        if lost:
            raise StreamBroken(
                f"partition {lost[0]} was detached or dropped, and its rows are gone with it",
                hint="`dbsplit plan refresh` drops it in the targets, too",
            )
        known = {leaf for table in self._tables.values() for leaf in table.leaves}
        brought = sorted(leaf for leaf in now.keys() - known if now[leaf].brings_rows)
        if brought:
            raise StreamBroken(
                f"{now[brought[0]].root} has got partition {brought[0]}, which had rows before",
                hint="`dbsplit plan refresh` copies the table anew; then start the stream again",
            )
        again = sorted(
            leaf for leaf in now if self._leaves.get(leaf, now[leaf]).places != now[leaf].places
        )
        if again:
            raise StreamBroken(
                f"partition {again[0]} was detached and attached again, and what was written to it"
                " meanwhile did not come",
                hint="`dbsplit plan refresh` copies its table anew; then start the stream again",
            )

    def _read_columns(self) -> dict[TableName, _Columns]:
        found: dict[TableName, _Columns] = {}
        for schema, name, column, *type_ in self._connection.execute(_COLUMNS, self._names()):
            table = TableName(schema, name)
            if column not in self._past.ignored.get(table, ()):
                found.setdefault(table, {})[column] = _Type(*type_)
        return found

    def _read_roots(self) -> dict[TableName, TableName]:
        return {leaf: at.root for leaf, at in self._read_leaves().items()}

    def _read_leaves(self) -> dict[TableName, _Leaf]:
        rows = self._connection.execute(_LEAVES, self._names()).fetchall()
        return {TableName(*row[:2]): _Leaf(TableName(*row[2:4]), *row[4:]) for row in rows}

    def _names(self) -> list[list[str]]:
        return [[t.schema for t in self._tables], [t.name for t in self._tables]]


def _numbers(columns: _Columns) -> dict[str, tuple[int, int]]:
    return {name: (type_.oid, type_.mod) for name, type_ in columns.items()}


def _require_same_columns(table: TableName, then: _Columns, now: _Columns) -> None:
    """Check that no name is another column's now, whose rows of before are other ones."""
    others = [n for n in sorted(then.keys() & now.keys()) if then[n].number != now[n].number]
    if others:
        raise StreamBroken(
            f"table {table} has another column {others[0]} than before, of the same type",
            hint="`dbsplit plan refresh` copies the table anew; then start the stream again",
        )


def _require_same(table: TableName, then: dict[str, str], now: dict[str, str]) -> None:
    if then == now:
        return
    said = [f"has a new column {name}" for name in sorted(now.keys() - then.keys())]
    said += [f"has lost column {name}" for name in sorted(then.keys() - now.keys())]
    said += [
        f"has column {name} as {now[name]} instead of {then[name]}"
        for name in sorted(then.keys() & now.keys())
        if then[name] != now[name]
    ]
    raise StreamBroken(
        f"table {table} is gone or renamed" if not now else f"table {table} {', '.join(said)}",
        hint="nothing wrong was written: `dbsplit plan refresh` carries it over, and says how;"
        " then start the stream again",
    )
