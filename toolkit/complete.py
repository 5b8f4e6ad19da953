"""`complete`: the end of a split whose services have moved; there is no way back afterwards."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack

from psycopg import sql

from cdc.connect import Connection, connect
from plans.catalog import TableName
from plans.errors import GateClosed, NotReady
from toolkit import locks, state
from toolkit.opened import Split
from toolkit.prepared import require_begun, require_prepared, require_same_plan
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
from toolkit.sides import source_tables
from toolkit.state import Phase
from toolkit.stored import stored

RETIRED = "_retired"
STREAM_ENDS_S = 60.0


def complete(split: Split, *, drop: bool, dry_run: bool, say: Say) -> list[dict[str, str]]:
    """Retire the source's tables; afterwards there is no way back.

    Raises GateClosed unless every service has moved.
    """
    with alone(split) as source:
        require_begun(split.plan, source)
        require_same_plan(split.plan, source)
        retiring = _retiring(split, source)
        begun = retiring is not None
        if retiring is None:
            require_prepared(split.plan, split.catalog, source)
            if not dry_run:
                recover(split, source, holding_lock=True)
            _require_moved(split, source)
            retiring = [table.name for table in source_tables(split, split.plan.services)]
        if not dry_run:
            if not begun:
                _begin_retiring(split, source, retiring)
            _wait_for_stream(split, source)
        with ExitStack() as stack:
            targets = {
                service: stack.enter_context(connect(split.dsn(service), name="dbsplit complete"))
                for service in split.plan.services
            }
            steps = list(_complete_steps(split, source, targets, retiring, drop=drop))
            return carry_out(steps, dry_run=dry_run, say=say)


def _complete_steps(
    split: Split,
    source: Connection,
    targets: dict[str, Connection],
    retiring: list[TableName],
    *,
    drop: bool,
) -> Iterator[Step]:
    yield from remove_streams(split, source, targets)
    for service, target in targets.items():
        tables = [split.target_table(route) for route in split.routes_of([service])]
        yield from unfence(target, tables, f"service {service}")
        yield from remove_rows(split, target, f"service {service}", split.dsn(service))
    for name in retiring:
        if not exists(source, name.identifier.as_string(None)):
            continue
        # Its fence stays: leaves and views have kept their names, and nothing
        # would carry what is written through them to the service any more.
        yield sql_step(source, retiring_statement(name), "source", of=[name])
    if drop:
        gone = [
            retired_name(name)
            for name in retiring
            if exists(source, retired_name(name).identifier.as_string(None))
        ]
        if gone:
            yield sql_step(
                source,
                sql.SQL("DROP TABLE {}").format(
                    sql.SQL(", ").join(name.identifier for name in gone)
                ),
                "source",
                of=gone,
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
    names_ = stored(source, [[name.schema, name.name] for name in retiring])
    with source.transaction():
        source.execute(
            "UPDATE dbsplit.split SET settings = settings"
            " || jsonb_build_object('retiring', %s::jsonb) WHERE split = %s",
            [names_, split.name],
        )
        state.set_phase(source, split.name, split.plan.services, Phase.COMPLETED)


def retired_name(name: TableName) -> TableName:
    """What a table is called once its rows have moved; 63 bytes at most."""
    return TableName(name.schema, name.name[: 63 - len(RETIRED)] + RETIRED)


def retiring_statement(name: TableName) -> sql.Composed:
    """What retires a table of the source."""
    return sql.SQL("ALTER TABLE {} RENAME TO {}").format(
        name.identifier, sql.Identifier(retired_name(name).name)
    )


def _wait_for_stream(split: Split, source: Connection) -> None:
    """The stream process ends by itself once every service is complete."""
    deadline = time.monotonic() + STREAM_ENDS_S
    while locks.is_held(source, split.name, locks.STREAM):
        if time.monotonic() > deadline:
            raise NotReady("the stream process did not end", hint="stop it, then repeat")
        time.sleep(0.1)
