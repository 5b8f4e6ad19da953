"""Reading from both sides at once, in short transactions with pinned settings.

Settings are set inside each transaction, not for the session: a transaction
pooler in between would hand the session to someone else.  Row security is off,
which makes PostgreSQL refuse to read a table whose policies would hide rows
from us, instead of hiding them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from cdc.connect import PINNED_SETTINGS, Connection, connect, describe, lift_limits
from plans.errors import NotReady
from plans.holders import locked
from validators.arrays import load_arrays
from validators.canonical import Hashing, trusted
from validators.sides import Pair, Side
from validators.typed import Value

T = TypeVar("T")
Cursor = psycopg.RawCursor[tuple[Any, ...]]

LOCK_S_MAX = 30.0  # somebody's ALTER TABLE: say that the table could not be read
_SAMPLES = ("", "a", "Ж€𝄞", '(1,,"","x y")', "0123456789" * 9)  # one per code path of the hash
_TYPED_SAMPLES = (
    *(("bigint", text) for text in ("'0'", "'-1'", "'4294967296'", "'-9223372036854775808'")),
    *(("integer", text) for text in ("'0'", "'-2147483648'", "'7'")),
    *(("smallint", text) for text in ("'-3'", "'32767'")),
    ("uuid", "'00112233-4455-6677-8899-aabbccddeeff'"),
    *(("double precision", text) for text in ("'0.1'", "'-0'", "'NaN'", "'Infinity'", "'5e-324'")),
    *(("real", text) for text in ("'0.1'", "'-0'", "'1e-45'")),
    *(("date", text) for text in ("'2024-02-29'", "'infinity'", "'0044-03-15 BC'")),
    *(
        (f"timestamp {zone} time zone", text)
        for zone in ("with", "without")
        for text in ("'2024-02-29 12:34:56.789012'", "'1699-01-01'", "'10000-01-01'", "'-infinity'")
    ),
)
"""Values that take each way through the typed hashes."""

_UTF8 = "UTF8"
_ALONE = sql.SQL("BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY"), (sql.SQL("ROLLBACK"),)
_WITHIN = (
    sql.SQL("SAVEPOINT pinned"),
    (sql.SQL("ROLLBACK TO SAVEPOINT pinned"), sql.SQL("RELEASE SAVEPOINT pinned")),
)
"""How a reading begins and ends, by itself or in a transaction that has a snapshot."""


class Ends:
    """One connection to the leader and one to the follower; made by `connected`."""

    def __init__(self, leader: Connection, follower: Connection, hashing: Hashing) -> None:
        self.leader = leader
        self.follower = follower
        self.hashing = hashing
        # One thread each: what is begun on a connection waits for what was begun before.
        self._threads = [
            ThreadPoolExecutor(1, thread_name_prefix="dbsplit-compare") for _ in range(2)
        ]
        self._cancelled = threading.Event()

    def both(self, read: Callable[[Connection, Side], T], pair: Pair) -> tuple[T, T]:
        """Read both sides at the same time; the leader's result comes first."""
        return self.begin(read, pair)()

    def begin(self, read: Callable[[Connection, Side], T], pair: Pair) -> Callable[[], tuple[T, T]]:
        """Begin to read both sides; what is returned waits for their results."""
        self.check()
        sides = ((self.leader, pair.leader), (self.follower, pair.follower))
        futures = [
            thread.submit(read, connection, side)
            for thread, (connection, side) in zip(self._threads, sides, strict=True)
        ]

        def results() -> tuple[T, T]:
            try:
                leader, follower = (future.result() for future in futures)
            except BaseException:
                self._stop(futures)
                raise
            return leader, follower

        return results

    def ask_leader(self, read: Callable[[Connection], T]) -> T:
        """Read the leader, after what was begun there before."""
        self.check()
        return self._threads[0].submit(read, self.leader).result()

    def ask_follower(self, read: Callable[[Connection], T]) -> T:
        """Read the follower, after what was begun there before."""
        self.check()
        return self._threads[1].submit(read, self.follower).result()

    @property
    def lost(self) -> bool:
        """Whether nothing more can be read."""
        return self._cancelled.is_set() or self.leader.closed or self.follower.closed

    def check(self) -> None:
        """Raise Cancelled after `cancel`."""
        if self._cancelled.is_set():
            raise Cancelled

    def cancel(self) -> None:
        """End what is running, from another thread; nothing more can be read."""
        self._cancelled.set()
        for connection in (self.leader, self.follower):
            connection.cancel_safe(timeout=5.0)

    def _stop(self, futures: list[Future[T]]) -> None:
        """After one side failed: do not wait for the other to come to its end."""
        for future, connection in zip(futures, (self.leader, self.follower), strict=True):
            if not future.done() and not future.cancel():
                connection.cancel_safe(timeout=5.0)
        for future in futures:
            if not future.cancelled():
                future.exception()

    def close(self) -> None:
        """Close both connections."""
        for thread in self._threads:
            thread.shutdown()
        self.leader.close()
        self.follower.close()


class Cancelled(Exception):
    """The comparison was told to stop."""


@contextmanager
def connected(
    leader_dsn: str, follower_dsn: str, snapshots: Mapping[str, str] = MappingProxyType({})
) -> Iterator[Ends]:
    """Connections to both sides, after a proof that both hash alike.

    They see the snapshot of their DSN for good, if there is one.  Raises NotReady if the
    sides do not hash alike, or if a server does not let us in.
    """
    with ExitStack() as stack, ThreadPoolExecutor(2) as pool:
        opening = [pool.submit(_open, dsn) for dsn in (leader_dsn, follower_dsn)]
        for one in opening:
            if not (one.exception() or one.cancelled()):
                stack.callback(one.result().close)
        leader, follower = (one.result() for one in opening)
        ends = Ends(leader, follower, _agreed_hashing(leader, follower, pool))
        stack.callback(ends.close)
        for connection, dsn in ((leader, leader_dsn), (follower, follower_dsn)):
            if dsn in snapshots:
                join(connection, snapshots[dsn])
        yield ends


def join(connection: Connection, snapshot: str) -> None:
    """Begin the transaction that has the snapshot, and stays open."""
    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    connection.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot)))
    lift_limits(connection)


@dataclass(slots=True)
class Held:
    """A snapshot of each side, which other connections may join."""

    pair: Pair
    snapshots: tuple[str, str] | None  # None: whoever reads has one for good
    members: list[Ends]

    def join(self, ends: Ends) -> None:
        """Have these read the same snapshots."""
        if self.snapshots is None or ends in self.members:
            return
        leader, follower = self.snapshots

        def begin(connection: Connection, side: Side) -> None:
            join(connection, leader if side is self.pair.leader else follower)

        self.members.append(ends)
        ends.both(begin, self.pair)

    def let_go(self) -> None:
        """Let all go on without them, in turn after what was begun and has not ended."""
        for ends in reversed(self.members if self.snapshots else []):
            if not ends.lost:
                with suppress(psycopg.Error):  # it is lost then, and so is the snapshot
                    ends.both(_roll_back, self.pair)


@contextmanager
def held(ends: Ends, pair: Pair) -> Iterator[Held]:
    """All that is read in the block is of one snapshot of each side, taken when it begins.

    Sides that have a snapshot for good keep that one.
    """

    def begin(connection: Connection, _: Side) -> str | None:
        if connection.info.transaction_status is not TransactionStatus.IDLE:
            return None
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        # It is the first statement that takes the snapshot.
        row = connection.execute("SELECT pg_export_snapshot()").fetchone()
        lift_limits(connection)
        return str(row[0]) if row else None

    try:
        leader, follower = ends.both(begin, pair)
    except BaseException:
        ends.cancel()  # one may have its snapshot, and would show what is compared next as of then
        raise
    both = Held(pair, (leader, follower) if leader and follower else None, [ends])
    try:
        yield both
    finally:
        both.let_go()


def _roll_back(connection: Connection, _: Side) -> None:
    connection.execute("ROLLBACK")


@contextmanager
def pinned(
    connection: Connection,
    schemas: Sequence[str],
    *,
    timeout_s: float = 0,
    planner: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Cursor]:
    """A read-only transaction in which a value has one text form, and a cursor in it.

    A connection that has a snapshot for good stays in its transaction.

    The cursor's placeholders are ``$1``, so a ``%`` in the plan's SQL means itself.
    A statement may take `timeout_s`, 0 is any time; `planner` is more settings.
    NotReady if somebody keeps a table locked.
    """
    begin, end = _bounds(connection)
    try:
        try:
            settings = _settings(connection, schemas, timeout_s, planner)
            connection.execute(_begin(begin, settings))
            with psycopg.RawCursor(connection) as cursor:
                yield cursor
        finally:
            if not connection.broken and not connection.closed:
                connection.execute(sql.SQL("; ").join(end))
    except psycopg.errors.LockNotAvailable as error:
        raise locked(connection, error) from None


@dataclass(frozen=True, slots=True)
class Reader:
    """One side's connection, for statements that return one row."""

    connection: Connection
    hashing: Hashing

    def row(self, side: Side, query: sql.Composed, planner: Mapping[str, str]) -> tuple[Any, ...]:
        """See `read_row`."""
        return read_row(self.connection, side.schemas, query, planner)


def read_row(
    connection: Connection,
    schemas: Sequence[str],
    query: sql.Composed,
    planner: Mapping[str, str],
) -> tuple[Any, ...]:
    """The only row of a query, whose int8[] are left packed; see `read_rows`."""
    (row,) = read_rows(connection, schemas, query, planner=planner, packed=True)
    return row


def read_rows(
    connection: Connection,
    schemas: Sequence[str],
    query: sql.Composed,
    parameters: Sequence[Any] = (),
    *,
    planner: Mapping[str, str] = MappingProxyType({}),
    packed: bool = False,
) -> list[tuple[Any, ...]]:
    """What a query returns in a transaction like that of `pinned`.

    One round trip, however far the server is.  `planner` is more settings.
    """
    settings = _settings(connection, schemas, 0, planner)
    pins = sql.SQL(", ").join(
        sql.SQL("set_config({}, {}, true)").format(name, value) for name, value in settings.items()
    )
    begin, end = _bounds(connection)
    try:
        with psycopg.RawCursor(connection) as cursor:
            if packed:
                load_arrays(cursor)
            with connection.pipeline():  # its end, not its results, is what is waited for
                connection.execute(begin)
                connection.execute(sql.SQL("SELECT {}").format(pins))
                cursor.execute(query, parameters, binary=True)
                for statement in end:
                    connection.execute(statement)
            return cursor.fetchall()
    except psycopg.Error as error:
        if not connection.broken and not connection.closed:
            connection.execute(sql.SQL("; ").join(end))
        if isinstance(error, psycopg.errors.LockNotAvailable):
            raise locked(connection, error) from None
        raise


def _bounds(connection: Connection) -> tuple[sql.SQL, tuple[sql.SQL, ...]]:
    is_within = connection.info.transaction_status is not TransactionStatus.IDLE
    return _WITHIN if is_within else _ALONE


def _begin(begin: sql.SQL, settings: Mapping[str, str]) -> sql.Composed:
    pins = [
        sql.SQL("SELECT set_config({}, {}, true)").format(name, value)
        for name, value in settings.items()
    ]
    return sql.SQL("; ").join([begin, *pins])


def _settings(
    connection: Connection, schemas: Sequence[str], timeout_s: float, planner: Mapping[str, str]
) -> dict[str, str]:
    path = ", ".join(sql.Identifier(name).as_string() for name in ("pg_catalog", *schemas))
    return {
        **PINNED_SETTINGS,
        "row_security": "off",
        "jit": "off",  # compiling costs more than most of our statements
        "lock_timeout": f"{LOCK_S_MAX * 1000:.0f}ms",
        "statement_timeout": f"{timeout_s * 1000:.0f}ms",
        "idle_in_transaction_session_timeout": "0",
        **({"transaction_timeout": "0"} if connection.info.server_version >= 170000 else {}),
        "client_encoding": _UTF8,
        **planner,
        "search_path": path,
    }


def _open(dsn: str) -> Connection:
    connection = connect(dsn, name="dbsplit compare", may_be_lent=True)
    connection.prepare_threshold = None  # a plan for any array would be a bad one
    return connection


def _agreed_hashing(leader: Connection, follower: Connection, pool: ThreadPoolExecutor) -> Hashing:
    encodings = {_encoding(leader), _encoding(follower)}
    # Of one encoding, whatever it is, the same text has the same bytes.
    typed = Hashing(by_bytes=len(encodings) > 1)
    samples = [text for text in _SAMPLES if text.isascii() or encodings == {_UTF8}]
    for hashing in (typed, replace(typed, typed=False)):
        ours, theirs = pool.map(partial(_sample, hashing, samples), (leader, follower))
        if ours == theirs:
            return hashing
    raise NotReady(
        f"{describe(leader.info.dsn)} and {describe(follower.info.dsn)}"
        " hash the same text differently",
        hint="rows cannot be compared between these servers; are they of unlike architecture?",
    )


def _encoding(connection: Connection) -> str:
    return connection.info.parameter_status("server_encoding") or ""


def _sample(hashing: Hashing, samples: Sequence[str], connection: Connection) -> tuple[Any, ...]:
    hashes = [hashing.of_text(sql.Literal(text)) for text in samples]
    if hashing.typed:
        # Both ways in which a column may be hashed, for each type that has a hash of its own.
        hashes += [
            hashing.row([Value(trusted(f"{value}::{type_}"), type_, never_null)])
            for type_, value in _TYPED_SAMPLES
            for never_null in (True, False)
        ]
    return read_row(connection, (), sql.SQL("SELECT {}").format(sql.SQL(", ").join(hashes)), {})
