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
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, TypeVar

import psycopg
from psycopg import sql

from cdc.connect import PINNED_SETTINGS, Connection, connect, describe
from plans.errors import NotReady
from validators.canonical import Hashing
from validators.sides import Pair, Side

T = TypeVar("T")
Cursor = psycopg.RawCursor[tuple[Any, ...]]

LOCK_S_MAX = 30.0  # somebody's ALTER TABLE: say that the table could not be read
_SAMPLES = ("", "a", "Ж€𝄞", '(1,,"","x y")', "0123456789" * 9)  # one per code path of the hash
_UTF8 = "UTF8"


class Ends:
    """One connection to the leader and one to the follower; made by `connected`."""

    def __init__(self, leader: Connection, follower: Connection, hashing: Hashing) -> None:
        self.leader = leader
        self.follower = follower
        self.hashing = hashing
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="dbsplit-compare")
        self._cancelled = threading.Event()

    def both(self, read: Callable[[Connection, Side], T], pair: Pair) -> tuple[T, T]:
        """Read both sides at the same time; the leader's result comes first."""
        self.check()
        sides = ((self.leader, pair.leader), (self.follower, pair.follower))
        futures = [self._pool.submit(read, connection, side) for connection, side in sides]
        try:
            leader, follower = (future.result() for future in futures)
        except BaseException:
            self._stop(futures)
            raise
        return leader, follower

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
            if not future.done():
                connection.cancel_safe(timeout=5.0)
        for future in futures:
            future.exception()

    def close(self) -> None:
        """Close both connections."""
        self._pool.shutdown()
        self.leader.close()
        self.follower.close()


class Cancelled(Exception):
    """The comparison was told to stop."""


@contextmanager
def connected(leader_dsn: str, follower_dsn: str) -> Iterator[Ends]:
    """Connections to both sides, after a proof that both hash alike.

    Raises NotReady if they do not, or if a server does not let us in.
    """
    with _open(leader_dsn) as leader, _open(follower_dsn) as follower:
        ends = Ends(leader, follower, _agreed_hashing(leader, follower))
        try:
            yield ends
        finally:
            ends.close()


@contextmanager
def pinned(
    connection: Connection,
    schemas: Sequence[str],
    *,
    timeout_s: float = 0,
    planner: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Cursor]:
    """A read-only transaction in which a value has one text form, and a cursor in it.

    The cursor's placeholders are ``$1``, so a ``%`` in the plan's SQL means itself.
    A statement may take `timeout_s`, 0 is any time; `planner` is more settings.
    """
    try:
        connection.execute(_begin(schemas, timeout_s, planner))
        with psycopg.RawCursor(connection) as cursor:
            yield cursor
    finally:
        if not connection.broken and not connection.closed:
            connection.execute("ROLLBACK")


def _begin(schemas: Sequence[str], timeout_s: float, planner: Mapping[str, str]) -> sql.Composed:
    path = sql.SQL(", ").join(map(sql.Identifier, ("pg_catalog", *schemas)))
    settings = {
        **PINNED_SETTINGS,
        "row_security": "off",
        "jit": "off",  # compiling costs more than most of our statements
        "lock_timeout": f"{LOCK_S_MAX * 1000:.0f}ms",
        "statement_timeout": f"{timeout_s * 1000:.0f}ms",
        "idle_in_transaction_session_timeout": "0",
        "client_encoding": _UTF8,
        **planner,
    }
    pins = [
        sql.SQL("SET LOCAL {} TO {}").format(sql.Identifier(name), setting)
        for name, setting in settings.items()
    ]
    return sql.SQL("; ").join(
        [
            sql.SQL("BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY"),
            *pins,
            sql.SQL("SET LOCAL search_path TO {}").format(path),
        ]
    )


@contextmanager
def _open(dsn: str) -> Iterator[Connection]:
    connection = connect(dsn, name="dbsplit compare")
    try:
        connection.prepare_threshold = None  # a plan for any array would be a bad one
        yield connection
    finally:
        connection.close()


def _agreed_hashing(leader: Connection, follower: Connection) -> Hashing:
    encodings = {_encoding(leader), _encoding(follower)}
    hashing = Hashing(by_bytes=encodings != {_UTF8})
    if _sample(leader, hashing) != _sample(follower, hashing):
        raise NotReady(
            f"{describe(leader.info.dsn)} and {describe(follower.info.dsn)}"
            " hash the same text differently",
            hint="rows cannot be compared between these servers; are they of unlike architecture?",
        )
    return hashing


def _encoding(connection: Connection) -> str:
    return connection.info.parameter_status("server_encoding") or ""


def _sample(connection: Connection, hashing: Hashing) -> tuple[Any, ...]:
    samples = [text for text in _SAMPLES if text.isascii() or not hashing.by_bytes]
    hashes = [hashing.of_text(sql.Literal(text)) for text in samples]
    with pinned(connection, ()) as cursor:
        found = cursor.execute(sql.SQL("SELECT {}").format(sql.SQL(", ").join(hashes))).fetchone()
    assert found is not None  # noqa: S101 -- a SELECT without FROM has one row
    return found
