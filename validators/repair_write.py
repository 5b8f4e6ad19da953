"""Writing rows of the leader into the follower, as the applier writes them.

The leader's values, computed by the plan's expressions where the rows are, are staged
and carried over by the stream's own statements.  So a repaired row is what the stream
would have made of it, identity columns, columns that do not flow and unique values
that change hands included.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import psycopg
from psycopg import sql

from cdc.compiled import CompiledFlow
from cdc.connect import Connection
from cdc.flow import Flow, quoted
from cdc.flow_sql import COUNT, OP
from cdc.stage import Stage
from plans.catalog import Table
from plans.routes import RouteColumn
from validators.canonical import Hashing, text_of
from validators.evidence import ABSENT, Reading, readings
from validators.fingerprint import Extent
from validators.lookup import Lookup, matching, parameters
from validators.session import Cursor, pinned
from validators.sides import Key, Pair, Side

STATEMENT_S_MAX = 10
"""The stream waits while a repair has its turn; it is not to wait for long."""


@dataclass(frozen=True, slots=True)
class Row:
    """One of a key's rows, as text."""

    count: int
    texts: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Rows:
    """What one side has of a key: for comparing, and for writing."""

    reading: Reading
    by_hash: Mapping[int, Row]


NO_ROWS = Rows(ABSENT, {})


class Refused(Exception):
    """The follower did not take the rows as the leader has them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where rows are written, and when."""

    pair: Pair
    extent: Extent  # of the follower
    flow: Flow
    follower: Table
    turn: int  # the advisory lock that the applier shares
    lock_timeout_ms: int


class RowWriter:
    """Writes rows of one route into its follower; for use by one thread."""

    def __init__(
        self,
        connection: Connection,
        place: Place,
        hashing: Hashing,
    ) -> None:
        self._connection = connection
        self._pair = place.pair
        self._extent = place.extent
        self._how = Lookup(hashing=hashing, same_text=True)
        self._turn = place.turn
        self._lock_timeout_ms = place.lock_timeout_ms
        self._flow = _of_values(place.flow, place.follower)
        self._stage = Stage(0, self._flow.leader, {})
        self._compiled = CompiledFlow(self._flow, self._stage.name)

    def open(self) -> None:
        """Make the stage."""
        self._connection.execute(
            sql.SQL("DROP TABLE IF EXISTS pg_temp.{}").format(self._stage.table)
        )
        for statement in self._stage.create():
            self._connection.execute(statement)

    @contextmanager
    def turn(self) -> Iterator[Cursor]:
        """A transaction in which the applier does not write; rolled back on any error.

        Raises psycopg.errors.LockNotAvailable if the applier has its turn for too long.
        """
        connection = self._connection
        path = sql.SQL(", ").join(
            map(sql.Identifier, ("pg_catalog", *self._pair.follower.schemas, "pg_temp"))
        )
        try:
            connection.execute("BEGIN")
            connection.execute(sql.SQL("SET LOCAL search_path TO {}").format(path))
            connection.execute("SET LOCAL row_security = off")
            connection.execute("SET LOCAL jit = off")
            for name, value_ms in (
                ("lock_timeout", self._lock_timeout_ms),
                ("statement_timeout", STATEMENT_S_MAX * 1000),
                ("idle_in_transaction_session_timeout", STATEMENT_S_MAX * 1000),
            ):
                connection.execute("SELECT set_config(%s, %s, true)", [name, f"{value_ms}ms"])
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [self._turn])
            with psycopg.RawCursor(connection) as cursor:
                yield cursor
            connection.execute("COMMIT")
        except BaseException:
            if not connection.broken and not connection.closed:
                connection.execute("ROLLBACK")
            raise

    def lock(self, cursor: Cursor, keys: Sequence[Key]) -> None:
        """Lock the follower's rows of these keys against everybody else."""
        if self._pair.key:
            wanted = {"v": sql.SQL("xmin::text")}
            query = sql.SQL("SELECT k.n FROM {} FOR UPDATE OF r").format(
                matching(self._pair.follower, self._extent, keys, self._how, wanted)
            )
        else:  # whoever adds a row that looks the same has no row that could be locked
            query = sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(
                self._pair.follower.table.identifier
            )
        cursor.execute(query, parameters(keys) if self._pair.key else None)

    def follower(self, cursor: Cursor, keys: Sequence[Key]) -> dict[Key, Rows]:
        """What the follower has of these keys, in the transaction that is open."""
        return _read(cursor, self._pair.follower, self._extent, keys, self._how)

    def leader(
        self, connection: Connection, extent: Extent, keys: Sequence[Key]
    ) -> dict[Key, Rows]:
        """What the leader has of these keys."""
        side = self._pair.leader
        with pinned(connection, side.schemas, timeout_s=STATEMENT_S_MAX) as cursor:
            return _read(cursor, side, extent, keys, self._how)

    def write(
        self,
        keys: Sequence[Key],
        leader: Mapping[Key, Rows],
        follower: Mapping[Key, Rows],
    ) -> None:
        """Make the follower's rows what the leader's are; psycopg.Error if it refuses them."""
        connection = self._connection
        connection.execute(sql.SQL("TRUNCATE {}").format(self._stage.table))
        names = [*map(sql.Identifier, self._stage.columns), OP, COUNT]
        copy_in = sql.SQL("COPY {} ({}) FROM STDIN").format(
            self._stage.table, sql.SQL(", ").join(names)
        )
        with connection.cursor() as cursor, cursor.copy(copy_in) as copy:
            for key in keys:
                ours, theirs = leader.get(key, NO_ROWS), follower.get(key, NO_ROWS)
                for row in self._staged(ours, theirs):
                    copy.write_row(row)
        connection.execute("SAVEPOINT batch")
        try:
            self._carry_over(self._compiled.add)
        except (psycopg.errors.UniqueViolation, psycopg.errors.ExclusionViolation):
            connection.execute("ROLLBACK TO SAVEPOINT batch")
            self._carry_over(self._compiled.rewrite)

    def _carry_over(self, add: tuple[bytes, ...]) -> None:
        for statement in (*self._compiled.remove, *add):
            self._connection.execute(statement)

    def _staged(self, leader: Rows, follower: Rows) -> Iterator[list[object]]:
        if not self._pair.key:
            yield from _copies(leader, follower)
            return
        for row in leader.by_hash.values():
            if row.count > 1 or len(leader.by_hash) > 1:
                raise Refused("several rows of the leader have this key")
            yield [*self._in_order(row.texts), "u", None]
        if not leader.by_hash:
            gone = next(iter(follower.by_hash.values()))  # whose key is what counts
            yield [*self._in_order(gone.texts), "g", None]

    def _in_order(self, texts: Sequence[str | None]) -> Iterator[str | None]:
        """The values of the flow's columns, as the stage has them."""
        given = dict(zip((c.name for c in self._flow.columns), texts, strict=True))
        return (given[name] for name in self._stage.columns)


def _copies(leader: Rows, follower: Rows) -> Iterator[list[object]]:
    """How many copies of a row without a key are to come or to go."""
    for hashed in leader.by_hash.keys() | follower.by_hash.keys():
        ours, theirs = leader.by_hash.get(hashed), follower.by_hash.get(hashed)
        more = (ours.count if ours else 0) - (theirs.count if theirs else 0)
        row = ours or theirs
        if more and row is not None:
            yield [*row.texts, "u" if more > 0 else "g", more]


def _of_values(flow: Flow, follower: Table) -> Flow:
    """The flow of rows that have the follower's columns already."""
    columns = tuple(
        RouteColumn(
            name=column.name,
            expression=quoted(column.name),
            reads=frozenset({column.name}),
            type=column.type or follower.column(column.name).type,
            plain=column.name,
            binary=False,
        )
        for column in flow.columns
    )
    names = [column.name for column in columns]
    staged = replace(
        follower,
        columns=tuple(follower.column(name) for name in names),
        primary_key=flow.key,
        replica_identity="d",
    )
    return replace(flow, leader=staged, columns=columns, where=None, where_reads=frozenset())


def _read(
    cursor: Cursor, side: Side, extent: Extent, keys: Sequence[Key], how: Lookup
) -> dict[Key, Rows]:
    if not keys:
        return {}
    texts = sql.SQL(", ").join(text_of(value) for value in side.columns)
    wanted = {
        "h": side.row_hash(how.hashing),
        "v": sql.SQL("xmin::text::int8"),
        "x": sql.SQL("ARRAY[{}]::text[]").format(texts),
    }
    query = sql.SQL(
        "SELECT k.n, r.h, count(*), sum(r.v)::int8, r.x FROM {} GROUP BY 1, 2, 5"
    ).format(matching(side, extent, keys, how, wanted))
    found = cursor.execute(query, parameters(keys)).fetchall()
    gathered = readings((keys[n - 1], hashed, count, v) for n, hashed, count, v, _ in found)
    rows: dict[Key, dict[int, Row]] = {key: {} for key in gathered}
    for n, hashed, count, _, texts_ in found:
        rows[keys[n - 1]][hashed] = Row(count, tuple(texts_))
    return {key: Rows(reading, rows[key]) for key, reading in gathered.items()}
