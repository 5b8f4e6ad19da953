"""`abort`: a split that is given up leaves no trace, and the source goes on as before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from psycopg import sql

from cdc.connect import Connection, connect
from plans.catalog import TableName
from plans.errors import GateClosed, NotReady
from toolkit import locks, state
from toolkit.opened import Split
from toolkit.prepared import require_same_plan
from toolkit.recovery import recover
from toolkit.removal import (
    Step,
    alone,
    carry_out,
    exists,
    remove_rows,
    remove_streams,
    sql_step,
    unfence,
)
from toolkit.say import Say
from toolkit.service_schema import remove_schema
from toolkit.sides import source_tables
from toolkit.state import Phase


def abort(split: Split, *, dry_run: bool, say: Say) -> list[dict[str, str]]:
    """Remove every trace of the split from every server; the source goes on as before.

    A target that does not answer keeps its traces and nothing else: the source is freed
    of its slot all the same.  NotReady tells of it at the end; repeating removes the rest.

    Raises GateClosed if a service leads already: its writes would be lost.
    """
    with alone(split) as source:
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
            done = carry_out(steps, dry_run=dry_run, say=say)
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
def _reachable_targets(split: Split) -> Iterator[tuple[dict[str, Connection], dict[str, str]]]:
    """Connections to the targets that answer, and why the others don't."""
    silent: dict[str, str] = {}
    with ExitStack() as stack:
        opened: dict[str, Connection] = {}
        for service in split.plan.services:
            try:
                connection = connect(split.dsn(service), name="dbsplit abort")
            except NotReady as error:
                silent[service] = str(error)
            else:
                opened[service] = stack.enter_context(connection)
        yield opened, silent


def _abort_steps(
    split: Split, source: Connection, targets: dict[str, Connection]
) -> Iterator[Step]:
    yield from remove_streams(split, source, targets)
    yield from unfence(source, source_tables(split, split.plan.services), "source")
    yield from _restore_identities(split, source)
    yield from _restore_increments(split, source)
    for service, target in targets.items():
        where = f"service {service}"
        if not exists(target, "dbsplit.split"):
            yield from remove_rows(split, target, where, split.dsn(service))
            continue
        ours = {route.target for route in split.routes_of([service])}
        catalog = split.targets[service]
        fenced = [table for name, table in catalog.tables.items() if name in ours]
        yield from unfence(target, fenced, where)
        yield Step(
            "remove the schema that was made for the service",
            where,
            partial(remove_schema, split, service),
        )
        yield from remove_rows(split, target, where, split.dsn(service))
    yield from remove_rows(split, source, "source", split.plan.source.dsn)


def _restore_identities(split: Split, source: Connection) -> Iterator[Step]:
    if not exists(source, "dbsplit.identity_before"):
        return
    rows = source.execute(
        # An index that is gone leaves what NOTHING does.
        "SELECT table_schema, table_name, CASE WHEN replica_identity = 'i'"
        " AND to_regclass(quote_ident(table_schema) || '.' || quote_ident(index_name)) IS NULL"
        " THEN 'n' ELSE replica_identity END, index_name"
        " FROM dbsplit.identity_before WHERE split = %s AND"
        # So may a partition be, or something else have its name.
        " EXISTS (SELECT FROM pg_class WHERE relkind IN ('r', 'p')"
        " AND oid = to_regclass(format('%%I.%%I', table_schema, table_name))) ORDER BY 1, 2",
        [split.name],
    ).fetchall()
    kinds = {"d": sql.SQL("DEFAULT"), "n": sql.SQL("NOTHING"), "f": sql.SQL("FULL")}
    for schema, name, identity, index in rows:
        kind = (
            sql.SQL("USING INDEX {}").format(sql.Identifier(index))
            if identity == "i"
            else kinds[identity]
        )
        table = TableName(schema, name)
        yield sql_step(
            source,
            sql.SQL("ALTER TABLE IF EXISTS {} REPLICA IDENTITY {}").format(table.identifier, kind),
            "source",
            of=[table],
        )


def _restore_increments(split: Split, source: Connection) -> Iterator[Step]:
    """Let the source issue every number again, after an attempt that was given up late."""
    if not exists(source, "dbsplit.split"):
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
        yield sql_step(
            source,
            sql.SQL("ALTER SEQUENCE {} INCREMENT BY {}").format(
                sql.Identifier(schema, name), sql.Literal(int(increment))
            ),
            "source",
            of=[TableName(schema, name)],
        )
