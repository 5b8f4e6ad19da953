"""Prepare: control schemas, target schemas, publication and slot.

Each step leaves alone what is there already, so that after a crash the same
command goes on where it stopped.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from cdc.connect import Connection, connect
from cdc.crash import crash_point
from plans import names
from plans.catalog import Table
from plans.catalog_read import read_catalog
from plans.check import check_split
from plans.errors import PlanInvalid
from plans.findings import Finding, Severity
from plans.load import Plan, load_plan
from plans.schema.staging import staging_types
from toolkit import locks, state
from toolkit.control.schema import install_control
from toolkit.giving_up import require_not_given_up
from toolkit.identities import identify_rows
from toolkit.need import require
from toolkit.opened import Split, compile_split, read_targets
from toolkit.prepared import require_not_completed, require_same_plan, require_same_tables, shape_of
from toolkit.ready import check_servers
from toolkit.say import Say
from toolkit.schema_numbers import read_numbers
from toolkit.service_schema import build_schema
from toolkit.source_log import create_slot, publish
from toolkit.stored import stored


def prepare(path: Path, say: Say) -> Split:
    """Make everything ready for the copy; returns the split with its targets.

    Raises PlanInvalid for a plan with blockers or one that has changed since,
    NotReady for a server that is not as it must be, GateClosed for a split that
    `complete` has ended: its tables have other names, which looks like a wrong plan.
    """
    split = _require_ready(path)
    with locks.sole_runner(split.plan.source.dsn, split.name, locks.SETUP) as source:
        _install(split, source)
        say("control", {"schema": names.CONTROL_SCHEMA})
        for service in split.plan.services:
            left_out = build_schema(split, source, service)
            say("schema", {"service": service, "left_out": left_out})
        crash_point("prepare.schema")
        split = compile_split(split.plan, split.catalog, read_targets(split.plan))
        require_upsert_keys(split)
        create_staging_types(split, source)
        identify_rows(split, source)
        publish(split, source)
        say("publication", {"name": names.publication(split.name)})
        crash_point("prepare.publication")
        create_slot(split, source)
        say("slot", {"name": names.slot(split.name)})
        crash_point("prepare.slot")
        with source.transaction():
            source.execute(
                "UPDATE dbsplit.split SET prepared_at = coalesce(prepared_at, clock_timestamp())"
                " WHERE split = %s",
                [split.name],
            )
            planned = [
                s for s, p in state.phases(source, split.name).items() if p is state.Phase.PLANNED
            ]
            state.set_phase(source, split.name, planned, state.Phase.PREPARED)
    return split


def _require_ready(path: Path) -> Split:
    plan = load_plan(path, os.environ)
    with connect(plan.source.dsn, name="dbsplit prepare") as source:
        require_not_completed(plan, source)
        catalog = read_catalog(source, plan.source.schemas)
        require_same_plan(plan, source)
        require_same_tables(plan, catalog, source)  # or the change would look like a wrong plan
        split = compile_split(plan, catalog, {})
        require_not_given_up(split.name, source)
        require(check_servers(plan))  # a missing privilege would look like a wrong plan
        _require_no_blockers(split, check_split(plan, source))
    return split


def create_staging_types(split: Split, source: Connection) -> None:
    """Give the targets the source's types that raw rows are staged with."""
    for service in split.plan.services:
        tables = {r.source.name: r.source for r in split.routes_of([service])}
        with connect(split.dsn(service), name="dbsplit prepare") as target:
            for statement in staging_types(source, tables.values(), target).statements:
                target.execute(statement)


def require_upsert_keys(split: Split) -> None:
    """Check that the tables of derived routes have a unique index on the route's key."""
    problems = []
    for route in split.routes:
        if route.kind.owned or not route.key:
            continue
        table = split.target_table(route)
        with connect(split.dsn(route.service)) as target:
            if not _has_unique(target, table, route.key):
                problems.append(
                    f"{route.id}: {table.name} has no unique index on ({', '.join(route.key)})"
                )
    if problems:
        raise PlanInvalid(
            "; ".join(problems), hint="add a unique constraint on the key to the service's schema"
        )


def _has_unique(connection: Connection, table: Table, key: tuple[str, ...]) -> bool:
    rows = connection.execute(
        "SELECT array_agg(a.attname::text ORDER BY a.attname) FROM pg_index AS i"
        " JOIN pg_class AS c ON c.oid = i.indrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace"
        " JOIN pg_attribute AS a ON a.attrelid = c.oid"
        " AND a.attnum = ANY (i.indkey[:i.indnkeyatts-1])"
        " WHERE n.nspname = %s AND c.relname = %s AND i.indisunique AND i.indpred IS NULL"
        " AND i.indexprs IS NULL AND i.indimmediate GROUP BY i.indexrelid",
        [table.name.schema, table.name.name],
    ).fetchall()
    # A reference copy's key is made after the data.
    return not rows or sorted(key) in [row[0] for row in rows]


def _require_no_blockers(split: Split, findings: list[Finding]) -> None:
    blockers = [one for one in findings if one.severity is Severity.BLOCKER]
    if blockers:
        said = "\n".join(
            f"{one.place}: {one.object}: {one.message}. {one.remedy}".rstrip() for one in blockers
        )
        raise PlanInvalid(
            f"{len(blockers)} findings stand against the plan\n{said}",
            hint=f"see all of them with `dbsplit plan check {split.plan.path}`",
        )


def _install(split: Split, source: Connection) -> None:
    install_control(split.plan.source.dsn, "source")
    identity = source.execute("SELECT system_identifier::text FROM pg_control_system()").fetchone()
    assert identity is not None  # noqa: S101
    shapes = {str(r.source.name): shape_of(r.source) for r in split.routes}
    row = [
        split.name,
        split.plan.digest,
        str(split.plan.path),
        identity[0],
        names.publication(split.name),
        names.slot(split.name),
        stored(source, {"shapes": shapes, **noted_of(split, source)}),
    ]
    insert = (
        "INSERT INTO dbsplit.split (split, plan_digest, plan_name, system_identifier, publication,"
        " slot, settings) VALUES (%s, %s, %s, %s, %s, %s, %s::jsonb) ON CONFLICT DO NOTHING"
    )
    source.execute(insert, row)
    for service in split.plan.services:
        source.execute(
            "INSERT INTO dbsplit.service (split, service, phase) VALUES (%s, %s, 'planned')"
            " ON CONFLICT DO NOTHING",
            [split.name, service],
        )
        install_control(split.dsn(service), "target")
        with connect(split.dsn(service), name="dbsplit prepare") as target:
            target.execute(insert, row)


def noted_of(split: Split, source: Connection) -> dict[str, Any]:
    """What a later refresh compares with: the plan's entries, and the tables' numbers."""
    followed = {str(route.source.name) for route in split.routes}
    numbers = read_numbers(source, split.plan.source.schemas)
    return {
        "numbers": {name: numbers[name].as_dict() for name in sorted(followed)},
        "entries": entries_of(split.plan),
    }


def entries_of(plan: Plan) -> dict[str, Any]:
    """The plan's entries, for JSON."""
    return {name: table.model_dump(mode="json") for name, table in plan.tables.items()}
