"""Catching up on a backlog: changes pulled by SQL instead of streamed.

A walsender sends one message for each change.  Where a long log waits, the server
can decode many thousands of changes into one result for a fraction of that; each such
call costs a new beginning, so that it is nothing for following closely.

What is pulled comes from a temporary copy of the slot.  The slot itself goes on only
after the followers have committed, as always.
"""

from __future__ import annotations

import select
import uuid
from typing import Self

import psycopg
from psycopg import pq, sql

from cdc.connect import Connection, connect
from cdc.lsn import LSN
from cdc.messages import NONE, Messages
from cdc.replication import BYTES_MAX, MESSAGES_MAX, ConnectionLost, Received, plugin_options

CALL_BYTES_MIN = 1 << 25
CALL_BYTES_MAX = 1 << 27
"""So much log in one call, more each time; always whole transactions.

The server keeps the result, which is about as large, in a temporary file until we have
read it.  Each call reads once more what the slot has to keep, so that few are cheaper.
"""

ADVANCE_BYTES = 1 << 28
"""The slot is moved on after so much log: the server can remove it then."""

_SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)  # no flags, no extension
_FIELD = 2 + 4  # how many fields a row has, and the length of the only one
_END = b"\xff\xff"


class Pull:
    """A backlog's messages, in the order in which a stream would bring them; for one thread."""

    def __init__(self, dsn: str, slot: str, publication: str, *, binary: bool) -> None:
        self._connection: Connection = connect(dsn, name="dbsplit pull")
        self._slot = slot
        self._copy = f"dbsplit_pull_{uuid.uuid4().hex[:12]}"
        self._options = plugin_options(publication, binary=binary)
        self._running = False
        self._begun = False  # its result
        self._ended = False
        self._wanted = CALL_BYTES_MIN
        self._is_last = False
        self._came = False  # the signature of this call's result
        self._advanced = LSN(0)
        self.exhausted = False
        """Whether the last call came to where the log ended when it began."""
        try:
            self._connection.execute("SET statement_timeout = 0")
            self._connection.execute(
                "SELECT pg_copy_logical_replication_slot(%s, %s, true)", [slot, self._copy]
            )
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._running:
            self._connection.cancel()
        self._connection.close()

    def read(self, timeout_s: float) -> Received:
        """The messages that have arrived; none if none came within `timeout_s` seconds."""
        rows: list[bytes | memoryview] = []
        if self.exhausted:
            return Received(NONE)
        if not self._running:
            self._call()
        size = self._take(rows)
        while (
            self._running
            and len(rows) < MESSAGES_MAX
            and size < BYTES_MAX
            and self._wait_readable(0 if rows else timeout_s)
        ):
            timeout_s = 0
            self._consume()
            size += self._take(rows)
        return Received(Messages.of(rows, _FIELD) if rows else NONE)

    def confirm(self, flushed: LSN, received: LSN) -> None:
        """Move the slot on, if it is worth it and no call is running."""
        if not self._running and flushed - self._advanced > ADVANCE_BYTES:
            self.advance(flushed)

    def advance(self, flushed: LSN) -> None:
        """Move the slot on to what the followers have committed."""
        self._connection.execute(
            "SELECT pg_replication_slot_advance(%s, %s::pg_lsn)"
            " FROM pg_replication_slots WHERE slot_name = %s AND confirmed_flush_lsn < %s::pg_lsn",
            [self._slot, str(flushed), self._slot, str(flushed)],
        )
        self._advanced = flushed

    def _call(self) -> None:
        begins, ends = self._bounds()
        upto = LSN(begins.value + self._wanted)
        self._is_last = upto >= ends
        self._wanted = min(2 * self._wanted, CALL_BYTES_MAX)
        options = [part for one in self._options.items() for part in one]
        query = sql.SQL(
            "COPY (SELECT data FROM pg_logical_slot_get_binary_changes({}, {}, NULL, {}))"
            " TO STDOUT (FORMAT binary)"
        ).format(
            sql.Literal(self._copy),
            sql.Literal(str(upto)),
            sql.SQL(", ").join(
                one if isinstance(one, sql.Literal) else sql.Literal(one) for one in options
            ),
        )
        self._connection.pgconn.send_query(query.as_string(None).encode())
        self._running, self._begun, self._ended, self._came = True, False, False, False

    def _bounds(self) -> tuple[LSN, LSN]:
        """Where the next call begins, and where the log ends."""
        row = self._connection.execute(
            "SELECT confirmed_flush_lsn::text, pg_current_wal_lsn()::text"
            " FROM pg_replication_slots WHERE slot_name = %s",
            [self._copy],
        ).fetchone()
        if row is None:
            raise ConnectionLost(f"the copy of slot {self._slot} is gone")
        return LSN.parse(row[0]), LSN.parse(row[1])

    def _take(self, rows: list[bytes | memoryview]) -> int:
        """Add what libpq has, each behind a field's head; returns its size."""
        if not (self._begun or self._begins()):
            return 0
        size = 0
        get = self._connection.pgconn.get_copy_data
        while len(rows) < MESSAGES_MAX:
            length, data = get(1)
            if length == 0:
                return size
            if length < 0:
                self._end()
                return size
            if length == len(_END):
                self._ended = True
            elif self._came:
                rows.append(data)
            else:
                self._first(rows, bytes(data))
            size += length
        return size

    def _first(self, rows: list[bytes | memoryview], data: bytes) -> None:
        """Add the first row, which comes in one piece with the signature."""
        self._came = True
        row = data.removeprefix(_SIGNATURE)
        if row == _END:
            self._ended = True
        elif row:
            rows.append(row)

    def _begins(self) -> bool:
        """Whether the result has begun to come."""
        pgconn = self._connection.pgconn
        if pgconn.is_busy():
            return False
        result = pgconn.get_result()
        if result is None or result.status != pq.ExecStatus.COPY_OUT:
            said = result.get_error_message() if result else ""
            raise ConnectionLost(said.strip() or "the server ended the connection")
        self._begun = True
        return True

    def _end(self) -> None:
        pgconn = self._connection.pgconn
        while (result := pgconn.get_result()) is not None:
            if result.status != pq.ExecStatus.COMMAND_OK:
                raise ConnectionLost(result.get_error_message().strip())
        if not self._ended:
            raise ConnectionLost("the server did not send a result to its end")
        self._running = False
        self.exhausted = self._is_last

    def _consume(self) -> None:
        try:
            self._connection.pgconn.consume_input()
        except psycopg.OperationalError as error:
            raise ConnectionLost(str(error)) from None

    def _wait_readable(self, timeout_s: float) -> bool:
        return bool(select.select([self._connection.pgconn.socket], [], [], timeout_s)[0])
