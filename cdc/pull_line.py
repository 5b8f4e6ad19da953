"""One connection that pulls changes, from a copy of the slot that is its own.

The result of a call comes as COPY's binary format: one row for each message.  Where
libpq encrypts, each row is fetched from it.  Where it does not, the frames of the
protocol are taken from the socket, a block at a time: a third of the time.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
import uuid

import numpy as np
import psycopg
from psycopg import pq, sql
from psycopg.pq.abc import PGresult

from cdc.connect import Connection, connect
from cdc.frames import (
    DATA,
    DONE,
    ERROR,
    HEAD,
    LENGTH,
    READY,
    duplicate,
    error_of,
    is_plain,
    query_frame,
    without_gss,
)
from cdc.lsn import LSN
from cdc.messages import NONE, Messages
from cdc.replication import BYTES_MAX, MESSAGES_MAX, ConnectionLost

NAP_S = 0.001

_SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)  # no flags, no extension
_FIELD = 2 + 4  # how many fields a row has, and the length of the only one
_END = b"\xff\xff"
_SERVER_ENDS = "57"  # operator intervention


class PullRefused(ConnectionLost):
    """The server has refused to pull: its temporary files are limited, or a row is unreadable."""


class Line:
    """A connection with a temporary slot, and one call at a time; for one thread."""

    def __init__(self, dsn: str) -> None:
        self.connection: Connection = connect(without_gss(dsn), name="dbsplit pull")
        self.slot = f"dbsplit_pull_{uuid.uuid4().hex[:12]}"
        self.running = False
        """Whether a call's result has not come to its end."""
        self.begun = False
        """Whether some of it has come: the server has decoded everything then."""
        self._has_slot = False
        self._copying = False
        self._signed = False  # its signature was taken off
        self._ended = False
        self._blocks: list[bytes] = []  # that were read, and are the beginning of a frame
        self._size = 0
        self._need = HEAD  # so many bytes before there is anything to look at
        self._socket: socket.socket | None = None
        try:
            self.connection.execute("SET statement_timeout = 0")
            if is_plain(self.connection.pgconn):
                self._socket = duplicate(self.connection.pgconn)
        except BaseException:
            self.connection.close()
            raise

    def close(self) -> None:
        """End what runs, and disconnect; the temporary slot goes with it."""
        if self.running:
            with contextlib.suppress(psycopg.Error):
                self.connection.cancel()
        if self._socket is not None:
            self._socket.close()
        self.connection.close()

    def take_over(self, slot: str) -> None:
        """Have a copy of a slot where that one is now."""
        if self._has_slot:
            self.connection.execute("SELECT pg_drop_replication_slot(%s)", [self.slot])
            self._has_slot = False
        self.connection.execute(
            "SELECT pg_copy_logical_replication_slot(%s, %s, true)", [slot, self.slot]
        )
        self._has_slot = True

    def bounds(self) -> tuple[LSN, LSN]:
        """Where the next call begins, and where the log ends."""
        row = self.connection.execute(
            "SELECT confirmed_flush_lsn::text, pg_current_wal_lsn()::text"
            " FROM pg_replication_slots WHERE slot_name = %s",
            [self.slot],
        ).fetchone()
        if row is None:
            raise ConnectionLost(f"the slot {self.slot} is gone")
        return LSN.parse(row[0]), LSN.parse(row[1])

    def call(self, upto: LSN, options: dict[str, sql.Literal]) -> None:
        """Begin to pull the transactions up to there."""
        given = [part for one in options.items() for part in one]
        query = sql.SQL(
            "COPY (SELECT data FROM pg_logical_slot_get_binary_changes({}, {}, NULL, {}))"
            " TO STDOUT (FORMAT binary)"
        ).format(
            sql.Literal(self.slot),
            sql.Literal(str(upto)),
            sql.SQL(", ").join(
                one if isinstance(one, sql.Literal) else sql.Literal(one) for one in given
            ),
        )
        text = query.as_string(None).encode()
        if self._socket is None:
            self.connection.pgconn.send_query(text)
        else:
            self._socket.sendall(query_frame(text))
        self.running = True
        self.begun = self._copying = self._signed = self._ended = False

    def wait(self, timeout_s: float) -> bool:
        """Whether something has arrived, or arrives within so many seconds."""
        return bool(select.select([self.connection.pgconn.socket], [], [], timeout_s)[0])

    def read(self, timeout_s: float) -> Messages:
        """Messages that have arrived; none if none came within `timeout_s` seconds."""
        if not self.wait(0) and self.wait(timeout_s):
            time.sleep(NAP_S)  # the server sends few at a time; then it is worth it
        if self._socket is None:
            return self._read_libpq(timeout_s)
        return self._read_socket(self._socket, timeout_s)

    # -------------------------------------------------------------- by the socket

    def _read_socket(self, source: socket.socket, timeout_s: float) -> Messages:
        goal = max(BYTES_MAX, self._need)
        while self._size < goal and self.wait(timeout_s):
            timeout_s = 0
            try:
                block = source.recv(BYTES_MAX)
            except OSError as error:
                raise ConnectionLost(str(error)) from None
            if not block:
                raise ConnectionLost("the server closed the connection")
            self._blocks.append(block)
            self._size += len(block)
        if self._size < self._need:
            return NONE
        return self._frames(b"".join(self._blocks))

    def _frames(self, text: bytes) -> Messages:
        """Walk through the frames; what is left is the beginning of one."""
        length_at = LENGTH.unpack_from
        starts: list[int] = []
        add = starts.append
        at, last, end = 0, len(text) - HEAD, len(text)
        need = HEAD
        while at <= last:
            size = 1 + length_at(text, at + 1)[0]
            if at + size > end:
                need = size
                break
            if text[at] == DATA:
                add(at)
            else:
                self._take_in(text[at], text[at + HEAD : at + size])
            at += size
        self._blocks, self._size, self._need = [text[at:]], end - at, need
        if not starts:
            return NONE
        # A frame lies behind the other: those of rows are not mixed with others.
        begins = np.array(starts, np.int64)
        ends = np.append(begins[1:], starts[-1] + 1 + length_at(text, starts[-1] + 1)[0])
        begins += HEAD
        if not self._signed:
            self._signed = True
            begins[0] += len(_SIGNATURE)  # the first row comes in one piece with it
        if text.startswith(_END, begins[-1]):
            begins, ends = begins[:-1], ends[:-1]
        if not len(begins):
            return NONE
        self.begun = True
        return Messages(text, begins + _FIELD, ends)

    def _take_in(self, kind: int, body: bytes) -> None:
        """Take in a message of the protocol that holds no row."""
        if kind == ERROR:
            raise _told(error_of(body))
        if kind == DONE:
            self._ended = True
        elif kind == READY:
            self._end()

    # ------------------------------------------------------------------- by libpq

    def _read_libpq(self, timeout_s: float) -> Messages:
        rows: list[bytes | memoryview] = []
        size = self._take(rows)
        while (
            self.running and len(rows) < MESSAGES_MAX and size < BYTES_MAX and self.wait(timeout_s)
        ):
            timeout_s = 0
            try:
                self.connection.pgconn.consume_input()
            except psycopg.OperationalError as error:
                raise ConnectionLost(str(error)) from None
            size += self._take(rows)
        if not rows:
            return NONE
        self.begun = True
        return Messages.of(rows, _FIELD)

    def _take(self, rows: list[bytes | memoryview]) -> int:
        """Add what libpq has, each behind a field's head; returns its size."""
        if not (self._copying or self._begins()):
            return 0
        size = 0
        get = self.connection.pgconn.get_copy_data
        while len(rows) < MESSAGES_MAX:
            length, data = get(1)
            if length == 0:
                return size
            if length < 0:
                self._finish()
                return size
            if not self._signed:  # the first row comes in one piece with the signature
                self._signed = True
                data = data[len(_SIGNATURE) :]
            if len(data) and data != _END:
                rows.append(data)
            size += length
        return size

    def _begins(self) -> bool:
        """Whether the result has begun to come."""
        pgconn = self.connection.pgconn
        if pgconn.is_busy():
            return False
        result = pgconn.get_result()
        if result is None or result.status != pq.ExecStatus.COPY_OUT:
            raise _failed(result)
        self._copying = True
        return True

    def _finish(self) -> None:
        pgconn = self.connection.pgconn
        while (result := pgconn.get_result()) is not None:
            if result.status != pq.ExecStatus.COMMAND_OK:
                raise _failed(result)
        self._ended = True
        self._end()

    def _end(self) -> None:
        if not self._ended:
            raise ConnectionLost("the server did not send a result to its end")
        self.running = False


def _failed(result: PGresult | None) -> ConnectionLost:
    if result is None or result.error_field(pq.DiagnosticField.SQLSTATE) is None:
        said = result.get_error_message() if result else ""
        return ConnectionLost(said.strip() or "the server ended the connection")
    return _told(psycopg.errors.error_from_result(result))


def _told(error: psycopg.Error) -> ConnectionLost:
    """The error for what the server has said; one that shuts down may pull when it is back."""
    ended = (error.sqlstate or "").startswith(_SERVER_ENDS)
    return (ConnectionLost if ended else PullRefused)(str(error).strip())
