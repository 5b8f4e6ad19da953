"""What the source's log has to tell: a publication of the tables, and a slot that keeps it."""

from __future__ import annotations

import psycopg
from psycopg import sql

from cdc.connect import Connection
from cdc.slot import FAILOVER_SLOTS, require_whole
from plans import names
from plans.catalog import TableName
from plans.errors import NotReady
from plans.holders import advice, in_progress
from toolkit import state
from toolkit.opened import Split
from toolkit.short_locks import with_locks
from toolkit.state import Phase

SLOT_WAIT_S = 60
LOCK_WAIT_S = 30


def publish(split: Split, source: Connection) -> None:
    """Publish all tables that a route reads, unless there is the publication."""
    publication = names.publication(split.name)
    row = source.execute("SELECT FROM pg_publication WHERE pubname = %s", [publication]).fetchone()
    if row is not None:
        return
    with_locks(
        source,
        lambda: source.execute(publication_statement(split)),
        "the tables could not be published",
        of=published_tables(split),
        beside_rows=True,
        limit_s=LOCK_WAIT_S,
    )


def published_tables(split: Split) -> list[TableName]:
    """All tables that a route reads."""
    return sorted({route.source.name for route in split.routes})


def publication_statement(split: Split) -> sql.Composed:
    """The publication of all tables that a route reads."""
    return sql.SQL(
        "CREATE PUBLICATION {} FOR TABLE {} WITH (publish_via_partition_root = false)"
    ).format(
        sql.Identifier(names.publication(split.name)),
        sql.SQL(", ").join(table.identifier for table in published_tables(split)),
    )


def new_slot(split: Split, slot: str, version: int) -> sql.Composed:
    """A slot on a server of this version; standbys get it where the server can give it."""
    wanted = split.plan.slots.failover and version >= FAILOVER_SLOTS
    more = sql.SQL(", failover => true" if wanted else "")
    return sql.SQL("SELECT pg_create_logical_replication_slot({}, 'pgoutput'{})").format(
        sql.Literal(slot), more
    )


def create_slot(split: Split, source: Connection) -> None:
    """Make the slot that the stream reads, unless it is there.

    Raises NotReady if it is another split's, or waits too long for transactions in progress,
    StreamBroken if it is lost, or gone although rows were copied that rely on it.
    """
    slot = names.slot(split.name)
    row = source.execute(
        "SELECT database FROM pg_replication_slots WHERE slot_name = %s", [slot]
    ).fetchone()
    if row is not None:
        _require_our_slot(split, source, slot, row[0])
    if row is not None or _is_relied_on(split, source):
        require_whole(source, slot)
        return
    make_slot(split, source, slot)
    state.note(source, split.name, "slot", {"slot": slot})


def slot_statement(split: Split) -> sql.Composed:
    """The slot that the stream will read."""
    return new_slot(split, names.slot(split.name), split.catalog.server_version)


def make_slot(split: Split, source: Connection, slot: str) -> None:
    """Make a slot on the source; NotReady if it waits too long for transactions in progress."""
    try:
        with source.transaction():
            source.execute(sql.SQL("SET LOCAL statement_timeout = {}").format(SLOT_WAIT_S * 1000))
            source.execute(new_slot(split, slot, split.catalog.server_version))
    except psycopg.errors.QueryCanceled:
        raise NotReady(
            f"slot {slot} could not be created within {SLOT_WAIT_S} s: it waits for every "
            "transaction in progress on the source's server",
            hint=advice(
                in_progress(source),
                "end the oldest transactions (pg_stat_activity, xact_start) and repeat",
            ),
        ) from None


def _is_relied_on(split: Split, source: Connection) -> bool:
    phases = state.phases(source, split.name).values()
    return any(phase not in (Phase.PLANNED, Phase.PREPARED) for phase in phases)


def _require_our_slot(split: Split, source: Connection, slot: str, database: str) -> None:
    row = source.execute("SELECT current_database()").fetchone()
    if row is None or row[0] != database:
        raise NotReady(
            f"slot {slot} exists, for database {database}: another split has the name {split.name}",
            hint="choose another name in the plan's `split:`",
        )
