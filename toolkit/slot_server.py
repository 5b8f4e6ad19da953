"""Which server a slot was made on, noted where a restore of that server does not reach.

The source is noted in every target, a moved target in the source.  A promotion that
lost nothing is accepted when the stream process starts, and noted before the first
change is applied: from then on positions are those of the new timeline.
"""

from __future__ import annotations

import json

from cdc.connect import Connection, connect
from cdc.copy_record import copied
from cdc.lsn import LSN
from cdc.slot import Server, SlotState, require_unbroken
from plans import names
from toolkit import state
from toolkit.opened import Split

SOURCE = "source"


def known_server(connection: Connection, split: str, where: str) -> Server | None:
    """The server `where` as it is noted here; None if it is not."""
    row = connection.execute(
        "SELECT settings -> 'servers' -> %s FROM dbsplit.split WHERE split = %s", [where, split]
    ).fetchone()
    return Server(str(row[0][0]), int(row[0][1])) if row and row[0] else None


def note_server(connection: Connection, split: str, where: str, server: Server) -> None:
    """Note it."""
    connection.execute(
        "UPDATE dbsplit.split SET settings = settings || jsonb_build_object('servers',"
        " coalesce(settings -> 'servers', '{}') || jsonb_build_object(%s::text, %s::jsonb))"
        " WHERE split = %s",
        [where, json.dumps(server), split],
    )


def require_source_slot(split: Split, source: Connection) -> SlotState:
    """Check that the source's slot goes on where every target ends, on the server it was made on.

    Raises StreamBroken; a promotion that lost nothing is noted.
    """
    ends: dict[str, LSN] = {}
    noted: list[Server | None] = []
    services = [service for service in split.plan.services if split.routes_of([service])]
    for service in services:
        with connect(split.dsn(service), name="dbsplit stream") as target:
            noted.append(known_server(target, split.name, SOURCE))
            end = _reached(target, names.stream(split.name, service))
            if end == LSN(0):  # before the first change, the copy tells how far it reaches
                end = min(copied(target).values(), default=end)
            if end > LSN(0):
                ends[f"service {service}"] = end
    known = min((one for one in noted if one), key=lambda one: one.timeline, default=None)
    slot = names.slot(split.name)
    found = require_unbroken(source, split.plan.source.dsn, slot, known, ends)
    if any(one != found.server for one in noted):
        for service in services:
            with connect(split.dsn(service), name="dbsplit stream") as target:
                note_server(target, split.name, SOURCE, found.server)
        if known is not None:
            _tell_promoted(source, split, SOURCE, known, found.server)
    return found


def require_back_slot(split: Split, source: Connection, service: str) -> SlotState:
    """The same for the slot on a target whose changes go back to the source."""
    known = known_server(source, split.name, service)
    end = _reached(source, names.back_stream(split.name, service))
    slot = names.back_slot(split.name, service)
    dsn = split.dsn(service)
    with connect(dsn, name="dbsplit stream") as target:
        ends = {"the source": end} if end > LSN(0) else {}
        found = require_unbroken(target, dsn, slot, known, ends)
    if known != found.server:
        note_server(source, split.name, service, found.server)
        if known is not None:
            _tell_promoted(source, split, service, known, found.server)
    return found


def _reached(follower: Connection, stream: str) -> LSN:
    row = follower.execute(
        "SELECT lsn::text FROM dbsplit.progress WHERE stream = %s", [stream]
    ).fetchone()
    return LSN.parse(row[0]) if row else LSN(0)


def _tell_promoted(
    source: Connection, split: Split, where: str, known: Server, found: Server
) -> None:
    details = {"server": where, "timeline": found.timeline, "before": known.timeline}
    state.note(source, split.name, "promoted", details)
