"""Markers: messages in a leader's log that tell when a follower has passed them.

A marker is committed with everything else, in order.  Once its row is in the
follower, so is every change that was committed before it; lag and idleness say
no such thing.
"""

from __future__ import annotations

import time
import uuid

from cdc.connect import Connection
from plans.names import MARKER_PREFIX

POLL_S = 0.004


def emit(leader: Connection) -> str:
    """Write a marker, durably; returns its id."""
    marker = str(uuid.uuid4())
    with leader.transaction():
        leader.execute("SET LOCAL synchronous_commit = on")
        leader.execute(
            "SELECT pg_logical_emit_message(true, %s, %s::text)", [MARKER_PREFIX, marker]
        )
    return marker


def wait_passed(follower: Connection, stream: str, marker: str, deadline: float) -> str | None:
    """The marker's position in the leader's log, once the follower has passed it.

    None if `deadline`, of `time.monotonic()`, comes first.
    """
    while True:
        row = follower.execute(
            "SELECT lsn::text FROM dbsplit.marker WHERE stream = %s AND id = %s", [stream, marker]
        ).fetchone()
        if row is not None:
            return str(row[0])
        if time.monotonic() > deadline:
            return None
        time.sleep(POLL_S)


def passes(leader: Connection, follower: Connection, stream: str, timeout_s: float) -> bool:
    """Whether a change written now reaches the follower within `timeout_s` seconds."""
    marker = emit(leader)
    return wait_passed(follower, stream, marker, time.monotonic() + timeout_s) is not None
