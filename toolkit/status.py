"""Where a split stands: phases, lag, gates."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

import psycopg

from cdc.connect import Connection, connect
from plans import names
from plans.errors import NotReady
from plans.holders import MOMENT_S, shut
from toolkit import locks, state
from toolkit.freshness import Freshness, read_freshness
from toolkit.gates import Gate, Readiness, decide, unknown, untold
from toolkit.observe import (
    crossing,
    dirty_keys,
    drifted,
    prepared_transactions,
    retained_bytes,
    slots_of,
    stream_lag,
    unpublished,
)
from toolkit.opened import Split
from toolkit.sides import open_sides
from toolkit.slot_health import SlotHealth
from toolkit.state import Direction, Phase
from toolkit.throttling import read_wish

ORDER = tuple(Phase)

LATE_S = 15.0
"""A copy that has not shown life for so long is none."""


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """One service; `lag_s` is the age of the last change applied, 0 if nothing waits.

    Of one that is away, `lag_bytes` is what the source's slot keeps for all; None is what
    only its database knows.
    """

    phase: str
    lag_bytes: int
    lag_s: float | None
    tables: int
    copied: int | None
    epoch: int
    away: str = ""  # why its database cannot be reached, by us or by the stream
    away_s: float | None = None  # for how long the stream has gone on without it
    spilled_bytes: int = 0  # changes that wait for it on the stream's disk
    silent: bool = False  # nothing could be asked of its database just now
    locked: tuple[str, ...] = ()  # its tables that nobody can read now, and because of whom


@dataclass(frozen=True, slots=True)
class Status:
    """The whole split."""

    split: str
    phase: str
    stream: dict[str, Any]
    copy: dict[str, Any]
    services: dict[str, ServiceStatus]
    gates: tuple[Gate, ...]
    slots: tuple[SlotHealth, ...] = ()
    validating: str = ""
    """Which validation runs now, "once" or "continuous"."""
    tables: tuple[Freshness, ...] = ()
    locked: tuple[str, ...] = ()
    """Tables of the source and of all services that nobody can read now, because of whom."""

    def as_dict(self) -> dict[str, Any]:
        """The result object that scripts read."""
        return {
            "split": self.split,
            "phase": self.phase,
            "stream": self.stream,
            "copy": self.copy,
            "services": {name: asdict(one) for name, one in self.services.items()},
            "slots": [one.as_dict() for one in self.slots],
            "locked": list(self.locked),
            "gates": [gate.as_dict() for gate in self.gates],
            "validation": {
                "runs": self.validating,
                "tables": [one.as_dict() for one in self.tables],
            },
        }


def read_status(split: Split) -> Status:
    """Observe everything once; changes nothing."""
    with connect(split.plan.source.dsn, name="dbsplit status") as source:
        if not state.has_control(source):
            return _planned(split)
        now = state.phases(source, split.name)
        if not now:
            return _planned(split)
        stream = _stream(split, source)
        behind = {one["service"]: one for one in stream.get("behind") or () if stream["live"]}
        services = {
            service: _beside(
                _service(split, source, service, now.get(service, Phase.PLANNED)),
                behind.get(service),
            )
            for service in split.plan.services
        }
        gates: tuple[Gate, ...] = ()
        slots = _slots(split, source, now)
        silent = [name for name, one in services.items() if one.silent]
        locked = tuple(
            f"{place}: {one}"
            for place, found in (
                ("source", shut(source, age_s=MOMENT_S)),
                *((service, one.locked) for service, one in services.items()),
            )
            for one in found
        )
        if silent:
            gates = (unknown(silent),)
        elif locked:
            gates = (untold(", ".join(locked), "wait for the end of that, or end it"),)
        elif all(phase in (Phase.FOLLOWING, Phase.MOVED) for phase in now.values()):
            gates = _gates(split, source, now, services, slots)
        return Status(
            split.name,
            min(now.values(), key=ORDER.index).value,
            stream,
            _copy(split, source),
            services,
            gates,
            slots,
            _validating(split, source),
            tuple(read_freshness(source, split.name, split.routes, now)),
            locked,
        )


def _gates(
    split: Split,
    source: Connection,
    now: dict[str, Phase],
    services: dict[str, ServiceStatus],
    slots: tuple[SlotHealth, ...],
) -> tuple[Gate, ...]:
    try:
        readiness = _readiness(split, source, now, services, slots)
    except NotReady as error:  # somebody locks a table, or a target has gone away just now
        return (untold(str(error), error.hint),)
    return tuple(decide(readiness, split.plan.limits, split.plan.path))


def _planned(split: Split) -> Status:
    nothing = ServiceStatus(Phase.PLANNED.value, 0, 0.0, 0, 0, 0)
    return Status(
        split.name,
        Phase.PLANNED.value,
        {"live": False},
        {"live": False},
        dict.fromkeys(split.plan.services, nothing),
        (),
    )


def _service(split: Split, source: Connection, service: str, phase: Phase) -> ServiceStatus:
    routes = [route.id for route in split.routes_of([service])]
    row = source.execute(
        "SELECT epoch FROM dbsplit.service WHERE split = %s AND service = %s",
        [split.name, service],
    ).fetchone()
    epoch = int(row[0]) if row else 0
    try:
        target = connect(split.dsn(service), name="dbsplit status")
    except NotReady as error:
        lag = _kept(source, split.name)
        why = str(error)
        return ServiceStatus(phase.value, lag, None, len(routes), None, epoch, why, silent=True)
    try:
        with target:
            locked = shut(target, age_s=MOMENT_S)
            copied = target.execute(
                "SELECT count(*) FROM dbsplit.copied WHERE route = ANY (%s)", [routes]
            ).fetchone()
            lag, age = 0, 0.0
            if phase in (Phase.FOLLOWING, Phase.DRAINING, Phase.SETTLED):
                stream = names.stream(split.name, service)
                lag, age = stream_lag(source, target, stream), _age(target, stream)
            elif phase is Phase.MOVED:
                stream = names.back_stream(split.name, service)
                lag, age = stream_lag(target, source, stream), _age(source, stream)
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        return ServiceStatus(phase.value, 0, 0.0, len(routes), 0, epoch)
    return ServiceStatus(
        phase.value,
        lag,
        age if lag else 0.0,
        len(routes),
        int(copied[0]) if copied else 0,
        epoch,
        locked=locked,
    )


def _beside(one: ServiceStatus, behind: Mapping[str, Any] | None) -> ServiceStatus:
    """With what the stream process tells of its target."""
    if behind is None:
        return one
    return replace(
        one,
        away=one.away or behind["why"],
        away_s=behind["away_s"],
        spilled_bytes=behind["spilled_bytes"],
    )


def _kept(source: Connection, split: str) -> int:
    """How much of the log the followers of the source's slot have not confirmed."""
    row = source.execute(
        "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::bigint"
        " FROM pg_replication_slots WHERE slot_name = %s",
        [names.slot(split)],
    ).fetchone()
    return max(0, int(row[0])) if row and row[0] is not None else 0


def _age(follower: Connection, stream: str) -> float:
    row = follower.execute(
        "SELECT extract(epoch FROM clock_timestamp() - applied_at) FROM dbsplit.progress"
        " WHERE stream = %s",
        [stream],
    ).fetchone()
    return round(float(row[0]), 3) if row else 0.0


def _stream(split: Split, source: Connection) -> dict[str, Any]:
    return _process(
        source, split.name, "stream", live=locks.is_held(source, split.name, locks.STREAM)
    )


def _validating(split: Split, source: Connection) -> str:
    holder = locks.holder_name(source, split.name, locks.VALIDATE)
    if holder is None:
        return ""
    return "continuous" if locks.CONTINUOUS in holder else "once"


def _copy(split: Split, source: Connection) -> dict[str, Any]:
    """The copy that runs, if one does, what makes it slower, and what is asked of it."""
    wish = read_wish(source, split.name)
    told = _process(source, split.name, "copy", live=False)
    live = (
        locks.is_held(source, split.name, locks.SETUP) and told.get("last_beat_s", LATE_S) < LATE_S
    )
    asked = {"paused": wish.paused, "bytes_per_s_max": wish.bytes_per_s}
    return {**told, "live": live, **asked} if live else {"live": False, **asked}


def _process(source: Connection, split: str, role: str, *, live: bool) -> dict[str, Any]:
    row = source.execute(
        "SELECT pid, host, started_at::text, extract(epoch FROM clock_timestamp() - beat_at),"
        " details FROM dbsplit.heartbeat WHERE split = %s AND role = %s",
        [split, role],
    ).fetchone()
    if row is None:
        return {"live": live}
    return {
        "live": live,
        "pid": row[0],
        "host": row[1],
        "started_at": row[2],
        "last_beat_s": round(float(row[3]), 1),
        **row[4],
    }


def _readiness(
    split: Split,
    source: Connection,
    now: dict[str, Phase],
    services: dict[str, ServiceStatus],
    slots: tuple[SlotHealth, ...],
) -> Readiness:
    moved = {s for s, phase in now.items() if phase is Phase.MOVED}
    owned = split.owned(set(split.plan.services) - moved)
    rows = source.execute(
        "SELECT route, state, missing + extra + different FROM dbsplit.validated"
        " WHERE split = %s AND direction = 'cutover'",
        [split.name],
    ).fetchall()
    known = {route: (verdict, count) for route, verdict, count in rows}
    told = [known.get(route.id) for route in owned]
    differences = (
        None
        if any(one is None or one[0] == "unverified" for one in told)
        else sum(one[1] for one in told if one is not None)
    )
    staying = tuple(s for s in split.plan.services if s not in moved)
    with open_sides(split, Direction.CUTOVER, staying, now) as sides:
        changed = sum(
            dirty_keys(sides.targets[s], [r.id for r in split.owned([s])]) for s in sides.movers
        )
        return Readiness(
            stream_live=locks.is_held(source, split.name, locks.STREAM),
            lag_bytes=max((one.lag_bytes for one in services.values()), default=0),
            retained_bytes=retained_bytes(source, names.slot(split.name)),
            prepared_transactions=prepared_transactions(source),
            dirty_keys=changed,
            differences=differences,
            drifted=drifted(sides),
            unpublished=tuple(
                unpublished(
                    source,
                    names.publication(split.name),
                    (route.source.name for route in split.routes),
                )
            ),
            crossing=crossing(sides, look=False),
            slots=slots,
        )


def _slots(split: Split, source: Connection, now: dict[str, Phase]) -> tuple[SlotHealth, ...]:
    """The slots' state, once there are any; of targets only if their service has moved."""
    if all(phase in (Phase.PLANNED, Phase.COMPLETED) for phase in now.values()):
        return ()
    with ExitStack() as stack:
        targets = {}
        for service, phase in now.items():
            if phase is Phase.MOVED:
                with suppress(NotReady):  # its service is told to be away
                    target = connect(split.dsn(service), name="dbsplit status")
                    targets[service] = stack.enter_context(target)
        return slots_of(split, source, targets, now)
