"""What comparisons have proven, as it is noted on both sides."""

from __future__ import annotations

from collections.abc import Sequence

from cdc.connect import Connection
from plans.routes import Route
from toolkit.opened import Split
from toolkit.state import Direction
from validators.results import TableResult


def track(follower: Connection, routes: Sequence[Route]) -> None:
    """Have the stream note the keys that it changes from here on.

    A batch that does not know of it yet was committed on the leader before this.
    """
    follower.execute(
        "INSERT INTO dbsplit.tracked (route) SELECT unnest(%s::text[]) ON CONFLICT DO NOTHING",
        [[route.id for route in routes]],
    )


def note(
    split: Split,
    source: Connection,
    follower: Connection,
    result: TableResult,
    direction: Direction,
    since: str,
) -> None:
    """Note a route's result; what is equal needs no proof again until it changes."""
    source.execute(
        "INSERT INTO dbsplit.validated AS v (split, route, direction, at, since, rows, missing,"
        " extra, different, state, proof, equal_at, equal_since)"
        " SELECT *, CASE state WHEN 'equal' THEN at END, CASE state WHEN 'equal' THEN since END"
        " FROM (VALUES (%s, %s, %s, clock_timestamp(), %s::pg_lsn, %s::bigint, %s::bigint,"
        " %s::bigint, %s::bigint, %s, %s)) AS now (split, route, direction, at, since, rows,"
        " missing, extra, different, state, proof)"
        " ON CONFLICT (split, route, direction) DO UPDATE SET at = excluded.at,"
        " since = excluded.since, rows = excluded.rows, missing = excluded.missing,"
        " extra = excluded.extra, different = excluded.different, state = excluded.state,"
        " proof = excluded.proof, equal_at = coalesce(excluded.equal_at, v.equal_at),"
        " equal_since = coalesce(excluded.equal_since, v.equal_since)",
        [
            split.name,
            result.route,
            direction.value,
            since,
            result.rows,
            result.missing,
            result.extra,
            result.different,
            result.state,
            "position" if result.position else "live",
        ],
    )
    if result.state == "equal":
        note_forgotten(follower, result.route, since)
        follower.execute(
            "DELETE FROM dbsplit.dirty WHERE route = %s AND lsn < %s::pg_lsn", [result.route, since]
        )


def note_forgotten(follower: Connection, route: str, since: str) -> None:
    """Before dirty keys are forgotten: a repair's script relies on them."""
    follower.execute(
        "UPDATE dbsplit.tracked SET forgotten = greatest(forgotten, %s::pg_lsn) WHERE route = %s",
        [since, route],
    )
