"""What COPY needs of libpq that psycopg's cursors do one table and one round trip at a time.

No function here takes part in a pipeline.  Every wait ends after `SILENCE_S_MAX`.
"""

from __future__ import annotations

import select

import psycopg
from psycopg import pq
from psycopg.pq.abc import PGconn, PGresult

from cdc.frames import SILENCE_S_MAX, silent


def await_status(connection: PGconn, status: pq.ExecStatus) -> PGresult:
    """The next result of such a kind; those of other statements go before it."""
    while True:
        result = next_result(connection)
        if result is None:
            raise psycopg.OperationalError(f"the server ended a copy without {status.name}")
        if result.status == status:
            return result


def next_result(connection: PGconn) -> PGresult | None:
    """The next result, None if there is no more; raises the error that it may be."""
    while connection.is_busy():
        wait([connection.socket], [])
        connection.consume_input()
    result = connection.get_result()
    if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
        if result.error_field(pq.DiagnosticField.SQLSTATE) is None:  # it is libpq that complains
            raise psycopg.OperationalError(result.error_message.decode(errors="replace").strip())
        raise psycopg.errors.error_from_result(result)
    return result


def drain(connection: PGconn) -> None:
    """Take what is left of an answer; then the connection can be used for other things."""
    while next_result(connection) is not None:
        pass


def put(connection: PGconn, data: bytes | bytearray | memoryview) -> None:
    """Send data of a copy."""
    try:
        is_taken = not data or connection.put_copy_data(data) > 0
        flush(connection)
    except psycopg.OperationalError:
        drain(connection)  # it tells better
        raise
    if not is_taken:  # libpq has no memory for it, and says no more
        raise psycopg.OperationalError(f"there is no memory to send {len(data):,} bytes")


def flush(connection: PGconn) -> None:
    """Send what libpq holds; what comes meanwhile is taken in, or both ends might wait."""
    own = [connection.socket]
    while connection.flush():
        if wait(own, own):
            connection.consume_input()


def wait(reading: list[int], writing: list[int]) -> bool:
    """Wait until something can be read or written; True if it can be read."""
    readable, writable, _ = select.select(reading, writing, [], SILENCE_S_MAX)
    if not readable and not writable:
        raise silent()
    return bool(readable)
