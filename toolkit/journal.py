"""The journal: what was begun and what was done, in a chain that shows tampering.

Each row's hash covers the row before it, so that a certificate that names the
last hash vouches for all steps up to it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from cdc.connect import Connection
from toolkit.stored import stored

Details = Mapping[str, Any]


def record(
    connection: Connection,
    split: str,
    step: str,
    state: str = "done",
    *,
    attempt: int | None = None,
    details: Details | None = None,
) -> str:
    """Append a row, in the connection's transaction if it has one; returns its hash.

    `state` is begin, done or failed.
    """
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(hashtext('dbsplit.journal'))")
        last = connection.execute(
            "SELECT hash, clock_timestamp() FROM (SELECT) AS one LEFT JOIN LATERAL"
            " (SELECT hash FROM dbsplit.journal WHERE split = %s ORDER BY id DESC LIMIT 1) AS j"
            " ON true",
            [split],
        ).fetchone()
        assert last is not None  # noqa: S101
        previous, at = last
        noted = stored(connection, details or {})
        # The hash is of what will be read again.
        text = json.dumps(json.loads(noted), sort_keys=True)
        digest = chain_hash(previous, split, attempt, step, state, at.isoformat(), text)
        connection.execute(
            "INSERT INTO dbsplit.journal (split, attempt, step, state, at, details, previous, hash)"
            " VALUES (%s, %s, %s, %s, %s, %s::jsonb, %s, %s)",
            [split, attempt, step, state, at, noted, previous, digest],
        )
    return digest.hex()


def chain_hash(previous: bytes | None, *parts: object) -> bytes:
    """The hash of a row, from the hash before it and from what the row says."""
    told = json.dumps([None if part is None else str(part) for part in parts])
    return hashlib.sha256((previous or b"") + told.encode()).digest()


def steps_done(connection: Connection, split: str, attempt: int) -> dict[str, Any]:
    """The steps of an attempt that were done, with their details."""
    rows = connection.execute(
        "SELECT step, details FROM dbsplit.journal"
        " WHERE split = %s AND attempt = %s AND state = 'done' ORDER BY id",
        [split, attempt],
    ).fetchall()
    return dict(rows)


def steps_begun(connection: Connection, split: str, attempt: int) -> frozenset[str]:
    """The steps of an attempt that were begun, whether they were done or not."""
    rows = connection.execute(
        "SELECT DISTINCT step FROM dbsplit.journal WHERE split = %s AND attempt = %s",
        [split, attempt],
    ).fetchall()
    return frozenset(row[0] for row in rows)


def verify_chain(connection: Connection, split: str) -> tuple[int, int | None]:
    """How many rows fit the chain, and the number of the first that does not, if one doesn't."""
    previous: bytes | None = None
    rows = connection.execute(
        "SELECT id, attempt, step, state, at, details, previous, hash FROM dbsplit.journal"
        " WHERE split = %s ORDER BY id",
        [split],
    )
    whole = 0
    for number, attempt, step, state, at, details, before, digest in rows:
        text = json.dumps(details, sort_keys=True, default=str)
        expected = chain_hash(previous, split, attempt, step, state, at.isoformat(), text)
        if before != previous or digest != expected:
            return whole, number
        previous = digest
        whole += 1
    return whole, None
