"""Moving rows from one server's COPY to another's, without touching them.

Several tables go in one exchange: the source is sent all its COPY TO at once, the
target all that it has to run, COPY FROM included, and the answers are taken as they
come.  So small tables do not wait on round trips.

There are two ways.  Where libpq has encrypted a connection, each row is fetched
from it and handed to it again.  Where it has not, libpq only lets us in; after that
the frames of the protocol (the manual, 55.2.6 "COPY Operations") go from socket to
socket as they are, of which only the lengths are looked at.  That takes a third of
the time, and never holds more than a block of a row, however long the row is.
"""

from __future__ import annotations

import contextlib
import select
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from struct import Struct

import psycopg
from psycopg import pq
from psycopg.pq.abc import PGconn

from cdc.connect import Connection
from cdc.frames import (
    COMPLETE,
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
    silent,
)
from cdc.libpq import await_status, drain, flush, put, wait

BLOCK_BYTES = 1 << 20
"""How much is read at a time, and how often a pause may be taken."""

JOINED_BYTES = 1 << 18
"""How much goes to libpq at a time: a call for each row would cost more than the row."""


_KIND_AND_LENGTH = Struct("!BI")
_COPY_DONE = b"c\0\0\0\4"
_COPY_TAG = b"COPY "


@dataclass(frozen=True, slots=True)
class Moved:
    """What became of one table of an exchange, as the tags of both COPY tell."""

    read: int
    written: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Exchange:
    """What one exchange runs, and whom it tells."""

    reading: Sequence[bytes]  # COPY … TO STDOUT, one for each table
    release: bytes  # what the source runs after them
    writing: bytes  # statements for the target with one COPY … FROM STDIN for each table
    moving: Callable[[int, int, int], None]
    """Called for each block with the number of its table, and its rows and bytes so far."""

    @property
    def whole_reading(self) -> bytes:
        """All that the source runs."""
        return b"; ".join([*self.reading, self.release])


def transfer(source: Connection, target: Connection, exchange: Exchange) -> list[Moved]:
    """Run an exchange; returns what was moved, table by table.

    The statements for the target may begin a transaction; it is left open.  Raises
    whatever a server objects to, and OperationalError if one falls silent or goes
    away: both connections are of no more use then.
    """
    if is_plain(source.pgconn) and is_plain(target.pgconn):
        return _Sockets(source, target, exchange).run()
    return _Libpq(source.pgconn, target.pgconn, exchange).run()


class _Sockets:
    """From socket to socket."""

    def __init__(self, source: Connection, target: Connection, exchange: Exchange) -> None:
        self._source = duplicate(source.pgconn)
        self._target = duplicate(target.pgconn)
        self._exchange = exchange
        self._heard = bytearray()  # of what the target says, the beginning of a message
        self._target_ready = False
        self._read: list[int] = []
        self._sizes: list[int] = []
        self._written: list[int] = []
        self._rows = 0
        self._size = 0

    def run(self) -> list[Moved]:
        """Send the statements, and move what comes until both servers are done."""
        with self._source, self._target:
            try:
                self._source.sendall(query_frame(self._exchange.whole_reading))
                self._target.sendall(query_frame(self._exchange.writing))
                self._pump()
                while not self._target_ready:
                    self._hear()
            except TimeoutError:
                raise silent() from None
            except OSError as error:
                self._last_words()
                raise psycopg.OperationalError(f"the connection broke: {error}") from None
        return [Moved(*one) for one in zip(self._read, self._written, self._sizes, strict=True)]

    def _pump(self) -> None:
        """Send on the source's rows, in the frames in which they come."""
        buffer = bytearray(BLOCK_BYTES)
        view = memoryview(buffer)
        have = 0  # bytes in the buffer
        owed = 0  # bytes still to come of a frame that is being sent on
        while True:
            got = self._source.recv_into(view[have:])
            if not got:
                raise psycopg.OperationalError("the source closed the connection")
            have += got
            sent = 0
            at = min(owed, have)
            owed -= at
            while have - at >= HEAD:
                if buffer[at] == DATA:
                    at = self._walk(buffer, at, have)
                    if at > have:
                        owed, at = at - have, have
                    continue
                end = at + 1 + LENGTH.unpack_from(buffer, at + 1)[0]
                if end > have:
                    break
                self._send(view[sent:at])
                if self._source_says(buffer[at], bytes(view[at + HEAD : end])):
                    return
                at = sent = end
            self._send(view[sent:at])
            have -= at
            buffer[:have] = buffer[at : at + have]

    def _walk(self, buffer: bytearray, at: int, have: int) -> int:
        """Where the frames of rows that begin at `at` end: beyond `have`, or where another is."""
        head_at, last, rows = _KIND_AND_LENGTH.unpack_from, have - HEAD, 0
        while at <= last:
            kind, length = head_at(buffer, at)
            if kind != DATA:
                break
            at += 1 + length
            rows += 1
        self._rows += rows
        return at

    def _send(self, block: memoryview) -> None:
        if not block:
            return
        self._target.sendall(block)
        self._size += len(block)
        self._exchange.moving(len(self._read), self._rows, self._size)
        while select.select([self._target], [], [], 0)[0]:
            self._hear()

    def _source_says(self, kind: int, body: bytes) -> bool:
        """Take in a message that holds no row; True if the source is ready for other things."""
        if kind == DONE:
            self._target.sendall(_COPY_DONE)
        elif kind == COMPLETE and body.startswith(_COPY_TAG):
            self._read.append(_rows_of(body))
            self._sizes.append(self._size)
            self._rows = self._size = 0
        elif kind == ERROR:
            raise error_of(body)
        return kind == READY

    def _hear(self) -> None:
        """Take in what the target says."""
        got = self._target.recv(1 << 16)
        if not got:
            raise psycopg.OperationalError("the target closed the connection")
        heard = self._heard
        heard += got
        while len(heard) >= HEAD:
            end = 1 + LENGTH.unpack_from(heard, 1)[0]
            if len(heard) < end:
                return
            kind, body = heard[0], bytes(heard[HEAD:end])
            del heard[:end]
            if kind == ERROR:
                raise error_of(body)
            if kind == COMPLETE and body.startswith(_COPY_TAG):
                self._written.append(_rows_of(body))
            elif kind == READY:
                self._target_ready = True

    def _last_words(self) -> None:
        """Say what a target had to say that does not listen any more."""
        with contextlib.suppress(OSError):
            while select.select([self._target], [], [], 0)[0]:
                self._hear()


class _Libpq:
    """By way of libpq."""

    def __init__(self, source: PGconn, target: PGconn, exchange: Exchange) -> None:
        self._source = source
        self._target = target
        self._exchange = exchange

    def run(self) -> list[Moved]:
        """Send the statements, and move what comes until both servers are done."""
        self._source.send_query(self._exchange.whole_reading)
        self._target.send_query(self._exchange.writing)
        for connection in (self._source, self._target):
            flush(connection)
        moved = []
        for number in range(len(self._exchange.reading)):
            await_status(self._source, pq.ExecStatus.COPY_OUT)
            await_status(self._target, pq.ExecStatus.COPY_IN)
            size = self._pump(number)
            read, written = (
                await_status(connection, pq.ExecStatus.COMMAND_OK).command_tuples or 0
                for connection in (self._source, self._target)
            )
            moved.append(Moved(read, written, size))
        for connection in (self._source, self._target):
            drain(connection)
        return moved

    def _pump(self, number: int) -> int:
        take, socket = self._source.get_copy_data, self._source.socket
        rows = size = 0
        joined = bytearray()  # and no list of rows, which the garbage collector would go through
        while True:
            length, data = take(1)
            if length > 0:
                joined += data
                rows += 1
                if len(joined) < JOINED_BYTES:
                    continue
            elif length == 0:
                wait([socket], [])
                self._source.consume_input()
                continue
            size += len(joined)
            put(self._target, joined)
            self._exchange.moving(number, rows, size)
            joined.clear()
            if length < 0:
                break
        self._target.put_copy_end()
        flush(self._target)
        return size


def _rows_of(tag: bytes) -> int:
    return int(tag.removeprefix(_COPY_TAG).rstrip(b"\0"))
