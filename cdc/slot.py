"""A slot as its server shows it, and whether a stream may go on from it.

What is lost to a slot is lost without a word: a slot that was dropped and made anew,
or moved on by somebody, begins behind changes that nobody has, and a server that was
restored has forgotten changes that its followers have.  So before each beginning, and
while the stream runs, the slot, the server and the followers' own progress are held
against each other.  Observing and judging are separate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, LiteralString, NamedTuple

import psycopg

from cdc.connect import Connection, session_conninfo
from cdc.lsn import LSN
from plans.errors import StreamBroken, Unreachable

_STATE: Final[LiteralString] = """
SELECT (SELECT system_identifier::text FROM pg_control_system()) AS system,
       ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int AS timeline,
       pg_current_wal_lsn()::text AS log_end, s.slot_name IS NOT NULL AS there,
       coalesce(s.database, '') AS database, coalesce(s.wal_status, '') AS wal_status,
       coalesce(s.confirmed_flush_lsn, '0/0')::text AS confirmed,
       coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn), 0)::bigint AS retained,
       s.safe_wal_size AS safe, coalesce(s.active, false) AS active
  FROM (SELECT) AS one LEFT JOIN pg_replication_slots AS s ON s.slot_name = %s
"""

FAILOVER_SLOTS = 170_000
"""From this version on, standbys can have slots of ours."""

AGAIN: Final = "`dbsplit abort` and start the split again"


class Server(NamedTuple):
    """Which server, and which of its histories: a timeline begins with each promotion."""

    system: str
    timeline: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotState:
    """A slot, and the server that it is on, as they are now."""

    name: str
    there: bool
    wal_status: str  # reserved, extended, unreserved or lost
    confirmed: LSN
    retained_bytes: int
    safe_bytes: int | None  # until the server invalidates the slot; None: no limit is set
    active: bool
    log_end: LSN
    server: Server


def read_slot(connection: Connection, slot: str) -> SlotState:
    """The slot as it is now.

    Raises Unreachable if the server is a standby or still recovers: that may pass.
    """
    try:
        row = connection.execute(_STATE, [slot]).fetchone()
    except psycopg.errors.ObjectNotInPrerequisiteState:
        raise Unreachable(
            f"the server of slot {slot} is in recovery: it is a standby, or just starts",
            hint="let the DSN lead to the primary",
        ) from None
    assert row is not None  # noqa: S101
    system, timeline, log_end, there, _, wal_status, confirmed, retained, safe, active = row
    return SlotState(
        name=slot,
        there=there,
        wal_status=wal_status,
        confirmed=LSN.parse(confirmed),
        retained_bytes=max(0, int(retained)),
        safe_bytes=None if safe is None else int(safe),
        active=active,
        log_end=LSN.parse(log_end),
        server=Server(system, int(timeline)),
    )


def standbys_behind(connection: Connection, slot: str) -> tuple[str, ...]:
    """Slots of standbys, if `slot` is synchronized to standbys and waits for none of them.

    If such a standby is promoted, followers may have what it lacks.  () before 17.
    """
    if connection.info.server_version < FAILOVER_SLOTS:
        return ()
    rows = connection.execute(
        "SELECT s.slot_name::text FROM pg_replication_slots AS s"
        " WHERE s.slot_type = 'physical'"
        " AND current_setting('synchronized_standby_slots') = ''"
        " AND EXISTS (SELECT FROM pg_replication_slots AS o WHERE o.slot_name = %s AND o.failover)"
        " ORDER BY 1",
        [slot],
    ).fetchall()
    return tuple(row[0] for row in rows)


def require_unbroken(
    connection: Connection,
    dsn: str,
    slot: str,
    known: Server | None,
    ends: Mapping[str, LSN],
) -> SlotState:
    """Check that a stream may go on; `ends` is what each follower has, by its name.

    `known` is the server as it was noted, None if it was not.  Raises StreamBroken.
    """
    state = read_slot(connection, slot)
    left_at = None
    if known is not None and known.timeline < state.server.timeline:
        left_at = timeline_left_at(dsn, state.server.timeline, known.timeline)
    if (error := judge(state, known, ends, left_at)) is not None:
        raise error
    return state


def judge(
    state: SlotState, known: Server | None, ends: Mapping[str, LSN], left_at: LSN | None
) -> StreamBroken | None:
    """Why a stream cannot go on; None if it can.

    `left_at` is where the server's history left the known timeline, None if it did not,
    or if that timeline is none of its past.
    """
    return _of_server(state, known, ends, left_at) or _of_slot(state, ends)


def _of_server(
    state: SlotState, known: Server | None, ends: Mapping[str, LSN], left_at: LSN | None
) -> StreamBroken | None:
    slot = f"replication slot {state.name}"
    if known is not None and state.server.system != known.system:
        return StreamBroken(
            f"{slot} is asked for on another server than it was made on: system identifier "
            f"{state.server.system} instead of {known.system}",
            hint=f"correct the DSN; if the database was moved by dump and restore, {AGAIN}",
        )
    follower, end = max(ends.items(), key=lambda one: one[1].value, default=("", LSN(0)))
    if known is not None and state.server.timeline != known.timeline:
        if left_at is None:
            return StreamBroken(
                f"the server of {slot} is on timeline {state.server.timeline}, whose history "
                f"does not come from timeline {known.timeline}: it was restored",
                hint=f"the followers have changes that it does not have: {AGAIN}",
            )
        if end > left_at:
            return StreamBroken(
                f"the server of {slot} was promoted or restored at {left_at} (timeline "
                f"{state.server.timeline}), and {follower} has changes up to {end} of the "
                "server before it",
                hint=f"what was written there behind {left_at} is in {follower} only; take "
                f"what is missed over by hand, then {AGAIN}. On PostgreSQL 17 and later "
                "synchronized_standby_slots keeps this from happening",
            )
    if end > state.log_end:
        return StreamBroken(
            f"the log of the server of {slot} ends at {state.log_end}, before {end}, which "
            f"{follower} has already: it was restored from a copy",
            hint=f"the followers have changes that it does not have: {AGAIN}",
        )
    return None


def _of_slot(state: SlotState, ends: Mapping[str, LSN]) -> StreamBroken | None:
    slot = f"replication slot {state.name}"
    if not state.there:
        return StreamBroken(
            f"{slot} does not exist any more: it was dropped, or its server was restored or "
            "promoted without it",
            hint=f"changes made since are unknown to the followers: {AGAIN}",
        )
    if state.wal_status == "lost":
        return StreamBroken(
            f"{slot} was invalidated: the server has removed log that it needed",
            hint=f"raise max_slot_wal_keep_size, {AGAIN}",
        )
    follower, end = min(ends.items(), key=lambda one: one[1].value, default=("", state.confirmed))
    if state.confirmed > end:
        return StreamBroken(
            f"{slot} is at {state.confirmed}, ahead of {follower}, which has everything up "
            f"to {end} only: the slot was recreated or advanced",
            hint=f"changes in between are lost to it: {AGAIN}",
        )
    return None


def require_whole(connection: Connection, slot: str) -> None:
    """Raise StreamBroken if the slot is gone, or has lost log that the stream needs."""
    if (error := judge(read_slot(connection, slot), None, {}, None)) is not None:
        raise error


def timeline_left_at(dsn: str, now: int, then: int) -> LSN | None:
    """Where the history of timeline `now` left timeline `then`; None if it was never on it."""
    conninfo = session_conninfo(dsn, name="dbsplit timeline", replication="database")
    with psycopg.connect(conninfo, autocommit=True) as connection:
        row = connection.execute(f"TIMELINE_HISTORY {int(now)}".encode()).fetchone()
    if row is None:
        return None
    text = row[1].decode() if isinstance(row[1], bytes) else str(row[1])
    return left_at(text, then)


def left_at(history: str, timeline: int) -> LSN | None:
    """Where a timeline's history file says that `timeline` was left."""
    for line in history.splitlines():
        words = line.split("#", 1)[0].split()
        if len(words) >= 2 and words[0] == str(timeline):
            return LSN.parse(words[1])
    return None
