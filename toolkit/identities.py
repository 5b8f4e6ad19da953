"""Replica identities: the log tells old rows in full where no key would do, and goes on so.

A partition that is made later has REPLICA IDENTITY DEFAULT, whatever its table has.  It is
published with it, and without a key to tell rows by PostgreSQL refuses every update and
delete of its rows.  So whoever carries the split's rows looks for such, and gives them the
identity that they lack.
"""

# ruff: noqa: S608 - constants are put together

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final, LiteralString

import psycopg
from psycopg import sql

from cdc.connect import Connection, connect
from plans.catalog import Catalog, Table, TableName
from plans.errors import SplitError
from plans.holders import holding
from toolkit.opened import Split
from toolkit.short_locks import tried, with_locks

LOCK_WAIT_S: Final = 30
LOOK_S: Final = 1.0
"""How long a new partition's rows may be refused, if nobody locks it."""

END_S_MAX: Final = 10.0

IDENTIFIED: Final[LiteralString] = """
EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = c.oid AND i.indisvalid
   AND CASE c.relreplident WHEN 'd' THEN i.indisprimary AND i.indimmediate
                           WHEN 'i' THEN i.indisreplident END)
"""
"""Whether a key tells the rows of a relation of pg_class apart, by its replica identity."""

# Not pg_partition_tree(), which waits for DDL.
_LACKING: Final[LiteralString] = f"""
WITH RECURSIVE below AS (
    SELECT c.oid, wanted.in_full
      FROM unnest(%s::text[], %s::text[], %s::boolean[]) AS wanted (schema, name, in_full)
      JOIN pg_namespace AS n ON n.nspname = wanted.schema
      JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = wanted.name
     UNION ALL
    SELECT i.inhrelid, b.in_full FROM below AS b JOIN pg_inherits AS i ON i.inhparent = b.oid
     WHERE NOT i.inhdetachpending
)
SELECT n.nspname::text, c.relname::text
  FROM below AS b JOIN pg_class AS c USING (oid) JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND c.relispartition AND c.relreplident <> 'f'
   AND (b.in_full OR NOT {IDENTIFIED})
 ORDER BY 1, 2
"""

_NOTE: Final[LiteralString] = """
INSERT INTO dbsplit.identity_before (split, table_schema, table_name, replica_identity, index_name)
SELECT %s, n.nspname, c.relname, c.relreplident,
       (SELECT x.relname FROM pg_index AS i JOIN pg_class AS x ON x.oid = i.indexrelid
         WHERE i.indrelid = c.oid AND i.indisreplident)
  FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE n.nspname = %s AND c.relname = %s ON CONFLICT DO NOTHING
"""


def identify_rows(split: Split, source: Connection, *, wait_for_new: bool = True) -> None:
    """Let the log tell old rows in full where a key alone would not do.

    Without a replica identity an application's updates and deletes would fail as
    soon as the table is published, so this comes before the publication.

    Unless it is to `wait_for_new` partitions, those are left out that tables have got which
    are logged in full already.
    """
    for relation in unidentified(split, with_new=wait_for_new):
        with_locks(
            source,
            partial(_identify, source, relation, split.name),
            f"the replica identity of {relation} could not be set",
            of=[relation],
            limit_s=LOCK_WAIT_S,
        )


def unidentified(split: Split, *, with_new: bool = True) -> list[TableName]:
    """The source's relations whose old rows the log does not tell in full, and has to."""
    tables = {r.source.name: r.source for r in split.routes if r.needs_old_rows}
    return [
        one
        for table in tables.values()
        if with_new or table.replica_identity != "f"
        for one in not_in_full(table, split.catalog)
    ]


def not_in_full(table: Table, catalog: Catalog) -> list[TableName]:
    """A table and its partitions, those of them that have another identity than FULL."""
    relations = (table.name, *table.leaves)
    return [one for one in relations if catalog.tables[one].replica_identity != "f"]


def identity_statement(relation: TableName) -> sql.Composed:
    """Let the log tell a relation's old rows in full."""
    return sql.SQL("ALTER TABLE {} REPLICA IDENTITY FULL").format(relation.identifier)


def _identify(connection: Connection, relation: TableName, split: str | None) -> None:
    """In a transaction; with the name of a split, `abort` will set it back."""
    if split is not None:
        connection.execute(_NOTE, [split, relation.schema, relation.name])
    connection.execute(identity_statement(relation))


@dataclass(frozen=True, slots=True)
class _Tables:
    """The partitioned tables that are published on a side, and whether all must be FULL."""

    names: tuple[TableName, ...]
    in_full: tuple[bool, ...]

    def lacking(self, connection: Connection) -> list[TableName]:
        """The partitions that have to be given an identity."""
        schemas = [name.schema for name in self.names]
        names = [name.name for name in self.names]
        rows = connection.execute(_LACKING, [schemas, names, list(self.in_full)]).fetchall()
        return [TableName(*row) for row in rows]


class NewPartitions(threading.Thread):
    """Looks for partitions without an identity, and gives them one; beside all other work."""

    def __init__(self, split: Split, services: Callable[[], Collection[str]]) -> None:
        """`services` are those whose changes are followed, beside the source's."""
        super().__init__(name="partitions", daemon=True)
        self.alerts: tuple[str, ...] = ()
        """Which are left without, and why."""
        self._split = split
        self._services = services
        self._halt = threading.Event()
        self._connections: dict[str | None, Connection] = {}

    def end(self) -> None:
        """Look no more."""
        self._halt.set()
        self.join(END_S_MAX)

    def run(self) -> None:
        """Look until told to end; the thread's work."""
        while not self._halt.wait(LOOK_S):
            self.look()
        for connection in self._connections.values():
            connection.close()

    def look(self) -> None:
        """Look once, on all sides."""
        sides = (None, *self._services())
        self.alerts = tuple(said for service in sides for said in self._look(service))

    def _look(self, service: str | None) -> list[str]:
        """Give what lacks one an identity; returns what there is to say of the others."""
        where = "source" if service is None else f"service {service}"
        said = []
        try:
            tables = self._tables(service)
            if not tables.names:
                return []
            connection = self._connection(service)
            for relation in tables.lacking(connection):
                if why := self._give(connection, service, relation):
                    said.append(
                        f"{where}: PostgreSQL may refuse UPDATE and DELETE of {relation}, a new "
                        f"partition, until it has REPLICA IDENTITY FULL: {why}"
                    )
        except (psycopg.Error, SplitError):
            # The next look may succeed.  That a server is away, the streams tell.
            if (lost := self._connections.pop(service, None)) is not None:
                lost.close()
        return said

    def _give(self, connection: Connection, service: str | None, relation: TableName) -> str:
        """Why it could not be given an identity now, or nothing."""
        noted = self._split.name if service is None else None
        try:
            if tried(connection, partial(_identify, connection, relation, noted)):
                return ""
        except psycopg.errors.UndefinedTable:
            return ""  # it is gone again
        except psycopg.Error as error:
            if connection.closed:
                raise
            return error.diag.message_primary or type(error).__name__
        return f"it waits for {holding(connection, relation) or 'a lock'}"

    def _tables(self, service: str | None) -> _Tables:
        split = self._split
        if service is None:
            found = {r.source.name: r.source for r in split.routes}
            full = {r.source.name for r in split.routes if r.needs_old_rows}
        else:
            owned = (split.target_table(route) for route in split.owned([service]))
            found = {table.name: table for table in owned}
            full = {name for name, table in found.items() if not table.logs_key}
        names = tuple(name for name, table in sorted(found.items()) if table.kind == "p")
        return _Tables(names, tuple(name in full for name in names))

    def _connection(self, service: str | None) -> Connection:
        if service not in self._connections:
            dsn = self._split.plan.source.dsn if service is None else self._split.dsn(service)
            self._connections[service] = connect(dsn, name="dbsplit partitions")
        return self._connections[service]


@contextmanager
def new_partitions_identified(split: Split) -> Iterator[None]:
    """See to partitions that are made in the source while the block runs."""
    looking = NewPartitions(split, lambda: ())
    looking.look()  # the block may be over in a moment
    looking.start()
    try:
        yield
    finally:
        looking.end()
