"""One consistent look at a server's catalog, with names quoted by the server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import namedtuple_row

from plans.holders import locked

Cursor = psycopg.Cursor[Any]

# Functions of the catalog (pg_get_viewdef) lock what they describe; DDL must not hold us up.
LOCK_TIMEOUT = "5s"


@contextmanager
def reading(conn: psycopg.Connection[Any], *, quote_all: bool = False) -> Iterator[Cursor]:
    """A cursor in a transaction of its own, under an empty ``search_path``.

    With `quote_all` every name is quoted, which is what pg_dump advises for text
    that another major version is to read: keywords differ.

    `conn` must not be in a transaction: ValueError.  NotReady if a table stays locked.
    """
    if conn.info.transaction_status != TransactionStatus.IDLE:
        raise ValueError("the catalog is read in a transaction of its own")
    try:
        with conn.transaction(), conn.cursor(row_factory=namedtuple_row) as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            cursor.execute(
                "SELECT set_config('search_path', '', true) AS search_path,"
                " set_config('lock_timeout', %s, true) AS lock_timeout,"
                " set_config('quote_all_identifiers', %s, true) AS quote_all",
                [LOCK_TIMEOUT, "on" if quote_all else "off"],
            )
            yield cursor
    except psycopg.errors.LockNotAvailable as error:
        raise locked(conn, error) from None
