"""The control rows: phases, attempts, heartbeats; written here and nowhere else."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from cdc.connect import Connection
from plans import names
from plans.routes import Route
from toolkit.stored import stored


class Phase(Enum):
    """How far a service is; DESIGN, "Words"."""

    PLANNED = "planned"
    PREPARED = "prepared"
    COPYING = "copying"
    FOLLOWING = "following"
    DRAINING = "draining"
    SETTLED = "settled"
    MOVED = "moved"
    COMPLETED = "completed"


class Direction(Enum):
    """Which way the right to write goes."""

    CUTOVER = "cutover"
    ROLLBACK = "rollback"

    @property
    def before(self) -> Phase:
        """The phase in which it can begin, and to which giving up leads back."""
        return Phase.FOLLOWING if self is Direction.CUTOVER else Phase.MOVED

    @property
    def after(self) -> Phase:
        """The phase that it leads to."""
        return Phase.MOVED if self is Direction.CUTOVER else Phase.FOLLOWING

    @property
    def outcome(self) -> str:
        """What a result says of one that succeeded."""
        return "moved" if self is Direction.CUTOVER else "returned"

    @property
    def opposite(self) -> Direction:
        """The other way."""
        return Direction.ROLLBACK if self is Direction.CUTOVER else Direction.CUTOVER

    def stream(self, split: str, service: str) -> str:
        """The progress row of a service's changes while it flows this way."""
        name = names.stream if self is Direction.CUTOVER else names.back_stream
        return name(split, service)


def direction_of(route: Route, now: Mapping[str, Phase]) -> Direction:
    """How a route flows: what a service owns flows back once it has moved."""
    moved = now.get(route.service) is Phase.MOVED and route.kind.owned
    return Direction.ROLLBACK if moved else Direction.CUTOVER


@dataclass(frozen=True, slots=True)
class Attempt:
    """One cutover or rollback, under way or ended."""

    id: int
    services: tuple[str, ...]
    direction: Direction
    outcome: str | None
    started_at: datetime


def has_control(source: Connection) -> bool:
    """Whether there are control rows at all, of this split or of others."""
    row = source.execute("SELECT to_regclass('dbsplit.service') IS NOT NULL").fetchone()
    return bool(row and row[0])


def phases(connection: Connection, split: str) -> dict[str, Phase]:
    """The phase of each service."""
    rows = connection.execute(
        "SELECT service, phase FROM dbsplit.service WHERE split = %s", [split]
    ).fetchall()
    return {service: Phase(phase) for service, phase in rows}


def moved(connection: Connection, split: str) -> frozenset[str]:
    """The services that lead."""
    return frozenset(s for s, p in phases(connection, split).items() if p is Phase.MOVED)


def settled_phases(connection: Connection, split: str) -> dict[str, Phase]:
    """The phases as they are once every attempt under way has been given up.

    A service between two sides is led by the side that led before.
    """
    now = phases(connection, split)
    between = {s for s, phase in now.items() if phase in (Phase.DRAINING, Phase.SETTLED)}
    for attempt in attempts(connection, split) if between else ():
        for service in between & set(attempt.services):
            now[service] = attempt.direction.before
        between -= set(attempt.services)
    return now


def set_phase(connection: Connection, split: str, services: Iterable[str], phase: Phase) -> None:
    """Write the phase of some services."""
    connection.execute(
        "UPDATE dbsplit.service SET phase = %s, updated_at = clock_timestamp()"
        " WHERE split = %s AND service = ANY (%s) AND phase <> %s",
        [phase.value, split, list(services), phase.value],
    )
    note(connection, split, "phase", {"services": sorted(services), "phase": phase.value})


def set_phase_in_target(connection: Connection, split: str, service: str, phase: Phase) -> None:
    """Tell a target whether its service leads; its applier reads it with each batch."""
    connection.execute(
        "INSERT INTO dbsplit.service (split, service, phase) VALUES (%s, %s, %s)"
        " ON CONFLICT (split, service) DO UPDATE SET phase = excluded.phase,"
        " updated_at = clock_timestamp()",
        [split, service, phase.value],
    )


def advance_epoch(connection: Connection, split: str, services: Iterable[str]) -> None:
    """Mark that the right to write has changed hands once more."""
    connection.execute(
        "UPDATE dbsplit.service SET epoch = epoch + 1 WHERE split = %s AND service = ANY (%s)",
        [split, list(services)],
    )


def epoch_of(connection: Connection, split: str, service: str) -> int:
    """How often a service's right to write has changed hands."""
    row = connection.execute(
        "SELECT epoch FROM dbsplit.service WHERE split = %s AND service = %s", [split, service]
    ).fetchone()
    return int(row[0]) if row else 0


def begin_attempt(
    connection: Connection, split: str, services: Iterable[str], direction: Direction
) -> int:
    """Open an attempt; its deadline is set when the pause begins."""
    row = connection.execute(
        "INSERT INTO dbsplit.attempt (split, services, direction) VALUES (%s, %s, %s) RETURNING id",
        [split, sorted(services), direction.value],
    ).fetchone()
    assert row is not None  # noqa: S101
    return int(row[0])


def set_deadline(connection: Connection, attempt: int, seconds: float) -> None:
    """Begin the pause: from here on somebody may find writers waiting."""
    connection.execute(
        "UPDATE dbsplit.attempt SET fenced = true,"
        " deadline = clock_timestamp() + make_interval(secs => %s) WHERE id = %s",
        [seconds, attempt],
    )


def end_attempt(connection: Connection, attempt: int, outcome: str) -> bool:
    """Decide an attempt, once and for all; False if it was decided otherwise before."""
    row = connection.execute(
        "UPDATE dbsplit.attempt SET outcome = %s, ended_at = clock_timestamp()"
        " WHERE id = %s AND outcome IS NULL RETURNING id",
        [outcome, attempt],
    ).fetchone()
    return row is not None


def outcome(connection: Connection, attempt: int) -> str | None:
    """How an attempt was decided; None if it was not."""
    row = connection.execute(
        "SELECT outcome FROM dbsplit.attempt WHERE id = %s", [attempt]
    ).fetchone()
    return row[0] if row else None


def attempts(connection: Connection, split: str) -> list[Attempt]:
    """All attempts, the latest first."""
    rows = connection.execute(
        "SELECT id, services, direction, outcome, started_at"
        " FROM dbsplit.attempt WHERE split = %s ORDER BY id DESC",
        [split],
    ).fetchall()
    return [
        Attempt(number, tuple(services), Direction(way), outcome, at)
        for number, services, way, outcome, at in rows
    ]


def note(connection: Connection, split: str, kind: str, details: Mapping[str, Any]) -> None:
    """Add an event to the split's history."""
    connection.execute(
        "INSERT INTO dbsplit.event (split, kind, details) VALUES (%s, %s, %s::jsonb)",
        [split, kind, stored(connection, details)],
    )


def beat(connection: Connection, split: str, role: str, details: Mapping[str, Any]) -> None:
    """Show that a process lives; it also moves the source's log on, and with it the slot."""
    connection.execute(
        "INSERT INTO dbsplit.heartbeat (split, role, pid, host, started_at, beat_at, details)"
        " VALUES (%s, %s, %s, %s, clock_timestamp(), clock_timestamp(), %s::jsonb)"
        " ON CONFLICT (split, role) DO UPDATE SET beat_at = excluded.beat_at,"
        " pid = excluded.pid, host = excluded.host, details = excluded.details,"
        " started_at = CASE WHEN heartbeat.pid = excluded.pid THEN heartbeat.started_at"
        " ELSE excluded.started_at END",
        [split, role, os.getpid(), socket.gethostname(), stored(connection, details)],
    )


def wanted_back(connection: Connection, split: str) -> frozenset[str]:
    """The services whose own changes are to be carried back to the source."""
    rows = connection.execute(
        "SELECT service FROM dbsplit.service WHERE split = %s AND back_wanted", [split]
    ).fetchall()
    return frozenset(row[0] for row in rows)
