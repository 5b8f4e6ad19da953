"""The way back: a publication and a slot on each target, followed before it opens.

A target's writes are safe to acknowledge only when something retains them for
the source.  The slot is made while the target is still closed; its consumer
skips what our own applier wrote.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial

import psycopg
from psycopg import sql

from cdc.connect import Connection, connect
from plans import names
from plans.catalog import Table
from plans.check_identity import GENERATED_REFUSED, generated_columns
from plans.errors import NotReady
from plans.holders import advice, in_progress
from toolkit import markers, state
from toolkit.identities import LOCK_WAIT_S, identity_statement, not_in_full
from toolkit.opened import Split
from toolkit.removal import drop_slot
from toolkit.short_locks import with_locks
from toolkit.sides import Sides
from toolkit.source_log import new_slot
from toolkit.state import Direction, Phase

SLOT_WAIT_S = 30


def ensure_way_back(sides: Sides, timeout_s: float) -> dict[str, float]:
    """See that changes written on the new leaders will reach the old ones.

    Returns the seconds until a marker arrived, per service.  Raises NotReady if
    none does within `timeout_s` seconds.
    """
    took = {}
    for service in sides.movers:
        began = time.monotonic()
        if sides.direction is Direction.CUTOVER:
            _create(sides.split, service, sides.targets[service])
            sides.source.execute(
                "UPDATE dbsplit.service SET back_wanted = true, back_slot = %s"
                " WHERE split = %s AND service = %s",
                [names.back_slot(sides.split.name, service), sides.split.name, service],
            )
        if not markers.passes(
            sides.follower(service), sides.leader(service), sides.return_stream(service), timeout_s
        ):
            raise NotReady(
                f"no process carries changes of service {service} back within {timeout_s:.0f} s",
                hint="start `dbsplit stream`, or see what it says",
            )
        took[service] = round(time.monotonic() - began, 3)
    return took


def end_unused(split: Split, source: Connection) -> None:
    """Take away what would carry changes of services back that do not lead.

    An attempt leaves that behind, for the next one.  Tables that are made anew in the target
    would not be of its publication, and a row that is copied is no change of the service's;
    the next attempt makes it again.
    """
    for service, phase in state.phases(source, split.name).items():
        if phase is not Phase.FOLLOWING:
            continue
        source.execute(
            "WITH forgotten AS (DELETE FROM dbsplit.progress WHERE stream = %s)"
            " UPDATE dbsplit.service SET back_wanted = false, back_slot = NULL"
            " WHERE split = %s AND service = %s",
            [names.back_stream(split.name, service), split.name, service],
        )
        with connect(split.dsn(service), name="dbsplit refresh") as target:
            drop_slot(target, names.back_slot(split.name, service))
            publication = sql.Identifier(names.back_publication(split.name, service))
            target.execute(sql.SQL("DROP PUBLICATION IF EXISTS {}").format(publication))


def _create(split: Split, service: str, target: Connection) -> None:
    publication = names.back_publication(split.name, service)
    slot = names.back_slot(split.name, service)
    tables = [split.target_table(route) for route in split.owned([service])]
    _require_changeable(split, service, tables, target.info.server_version)
    for table in tables:
        if table.logs_key:
            continue
        # Without it the service's own updates and deletes would fail.
        for relation in not_in_full(table, split.targets[service]):
            with_locks(
                target,
                partial(target.execute, identity_statement(relation)),
                f"service {service}: the replica identity of {relation} could not be set",
                of=[relation],
                limit_s=LOCK_WAIT_S,
            )
    if not _exists(target, "pg_publication", "pubname", publication):
        create = sql.SQL(
            "CREATE PUBLICATION {} FOR TABLE {} WITH (publish_via_partition_root = false)"
        ).format(
            sql.Identifier(publication),
            sql.SQL(", ").join(table.name.identifier for table in tables),
        )
        with_locks(
            target,
            partial(target.execute, create),
            f"service {service}: its tables could not be published",
            of=[table.name for table in tables],
            beside_rows=True,
            limit_s=LOCK_WAIT_S,
        )
    if not _exists(target, "pg_replication_slots", "slot_name", slot):
        try:
            with target.transaction():
                target.execute(
                    sql.SQL("SET LOCAL statement_timeout = {}").format(SLOT_WAIT_S * 1000)
                )
                target.execute(new_slot(split, slot, target.info.server_version))
        except psycopg.errors.QueryCanceled:
            raise NotReady(
                f"the slot {slot} could not be created within {SLOT_WAIT_S} s: it waits for "
                "every transaction in progress on the target's server",
                hint=advice(in_progress(target), "end the oldest transactions there and repeat"),
            ) from None
        except psycopg.errors.ConfigurationLimitExceeded:
            raise NotReady(
                f"the slot {slot} could not be created: all replication slots of the server of "
                f"service {service} are in use",
                hint="drop one that nobody reads, or raise max_replication_slots there and "
                "restart it; then repeat",
            ) from None


def _require_changeable(split: Split, service: str, tables: Iterable[Table], version: int) -> None:
    """See that the server will let the service change its tables once they are published.

    The check of the plan has looked at them; since then they may have been altered.
    """
    leaves = split.targets[service].tables
    refused = [
        str(table.name)
        for table in tables
        if generated_columns(table)
        and (
            not table.logs_key
            or "f" in {leaves[leaf].replica_identity for leaf in table.leaves or (table.name,)}
        )
    ]
    if refused and version >= GENERATED_REFUSED:
        raise NotReady(
            f"service {service} could neither update nor delete rows of {', '.join(refused)}:"
            f" PostgreSQL {version // 10_000} refuses that where old rows are logged in full and"
            " a column is generated",
            hint="let them have a primary key that is not deferrable, and REPLICA IDENTITY DEFAULT"
            " in its database",
        )


def _exists(connection: Connection, catalog: str, column: str, name: str) -> bool:
    row = connection.execute(
        sql.SQL("SELECT count(*) FROM {} WHERE {} = {}").format(
            sql.Identifier(catalog), sql.Identifier(column), name
        )
    ).fetchone()
    return bool(row and row[0])
