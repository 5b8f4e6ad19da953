"""What a server must have free: replication slots, WAL senders, replication origins.

Several databases of a split may be one server's, which then needs the room for all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, LiteralString

from cdc.connect import Connection
from plans.load import Plan
from toolkit.need import Need

_SLOTS: Final = "max_replication_slots"
_SENDERS: Final = "max_wal_senders"
ORIGINS_SINCE: Final = 180_000
"""Before, as many origins as slots can be in use."""

_ROOM: Final[LiteralString] = """
SELECT (SELECT system_identifier::text FROM pg_control_system()), current_database()::text,
       current_setting('max_replication_slots')::int,
       (SELECT count(*) FROM pg_replication_slots WHERE slot_name NOT LIKE %(ours)s),
       current_setting('max_wal_senders')::int,
       current_setting(%(origins)s)::int,
       (SELECT count(*) FROM pg_replication_origin WHERE roname NOT LIKE %(ours)s)
"""


@dataclass(frozen=True, slots=True)
class Room:
    """What there is on the server of one of the split's databases, and what others have taken."""

    where: str
    writers: int  # the streams that write this database, each under an origin of its own
    origins_setting: str
    server: str  # its system identifier
    database: str
    slots: int
    slots_taken: int
    senders: int
    origins: int
    origins_taken: int

    @property
    def place(self) -> tuple[str, str]:
        """Which database it is, whatever its DSN calls the server."""
        return self.server, self.database


def read_room(plan: Plan, connection: Connection, where: str, writers: int) -> Room:
    """What there is for this database and its neighbours."""
    setting = _origins_setting(connection)
    row = connection.execute(
        _ROOM, {"ours": f"dbsplit_{plan.slug}%", "origins": setting}
    ).fetchone()
    assert row is not None  # noqa: S101
    return Room(where, writers, setting, *row)


def has_slots_free(connection: Connection, wanted: int) -> bool:
    """Whether so many slots can be made."""
    row = connection.execute(
        "SELECT current_setting(%s)::int - count(*) >= %s FROM pg_replication_slots",
        [_SLOTS, wanted],
    ).fetchone()
    return bool(row and row[0])


def has_origin_free(connection: Connection) -> bool:
    """Whether one more session can write under an origin of its own."""
    row = connection.execute(
        "SELECT current_setting(%s)::int > (SELECT count(*) FROM pg_replication_origin)",
        [_origins_setting(connection)],
    ).fetchone()
    return bool(row and row[0])


def _origins_setting(connection: Connection) -> str:
    since = connection.info.server_version >= ORIGINS_SINCE
    return "max_active_replication_origins" if since else _SLOTS


def enough_room(rooms: Sequence[Room]) -> Iterator[Need]:
    """Whether each server has enough for all of the split's databases on it."""
    for server in dict.fromkeys(room.server for room in rooms):
        first, *others = there = [room for room in rooms if room.server == server]
        where = first.where + (f" and {len(others)} more on its server" if others else "")
        # One to stay for each database, and one that exports the copy's snapshot.
        slots = len(there) + 1
        yield _need(where, "replication slots", slots, first.slots, first.slots_taken, _SLOTS)
        yield _need(where, "WAL senders", slots, first.senders, 0, _SENDERS)
        # Those of the streams, and one of a repair.
        origins = sum(one.writers for one in there) + 1
        yield _need(
            where,
            "replication origins",
            origins,
            first.origins,
            first.origins_taken,
            first.origins_setting,
        )


def _need(where: str, what: str, wanted: int, maximum: int, taken: int, setting: str) -> Need:
    ok = maximum - taken >= wanted
    used = f", of which {taken} are taken" if taken else ""
    return Need(
        f"{where}: {what}",
        ok,
        f"{setting} = {maximum}{used}" + ("" if ok else f"; {wanted} are needed"),
        "" if ok else f"set {setting} = {taken + wanted} for {where}, and restart it",
    )
