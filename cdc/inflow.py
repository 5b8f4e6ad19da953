"""Copying into several tables, and running statements in between, in one exchange.

A cursor's `copy` waits two or three times for each table; a batch has two of them for each
table that was written to, so with many tables waiting would be most of the work.  Here all
statements go at once, and one answer is waited for between two tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from struct import pack
from typing import Final

import psycopg
from psycopg import pq, sql
from psycopg.pq.abc import PGconn

from cdc.connect import Connection
from cdc.libpq import await_status, drain, flush, next_result, put
from plans.errors import StreamBroken

BLOCK_BYTES = 1 << 18
"""Rows are joined to blocks of about this size: one call of libpq per row would cost more."""

_SIGNATURE: Final = b"PGCOPY\n\xff\r\n\0" + pack("!ii", 0, 0)
_END: Final = pack("!h", -1)


def into(table: sql.Identifier, columns: Iterable[sql.Identifier]) -> bytes:
    """The statement that copies rows in binary form into these columns."""
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)")
    return statement.format(table, sql.SQL(", ").join(columns)).as_string(None).encode()


@dataclass(frozen=True, slots=True)
class Inflow:
    """Rows that go into a table."""

    statement: bytes  # as `into` has it
    lines: Iterable[bytes]  # rows in COPY's binary format, many or one at a time
    rows: int  # so many


@dataclass(frozen=True, slots=True)
class Exact:
    """A statement that has to meet so many rows."""

    statement: bytes
    rows: int


Step = bytes | Inflow | Exact
"""A statement without parameters, or rows for a table."""


class Unexpected(Exception):
    """The follower did not have the rows that it must have had."""


def exchange(connection: Connection, steps: Sequence[Step]) -> None:
    """Take these steps in their order.

    Not in a pipeline.  Raises what the server objects to, StreamBroken if a table took more
    or less than it was to get, Unexpected if a statement has met others than it was to; then
    nothing of it is to be kept, so a transaction has to be open.
    """
    if not steps:
        return
    target = connection.pgconn
    statements = (one if isinstance(one, bytes) else one.statement for one in steps)
    target.send_query(b"; ".join(statements))
    flush(target)
    try:
        met = [
            _copy(target, one.lines) if isinstance(one, Inflow) else _rows_met(target)
            for one in steps
        ]
    except BaseException as error:
        if getattr(error, "sqlstate", "") is not None:  # else nothing can be expected of it
            _give_up(target)
        raise
    drain(target)
    for one, rows in zip(steps, met, strict=True):
        if isinstance(one, Inflow) and rows != one.rows:
            raise StreamBroken(
                f"{one.rows} rows were sent and {rows} taken: {one.statement.decode()}",
                hint="nothing of that batch was written; a trigger that is enabled ALWAYS or "
                "REPLICA may leave rows out, otherwise this is a bug",
            )
    for one, rows in zip(steps, met, strict=True):
        if isinstance(one, Exact) and rows != one.rows:
            raise Unexpected(f"{rows} rows, not {one.rows}: {one.statement.decode()}")


def _rows_met(target: PGconn) -> int:
    result = next_result(target)
    if result is None:
        raise psycopg.OperationalError("the server did not answer each of some statements")
    return result.command_tuples or 0


def _copy(target: PGconn, lines: Iterable[bytes]) -> int:
    await_status(target, pq.ExecStatus.COPY_IN)
    block, size = [_SIGNATURE], 0
    for line in lines:
        is_long = len(line) > BLOCK_BYTES
        if not is_long:
            block.append(line)
            size += len(line)
        if is_long or size > BLOCK_BYTES:
            put(target, b"".join(block))
            block, size = [], 0
        if is_long:
            _put_whole(target, line)
    block.append(_END)
    put(target, b"".join(block))
    target.put_copy_end()
    flush(target)
    return await_status(target, pq.ExecStatus.COMMAND_OK).command_tuples or 0


def _put_whole(target: PGconn, line: bytes) -> None:
    """Send many rows in pieces: libpq copies what it is given, and sends none of it before."""
    view = memoryview(line)
    for at in range(0, len(line), BLOCK_BYTES):
        put(target, view[at : at + BLOCK_BYTES])


def _give_up(target: PGconn) -> None:
    """Leave the connection as it is after a statement that failed."""
    with suppress(psycopg.OperationalError):  # between two tables there is none to be ended
        target.put_copy_end(b"given up")
        flush(target)
    while target.status == pq.ConnStatus.OK:
        try:
            if next_result(target) is None:
                return
        except psycopg.Error as error:
            if error.sqlstate is None:
                return
