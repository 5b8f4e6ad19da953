"""Reading a database's catalog, in one snapshot and in few queries.

A thousand tables with twenty columns take about as long as one: each query
reads all tables at once.  SQLAlchemy's reflection isn't used because it loses
what a copy has to know (storage, exclusion constraints, UNLOGGED).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus
from psycopg.rows import DictRow, dict_row

from plans import catalog_sql
from plans.catalog import Catalog, Column, ForeignKey, Table, TableName
from plans.holders import locked
from plans.names import CONTROL_SCHEMA

LOCK_WAIT_MS: Final = 5000
"""pg_get_expr() opens a table, and would wait for DDL without end."""


def read_catalog(
    conn: psycopg.Connection[Any],
    schemas: Sequence[str],
    *,
    patient: bool = True,
    lock_wait_ms: int = LOCK_WAIT_MS,
) -> Catalog:
    """Read the tables of `schemas`, with all partitions of these wherever they are.

    Tables of extensions, temporary tables and our own control tables are left out.
    Reads in a transaction of its own (REPEATABLE READ, READ ONLY), so `conn`
    must not be in one: ValueError.

    Of a table that is locked, the size is that of the last ANALYZE.  The expressions of
    its generated columns are waited for, and Locked says who locks it; who is not
    `patient` gets NULL for them.
    """
    if conn.info.transaction_status != TransactionStatus.IDLE:
        raise ValueError("read_catalog() needs a connection that isn't in a transaction")
    wanted = tuple(schema for schema in schemas if schema != CONTROL_SCHEMA)
    try:
        with conn.transaction(), conn.cursor(row_factory=dict_row) as cursor:
            wait = sql.SQL("SET LOCAL lock_timeout = {}").format(f"{lock_wait_ms}ms")
            settings = map(sql.SQL, catalog_sql.SETTINGS)
            cursor.execute(sql.SQL("; ").join([*settings, wait]))  # servers may be far away
            return _Reader(cursor, wanted, patient=patient).catalog()
    except psycopg.errors.LockNotAvailable as error:
        raise locked(conn, error) from None


@dataclass(frozen=True, slots=True)
class _Key:
    """The columns of a table's primary key and of its replica identity."""

    primary: tuple[str, ...] = ()
    is_deferrable: bool = False
    identity: tuple[str, ...] = ()
    temporal: frozenset[tuple[str, ...]] = frozenset()


class _Reader:
    """The rows of one snapshot, put together."""

    def __init__(
        self, cursor: psycopg.Cursor[DictRow], schemas: tuple[str, ...], *, patient: bool
    ) -> None:
        self._cursor = cursor
        self._patient = patient
        self._schemas = schemas
        relations = self._rows(catalog_sql.RELATIONS, schemas=list(schemas))
        self._relations = [row for row in relations if row["kind"] in "rp"]
        self._views = tuple(sorted(_name(row) for row in relations if row["kind"] in "vm"))
        foreign = [row for row in relations if row["kind"] == "f"]
        self._foreign = tuple(sorted(map(_name, foreign)))
        self._foreign_partitions = frozenset(_name(row) for row in foreign if row["is_partition"])
        self._oids = [row["oid"] for row in self._relations]
        self._partitions: dict[int, list[DictRow]] = defaultdict(list)
        for row in self._relations:
            if row["is_partition"]:
                self._partitions[row["parent_oid"]].append(row)

    def catalog(self) -> Catalog:
        (server,) = self._rows(catalog_sql.SERVER)
        columns, keys = self._columns(), self._keys()
        tables = [
            self._table(row, columns[row["oid"]], keys.get(row["oid"], _Key()))
            for row in self._relations
        ]
        return Catalog(
            server_version=server["version"],
            database=server["database"],
            schemas=self._schemas,
            tables={table.name: table for table in sorted(tables, key=lambda table: table.name)},
            foreign_keys=tuple(self._foreign_keys()),
            foreign_tables=self._foreign,
            foreign_partitions=self._foreign_partitions,
            views=self._views,
            schemas_there=tuple(server["schemas"]),
        )

    def _rows(self, query: LiteralString, **parameters: Any) -> list[DictRow]:  # noqa: ANN401
        return self._cursor.execute(query, parameters).fetchall()

    def _table(self, row: DictRow, columns: tuple[Column, ...], key: _Key) -> Table:
        below = list(self._leaves(row["oid"]))
        held = [row, *below]
        is_lost = row["identity"] == "i" and not key.identity
        return Table(
            name=_name(row),
            kind=row["kind"],
            columns=columns,
            primary_key=key.primary,
            key_deferrable=key.is_deferrable,
            temporal_keys=key.temporal,
            # An index that is named and was dropped leaves nothing to tell rows by.
            replica_identity="n" if is_lost else row["identity"],
            identity_index_columns=key.identity,
            parent=TableName(*row["parent"]) if row["parent"] else None,
            is_partition=row["is_partition"],
            leaves=tuple(sorted(_name(leaf) for leaf in below)),
            persistence=row["persistence"],
            rows_estimated=sum(part["rows"] for part in held),
            size_bytes=sum(part["bytes"] for part in held),
        )

    def _leaves(self, root: int) -> Iterator[DictRow]:
        for row in self._partitions.get(root, ()):
            if row["kind"] == "p":
                yield from self._leaves(row["oid"])
            else:
                yield row

    def _columns(self) -> Mapping[int, tuple[Column, ...]]:
        found: dict[int, list[Column]] = defaultdict(list)
        for row in self._rows(catalog_sql.COLUMNS, oids=self._oids, patient=self._patient):
            found[row["relation"]].append(_column(row))
        return defaultdict(tuple, {oid: tuple(columns) for oid, columns in found.items()})

    def _keys(self) -> Mapping[int, _Key]:
        found: dict[int, _Key] = {}
        for row in self._rows(catalog_sql.KEYS, oids=self._oids):
            key = found.get(row["relation"], _Key())
            columns = tuple(row["columns"])
            if row["is_primary"]:
                key = replace(key, primary=columns, is_deferrable=row["is_deferrable"])
            if row["is_identity"]:
                key = replace(key, identity=columns)
            if row["is_temporal"]:
                key = replace(key, temporal=key.temporal | {columns})
            found[row["relation"]] = key
        return found

    def _foreign_keys(self) -> Iterator[ForeignKey]:
        rows = self._rows(catalog_sql.FOREIGN_KEYS, oids=self._oids)
        for row in sorted(rows, key=lambda row: (row["table"], row["name"])):
            yield ForeignKey(
                name=row["name"],
                table=TableName(*row["table"]),
                columns=tuple(row["columns"]),
                references=TableName(*row["references"]),
                referenced_columns=tuple(row["referenced_columns"]),
                definition=row["definition"],
                on_delete=row["on_delete"],
                on_update=row["on_update"],
                deferrable=row["is_deferrable"],
            )


def _name(row: DictRow) -> TableName:
    return TableName(row["schema"], row["name"])


def _column(row: DictRow) -> Column:
    generated = row["generated"]
    return Column(
        name=row["name"],
        type=row["type"],
        is_portable=row["portable"],
        not_null=row["not_null"],
        default=None if generated else row["expression"],
        identity=row["identity"],
        generated=row["expression"] if generated else None,
        generated_kind=generated,
        collation=row["collation"],
        toastable=row["toastable"],
        sequence=TableName(*row["sequence"]) if row["sequence"] else None,
    )
