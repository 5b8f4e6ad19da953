"""What a target has noted of its copy, in the transactions that hold the rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from psycopg import sql

from cdc.connect import Connection
from cdc.copy_chunks import Chunk
from cdc.copy_sql import Blocks
from cdc.lsn import LSN


def copied(connection: Connection) -> dict[str, LSN]:
    """The routes that a target has in full, with their horizons.

    A route in chunks of several horizons has the earliest: from there on the stream
    has to bring its changes.
    """
    rows = connection.execute("SELECT route, horizon::text FROM dbsplit.copied").fetchall()
    return {route: LSN.parse(horizon) for route, horizon in rows}


def chunks(connection: Connection) -> list[Chunk]:
    """All chunks of the routes that are copied in chunks, those to come included."""
    rows = connection.execute(
        "SELECT route, chunk, first_block, end_block, file, horizon::text"
        " FROM dbsplit.copied_chunk ORDER BY route, chunk"
    ).fetchall()
    return [
        Chunk(route, number, Blocks(first, end), file, LSN.parse(at) if at else None)
        for route, number, first, end, file, at in rows
    ]


def routes_of_several_moments(connection: Connection) -> frozenset[str]:
    """The routes whose chunks have several horizons."""
    rows = connection.execute(
        "SELECT route FROM dbsplit.copied_chunk GROUP BY route HAVING count(DISTINCT horizon) > 1"
    ).fetchall()
    return frozenset(route for (route,) in rows)


def latest_horizon(connection: Connection) -> LSN:
    """The horizon before which no row of the target was copied last."""
    row = connection.execute(
        "SELECT max(horizon)::text FROM (SELECT horizon FROM dbsplit.copied"
        " UNION ALL SELECT horizon FROM dbsplit.copied_chunk) AS c"
    ).fetchone()
    return LSN.parse(row[0]) if row and row[0] else LSN(0)


def begin_chunks(connection: Connection, emptying: sql.Composed, wanted: Sequence[Chunk]) -> None:
    """Note the chunks of a route that is to be copied from its start, and empty its table."""
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute(emptying)
        cursor.execute("DELETE FROM dbsplit.copied_chunk WHERE route = %s", [wanted[0].route])
        cursor.executemany(
            "INSERT INTO dbsplit.copied_chunk (route, chunk, first_block, end_block, file)"
            " VALUES (%s, %s, %s, %s, %s)",
            [(c.route, c.number, c.blocks.first, c.blocks.end, c.file) for c in wanted],
        )


def forget_chunks(connection: Connection, route: str) -> None:
    """A route that was begun in chunks is copied in one piece, from its start."""
    connection.execute("DELETE FROM dbsplit.copied_chunk WHERE route = %s", [route])


def route_note(route: str, horizon: LSN, rows: int, size_bytes: int) -> sql.Composed:
    """Notes that a route is copied; for the transaction that holds its rows.

    It fails if another has noted it: a process that was taken for dead.
    """
    return sql.SQL(
        "INSERT INTO dbsplit.copied (route, horizon, rows, bytes) VALUES ({}, {}, {}, {})"
    ).format(*_literals([route, str(horizon), rows, size_bytes]))


def chunk_note(chunk: Chunk, horizon: LSN, rows: int, size_bytes: int) -> sql.Composed:
    """Notes that a chunk is copied; for the transaction that holds its rows.

    It notes nothing if another has noted it, or begun the table anew: then the rows
    must not stay.
    """
    return sql.SQL(
        "UPDATE dbsplit.copied_chunk SET horizon = {}, rows = {}, bytes = {},"
        " copied_at = clock_timestamp()"
        " WHERE route = {} AND chunk = {} AND file = {} AND horizon IS NULL"
    ).format(*_literals([str(horizon), rows, size_bytes, chunk.route, chunk.number, chunk.file]))


def note_route_of_chunks(connection: Connection, route: str) -> None:
    """Note that a route is copied whose chunks all are."""
    connection.execute(
        "INSERT INTO dbsplit.copied (route, horizon, rows, bytes)"
        " SELECT route, min(horizon), sum(rows), sum(bytes) FROM dbsplit.copied_chunk"
        " WHERE route = %s GROUP BY route HAVING count(*) = count(horizon)"
        " ON CONFLICT (route) DO NOTHING",
        [route],
    )


def _literals(values: Iterable[object]) -> list[sql.Literal]:
    return [sql.Literal(value) for value in values]
