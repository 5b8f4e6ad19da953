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
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Final, LiteralString, NamedTuple

import psycopg
from psycopg import sql

from cdc.connect import Connection, connect
from cdc.lsn import LSN
from cdc.past import NO_PAST, Columns, Past, PastShape
from cdc.pgoutput import Relation
from cdc.relations import Relations
from plans.catalog import Table, TableName
from plans.errors import StreamBroken
from plans.evolution import Numbers

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


_Typed = dict[str, _Type]


class UnknownShape(StreamBroken):
    """The log has rows of a table in a shape that it had between two changes."""

    def __init__(self, table: TableName, columns: Iterable[str]) -> None:
        super().__init__(
            f"the stream brings rows of {table} with the columns {', '.join(columns)}, which it "
            "had between two changes",
            hint=f"nothing wrong was written: `dbsplit plan refresh --anew {table}` copies it anew",
        )
        self.table = table


class Place(NamedTuple):
    """Where rows belong."""

    root: TableName  # the plan's table
    name: TableName  # what the relation is called: itself, or a partition of it
    past: PastShape | None = None  # how it looked if that was otherwise
    is_new: bool = False  # a partition that came after the split was prepared, or refreshed


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
        noted: Mapping[TableName, Numbers] = MappingProxyType({}),
    ) -> None:
        """`horizons`: before them nobody waits for a table's changes.

        `noted` is how tables were known when the split was prepared, or refreshed; of others
        it is how they are when this begins.
        """
        self._connection: Connection = connect(dsn, name="dbsplit watch")
        self._publication = publication
        self._tables = {table.name: table for table in tables}
        self._check_at = 0.0
        self._past = past
        self._horizons = horizons
        self._noted = noted
        self._known = {
            leaf
            for table in self._tables.values()
            for leaf in (_leaves_of(noted[table.name]) if table.name in noted else table.leaves)
        }
        try:
            # Types outside pg_catalog come out qualified, as in the plan's catalog.
            self._connection.execute("SET search_path = ''")
            self._connection.execute("SET statement_timeout = '10s'")
            self._columns = self._read_columns()
            self._relations = Relations(self._connection, publication, self._tables)
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
        self._check_numbers()
        self._check_published()
        self._check_partitions()
        self._check_at = time.monotonic() + CHECK_S

    def place_of(self, relation: Relation, at: LSN) -> Place | None:
        """Where the rows that are announced belong, at this position of the log.

        That is a table itself, or that of a partition.  None if nobody waits for them.
        """
        called = TableName(relation.schema, relation.name)
        owner = self._relations.known(relation.oid)
        if owner is None and at < self._past.gone.get(called, LSN(0)):
            return None
        owner = owner or self._relations.found(relation.oid, called)
        if owner is None:
            self._require_unpublished(relation.oid, called)
            return None
        name, root = owner
        is_new = root in self._noted and name != root and name not in self._known
        announced = {c.name: (c.type_oid, c.type_mod) for c in relation.columns}
        for column in self._past.ignored.get(root, ()):
            announced.pop(column, None)
        if announced == _numbers(self._columns[root]):
            return Place(root, name, is_new=is_new)
        if at < self._horizons.get(root, LSN(0)):
            return None
        return Place(root, name, self._shape_of(root, announced, at), is_new=is_new)

    def _require_unpublished(self, number: int, called: TableName) -> None:
        """Check that rows which are nobody's now were those of a partition that has gone."""
        if self._relations.is_published(number):
            raise StreamBroken(
                f"the stream brings rows of {called}, which is no table of the plan: a table was"
                " renamed, or added to the publication",
                hint="nothing wrong was written: `dbsplit plan refresh` makes the plan follow it",
            )

    def _shape_of(self, root: TableName, announced: Columns, at: LSN) -> PastShape:
        """How a table looked that is not announced as it is.

        Raises UnknownShape if that was between two changes, StreamBroken if it is changed.
        """
        expected = _numbers(self._columns[root])
        has_all = all(announced.get(name) == type_ for name, type_ in expected.items())
        if has_all and self._is_as_expected(root):  # the others are columns that came and went
            return PastShape(table=root, until=at, columns=announced, values={})
        if (past := self._past_of(root, announced, at)) is not None:
            return past
        if self._is_as_expected(root):
            raise UnknownShape(root, self._said(root, announced))
        then = {name: type_.written for name, type_ in self._columns[root].items()}
        raise _differs(root, then, self._written(root, announced))

    def _is_as_expected(self, root: TableName) -> bool:
        """Whether a table has the columns that it had.

        The catalog is asked anew, behind the lock of whoever has altered the table: a commit
        may be in the log before it is seen, but not before its locks are released.  So what
        the catalog lacks then is gone.
        """
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
        return _numbers(now.get(root, {})) == _numbers(self._columns[root])

    def _past_of(self, root: TableName, announced: Columns, at: LSN) -> PastShape | None:
        """How the table looked at this position; None if it was not changed behind that.

        Raises UnknownShape if it was, and what it looked like was never seen.
        """
        shapes = [one for one in self._past.shapes if one.table == root and at < one.until]
        now = _numbers(self._columns[root])
        for shape in shapes:
            if (found := shape.seen_in(announced, now)) is not None:
                return found
        if shapes:
            raise UnknownShape(root, self._said(root, announced))
        return None

    def _said(self, root: TableName, announced: Columns) -> list[str]:
        """These columns in words, with their types where these are not those of now."""
        now = self._columns[root]
        return [
            f"{name} {written}" if name in now and now[name].written != written else name
            for name, written in self._written(root, announced).items()
        ]

    def _written(self, root: TableName, announced: Columns) -> dict[str, str]:
        """These columns' types in words."""
        now = self._columns[root]
        return {
            name: now[name].written
            if name in now and now[name][:2] == type_
            else self._in_words(*type_)
            for name, type_ in announced.items()
        }

    def _in_words(self, oid: int, mod: int) -> str:
        """A type that the catalog may not show: it is of the past, or not committed yet."""
        row = self._connection.execute("SELECT format_type(%s::oid, %s)", [oid, mod]).fetchone()
        return f"{row[0] if row else '???'} (type {oid})"

    def _check_numbers(self) -> None:
        """Check that no table is another one now, with the rows of which nobody began."""
        now = self._relations.read_numbers()
        others = sorted(
            name
            for name, then in self._relations.numbers.items()
            if name in now and now[name] != (self._noted[name].oid if name in self._noted else then)
        )
        if others:
            raise StreamBroken(
                f"table {others[0]} was dropped and created again, or another is called so now",
                hint="`dbsplit plan refresh` copies it anew; then start the stream again",
            )

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
        then, now = self._relations.leaves, self._relations.read_leaves()
        lost = sorted(self._known - now.keys())
        if lost:
            raise StreamBroken(
                f"partition {lost[0]} was detached or dropped, and its rows are gone with it",
                hint="`dbsplit plan refresh` drops it in the targets, too",
            )
        brought = sorted(leaf for leaf in now.keys() - self._known if now[leaf].brings_rows)
        if brought:
            raise StreamBroken(
                f"{now[brought[0]].root} has got partition {brought[0]}, which had rows before",
                hint="`dbsplit plan refresh` copies the table anew; then start the stream again",
            )
        again = sorted(leaf for leaf in now if then.get(leaf, now[leaf]).places != now[leaf].places)
        if again:
            raise StreamBroken(
                f"partition {again[0]} was detached and attached again, and what was written to it"
                " meanwhile did not come",
                hint="`dbsplit plan refresh` copies its table anew; then start the stream again",
            )

    def _read_columns(self) -> dict[TableName, _Typed]:
        found: dict[TableName, _Typed] = {}
        for schema, name, column, *type_ in self._connection.execute(_COLUMNS, self._names()):
            table = TableName(schema, name)
            if column not in self._past.ignored.get(table, ()):
                found.setdefault(table, {})[column] = _Type(*type_)
        return found

    def _names(self) -> list[list[str]]:
        return [[t.schema for t in self._tables], [t.name for t in self._tables]]


def _numbers(columns: _Typed) -> dict[str, tuple[int, int]]:
    return {name: (type_.oid, type_.mod) for name, type_ in columns.items()}


def _require_same_columns(table: TableName, then: _Typed, now: _Typed) -> None:
    """Check that no name is another column's now, whose rows of before are other ones."""
    others = [n for n in sorted(then.keys() & now.keys()) if then[n].number != now[n].number]
    if others:
        raise StreamBroken(
            f"table {table} has another column {others[0]} than before, of the same type",
            hint="`dbsplit plan refresh` copies the table anew; then start the stream again",
        )


def _require_same(table: TableName, then: dict[str, str], now: dict[str, str]) -> None:
    if then != now:
        raise _differs(table, then, now)


def _differs(table: TableName, then: dict[str, str], now: dict[str, str]) -> StreamBroken:
    said = [f"has a new column {name}" for name in sorted(now.keys() - then.keys())]
    said += [f"has lost column {name}" for name in sorted(then.keys() - now.keys())]
    said += [
        f"has column {name} as {now[name]} instead of {then[name]}"
        for name in sorted(then.keys() & now.keys())
        if then[name] != now[name]
    ]
    return StreamBroken(
        f"table {table} is gone or renamed" if not now else f"table {table} {', '.join(said)}",
        hint="nothing wrong was written: `dbsplit plan refresh` carries it over, and says how;"
        " then start the stream again",
    )


def _leaves_of(noted: Numbers) -> Iterator[TableName]:
    return (TableName(*leaf.split(".", 1)) for leaf in noted.leaves)
