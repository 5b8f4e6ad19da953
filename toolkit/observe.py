"""Observing what the gates decide on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from cdc.connect import Connection
from cdc.slot import read_slot
from plans import names
from plans.catalog import Catalog, Table, TableName
from plans.catalog_read import read_catalog
from plans.holders import prepared
from toolkit import locks, slot_health
from toolkit.gates import INHERITS, IS_NEW, Crossing, Readiness
from toolkit.opened import Split, schemas_of
from toolkit.prepared import heir_of
from toolkit.sides import Sides
from toolkit.slot_health import SlotHealth, growth, health
from toolkit.slot_server import SOURCE
from toolkit.state import Direction, Phase

PREPARED_S_MAX = 1.0
"""How old a prepared transaction may be that applications will surely end by themselves."""

if TYPE_CHECKING:
    # With what compares rows, numpy comes in: `status` and `doctor` go without.
    from toolkit.validation import Compared


def observe(sides: Sides, *, compared: Compared | None) -> Readiness:
    """The facts of a moment, for a move of these sides."""
    split = sides.split
    return Readiness(
        stream_live=locks.is_held(sides.source, split.name, locks.STREAM),
        lag_bytes=max((lag_bytes(sides, service) for service in sides.movers), default=0),
        retained_bytes=max(
            retained_bytes(sides.source, names.slot(split.name)),
            *(
                retained_bytes(sides.targets[s], names.back_slot(split.name, s))
                for s in sides.services
            ),
        ),
        prepared_transactions=tuple(
            sorted(
                gid
                for connection in {sides.leader(s) for s in sides.services}
                for gid in prepared_transactions(connection)
            )
        ),
        dirty_keys=sum(
            dirty_keys(sides.follower(s), [r.id for r in split.owned([s])]) for s in sides.movers
        ),
        differences=None if compared is None else compared.verdict,
        drifted=drifted(sides),
        unpublished=tuple(
            unpublished(
                sides.source,
                names.publication(split.name),
                (route.source.name for route in split.routes),
            )
        ),
        crossing=crossing(sides),
        slots=slots_of(split, sides.source, sides.targets, sides.phases),
    )


def slots_of(
    split: Split,
    source: Connection,
    targets: Mapping[str, Connection],
    phases: Mapping[str, Phase],
) -> tuple[SlotHealth, ...]:
    """The source's slot, and those of the ways back of services that have moved."""
    live = locks.is_held(source, split.name, locks.STREAM)
    before = slot_health.noted(source, split.name)

    def one(connection: Connection, where: str, slot: str) -> SlotHealth:
        state = read_slot(connection, slot)
        then = before.get(slot)
        rate = None
        if then is not None:
            measured = growth(state.retained_bytes - then.retained_bytes, then.ago_s)
            rate = then.growth_bytes_s if live else measured
        return health(where, state, split.plan.limits, rate)

    found = [one(source, SOURCE, names.slot(split.name))]
    found += [
        one(targets[service], service, names.back_slot(split.name, service))
        for service, phase in phases.items()
        # A service that owns nothing of the source has no way back.
        if phase is Phase.MOVED and service in targets and split.owned([service])
    ]
    return tuple(found)


def crossing(sides: Sides, *, look: bool = True) -> Crossing | None:
    """How long no statement has crossed; None if the plan doesn't ask, or on the way back.

    Without `look`, by what was noted last.
    """
    split = sides.split
    if split.plan.limits.crossing_free_days_min is None or sides.direction is Direction.ROLLBACK:
        return None
    # Few plans ask, and what reads statements takes long to import.
    from toolkit.executed import Unreadable, Watcher, noted

    try:
        watcher = Watcher(split.plan, split.catalog, split.routes)
        clean = watcher.look(sides.source) if look else noted(sides.source, split.name)
    except Unreadable as error:
        return Crossing(0.0, str(error))
    if clean is None:
        return Crossing(0.0, "nobody has looked yet; `dbsplit stream` does")
    return Crossing(clean.days(clean.counts.at), clean.last)


def lag_bytes(sides: Sides, service: str) -> int:
    """How much of the leader's log the follower has not applied."""
    leader = sides.leader(service)
    follower = sides.follower(service)
    return stream_lag(leader, follower, sides.stream(service))


def stream_lag(leader: Connection, follower: Connection, stream: str) -> int:
    """Bytes between the end of the leader's log and a follower's progress."""
    end = leader.execute("SELECT pg_current_wal_lsn()::text").fetchone()
    assert end is not None  # noqa: S101
    row = follower.execute(
        "SELECT greatest(0, pg_wal_lsn_diff(%s::pg_lsn, lsn))::bigint FROM dbsplit.progress"
        " WHERE stream = %s",
        [end[0], stream],
    ).fetchone()
    return int(row[0]) if row else 0


def retained_bytes(connection: Connection, slot: str) -> int:
    """Log that a slot holds back; 0 if there is no such slot."""
    row = connection.execute(
        "SELECT coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint"
        " FROM pg_replication_slots WHERE slot_name = %s",
        [slot],
    ).fetchone()
    return int(row[0]) if row else 0


def dirty_keys(follower: Connection, routes: list[str]) -> int:
    """Keys that changed since they were last proven equal."""
    row = follower.execute(
        "SELECT count(*) FROM dbsplit.dirty WHERE route = ANY (%s)", [routes]
    ).fetchone()
    return int(row[0]) if row else 0


def drifted(sides: Sides) -> tuple[str, ...]:
    """Tables of the move whose columns are not what the routes were compiled from."""
    split = sides.split
    there = _read(split, sides.source, None)
    found = _drift(split.catalog, there, split, sides.movers, "")
    followed = {str(route.source.name) for route in split.routes}
    found += [
        f"{name}{INHERITS}{parent}"
        if (parent := heir_of(there, name, followed))
        else f"{name}{IS_NEW}"
        for name, table in sorted(there.tables.items())
        if name not in split.catalog.tables and not table.is_partition
    ]
    for service in sides.movers:
        now = _read(split, sides.targets[service], service)
        found += _drift(split.targets[service], now, split, (service,), service)
        if sides.direction is Direction.CUTOVER:
            found += _own_columns(split, service, now)
    return tuple(found)


def _own_columns(split: Split, service: str, there: Catalog) -> list[str]:
    """Columns of what a service is to lead that could not come back to the source."""
    carried: dict[TableName, set[str]] = {}
    for route in split.routes_of([service]):
        names = {*(column.name for column in route.columns), *route.generated}
        carried.setdefault(route.target, set()).update(names)
    owned = sorted({route.target for route in split.owned([service])} & there.tables.keys())
    return [
        f"{service}:{name}.{column.name} is not on the source"
        for name in owned
        for column in there.tables[name].columns
        if column.name not in carried[name]
    ]


def _read(split: Split, connection: Connection, service: str | None) -> Catalog:
    schemas = split.plan.source.schemas if service is None else schemas_of(connection)
    return read_catalog(connection, schemas)


def _drift(
    then: Catalog, now: Catalog, split: Split, services: tuple[str, ...], service: str
) -> list[str]:
    found = []
    for route in split.owned(services):
        name = route.target if service else route.source.name
        before, after = then.tables.get(name), now.tables.get(name)
        if before is None or after is None or shape(before) != shape(after):
            found.append(f"{service}:{name}" if service else str(name))
    return sorted(set(found))


def unpublished(connection: Connection, publication: str, tables: Iterable[TableName]) -> list[str]:
    """Tables whose changes are not in the stream, because somebody changed the publication."""
    rows = connection.execute(
        "SELECT n.nspname, c.relname FROM pg_publication_rel AS r"
        " JOIN pg_publication AS p ON p.oid = r.prpubid AND p.pubname = %s"
        " AND p.pubinsert AND p.pubupdate AND p.pubdelete AND p.pubtruncate AND NOT p.pubviaroot"
        " JOIN pg_class AS c ON c.oid = r.prrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace"
        " WHERE r.prqual IS NULL AND r.prattrs IS NULL",
        [publication],
    ).fetchall()
    published = {TableName(schema, name) for schema, name in rows}
    return sorted(str(table) for table in set(tables) - published)


def fingerprints(sides: Sides) -> dict[str, str]:
    """A digest of the moved tables' columns on each side, cheap enough for the pause."""
    split = sides.split
    found = {
        "source": _fingerprint(sides.source, [r.source.name for r in split.owned(sides.services)])
    }
    for service in sides.movers:
        tables = [route.target for route in split.owned([service])]
        found[service] = _fingerprint(sides.targets[service], tables)
    return found


def _fingerprint(connection: Connection, tables: list[TableName]) -> str:
    row = connection.execute(
        "SELECT coalesce(md5(string_agg(concat_ws(' ', n.nspname, c.relname, a.attname,"
        " format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attgenerated), ','"
        " ORDER BY n.nspname, c.relname, a.attname)), '') FROM pg_attribute AS a"
        " JOIN pg_class AS c ON c.oid = a.attrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace"
        " WHERE a.attnum > 0 AND NOT a.attisdropped"
        " AND (n.nspname, c.relname) IN (SELECT * FROM unnest(%s::text[], %s::text[]))",
        [[table.schema for table in tables], [table.name for table in tables]],
    ).fetchone()
    return str(row[0]) if row else ""


def shape(table: Table) -> tuple[tuple[str, str, bool, str | None], ...]:
    """What of a table the routes rely on."""
    return tuple((c.name, c.type, c.not_null, c.generated) for c in table.columns)


def prepared_transactions(connection: Connection) -> tuple[str, ...]:
    """Two-phase transactions that have waited for a while to be decided.

    A fence waits for younger ones, as it does for every writer.
    """
    return prepared(connection, age_s=PREPARED_S_MAX)
