"""Who wrote rows of the follower: its server tells, if it keeps commit times.

A row's xmin leads to the commit's time and replication origin.  Our appliers write
under origins of their own; an application has none, and neither has the copy, which
is told by its time.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from cdc.connect import Connection
from validators.results import Written

_COMMITS = (
    "SELECT v, t.timestamp, t.roident <> 0, o.roname"
    " FROM unnest(%s::int8[]) AS v, LATERAL pg_xact_commit_timestamp_origin(v::text::xid) AS t"
    " LEFT JOIN pg_replication_origin AS o ON o.roident = t.roident WHERE v > 2"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Writers:
    """Those that may write to a follower."""

    origins: frozenset[str]  # of our appliers
    before: datetime | None = None  # what has no origin and is not later was there already


def read_writers(
    connection: Connection, versions: Collection[int], writers: Writers
) -> dict[int, Written]:
    """Who committed these xmins; those that the server does not know of are left out."""
    if not versions or not keeps_commit_times(connection):
        return {}
    found = connection.execute(_COMMITS, [list(versions)]).fetchall()
    return {
        version: _written(at, name, writers, has_origin=has_origin)
        for version, at, has_origin, name in found
        if at is not None
    }


def keeps_commit_times(connection: Connection) -> bool:
    """Whether the server has track_commit_timestamp on."""
    row = connection.execute("SHOW track_commit_timestamp").fetchone()
    return row == ("on",)


def _written(at: datetime, name: str | None, writers: Writers, *, has_origin: bool) -> Written:
    if name in writers.origins:
        return Written("applier", at)
    if has_origin or writers.before is None or at > writers.before:
        return Written("other", at)
    return Written("before", at)
