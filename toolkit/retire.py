"""The end of a split: complete, which keeps what moved, and abort, which leaves no trace."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import psycopg
from psycopg import sql

from cdc.connect import Connection, connect
from plans import names
from plans.catalog import Table, TableName
from plans.errors import GateClosed, NotReady
from plans.routes import Kind
from toolkit import fencing, locks, state
from toolkit.control.schema import forget_split, remove_control
from toolkit.fence import ALL_TRIGGERS
from toolkit.opened import Split, require_prepared, require_same_plan
from toolkit.recovery import recover
from toolkit.service_schema import remove_schema
from toolkit.state import Phase

RETIRED = "_retired"
STREAM_ENDS_S = 60.0
OPEN_S = 60.0
UNUSED_S_MAX = 20.0

Say = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that is done, on one server."""

    what: str
    where: str
    run: Callable[[], None]


def complete(split: Split, *, drop: bool, dry_run: bool, say: Say) -> list[dict[str, str]]:
    """Retire the source's tables; afterwards there is no way back.

    Raises GateClosed unless every service has moved.
    """
    with _alone(split) as source:
        _require_known(split, source)
        retiring = _retiring(split, source)
        begun = retiring is not None
        if retiring is None:
            require_prepared(split, source)
            if not dry_run:
                recover(split, source, holding_lock=True)
            _require_moved(split, source)
            retiring = [table.name for table in retired_tables(split)]
        if not dry_run:
            if not begun:
                _begin_retiring(split, source, retiring)
            _wait_for_stream(split, source)
        with _targets(split) as targets:
            steps = list(_complete_steps(split, source, targets, retiring, drop=drop))
            return _carry_out(steps, dry_run=dry_run, say=say)


def abort(split: Split, *, dry_run: bool, say: Say) -> list[dict[str, str]]:
    """Remove every trace of the split from every server; the source goes on as before.

    A target that does not answer keeps its traces and nothing else: the source is freed
    of its slot all the same.  NotReady tells of it at the end; repeating removes the rest.

    Raises GateClosed if a service leads already: its writes would be lost.
    """
    with _alone(split) as source:
        if require_same_plan(split.plan, source):
            if not dry_run:
                recover(split, source, holding_lock=True)
            now = state.phases(source, split.name)
            moved = [s for s, p in now.items() if p in (Phase.MOVED, Phase.COMPLETED)]
            if moved:
                raise GateClosed(
                    f"service {moved[0]} is {now[moved[0]].value}: its writes are in its own "
                    "database",
                    hint=f"run `dbsplit rollback {split.plan.path}` first"
                    if now[moved[0]] is Phase.MOVED
                    else "the split has ended: there is no way back",
                )
        if locks.is_held(source, split.name, locks.STREAM) and not dry_run:
            raise NotReady(
                "the stream process of this split is running", hint="stop it, then repeat"
            )
        with _reachable_targets(split) as (targets, silent):
            steps = list(_abort_steps(split, source, targets))
            done = _carry_out(steps, dry_run=dry_run, say=say)
        if silent:
            service, why = next(iter(silent.items()))
            error = NotReady(
                f"the source is free of the split, but service {service} did not answer: {why}",
                hint="repeat the command when it does; if its database is gone for good, nothing "
                "is left to do",
            )
            error.result = {"outcome": "dry-run" if dry_run else "removed", "steps": done}
            raise error
        return done


@contextmanager
def _alone(split: Split) -> Iterator[Connection]:
    with (
        locks.sole_runner(split.plan.source.dsn, split.name, locks.SETUP),
        locks.sole_runner(split.plan.source.dsn, split.name, locks.CUTOVER) as source,
    ):
        yield source


@contextmanager
def _targets(split: Split) -> Iterator[dict[str, Connection]]:
    opened: dict[str, Connection] = {}
    try:
        for service in split.plan.services:
            opened[service] = connect(split.dsn(service), name="dbsplit retire")
        yield opened
    finally:
        for connection in opened.values():
            connection.close()


@contextmanager
def _reachable_targets(split: Split) -> Iterator[tuple[dict[str, Connection], dict[str, str]]]:
    """Connections to the targets that answer, and why the others don't."""
    silent: dict[str, str] = {}
    with ExitStack() as stack:
        opened: dict[str, Connection] = {}
        for service in split.plan.services:
            try:
                connection = connect(split.dsn(service), name="dbsplit retire")
            except NotReady as error:
                silent[service] = str(error)
            else:
                opened[service] = stack.enter_context(connection)
        yield opened, silent


def _complete_steps(
    split: Split,
    source: Connection,
    targets: dict[str, Connection],
    retiring: list[TableName],
    *,
    drop: bool,
) -> Iterator[Step]:
    yield from _remove_streams(split, source, targets)
    for service, target in targets.items():
        tables = [split.target_table(route) for route in split.routes_of([service])]
        yield from _unfence(target, tables, f"service {service}")
        yield from _remove_control(split, target, f"service {service}", split.dsn(service))
    for name in retiring:
        if not _exists(source, name.identifier.as_string(None)):
            continue
        # Its fence stays: leaves and views have kept their names, and nothing
        # would carry what is written through them to the service any more.
        yield _sql(source, retiring_statement(name), "source")
    if drop:
        gone = [
            retired_name(name)
            for name in retiring
            if _exists(source, retired_name(name).identifier.as_string(None))
        ]
        if gone:
            yield _sql(
                source,
                sql.SQL("DROP TABLE {}").format(
                    sql.SQL(", ").join(name.identifier for name in gone)
                ),
                "source",
            )


def _abort_steps(
    split: Split, source: Connection, targets: dict[str, Connection]
) -> Iterator[Step]:
    yield from _remove_streams(split, source, targets)
    yield from _unfence(source, retired_tables(split), "source")
    yield from _restore_identities(split, source)
    yield from _restore_increments(split, source)
    for service, target in targets.items():
        where = f"service {service}"
        if not _exists(target, "dbsplit.split"):
            yield from _remove_control(split, target, where, split.dsn(service))
            continue
        ours = {route.target for route in split.routes_of([service])}
        catalog = split.targets[service]
        fenced = [table for name, table in catalog.tables.items() if name in ours]
        yield from _unfence(target, fenced, where)
        yield Step(
            "remove the schema that was made for the service",
            where,
            partial(remove_schema, split, service),
        )
        yield from _remove_control(split, target, where, split.dsn(service))
    yield from _remove_control(split, source, "source", split.plan.source.dsn)


def _remove_streams(
    split: Split, source: Connection, targets: dict[str, Connection]
) -> Iterator[Step]:
    # First of all what fills the source's disk.
    yield from _drop_slot(source, names.slot(split.name), "source")
    for service, target in targets.items():
        where = f"service {service}"
        yield from _drop_slot(target, names.back_slot(split.name, service), where)
        yield from _drop_publication(target, names.back_publication(split.name, service), where)
        yield from _drop_origin(target, names.origin(split.name, service), where)
        yield from _drop_origin(target, names.repair_origin(split.name, service), where)
    yield from _drop_publication(source, names.publication(split.name), "source")
    for service in split.plan.services:
        yield from _drop_origin(source, names.back_origin(split.name, service), "source")
        yield from _drop_origin(source, names.back_repair_origin(split.name, service), "source")


def _drop_slot(connection: Connection, slot: str, where: str) -> Iterator[Step]:
    row = connection.execute(
        "SELECT count(*) FROM pg_replication_slots WHERE slot_name = %s", [slot]
    ).fetchone()
    if row and row[0]:
        what, statement = f"slot {slot}", sql.SQL("SELECT pg_drop_replication_slot({})")
        drop = partial(_drop_unused, connection, statement.format(slot), what)
        yield Step(f"drop {what}", where, drop)


def _drop_unused(connection: Connection, statement: sql.Composed, what: str) -> None:
    deadline = time.monotonic() + UNUSED_S_MAX
    while True:
        try:
            connection.execute(statement)
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
        yield _sql(
            connection, sql.SQL("DROP PUBLICATION {}").format(sql.Identifier(publication)), where
        )


def _drop_origin(connection: Connection, origin: str, where: str) -> Iterator[Step]:
    row = connection.execute(
        "SELECT count(*) FROM pg_replication_origin WHERE roname = %s", [origin]
    ).fetchone()
    if row and row[0]:
        what, statement = f"origin {origin}", sql.SQL("SELECT pg_replication_origin_drop({})")
        drop = partial(_drop_unused, connection, statement.format(origin), what)
        yield Step(f"drop {what}", where, drop)


def _unfence(connection: Connection, tables: list[Table], where: str) -> Iterator[Step]:
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
                lock_timeout_ms=1000,
                deadline=time.monotonic() + OPEN_S,
            ),
        )


def _restore_identities(split: Split, source: Connection) -> Iterator[Step]:
    if not _exists(source, "dbsplit.identity_before"):
        return
    rows = source.execute(
        "SELECT table_schema, table_name, replica_identity, index_name"
        " FROM dbsplit.identity_before WHERE split = %s AND"
        " to_regclass(format('%%I.%%I', table_schema, table_name)) IS NOT NULL ORDER BY 1, 2",
        [split.name],
    ).fetchall()
    kinds = {"d": sql.SQL("DEFAULT"), "n": sql.SQL("NOTHING"), "f": sql.SQL("FULL")}
    for schema, name, identity, index in rows:
        kind = (
            sql.SQL("USING INDEX {}").format(sql.Identifier(index))
            if identity == "i"
            else kinds[identity]
        )
        yield _sql(
            source,
            sql.SQL("ALTER TABLE {} REPLICA IDENTITY {}").format(
                sql.Identifier(schema, name), kind
            ),
            "source",
        )


def _restore_increments(split: Split, source: Connection) -> Iterator[Step]:
    """Let the source issue every number again, after an attempt that was given up late."""
    if not _exists(source, "dbsplit.split"):
        return
    rows = source.execute(
        "SELECT n.nspname, c.relname, known.increment FROM dbsplit.split,"
        " jsonb_each_text(settings -> 'increments') AS known (name, increment)"
        " JOIN pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace"
        " ON n.nspname || '.' || c.relname = known.name"
        " JOIN pg_sequence AS s ON s.seqrelid = c.oid"
        " WHERE split = %s AND s.seqincrement <> known.increment::bigint ORDER BY 1, 2",
        [split.name],
    ).fetchall()
    for schema, name, increment in rows:
        yield _sql(
            source,
            sql.SQL("ALTER SEQUENCE {} INCREMENT BY {}").format(
                sql.Identifier(schema, name), sql.Literal(int(increment))
            ),
            "source",
        )


def _remove_control(split: Split, connection: Connection, where: str, dsn: str) -> Iterator[Step]:
    if not _exists(connection, "dbsplit.split"):
        # `remove_control` leaves alone a schema that is not ours.
        if _has_schema(connection):
            yield Step("drop schema dbsplit", where, partial(remove_control, dsn))
        return
    row = connection.execute(
        "SELECT count(*) FROM dbsplit.split WHERE split <> %s", [split.name]
    ).fetchone()
    if row and row[0]:
        yield Step("forget this split", where, partial(_forget, split, dsn))
    else:
        yield Step("drop schema dbsplit", where, partial(remove_control, dsn))


def _forget(split: Split, dsn: str) -> None:
    forget_split(dsn, split.name)


def _require_known(split: Split, source: Connection) -> None:
    if not require_same_plan(split.plan, source):
        raise NotReady(
            f"split {split.name} is not prepared on the source",
            hint=f"run `dbsplit prepare {split.plan.path}`",
        )


def _require_moved(split: Split, source: Connection) -> None:
    now = state.phases(source, split.name)
    for service, phase in now.items():
        if phase is not Phase.MOVED:
            raise GateClosed(
                f"service {service} is {phase.value}, and has to be moved first",
                hint=f"run `dbsplit cutover {split.plan.path}`",
            )


def _retiring(split: Split, source: Connection) -> list[TableName] | None:
    """The tables that an earlier `complete` began to retire; they may be renamed by now."""
    row = source.execute(
        "SELECT settings -> 'retiring' FROM dbsplit.split WHERE split = %s", [split.name]
    ).fetchone()
    return [TableName(*name) for name in row[0]] if row and row[0] is not None else None


def _begin_retiring(split: Split, source: Connection, retiring: list[TableName]) -> None:
    names_ = json.dumps([[name.schema, name.name] for name in retiring])
    with source.transaction():
        source.execute(
            "UPDATE dbsplit.split SET settings = settings"
            " || jsonb_build_object('retiring', %s::jsonb) WHERE split = %s",
            [names_, split.name],
        )
        state.set_phase(source, split.name, split.plan.services, Phase.COMPLETED)


def retired_tables(split: Split) -> list[Table]:
    """The source's tables of which a service owns something."""
    tables = {
        route.source.name: route.source
        for route in split.routes
        if route.kind in (Kind.WHOLE, Kind.COLUMNS, Kind.ROWS)
    }
    return [tables[name] for name in sorted(tables)]


def retired_name(name: TableName) -> TableName:
    """What a table is called once its rows have moved; 63 bytes at most."""
    return TableName(name.schema, name.name[: 63 - len(RETIRED)] + RETIRED)


def retiring_statement(name: TableName) -> sql.Composed:
    """What retires a table of the source."""
    return sql.SQL("ALTER TABLE {} RENAME TO {}").format(
        name.identifier, sql.Identifier(retired_name(name).name)
    )


def _sql(connection: Connection, statement: sql.Composed, where: str) -> Step:
    def run() -> None:
        with connection.transaction():
            connection.execute("SET LOCAL lock_timeout = '10s'")
            try:
                connection.execute(statement)
            except psycopg.errors.DependentObjectsStillExist as error:
                raise NotReady(
                    f"{where}: {error.diag.message_primary}: {error.diag.message_detail}",
                    hint="drop what depends on it, or move it to a service, then repeat",
                ) from None
            except psycopg.errors.LockNotAvailable:
                raise NotReady(
                    f"{where}: a lock could not be had within 10 s for {statement.as_string()}",
                    hint="end long transactions (pg_stat_activity, xact_start), then repeat",
                ) from None

    return Step(statement.as_string(connection), where, run)


def _carry_out(steps: list[Step], *, dry_run: bool, say: Say) -> list[dict[str, str]]:
    done = []
    for step in steps:
        if not dry_run:
            step.run()
        said = {"what": step.what, "where": step.where}
        say("step", said)
        done.append(said)
    return done


def _exists(connection: Connection, relation: str) -> bool:
    row = connection.execute("SELECT to_regclass(%s) IS NOT NULL", [relation]).fetchone()
    return bool(row and row[0])


def _has_schema(connection: Connection) -> bool:
    row = connection.execute(
        "SELECT count(*) FROM pg_namespace WHERE nspname = %s", [names.CONTROL_SCHEMA]
    ).fetchone()
    return bool(row and row[0])


def _wait_for_stream(split: Split, source: Connection) -> None:
    """The stream process ends by itself once every service is complete."""
    deadline = time.monotonic() + STREAM_ENDS_S
    while locks.is_held(source, split.name, locks.STREAM):
        if time.monotonic() > deadline:
            raise NotReady("the stream process did not end", hint="stop it, then repeat")
        time.sleep(0.1)
