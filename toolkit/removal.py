"""Removing what a split has put on its servers, step by step; a step that was done is no more.

The steps are found first and carried out then, so that a dry run shows the very same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import psycopg
from psycopg import sql

from cdc.connect import Connection
from plans import names
from plans.catalog import Table, TableName
from plans.errors import NotReady
from toolkit import fencing, locks
from toolkit.control.schema import forget_split, remove_control
from toolkit.fence import ALL_TRIGGERS
from toolkit.opened import Split
from toolkit.say import Say
from toolkit.short_locks import TRY_MS, with_locks

OPEN_S = 60.0
UNUSED_S_MAX = 20.0
LOCK_WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that is done, on one server."""

    what: str
    where: str
    run: Callable[[], object]


@contextmanager
def alone(split: Split) -> Iterator[Connection]:
    """A connection to the source, while no other verb changes the split."""
    with (
        locks.sole_runner(split.plan.source.dsn, split.name, locks.SETUP),
        locks.sole_runner(split.plan.source.dsn, split.name, locks.CUTOVER) as source,
    ):
        yield source


def remove_streams(
    split: Split, source: Connection, targets: dict[str, Connection]
) -> Iterator[Step]:
    """Drop slots, publications and origins of both directions."""
    # First of all what fills the source's disk.
    yield from _drop_slot_if_there(source, names.slot(split.name), "source")
    yield from _drop_slot_if_there(source, names.refresh_slot(split.name), "source")
    for service, target in targets.items():
        where = f"service {service}"
        yield from _drop_slot_if_there(target, names.back_slot(split.name, service), where)
        yield from _drop_publication(target, names.back_publication(split.name, service), where)
        yield from drop_origin(target, names.origin(split.name, service), where)
        yield from drop_origin(target, names.repair_origin(split.name, service), where)
        yield from drop_origin(target, names.refresh_origin(split.name, service), where)
    yield from _drop_publication(source, names.publication(split.name), "source")
    for service in split.plan.services:
        yield from drop_origin(source, names.back_origin(split.name, service), "source")
        yield from drop_origin(source, names.back_repair_origin(split.name, service), "source")


def _drop_slot_if_there(connection: Connection, slot: str, where: str) -> Iterator[Step]:
    row = connection.execute(
        "SELECT count(*) FROM pg_replication_slots WHERE slot_name = %s", [slot]
    ).fetchone()
    if row and row[0]:
        yield Step(f"drop slot {slot}", where, partial(drop_slot, connection, slot))


def drop_slot(connection: Connection, slot: str) -> None:
    """Drop a slot that nobody reads from any more; harmless if there is none."""
    statement = sql.SQL(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = {}"
    )
    _drop_unused(connection, statement.format(slot), f"slot {slot}")


def _drop_unused(connection: Connection, statement: sql.Composed, what: str) -> None:
    """Run a statement that drops something; harmless if it is gone."""
    deadline = time.monotonic() + UNUSED_S_MAX
    while True:
        try:
            connection.execute(statement)
        except psycopg.errors.UndefinedObject:
            return  # somebody else has dropped it since it was found
        except psycopg.errors.ObjectInUse:
            # A backend of the process that has just ended may live a moment longer.
            if time.monotonic() > deadline:
                raise NotReady(
                    f"{what} is in use", hint="stop the stream process, then repeat"
                ) from None
            time.sleep(0.1)
        else:
            return


def _drop_publication(connection: Connection, publication: str, where: str) -> Iterator[Step]:
    row = connection.execute(
        "SELECT count(*) FROM pg_publication WHERE pubname = %s", [publication]
    ).fetchone()
    if row and row[0]:
        statement = sql.SQL("DROP PUBLICATION IF EXISTS {}").format(sql.Identifier(publication))
        yield sql_step(connection, statement, where)


def drop_origin(connection: Connection, origin: str, where: str) -> Iterator[Step]:
    """Drop an origin under which nobody writes any more, if there is one."""
    row = connection.execute(
        "SELECT count(*) FROM pg_replication_origin WHERE roname = %s", [origin]
    ).fetchone()
    if row and row[0]:
        what, statement = f"origin {origin}", sql.SQL("SELECT pg_replication_origin_drop({})")
        drop = partial(_drop_unused, connection, statement.format(origin), what)
        yield Step(f"drop {what}", where, drop)


def unfence(connection: Connection, tables: list[Table], where: str) -> Iterator[Step]:
    """Drop the fences that are there."""
    fenced = fencing.fenced(connection, *ALL_TRIGGERS)
    standing = [t for t in tables if fenced & {t.name, *t.leaves}]
    if standing:
        yield Step(
            f"drop the fences of {len(standing)} tables",
            where,
            lambda: fencing.drop_fences(
                connection,
                standing,
                lock_timeout_ms=TRY_MS,
                deadline=time.monotonic() + OPEN_S,
            ),
        )


def remove_rows(split: Split, connection: Connection, where: str, dsn: str) -> Iterator[Step]:
    """Remove the control rows, and the schema with the last split of a database."""
    if not exists(connection, "dbsplit.split"):
        # `remove_control` leaves alone a schema that is not ours.
        if _has_schema(connection):
            yield Step("drop schema dbsplit", where, partial(remove_control, dsn))
        return
    row = connection.execute(
        "SELECT count(*) FROM dbsplit.split WHERE split <> %s", [split.name]
    ).fetchone()
    if row and row[0]:
        yield Step("forget this split", where, partial(forget_split, dsn, split.name))
    else:
        yield Step("drop schema dbsplit", where, partial(remove_control, dsn))


def sql_step(
    connection: Connection, statement: sql.Composed, where: str, *, of: Iterable[TableName] = ()
) -> Step:
    """A statement as a step, which locks these relations.

    NotReady if it cannot be had, or others depend on what it drops.
    """

    def run() -> None:
        try:
            with_locks(
                connection,
                lambda: connection.execute(statement),
                f"{where}: a lock could not be had for {statement.as_string(connection)}",
                of=of,
                limit_s=LOCK_WAIT_S,
            )
        except psycopg.errors.DependentObjectsStillExist as error:
            raise NotReady(
                f"{where}: {error.diag.message_primary}: {error.diag.message_detail}",
                hint="drop what depends on it, or move it to a service, then repeat",
            ) from None

    return Step(statement.as_string(connection), where, run)


def carry_out(steps: list[Step], *, dry_run: bool, say: Say) -> list[dict[str, str]]:
    """Do the steps, or only tell of them; returns them as result objects show them."""
    done = []
    for step in steps:
        if not dry_run:
            step.run()
        said = {"what": step.what, "where": step.where}
        say("step", said)
        done.append(said)
    return done


def exists(connection: Connection, relation: str) -> bool:
    """Whether there is a relation of this name, as it is written in SQL."""
    row = connection.execute("SELECT to_regclass(%s) IS NOT NULL", [relation]).fetchone()
    return bool(row and row[0])


def _has_schema(connection: Connection) -> bool:
    row = connection.execute(
        "SELECT count(*) FROM pg_namespace WHERE nspname = %s", [names.CONTROL_SCHEMA]
    ).fetchone()
    return bool(row and row[0])
